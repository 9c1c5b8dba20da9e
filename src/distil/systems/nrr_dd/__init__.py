"""NRR-DD: a few images per class whose backgrounds were refined, and labels of two numbers."""

from distil.systems.nrr_dd.method import DBR, MixedLabels, published
from distil.systems.nrr_dd.procedure import Options, condensed

__all__ = ["DBR", "MixedLabels", "Options", "condensed", "published"]
