"""The table of bad inputs, a row for each, and what must hold of every one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .bad import data, exports, graphs, models, plans, runs, words
from .bad.row import Row
from .terminal import contents, distil

TABLES: dict[str, list[Row]] = {
    "words": words.ROWS,
    "plans": plans.ROWS,
    "models": models.ROWS,
    "data": [*data.ROWS, *graphs.ROWS],
    "runs": [*runs.ROWS, *exports.ROWS],
}

LONGEST = 900  # characters of a complaint: a sentence or two, and what they quote


def check(row: Row, request: pytest.FixtureRequest) -> None:
    """One sentence on standard error, exit code 2, and the working folder as it was."""
    here: Path = request.getfixturevalue("here")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name in ("done", "shipped") if row.run else ():
        shutil.copytree(request.getfixturevalue("finished") / name, here / name)
    if row.make is not None:
        row.make(here)
    for name, value in row.environment.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    before = contents(here)
    said = distil(request.getfixturevalue("capsys"), *row.words)
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    (complaint,) = said.complaints
    assert said.err.splitlines()[-1] == complaint
    assert row.pattern.search(complaint), complaint
    assert len(complaint) <= LONGEST
    assert complaint.isprintable()
    assert contents(here) == before


def rows(table: str) -> pytest.MarkDecorator:
    """Run a test for every row of a table."""
    return pytest.mark.parametrize("row", TABLES[table], ids=lambda row: row.wrong)
