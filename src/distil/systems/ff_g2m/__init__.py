"""FF-G2M: a graph network's low- and high-frequency knowledge, taught to an MLP that needs no edges."""

from distil.systems.ff_g2m.method import HighFrequency, LowFrequency, published

__all__ = ["HighFrequency", "LowFrequency", "published"]
