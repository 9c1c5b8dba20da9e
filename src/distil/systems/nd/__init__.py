"""ND (KD++, DKD++, DIST++): pull the student's embedding along the teacher's class mean, and make it as long."""

from distil.systems.nd.method import DirectNorm, published

__all__ = ["DirectNorm", "published"]
