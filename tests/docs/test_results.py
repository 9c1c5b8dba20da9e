"""What the documents say is what the evidence and the catalogue say."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from distil import catalog
from distil.boards import BOARDS
from distil.boards.classification import ENTRIES
from distil.loops.board_tables import LONG

from .tools import ROOT, load


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("results")


def test_the_results_page_is_made_from_the_evidence(tool: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == tool.page(), "run `make results`"


def test_a_loss_that_is_one_term_in_some_arms_and_several_in_others_says_so(tool: ModuleType) -> None:
    names = ["last dmae", "last dmae.distil", "last fitnets", "last dmae2"]
    assert [tool.column(name, names) for name in names] == ["last dmae (of one term, the arm's own)", *names[1:]]


def test_the_page_of_leaderboards_is_made_from_their_evidence(tool: ModuleType) -> None:
    assert (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8") == tool.board_page(), "run `make results`"


@pytest.mark.parametrize("file", sorted((ROOT / "evidence" / "boards").glob("*.json")), ids=lambda file: file.stem)
def test_a_stored_board_says_what_is_on_it_and_whose_shares_mean_nothing(file: Path) -> None:
    run = json.loads(file.read_text(encoding="utf-8"))["run"]
    tables = {table["title"]: table for table in run["tables"]}
    seconds = {arm["label"]: statistics.median(arm["cost"]["seconds"]) for arm in run["arms"]}
    for row in tables["Leaderboard"]["rows"]:
        label = next(label for label in seconds if row[0] == label or row[0].startswith(f"{label} ("))
        assert row[-1] == f"{seconds[label]:.0f}"
    slow = [label for label, took in seconds.items() if took > LONG]
    assert all(f"{label} (" in tables["Leaderboard"]["note"].rpartition(f"Above {LONG}: ")[2] for label in slow)
    for row in tables["Tries"]["rows"]:
        assert not (row[3] and (row[1] in ("pld", "tgeo-kd") or "during" in row[1]))
    chosen = {method.partition(":")[0] for method in run["settings"]["methods"]}
    named = {name for row in tables["Not on the board"]["rows"] for name in row[0].split(", ")}
    assert not named & {arm["name"] for arm in run["arms"]}
    assert {entry.name for entry in ENTRIES} <= chosen | named


@pytest.mark.parametrize("file", sorted((ROOT / "evidence" / "boards").glob("*.json")), ids=lambda file: file.stem)
def test_boards_are_complete_and_fair(file: Path) -> None:
    run = json.loads(file.read_text(encoding="utf-8"))["run"]
    name, _, part = file.stem.partition(".")
    assert name in BOARDS
    assert not part or int(part) >= 2
    assert file.with_suffix(".html").is_file()
    assert len(set(run["seeds"])) >= 3
    assert run["arms"][0]["name"] == "alone"
    for arm in run["arms"]:
        assert arm["budget"] == run["arms"][0]["budget"]
        assert len(arm["metrics"]["accuracy"]["best"]) == len(run["seeds"])
    assert run["tables"][0]["title"] == "Leaderboard"


def test_the_table_of_the_readme_tells_the_computed_states(tool: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == tool.readme(text), "run `make results`"
    assert text.count("| `") >= len(catalog.systems())


@pytest.mark.parametrize("slug", [s for s in catalog.systems() if catalog.evidence(s) is not None])
def test_evidence_is_complete_and_fair(slug: str) -> None:
    stored = catalog.evidence(slug)
    assert stored is not None
    assert not catalog.state(slug).stale, f"the code of {slug} changed after its evidence: `make evidence`"
    for run in stored["runs"]:
        reference = next(arm for arm in run["arms"] if arm["role"] == "reference")
        for arm in run["arms"]:
            for scores in arm["metrics"].values():
                assert len(scores["best"]) == len(scores["last"]) == len(run["seeds"])
            if arm["role"] != "bound":
                assert arm["budget"] == reference["budget"]
        assert run["command"].startswith(f"distil run {slug}")
        assert len(set(run["seeds"])) >= 3, f"{run['title']}: {len(run['seeds'])} seeds"
