"""Further tables of a report: checked, written for people, and never obeyed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from distil.errors import DistilError
from distil.report import build, print_report, render, validate
from distil.report.view import further

METRIC = {"name": "accuracy", "higher_is_better": True}


def report(*made: dict[str, Any]) -> dict[str, Any]:
    plain = build(title="Tables", metric=METRIC, seeds=[0], arms=[])
    return plain | {"tables": list(made)}


TABLE = {
    "title": "Nets <b>",
    "note": "by [red]score",
    "head": ["net", "size", "score"],
    "rows": [["<script>x</script>", 12345, -0.123456], ["(1, 3)", None, 0.0]],
}


def test_cells_are_written_as_people_read_them() -> None:
    (shown,) = further(report(TABLE))
    assert shown["rows"] == [["<script>x</script>", "12,345", "\u22120.1235"], ["(1, 3)", "\u2014", "0"]]
    assert shown["left"] == [True, False, False]


def test_the_page_and_the_terminal_show_them_and_obey_nothing() -> None:
    page = render(report(TABLE))
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "<script>x" not in page
    assert 'href="#tables"' in page
    out = io.StringIO()
    print_report(report(TABLE), Console(file=out, width=100))
    for text in ("Nets <b>", "by [red]score", "12,345", "<script>x</script>"):
        assert text in out.getvalue()
    assert 'id="tables"' not in render(report())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": [["one"]]}, r"tables\[0\] rows\[0\] is no list of 3 cells"),
        ({"rows": None}, "'rows' is NoneType"),
        ({"title": 3}, "'title' is int"),
        ({"note": []}, "'note' is list"),
    ],
)
def test_a_table_that_does_not_agree_with_itself_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        validate(report(TABLE | change))
    with pytest.raises(DistilError, match=r"tables\[0\] is str"):
        validate(report() | {"tables": ["text"]})
