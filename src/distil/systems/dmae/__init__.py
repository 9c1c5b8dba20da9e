"""DMAE: a masked autoencoder that also meets a teacher's tokens of the visible patches."""

from distil.systems.dmae.method import DMAE, published

__all__ = ["DMAE", "published"]
