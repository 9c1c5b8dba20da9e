"""Survey of KD and dataset distillation of LLMs (arXiv 2025): teachers and samples weighted, and small sets."""

from distil.systems.kd_dd_survey.method import WeightedTeachers, published
from distil.systems.kd_dd_survey.procedure import small_set

__all__ = ["WeightedTeachers", "published", "small_set"]
