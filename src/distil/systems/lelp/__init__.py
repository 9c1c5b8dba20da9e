"""LELP: split few classes into many along the teacher's embedding, and teach the student the finer labels."""

from distil.systems.lelp.method import SubclassKD, published

__all__ = ["SubclassKD", "published"]
