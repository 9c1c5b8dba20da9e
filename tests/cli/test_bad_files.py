"""Bad files: data, stored runs and exports that are torn, foreign or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bad.row import Row
from .bad_inputs import check, rows

Screen = pytest.CaptureFixture[str]


@rows("data")
def test_data_that_cannot_be_used(
    row: Row, here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    check(row, here, capsys, monkeypatch, finished)


@rows("runs")
def test_runs_and_exports_that_were_tampered_with(
    row: Row, here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    check(row, here, capsys, monkeypatch, finished)
