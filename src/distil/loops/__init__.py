"""Plain functions over ``fit``: stages that are stored, arms, comparisons, recipes."""

from distil.loops.compare import compare
from distil.loops.lab import Arm, Lab, Outcome
from distil.loops.recipe import Experiment, run_recipe
from distil.loops.training import Teacher, Training, distil, teacher_arm, train_teacher

__all__ = [
    "Arm",
    "Experiment",
    "Lab",
    "Outcome",
    "Teacher",
    "Training",
    "compare",
    "distil",
    "run_recipe",
    "teacher_arm",
    "train_teacher",
]
