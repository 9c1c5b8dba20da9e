"""What a person reads after a comparison: the verdict in words, the figures as JSON, and a self-contained page.

>>> from distil.report import sentence, verdict
>>> sentence(verdict([83.0, 83.5, 82.9], [78.0, 78.9, 78.2], higher_is_better=True), metric="accuracy", unit="%")[:20]
'Distillation helped:'
"""

from __future__ import annotations

from distil.report.document import build, environment, load, rejudge, save, validate
from distil.report.html import render, write
from distil.report.terminal import print_report
from distil.report.verdict import Interval, Verdict, bonferroni, paired_interval, sentence, verdict

__all__ = [
    "Interval",
    "Verdict",
    "bonferroni",
    "build",
    "environment",
    "load",
    "paired_interval",
    "print_report",
    "rejudge",
    "render",
    "save",
    "sentence",
    "validate",
    "verdict",
    "write",
]
