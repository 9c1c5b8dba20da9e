"""What a person reads after a comparison: the verdict in words, the figures as JSON, and a self-contained page.

>>> from distil.report import sentence, verdict
>>> sentence(verdict([83.0, 83.5, 82.9], [78.0, 78.9, 78.2], higher_is_better=True), metric="accuracy", unit="%")[:20]
'Distillation helped:'
"""

from __future__ import annotations

from distil.report.against import render_difference, write_difference
from distil.report.difference import difference
from distil.report.document import build, environment, load, rejudge, save, validate
from distil.report.html import render, write
from distil.report.index import find_runs, render_index, write_index
from distil.report.terminal import print_difference, print_index, print_report
from distil.report.verdict import (
    Interval,
    Verdict,
    bonferroni,
    paired_interval,
    sentence,
    verdict,
    welch_interval,
)

__all__ = [
    "Interval",
    "Verdict",
    "bonferroni",
    "build",
    "difference",
    "environment",
    "find_runs",
    "load",
    "paired_interval",
    "print_difference",
    "print_index",
    "print_report",
    "rejudge",
    "render",
    "render_difference",
    "render_index",
    "save",
    "sentence",
    "validate",
    "verdict",
    "welch_interval",
    "write",
    "write_difference",
    "write_index",
]
