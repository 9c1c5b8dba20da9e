"""ACAM-KD: imitation of feature maps under masks that student and teacher make together, anew at each step."""

from distil.systems.acam_kd.method import ACAMKD, published

__all__ = ["ACAMKD", "published"]
