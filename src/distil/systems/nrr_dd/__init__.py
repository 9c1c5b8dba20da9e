"""NRR-DD: a few images per class whose backgrounds were refined, and labels of two numbers."""

from distil.systems.nrr_dd.method import DBR, MixedLabels, published

__all__ = ["DBR", "MixedLabels", "published"]
