"""The page that says what to try: every line links to runs, and every figure is that of an arm of one of them."""

from __future__ import annotations

import re

import pytest

from distil.boards.classification import PUBLISHED

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


@pytest.mark.parametrize(
    "line",
    [
        f"- ReviewKD was 11.1<!-- reviewkd - alone --> points above labels alone {BOARD}.",
        f"- SimKD ships 12,864<!-- Leaderboard/SimKD/extra parameters --> parameters more {BOARD}.",
        f"- DIST 3.06 (1.67 to 4.46)<!-- dist - alone -->, CRD -1.0 (-2.4 to 0.4)<!-- crd - kd --> {BOARD}.",
        f"- 4<!-- #Published orderings/holds --> of 13<!-- #Published orderings --> held {BOARD}.",
        f"- KD had 83.7<!-- pld-1: kd --> %, and DKD none over it<!-- classification: dkd ~ kd --> {BOTH}.",
        "- GNNDelete took 5.8<!-- gnndelete over retrained/processor seconds --> times ([it](results.md#d2dgn-1)).",
        "- DMAE had 63.8<!-- alpha-5 --> % at five times the weight ([it](results.md#dmae-2)).",
    ],
    ids=range(7),
)
def test_what_was_seen_passes(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("- KD is best.", "no evidence behind"),
        (f"- KD was 11.1 points above labels alone {BOARD}.", "belong to nothing"),
        (f"- KD was 11.1<!-- kd - alone --> points above labels alone {BOARD}.", "11.1 is not"),
        (f"- KD was 11.1<!-- reviewkd - alone --> points above labels alone {BOARD}.", "'kd' is named"),
        ("- DIST had 83.7<!-- kd --> % ([it](results.md#pld-1)).", "'dist' is named"),
        (f"- KD was 2.2<!-- alone - kd --> points above labels alone {BOARD}.", "2.2 is not"),
        (f"- KD was 2.2 (0.2 to 4.2)<!-- kd - alone --> points above labels alone {BOARD}.", "0.2 is not"),
        (f"- KD had 0.9<!-- kd - alone --> points {BOARD}.", "0.9 is not"),
        (f"- KD had 0.9<!-- pld-1: kd - alone --> points {BOARD}.", "does not link to"),
        (f"- KD had 0.9<!-- kd - alone --> points {BOTH}.", "say of which"),
        (f"- KD and DKD had 2.2 and 2.5<!-- dkd - alone --> points {BOARD}.", "stand before"),
        (f"- DIST was above KD<!-- dist > kd --> {BOARD}.", "should be '~'"),
        (f"- The step took 1.61<!-- Leaderboard/ReviewKD/step cost --> times {BOARD}.", "1.61 is not"),
        (f"- KD held in 5<!-- #Published orderings/holds --> {BOARD}.", "5 is not"),
        (f"- 0.5<!-- setting/Length --> points from twice the epochs {BOARD}.", "0.5 is not"),
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
