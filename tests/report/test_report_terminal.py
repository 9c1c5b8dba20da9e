"""The report in a terminal, and numbers as people read them."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from distil.report import print_report, render
from distil.report.text import count, decimals_for, duration, fixed, heading, shorten, signed, size
from report.sample import sample_report


def printed(report: dict, width: int = 140) -> str:  # type: ignore[type-arg]
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_verdicts_and_leaderboard() -> None:
    report = sample_report()
    text = printed(report, 200)
    for entry in report["verdicts"]:
        assert entry["text"] in text
    rows = [line for line in text.splitlines() if "269 k" in line]
    assert [row.split("  ")[0] for row in rows] == ["PLD", "KD", "Student alone", "PLD, teacher's order shuffled"]
    assert "warning: Two images" in text
    assert "+4.5 (+3.8 to +5.1)" in rows[0]


def test_markup_in_names_is_text() -> None:
    report = sample_report(arms=2, epochs=2)
    report["title"] = "[bold red]title[/]"
    report["arms"][0]["label"] = "[link=https://example.org]name[/link]"
    report["verdicts"][0]["text"] = "[blink]text[/nothing]"
    report["metric"]["unit"] = "[i]"
    report["warnings"] = ["[red]warned"]
    text = printed(report)
    for part in (
        "[bold red]title[/]",
        "[link=https://example.org]name[/link]",
        "[blink]text[/nothing]",
        "[red]warned",
        "[i]",
    ):
        assert part in text


@pytest.mark.parametrize(("arms", "seeds"), [(0, 0), (1, 1), (12, 2)])
def test_sizes(arms: int, seeds: int) -> None:
    text = printed(sample_report(arms=arms, seeds=seeds, epochs=1))
    assert ("No verdict" in text) == (arms < 2)


def test_numbers() -> None:
    assert fixed(-0.04, 1) == "0.0"
    assert fixed(-1234.5, 1) == "−1,234.5"
    assert fixed(math.nan) == fixed("3") == fixed(True) == "—"
    assert signed(-0.0) == "0.0"
    assert (count(9_999), count(1.5), count(12_345), count(7e9)) == ("9,999", "1.5", "12.3 k", "7.00 B")
    assert (size(0), size(1_500), size(123e6)) == ("0 B", "1.50 kB", "123 MB")
    assert (duration(0), duration(0.031), duration(119.9), duration(3600)) == ("0 s", "0.03 s", "119.9 s", "60.0 min")
    assert (heading("nll"), heading("f1"), heading("mIoU"), heading("accuracy")) == ("NLL", "F1", "mIoU", "Accuracy")


@pytest.mark.parametrize(
    ("half", "unit", "expected"),
    [(1.3, "%", 1), (0.04, "%", 2), (0.0125, "", 3), (0.004, "", 3), (12.0, "", 0), (None, "%", 1), (1e-12, "", 6)],
)
def test_decimals_follow_the_interval(half: float | None, unit: str, expected: int) -> None:
    assert decimals_for(half=half, unit=unit) == expected


def test_decimals_keep_small_values_from_zero() -> None:
    assert decimals_for(0.004, half=1.0, unit="%") == 3
    assert decimals_for(0.0, half=1.0, unit="%") == 1
    assert decimals_for(0.1234, half=None) == 4


@pytest.mark.parametrize("width", [3, 5, 12, 30])
def test_shorten_fits_and_keeps_both_ends(width: int) -> None:
    name = "teacher order shuffled (T = 11)"
    cut = shorten(name, width)
    assert len(cut) <= width
    assert (cut[0], cut[-1]) == (name[0], name[-1])
    assert shorten("知識蒸留知識蒸留", 7).count("…") == 1


def settled(**given: object) -> dict[str, object]:
    return {
        "asked": "auto", "kept": ["fold_bn", "bf16"], "dropped": {"channels_last": "it is <b>[red]slower[/]"},
        "cosine": {"layer3": 0.99998, "logits": 0.99995}, "plain_seconds": 0.2, "seconds": 0.1, "speedup": 2.0,
        "batch": 16, "checking_seconds": 3.0, "copy_bytes": 1_080_000, "reruns": 0, "visits": 0, **given,
    }  # fmt: skip


def test_the_teachers_passes_are_told_in_terminal_and_page() -> None:
    report = sample_report(arms=3, epochs=2)
    report["arms"][1]["teacher_forward"] = [{"model": settled()}, {"model": settled(kept=["bf16"])}]
    report["arms"][2]["teacher_forward"] = [
        {"model": {"asked": "truncate", "kept": ["truncate"], "last": "layer2", "dropped": {}, "reruns": 0}}
    ]
    text = printed(report, 1000)
    for words in (
        "Teacher's passes, KD: Kept: fold_bn, bf16. Lowest cosine with the plain pass over the samples of 16: layer3 "
        "0.999980, logits 0.999950. A pass at 2.00 times the speed (200.00 ms plain, 100.00 ms so); trying took 3.0 s "
        "of the training time. A copy of the weights takes 1.08 MB more. Dropped: channels_last (it is "
        "<b>[red]slower[/]). Other seeds kept other ways.",
        "Stopped after layer2, the last layer that is read.",
    ):
        assert words in text
    page = render(report)
    assert "Stopped after layer2" in page
    assert "Kept: fold_bn, bf16." in page
    assert "&lt;b&gt;[red]slower" in page


@pytest.mark.parametrize("broken", ["x", [], [None], [{"model": 3}], [{"model": {"kept": None, "cosine": [1]}}]])
def test_a_broken_record_of_the_teachers_passes_stops_no_report(broken: object) -> None:
    report = sample_report(arms=2, epochs=2)
    report["arms"][1]["teacher_forward"] = broken
    assert printed(report)
    assert render(report)


def wide_report() -> dict[str, Any]:
    """Sixteen columns of numbers beside two of names, and a table of words that fits by wrapping."""
    names = [f"figure-{k:02}" for k in range(16)]
    rows = [[f"arm {i}", "after the first request", *(100 * i + k for k in range(16))] for i in (1, 2, 3)]
    words = {"title": "Words", "head": ["column", "meaning"], "rows": [["one", "a long meaning " * 12]]}
    tables = [{"title": "Wide", "head": ["arm", "request", *names], "rows": rows}, words]
    return sample_report(arms=2, epochs=2) | {"tables": tables}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_wide_table_is_printed_in_blocks_that_keep_every_name_and_value(width: int) -> None:
    lines = [line.rstrip() for line in printed(wide_report(), width).splitlines()]
    table = [re.split(r"\s{2,}", line) for line in lines[lines.index("Wide") + 1 : lines.index("Words") - 1]]
    assert max(map(len, lines)) <= width
    found = {}
    for block in range(0, len(table), 4):
        head, *rows = table[block : block + 4]
        assert head[:2] == ["arm", "request"]
        assert [row[:2] for row in rows] == [[f"arm {i}", "after the first request"] for i in (1, 2, 3)]
        found |= {name: [row[k] for row in rows] for k, name in enumerate(head) if k > 1}
    assert found == {f"figure-{k:02}": [str(100 * i + k) for i in (1, 2, 3)] for k in range(16)}
    assert len(table) > 4


def test_a_table_that_fits_or_can_wrap_is_printed_once() -> None:
    assert printed(wide_report(), 400).count("arm 1  ") == 1
    assert printed(wide_report(), 80).count("column") == 1
