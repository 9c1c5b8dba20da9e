"""kill -9 at seeded moments, within a checkpoint's write among them: the run that goes on ends bit-equal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engine.kills import Trial, plain


@pytest.mark.parametrize(("kind", "world"), [("cached", 1), ("live", 2)])
def test_a_killed_run_ends_as_if_nothing_had_been(tmp_path: Path, kind: str, world: int) -> None:
    trial, draw = Trial(tmp_path, kind, world), random.Random(f"{kind}-{world}")
    whole: dict[str, Any] = plain(trial.whole())
    assert trial.killed("cut", draw, torn=True)
    assert trial.killed("cut", draw)
    assert trial.kills[0].torn  # the write that it died in left its half, and nothing took it for a checkpoint
    assert plain(trial.ended("cut")) == whole
    assert whole["last"]["ema"]
    assert len(whole["last"]["loop"]["ledger"]["history"]) > 1
    assert not list((tmp_path / "cut").glob(".step-*"))
