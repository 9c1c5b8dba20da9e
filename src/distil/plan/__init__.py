"""What a run will take before it is run: a dry run of real steps, and arithmetic on what it saw.

>>> from distil.plan import break_even
>>> break_even(write=30.0, gain=12.0)
3
"""

from __future__ import annotations

from distil.plan.count import Work, flops, work_of
from distil.plan.measure import Arm, Cache, Measured, Rehearsal
from distil.plan.memory import Memory, counted, kept_for_backward, parse_bytes
from distil.plan.predict import Plan, Workload, break_even, predict
from distil.plan.show import figures, one_line, plain

__all__ = [
    "Arm",
    "Cache",
    "Measured",
    "Memory",
    "Plan",
    "Rehearsal",
    "Work",
    "Workload",
    "break_even",
    "counted",
    "figures",
    "flops",
    "kept_for_backward",
    "one_line",
    "parse_bytes",
    "plain",
    "predict",
    "work_of",
]
