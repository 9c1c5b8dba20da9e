"""The index: what is found under a folder, what is left out and why, and the page of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil.errors import DistilError
from distil.report import find_runs, print_index, render_index, save, write_index
from report.sample import sample_report
from report.test_report_html import HOSTILE, Page, visible


def runs(root: Path) -> Path:
    """Two runs, one of them deeper and without a page, and four folders that are none."""
    save(sample_report(arms=3, seeds=3, epochs=2, title="First"), root / "a" / "report.json")
    (root / "a" / "report.html").write_text("page")
    second = sample_report(arms=2, seeds=1, epochs=2, title="Second", created="2026-11-23T10:00:00+00:00")
    save(second, root / "sweep" / "b & c#" / "report.json")
    (root / "a" / "stages" / "arm").mkdir(parents=True)
    (root / "broken").mkdir()
    (root / "broken" / "report.json").write_text('{"kind": "comp')
    (root / "notes" / "deep").mkdir(parents=True)
    (root / "begun" / "stages").mkdir(parents=True)
    (root / ".hidden").mkdir()
    return root


def test_runs_are_found_newest_first_and_the_rest_is_named(tmp_path: Path) -> None:
    found = find_runs(runs(tmp_path))
    assert [run["folder"] for run in found["runs"]] == ["sweep/b & c#", "a"]
    assert [run["page"] for run in found["runs"]] == [None, "report.html"]
    first = found["runs"][1]
    assert (first["title"], first["arms"], first["seeds"], first["outcome"]) == ("First", 3, 3, "helped")
    assert first["best"]["arm"] == "PLD"
    assert first["command"].startswith("distil run pld")
    why = {each["folder"]: each["why"] for each in found["skipped"]}
    assert set(why) == {"broken", "notes", "begun"}
    assert "not whole JSON" in why["broken"]
    assert "not finished" in why["begun"]
    assert json.loads(json.dumps(found)) == found


def test_a_folder_without_runs_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"holds no run of distil\. Give"):
        find_runs(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{}")
    with pytest.raises(DistilError, match="it holds broken: this is not a report of distil"):
        find_runs(tmp_path)


def test_the_page_links_every_run_and_runs_one_script(tmp_path: Path) -> None:
    path = write_index(find_runs(runs(tmp_path)), tmp_path)
    page = path.read_text(encoding="utf-8")
    parsed = Page(page)
    links = [values["href"] for values in parsed.all("a")]
    assert links == ["./sweep/b%20%26%20c%23/report.json", "./a/report.html"]
    assert [values.get("type", "") for values in parsed.all("script")] == ["application/json", ""]
    (policy,) = [v["content"] for v in parsed.all("meta") if v.get("http-equiv") == "Content-Security-Policy"]
    assert re.fullmatch(r"default-src 'none'; .*; script-src 'sha256-[\w+/=]+'", policy)
    words = visible(page)
    for part in ("First", "Second", "22 November 2026", "Too few seeds to say", "broken", "notes", "distil run pld"):
        assert part in words
    assert not re.findall(r"url\((?!#)", page)


def test_hostile_text_and_folders_are_only_text(tmp_path: Path) -> None:
    report = sample_report(arms=2, seeds=3, epochs=2, title=HOSTILE, command=HOSTILE)
    report["arms"][1]["label"] = HOSTILE
    report["verdicts"][0]["text"] = HOSTILE
    save(report, tmp_path / "javascript:alert(1)" / "report.json")
    (tmp_path / "<img src=x onerror=alert(2)>").mkdir()
    parsed = Page(render_index(find_runs(tmp_path)))
    assert parsed.all("img") == []
    assert len(parsed.all("script")) == 2
    assert [values["href"] for values in parsed.all("a")] == ["./javascript%3Aalert%281%29/report.json"]
    assert not [values for _, values in parsed.tags if any(key.startswith("on") for key in values)]


@pytest.mark.parametrize("width", [60, 200])
def test_the_terminal_lists_the_same(tmp_path: Path, width: int) -> None:
    stream = io.StringIO()
    found: dict[str, Any] = find_runs(runs(tmp_path))
    print_index(found, Console(file=stream, width=width, color_system=None))
    text = stream.getvalue()
    assert re.search(r"^a +✓ helped", text, flags=re.M)
    assert "= too few seeds" in text
    assert "left out: broken: " in text
    assert ("distil run pld" in text) == (width == 200)
