"""The one kind of the graph and dataset-distillation baselines: many functions in a case, each answered by a part.

A file ``adapters_*.py`` beside this one registers its keys with ``@part``; keys that no part answers stand in
``planned.toml``.
"""

from __future__ import annotations

from .machinery import Adapter, Answer, Case, adapter

PARTS: list[Adapter] = []


def part(function: Adapter) -> Adapter:
    """Register a function that answers some keys of the case."""
    PARTS.append(function)
    return function


@adapter("baselines-graph-dd", "baselines-graph-dd")
def baselines(case: Case) -> Answer:
    answer: Answer = {}
    for function in PARTS:
        given = function(case)
        assert not answer.keys() & given.keys(), f"two parts answer {sorted(answer.keys() & given.keys())}"
        answer |= given
    return answer
