"""D2DGN: unlearning in graph networks by distillation from what knew and from what never did."""

from distil.systems.d2dgn.procedure import D2DGN, unlearn

__all__ = ["D2DGN", "unlearn"]
