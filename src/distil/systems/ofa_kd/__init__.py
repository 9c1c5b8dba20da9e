"""OFA-KD: exits at every stage of the student, all taught by the teacher's logits; any family may teach any other."""

from distil.systems.ofa_kd.branches import OFAExits
from distil.systems.ofa_kd.method import OFALogits, published

__all__ = ["OFAExits", "OFALogits", "published"]
