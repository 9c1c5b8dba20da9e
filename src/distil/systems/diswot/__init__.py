"""DisWOT: choose the student that will distil best, from untrained networks and one batch."""

from distil.systems.diswot.method import GramMatch, published
from distil.systems.diswot.procedure import Score, Scorer, Scoring, search_student
from distil.systems.diswot.s0 import s0_accuracies

__all__ = ["GramMatch", "Score", "Scorer", "Scoring", "published", "s0_accuracies", "search_student"]
