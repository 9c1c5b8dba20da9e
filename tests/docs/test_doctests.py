"""The examples in docstrings run; those of the maths run in tests/functional."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import distil

# The systems that are only a card have an empty package, which costs nothing to look at.
FOLDERS = (
    "cache",
    "catalog",
    "cli",
    "data",
    "engine",
    "loops",
    "methods",
    "models",
    "plan",
    "report",
    "systems",
    "tasks",
)
MODULES = [
    module.name
    for folder in FOLDERS
    for module in pkgutil.walk_packages([f"{distil.__path__[0]}/{folder}"], f"distil.{folder}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
