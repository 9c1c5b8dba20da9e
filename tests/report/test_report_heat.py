"""A further table may be drawn: cells by the size of their numbers."""

from __future__ import annotations

import pytest

from distil.errors import DistilError
from distil.report.check import validate
from distil.report.html import render
from report.sample import sample_report as report


def with_table(**more: object) -> dict[str, object]:
    rows = [["0", 1.0, 2.5], ["1", 4.0, None]]
    return {**report(), "tables": [{"title": "A plane", "head": ["", "-1", "1"], "rows": rows, **more}]}


def test_a_field_of_cells_is_drawn_above_its_table() -> None:
    page = render(with_table(drawing="heat"))
    assert page.count('aria-labelledby="heat-0') == 1
    assert page.index("heat-0-t") < page.index("<td>2.5")
    assert "from 1" in page


def test_a_table_without_a_drawing_has_none() -> None:
    assert "heat-0" not in render(with_table())


def test_a_field_of_equal_numbers_is_drawn_too() -> None:
    table = {"title": "Flat", "head": ["", "a"], "rows": [["x", 1.0]], "drawing": "heat"}
    assert "heat-0" in render({**report(), "tables": [table]})


def test_an_unknown_drawing_is_refused() -> None:
    with pytest.raises(DistilError, match="expected 'heat'"):
        validate(with_table(drawing="pie"))
