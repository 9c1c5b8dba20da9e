"""The command line: one module per verb or pair of verbs, registered by :mod:`distil.cli.app`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

typed: list[str] = []
"""The words after ``distil`` of the command that runs, for the report to repeat."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a mistake of the user, 130 when interrupted.

    Args:
        arguments: the words after ``distil``; those of the process by default.
    """
    from distil.cli.app import run

    typed[:] = sys.argv[1:] if arguments is None else arguments
    return run(arguments)
