"""Bad input: every mistake is one sentence on standard error and exit code 2, and nothing is left half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bad.row import Row, own
from .bad_inputs import TABLES, check, rows
from .terminal import distil

Screen = pytest.CaptureFixture[str]


@rows("words")
def test_words_that_cannot_be_meant(row: Row, request: pytest.FixtureRequest) -> None:
    check(row, request)


@rows("models")
def test_models_and_weights_that_do_not_fit(row: Row, request: pytest.FixtureRequest) -> None:
    check(row, request)


def test_the_table_is_large_and_names_each_mistake_once() -> None:
    names = [row.wrong for table in TABLES.values() for row in table]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


def test_every_mistake_in_a_teachers_training_is_found_before_it_is_trained(here: Path, capsys: Screen) -> None:
    for wrong in (("--method", "at(taps=layer9)"), ("--student", "models.py:five"), ("--precision", "fp8")):
        said = distil(capsys, *own("--teacher", "models.py:make", "--train-teacher", "1000000", *wrong))
        assert said.code == 2
        assert "teacher: trained" not in said.err


def test_a_trained_teacher_at_chance_is_refused_too(here: Path, capsys: Screen) -> None:
    words = own("--teacher", "models.py:make", "--train-teacher", "1", "--lr", "1e-9")
    said = distil(capsys, *words)
    assert said.code == 2
    assert "is not above the chance level" in said.complaints[0]
