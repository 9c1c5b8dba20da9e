"""The page of benchmarks is what its tool makes of the results, and hides none of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from .tools import ROOT, load

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("performance")


def test_the_page_is_made_from_the_results(tool: ModuleType) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page == tool.page(), "run `python tools/performance.py`"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_row_says_what_was_wanted_and_stands_on_the_page(file: Path, tool: ModuleType) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["row"] == file.stem
    assert content["machine"]
    lines = tool.section(content).splitlines()
    for row in content["rows"]:
        assert {"what", "ours", "peer", "ratio", "target", "met"} <= set(row)
        assert [one for one in lines if one.startswith(f"| {tool.cell(tool.named(row))} |")], row["what"]
    assert sum("| **no** |" in line for line in lines) == sum(row["met"] is False for row in content["rows"])
    assert sum("| yes |" in line for line in lines) == sum(row["met"] is True for row in content["rows"])


def test_rows_that_miss_are_told_first(tool: ModuleType) -> None:
    lost = {"what": "a|b", "ours": 1.0, "peer": 3.0, "ratio": 3.0, "target": "> 5", "met": False}
    page = tool.summary([{"row": "C0", "rows": [lost, {**lost, "met": True}, {**lost, "met": None}]}])
    assert "1 of 2 rows with a target meet it; 1 have none." in page
    assert "- C0: a\\|b (wanted > 5)" in page


def test_make_runs_every_benchmark_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^benchmarks: env\n((?:\t.*\n)+)", makefile, re.M)
    assert "grep -l __main__ benchmarks/*.py | grep -v benchmarks/h" in recipe  # not those for CUDA, nor shared parts
    assert "tools/performance.py" in recipe
