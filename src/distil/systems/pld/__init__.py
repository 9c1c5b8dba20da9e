"""PLD: one ranking loss in place of cross-entropy and distillation."""

from distil.systems.pld.method import PLD, published

__all__ = ["PLD", "published"]
