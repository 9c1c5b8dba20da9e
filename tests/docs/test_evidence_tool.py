"""The tool that stores evidence: what it keeps of a board, and the page beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distil.report import build, write

from .tools import load


@pytest.mark.parametrize(
    ("methods", "stored", "title"), [([], "toy", "Board"), (["vid", "mine"], "toy.2", "Board: part 2")]
)
def test_a_further_part_of_a_board_says_so_in_its_figures_and_on_its_page(
    methods: list[str], stored: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load("evidence")
    asked = []

    def one_run(recipe: Any, slug: str, index: int, changes: dict[str, Any], *, system: str | None) -> dict[str, Any]:
        asked.append(changes)
        arm = {"name": "alone", "role": "reference", "metrics": {"accuracy": {"last": [70.0], "best": [71.0]}}}
        metric = {"name": "accuracy", "higher_is_better": True}
        report = build(title="Board", metric=metric, seeds=[0], arms=[arm], command="", data={}, setting={})
        write(report, tmp_path / "runs" / "evidence" / f"{slug}-{index}")
        return {"title": "Board", "arms": [{"name": "alone", "expression": "supervised"}]}

    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "one_run", one_run)
    start = SimpleNamespace(methods=("kd", "mine: at(taps=[[a, b], [c, d]])"))  # one of its own, with commas
    monkeypatch.setattr(tool, "board", lambda name: SimpleNamespace(start=start))
    (tmp_path / "src" / "distil").mkdir(parents=True)
    tool.one_board("toy", methods)
    folder = tmp_path / "evidence" / "boards"
    assert sorted(file.name for file in folder.iterdir()) == [f"{stored}.html", f"{stored}.json"]
    assert asked == [{"methods": ["kd", "vid", "mine: at(taps=[[a, b], [c, d]])"]} if methods else {}]
    assert json.loads((folder / f"{stored}.json").read_text(encoding="utf-8"))["run"]["title"] == title
    page = (folder / f"{stored}.html").read_text(encoding="utf-8")
    assert f"<title>{title}" in page
    assert f'"title":"{title}"' in page.replace('": "', '":"')
