"""What the documents say is what the evidence and the catalogue say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from distil import catalog
from distil.boards import BOARDS
from distil.boards.classification import ENTRIES

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
def test_a_stored_board_gets_the_words_of_now_and_keeps_its_figures(tool: ModuleType, file: Path) -> None:
    run = json.loads(file.read_text(encoding="utf-8"))["run"]
    made = tool.in_words_of_now(run)
    now, then = ({table["title"]: table for table in one["tables"]} for one in (made, run))
    assert [row[1:-1] for row in now["Leaderboard"]["rows"]] == [row[1:] for row in then["Leaderboard"]["rows"]]
    assert now["Published orderings"] == then["Published orderings"]
    for new, old in zip(now["Tries"]["rows"], then["Tries"]["rows"], strict=True):
        assert [*new[:3], *new[4:]] == [*old[:3], *old[4:]]
        held = new[1] in ("pld", "tgeo-kd") or "during" in new[1]
        assert new[3] == ("" if held else old[3])
    chosen = {method.partition(":")[0] for method in run["settings"]["methods"]}
    named = {name for row in now["Not on the board"]["rows"] for name in row[0].split(", ")}
    assert not named & {arm["name"] for arm in run["arms"]}
    assert {entry.name for entry in ENTRIES} <= chosen | named


def test_a_stage_that_stands_alone_is_said_to_have_one_try(tool: ModuleType) -> None:
    file = ROOT / "evidence" / "boards" / "classification.json"
    made = tool.in_words_of_now(json.loads(file.read_text(encoding="utf-8"))["run"])
    note = next(table["note"] for table in made["tables"] if table["title"] == "Tries")
    first, second = (row for row in next(t["rows"] for t in made["tables"] if t["title"] == "Tries") if row[0] == "FSP")
    assert ("FSP: the factor of its second try" in note) == (first[2] == second[2])


def test_a_board_names_the_methods_whose_runs_are_long(tool: ModuleType) -> None:
    file = ROOT / "evidence" / "boards" / "classification.json"
    run = json.loads(file.read_text(encoding="utf-8"))["run"]
    for arm in run["arms"]:
        arm["cost"]["seconds"] = [130.0, 121.0, 1.0] if arm["name"] == "vid" else [300.0, 100.0, 90.0]
    made = tool.in_words_of_now(run)
    assert made["setting"]["Seconds a run"].startswith("100 to 121,")
    assert made["setting"]["Seconds a run"].endswith("above 120: VID (121)")
    rows = {row[0]: row[-1] for row in made["tables"][0]["rows"]}
    assert (rows["VID"], rows["FitNets"]) == ("121", "100")


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
