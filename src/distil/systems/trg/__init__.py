"""TRG: tokens of a whole batch as a graph, whose neighbourhoods the student keeps."""

from distil.systems.trg.method import TokenGraph, published

__all__ = ["TokenGraph", "published"]
