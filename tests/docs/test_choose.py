"""The page that says what to try: every line links to evidence, and holds no figure that is not there."""

from __future__ import annotations

import re

import pytest

from .tools import ROOT

PAGE = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("- ")]
LINK = re.compile(r"\]\((results|leaderboard)\.md#([\w-]+)\)")
FIGURE = re.compile(r"\d+\.\d+")


def anchor(heading: str) -> str:
    """The anchor that a heading gets: lower case, spaces as hyphens, marks left out."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def sections(name: str) -> dict[str, str]:
    """The text below each second-level heading of a page, by its anchor."""
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {anchor(head): body for head, body in zip(parts[1::2], parts[2::2])}


FOUND = {name: sections(name) for name in ("results", "leaderboard")}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_every_line_rests_on_evidence(line: str) -> None:
    links = LINK.findall(line)
    assert links, f"no evidence behind: {line}"
    missing = [name for page, name in links if name not in FOUND[page]]
    assert not missing, f"no such section: {missing}; there are {sorted(FOUND['results'])}"
    text = " ".join(FOUND[page][name] for page, name in links)
    figures = FIGURE.findall(re.sub(r"\]\([^)]*\)", "", line))
    assert not [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text)], line


def test_every_system_with_evidence_is_told_of() -> None:
    told = {name for _, name in LINK.findall(PAGE)}
    assert set(FOUND["results"]) <= told, f"not told of: {set(FOUND['results']) - told}"


def test_a_line_that_goes_beyond_is_found() -> None:
    with pytest.raises(AssertionError):
        test_every_line_rests_on_evidence("- KD gains 98.7 points ([PLD](results.md#pld-pld)).")
    with pytest.raises(AssertionError):
        test_every_line_rests_on_evidence("- KD is best.")
