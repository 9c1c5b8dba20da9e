"""The page of many arms: one axis, folded detail, pairs against rivals, and how many comparisons were made."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from distil.report import build, rejudge, render
from distil.report.check import validate
from distil.report.view import MANY, View
from report.sample import sample_report
from report.test_report_html import Page, visible


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return sample_report(arms=32, seeds=3, epochs=3, adjust=True, rivals=True)


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return render(report)


def drawing(page: str, name: str) -> str:
    found = re.search(rf'<svg [^>]*aria-labelledby="{name}-t.*?</svg>', page, flags=re.S)
    assert found is not None, name
    return found.group()


def test_all_arms_stand_on_one_axis_best_first_with_the_reference_marked(report: dict[str, Any], page: str) -> None:
    texts = [html.unescape(each) for each in re.findall(r"<text[^>]*>([^<]*)</text>", drawing(page, "results"))]
    rows = View(report).rows()
    written = [text for text in texts if "±" in text]
    assert written == [f"{row.last[0]} {row.last[1]} %" for row in rows]
    means = [float(text.split(" ")[0]) for text in written]
    assert means == sorted(means, reverse=True)
    assert [text.strip() for text in texts].count("Student alone") == 2  # its row, and the line that marks it


def test_each_arm_has_its_curve_and_its_folded_detail(report: dict[str, Any], page: str) -> None:
    for i, arm in enumerate(report["arms"]):
        title = re.search(r"<title[^>]*>([^<]*)</title>", drawing(page, f"multiple{i}"))
        assert title is not None
        assert html.unescape(title.group(1)) == f"Accuracy on validation, {arm['label']}"
    section = page[page.index('<section id="arms">') :]
    section = section[: section.index("</section>")]
    folded = [visible(part) for part in section.split("<details")[1:]]
    figures = [f" {row.label} {row.last[0]} {row.last[1]} " for row in View(report).rows()]
    assert [figure in part[:200] for figure, part in zip(figures, folded, strict=True)] == [True] * 32
    pld = folded[[row.name for row in View(report).rows()].index("pld")]
    texts = [entry["text"] for entry in report["verdicts"] if entry["arm"] == "pld"]
    assert [text for text in texts if text.replace(" ", "") not in pld.replace(" ", "")] == []
    assert "Loss of each term" in pld
    assert "Accuracy by confidence" in pld
    assert "<details open" not in page


def test_the_page_stays_whole_and_without_a_script(page: str) -> None:
    parsed = Page(page)
    assert [values["type"] for values in parsed.all("script")] == ["application/json"]
    ids = [values["id"] for _, values in parsed.tags if "id" in values]
    assert len(ids) == len(set(ids))


def test_outcomes_are_counted_and_pairs_are_listed(report: dict[str, Any], page: str) -> None:
    words = visible(page)
    seen = [entry["outcome"] for entry in report["verdicts"] if entry["against"] == "alone"]
    assert len(seen) == 31
    for outcome in set(seen):
        assert f"{seen.count(outcome)} {outcome}" in words
    pairs = View(report).pairs()
    methods = sum(arm["role"] == "method" for arm in report["arms"])
    rivals = sum(arm["role"] == "rival" for arm in report["arms"])
    assert len(pairs) == methods * rivals
    assert f"All {len(pairs)} differences" in words


def test_how_the_number_of_comparisons_was_allowed_for_is_said() -> None:
    adjusted = sample_report(arms=4, epochs=2, adjust=True, rivals=True)
    assert adjusted["adjustment"] == {"kind": "bonferroni", "comparisons": 4, "level": 0.95}
    words = visible(render(adjusted))
    assert "each of the 4 covers 98.75 %, so that all of them hold together with 95 % (Bonferroni)" in words
    words = visible(render(sample_report(arms=4, epochs=2)))
    assert "Each of the 3 intervals covers 95 % by itself; they are not widened for their number" in words
    assert "intervals covers" not in visible(render(sample_report(arms=2, epochs=2)))


def test_rejudging_widens_and_narrows_again() -> None:
    plain = sample_report(arms=4, epochs=2, rivals=True)
    wide = rejudge(plain, adjust=True)
    validate(wide)
    assert rejudge(wide, adjust=False)["verdicts"] == [
        next(v for v in plain["verdicts"] if (v["arm"], v["against"]) == (w["arm"], w["against"]))
        for w in wide["verdicts"]
    ]
    for entry in wide["verdicts"]:
        before = next(v for v in plain["verdicts"] if (v["arm"], v["against"]) == (entry["arm"], entry["against"]))[
            "difference"
        ]
        after = entry["difference"]
        assert after["low"] < before["low"] < before["high"] < after["high"]
    assert sample_report(arms=4, epochs=2, adjust=True, rivals=True)["verdicts"] == wide["verdicts"]


def test_a_broken_adjustment_is_refused() -> None:
    from distil.errors import DistilError

    report = sample_report(arms=2, epochs=2)
    report["adjustment"] = "some"
    with pytest.raises(DistilError, match="'adjustment' is str, expected an object"):
        validate(report)


def test_hostile_names_stay_text_where_arms_are_folded() -> None:
    report = sample_report(arms=MANY + 1, seeds=3, epochs=2, rivals=True)
    for arm in report["arms"]:
        arm["label"] = f"<img src=x onerror=alert(1)>{arm['name']}</summary></details>"
    parsed = Page(render(report))
    assert parsed.all("img") == []
    assert not [values for _, values in parsed.tags if any(key.startswith("on") for key in values)]


def test_arms_without_curves_terms_or_metrics_are_no_trouble() -> None:
    arms = [{"name": f"a{i}", "role": "method" if i else "reference"} for i in range(MANY + 2)]
    metric = {"name": "accuracy", "higher_is_better": True, "unit": "%"}
    words = visible(render(build(title="t", metric=metric, seeds=[0, 1, 2], arms=arms)))
    assert "Learning curves" not in words
    report = sample_report(arms=MANY + 2, seeds=3, epochs=2)
    report["arms"][0]["curves"] = []
    report["arms"][1]["curves"] = [None, None, None]
    assert "Learning curves" in visible(render(report))


def test_parts_of_the_time_are_told_apart() -> None:
    report = sample_report(arms=2, seeds=3, epochs=2)
    assert "validation" not in visible(render(report)).partition("Cost Seconds")[2].partition("Repeat")[0]
    for arm in report["arms"]:
        arm["cost"] |= {"validation_seconds": [1.5] * 3, "diagnosis_seconds": [0.75] * 3, "prepare_seconds": [4.25] * 3}
    words = visible(render(report))
    for part in ("1.5 s", "0.75 s", "4.2 s", "before: preparing", "paler: validation"):
        assert part in words
