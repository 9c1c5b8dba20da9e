"""Bad files: data, stored runs and exports that are torn, foreign or hostile."""

from __future__ import annotations

import pytest

from .bad.row import Row
from .bad_inputs import check, rows


@rows("data")
def test_data_that_cannot_be_used(row: Row, request: pytest.FixtureRequest) -> None:
    check(row, request)


@rows("runs")
def test_runs_and_exports_that_were_tampered_with(row: Row, request: pytest.FixtureRequest) -> None:
    check(row, request)
