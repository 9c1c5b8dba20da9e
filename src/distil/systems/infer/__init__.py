"""INFER: a few additive images, shared by all classes, multiply a handful of real ones."""

from distil.systems.infer.procedure import Infer, infer_set, naturals_only, refuse, share_of_budget

__all__ = ["Infer", "infer_set", "naturals_only", "refuse", "share_of_budget"]
