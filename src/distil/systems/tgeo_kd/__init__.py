"""TGeo-KD: how much the teacher counts is decided for each sample by a small network."""

from distil.systems.tgeo_kd.method import TGeoKD, published

__all__ = ["TGeoKD", "published"]
