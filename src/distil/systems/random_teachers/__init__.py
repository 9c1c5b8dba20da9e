"""Random Teachers: match an untrained network without labels, and look at what was learnt all the same."""

from distil.systems.random_teachers.method import RandomTeacher, published
from distil.systems.random_teachers.procedure import ProbeTask, near_teacher, probed, teach, without_labels
from distil.systems.random_teachers.tickets import Supervision, along_path, lottery_tickets, on_plane, supervise

__all__ = [
    "ProbeTask",
    "RandomTeacher",
    "Supervision",
    "along_path",
    "lottery_tickets",
    "near_teacher",
    "on_plane",
    "probed",
    "published",
    "supervise",
    "teach",
    "without_labels",
]
