"""The page that says what to try: every line links to runs, and every figure is that of an arm of one of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

from distil.boards import board
from distil.boards.classification import PUBLISHED
from distil.report import paired_interval

from .claims import LINK, check, runs
from .tools import ROOT

PAGE = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("- ")]
BOARD = "([board](leaderboard.md#classification))"
BOTH = "([board](leaderboard.md#classification), [PLD](results.md#pld-1))"


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_every_line_rests_on_evidence(line: str) -> None:
    check(line)


def test_links_lead_to_the_runs() -> None:
    places = {
        name: set(re.findall(r'<a id="([\w-]+)">', (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")))
        for name in ("results", "leaderboard")
    }
    assert places["results"] | places["leaderboard"] == set(runs())
    assert not [(page, name) for page, name in LINK.findall(PAGE) if name not in places[page]]


def test_every_system_with_evidence_is_told_of() -> None:
    told = {name for _, name in LINK.findall(PAGE)}
    slugs = {run.slug for run in runs().values() if run.slug}
    assert slugs <= {runs()[name].slug for name in told}
    assert {name for name, run in runs().items() if not run.slug} <= told


def mean(run: str, arm: str, against: str = "", metric: str = "") -> float:
    """An arm's mean, or how far it lies above another's, by plain sums over what is stored."""
    values = runs()[run].values(arm, metric)
    return (sum(values) - (sum(runs()[run].values(against, metric)) if against else 0)) / len(values)


def by_itself(run: str, arm: str, against: str) -> str:
    """A paired difference with the interval that holds for it alone, as a page would write it."""
    ours, theirs = (runs()[run].values(name) for name in (arm, against))
    gap = paired_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return f"{gap.mean:.1f} ({gap.low:.1f} to {gap.high:.1f})"


def cell(title: str, row: str, column: str) -> str:
    table = next(table for table in runs()["classification"].stored["tables"] if table["title"] == title)
    return str(next(cells for cells in table["rows"] if cells[0].startswith(row))[table["head"].index(column)])


def stored(row: str, column: str) -> str:
    """A difference as the board's own table has it."""
    return cell("Leaderboard", row, column).removesuffix(" *").replace("+", "")


ORDERINGS = [row[-1] for row in next(
    table for table in runs()["classification"].stored["tables"] if table["title"] == "Published orderings"
)["rows"]]  # fmt: skip
REVIEW, DKD, KD = (mean("classification", name, "alone") for name in ("reviewkd", "dkd", "kd"))
HELD = ORDERINGS.count("holds")
SLOWER = mean("d2dgn-1", "gnndelete", "", "processor seconds") / mean("d2dgn-1", "retrained", "", "processor seconds")
REVIEW_COST = cell("Leaderboard", "ReviewKD", "step cost")


@pytest.mark.parametrize(
    "line",
    [
        f"- ReviewKD was {REVIEW:.1f}<!-- reviewkd - alone --> points above labels alone {BOARD}.",
        f"- SimKD ships {cell('Leaderboard', 'SimKD', 'extra parameters')[1:]}<!-- Leaderboard/SimKD/extra parameters "
        f"--> parameters more {BOARD}.",
        f"- DIST {stored('DIST', 'to the student alone')}<!-- dist - alone -->, CRD "
        f"{stored('CRD', 'to KD')}<!-- crd - kd --> {BOARD}.",
        f"- {HELD}<!-- #Published orderings/holds --> of {len(ORDERINGS)}<!-- #Published orderings --> held {BOARD}.",
        f"- KD had {mean('pld-1', 'kd'):.1f}<!-- pld-1: kd --> %, and DKD none over it<!-- classification: dkd ~ kd "
        f"--> {BOTH}.",
        f"- GNNDelete took {SLOWER:.1f}<!-- gnndelete over retrained/processor seconds --> times "
        "([it](results.md#d2dgn-1)).",
        f"- DMAE had {mean('dmae-2', 'alpha-5'):.1f}<!-- alpha-5 --> % at five times the weight "
        "([it](results.md#dmae-2)).",
    ],
    ids=range(7),
)
def test_what_was_seen_passes(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("- KD is best.", "no evidence behind"),
        (f"- KD was {KD:.1f} points above labels alone {BOARD}.", "belong to nothing"),
        (f"- KD was {REVIEW:.1f}<!-- kd - alone --> points above labels alone {BOARD}.", f"{REVIEW:.1f} is not"),
        (f"- KD was {REVIEW:.1f}<!-- reviewkd - alone --> points above labels alone {BOARD}.", "'kd' is named"),
        (f"- DIST had {mean('pld-1', 'kd'):.1f}<!-- kd --> % ([it](results.md#pld-1)).", "'dist' is named"),
        (f"- KD was {KD:.1f}<!-- alone - kd --> points above labels alone {BOARD}.", f"{KD:.1f} is not"),
        (
            f"- KD was {by_itself('classification', 'kd', 'alone')}<!-- kd - alone --> points above {BOARD}.",
            r"\d is not",
        ),
        (f"- KD had {KD + 1:.1f}<!-- kd - alone --> points {BOARD}.", f"{KD + 1:.1f} is not"),
        (f"- KD had {KD:.1f}<!-- pld-1: kd - alone --> points {BOARD}.", "does not link to"),
        (f"- KD had {KD:.1f}<!-- kd - alone --> points {BOTH}.", "say of which"),
        (f"- KD and DKD had {KD:.1f} and {DKD:.1f}<!-- dkd - alone --> points {BOARD}.", "stand before"),
        (f"- ReviewKD was level with KD<!-- reviewkd ~ kd --> {BOARD}.", "should be '>'"),
        (
            f"- The step took {float(REVIEW_COST) + 1:.2f}<!-- Leaderboard/ReviewKD/step cost --> times {BOARD}.",
            "is not <!-- Leaderboard",
        ),
        (f"- KD held in {HELD + 1}<!-- #Published orderings/holds --> {BOARD}.", f"{HELD + 1} is not"),
        (f"- 77.7<!-- setting/Length --> points from twice the epochs {BOARD}.", "77.7 is not"),
        ("- KD had 1.0<!-- kd --> ([it](results.md#pld-9)).", "there is no run"),
    ],
    ids=range(16),
)
def test_what_goes_beyond_is_found(line: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check(line)


def test_the_page_counts_the_pairs_that_were_published() -> None:
    """How many there are, how many one part can judge, and that the page says both."""
    apart = [
        {a, b} for a in PUBLISHED for b in PUBLISHED
        if min(ours - theirs for ours, theirs in zip(PUBLISHED[a], PUBLISHED[b])) >= 1 - 1e-9
    ]  # fmt: skip
    parts = [set(run.labels) for name, run in runs().items() if re.fullmatch(r"classification(-\d+)?", name)]
    judged = [pair for pair in apart if any(pair <= part for part in parts)]
    assert f"{len(apart)} pairs of these methods" in PAGE
    rest = len(apart) - len(judged)
    assert (f"The other {rest} of those {len(apart)}" in PAGE) == bool(rest)


def test_a_stored_board_was_run_as_its_command_runs_now() -> None:
    for file in sorted((ROOT / "evidence" / "boards").glob("*.json")):
        held = json.loads(file.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(asdict(board(held["board"]).start)))
        if file.stem != held["board"]:  # a further part: other methods
            now["methods"] = held["run"]["settings"]["methods"]
        assert held["run"]["settings"] == now, file.name
