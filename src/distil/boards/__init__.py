"""Leaderboards: every method of a field, with one teacher and one fresh student, under equal budgets.

A board is run as a system's experiment is: ``distil run classification``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["BOARDS", "board"]

BOARDS = {
    "classification": "classification:SIMILAR",
    "classification-many": "classification:MANY",
    "classification-vit-cnn": "classification:FROM_TOKENS",
    "classification-cnn-vit": "classification:TO_TOKENS",
    "classification-resnet56": "classification:RESNET",
    "classification-wrn40": "classification:WRN",
}
"""Name → ``module:board`` under this package; a literal, so that names are known without importing torch."""


def board(name: str) -> Any:
    """Return a board by name, as recipes are: with ``Setup``, ``EVIDENCE`` and ``experiment(setup, lab)``.

    >>> board("classification").Setup().pair.data
    'cifar10'
    """
    module, _, attribute = BOARDS[name].partition(":")
    return getattr(import_module(f"distil.boards.{module}"), attribute)
