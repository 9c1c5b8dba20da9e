"""Two runs side by side: what differs, which differences are paired, which verdicts changed, what is refused."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from distil.errors import DistilError
from distil.report import (
    difference,
    paired_interval,
    print_difference,
    rejudge,
    render_difference,
    welch_interval,
)
from report.sample import sample_report
from report.test_report_html import HOSTILE, Page, visible


def pair(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sample, and it again with KD three points lower, another teacher, one arm missing and one more."""
    first = sample_report(epochs=2)
    second = copy.deepcopy(first) | changes
    kd = second["arms"][1]["metrics"]["accuracy"]
    kd["last"] = [value - 3 + 0.1 * (i - 2) for i, value in enumerate(kd["last"])]
    second["arms"] = [*second["arms"][:3], second["arms"][3] | {"name": "extra", "label": "Extra"}]
    second["verdicts"] = [v for v in second["verdicts"] if v["arm"] != "pld-shuffled"]
    second["setting"] = second["setting"] | {"Budget": "40 epochs"}
    second["teacher"] = second["teacher"] | {"fingerprint": "another"}
    second["versions"] = {"torch": "2.11.0"}
    return first, rejudge(second, adjust=False)


values = st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=2, max_size=8)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@given(values, values, st.sampled_from([0.9, 0.95]))
def test_welch_equals_scipy(first: list[float], second: list[float], level: float) -> None:
    ours = welch_interval(first, second, level)
    if len(set(first)) == 1 and len(set(second)) == 1:
        assert ours.low == ours.high == pytest.approx(first[0] - second[0])
        return
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval(level)
    assert ours.low == pytest.approx(theirs.low, rel=1e-6, abs=1e-6)
    assert ours.high == pytest.approx(theirs.high, rel=1e-6, abs=1e-6)


def test_welch_refuses_and_leaves_open() -> None:
    assert welch_interval([1.0], [2.0, 3.0]).low is None
    with pytest.raises(DistilError, match="a group is empty"):
        welch_interval([], [1.0])
    with pytest.raises(DistilError, match="second group is nan"):
        welch_interval([1.0], [math.nan])


def test_shared_arms_are_paired_by_seed() -> None:
    first, second = pair()
    made = difference(first, second, names=("old", "new"))
    arms = {arm["name"]: arm for arm in made["arms"]}
    assert list(arms) == ["alone", "kd", "pld"]
    assert (arms["alone"]["outcome"], arms["kd"]["outcome"]) == ("no difference seen", "better")
    assert {arm["how"] for arm in made["arms"]} == {"paired"}
    ours, theirs = (r["arms"][1]["metrics"]["accuracy"]["last"] for r in (first, second))
    expected = paired_interval([a - b for a, b in zip(ours, theirs)])
    assert arms["kd"]["difference"]["low"] == pytest.approx(expected.low)
    assert difference(second, first)["arms"][1]["outcome"] == "worse"
    assert made["only"] == [["pld-shuffled"], ["extra"]]


def test_other_seeds_are_not_paired_and_a_note_says_so() -> None:
    first, second = pair(seeds=[5, 6, 7, 8, 9])
    made = difference(first, second)
    assert {arm["how"] for arm in made["arms"]} == {"welch"}
    ours, theirs = (r["arms"][1]["metrics"]["accuracy"]["last"] for r in (first, second))
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert made["arms"][1]["difference"]["low"] == pytest.approx(expected.low)
    assert any("so nothing is paired: the intervals are Welch's" in note for note in made["notes"])
    assert not any("paired" in note for note in difference(*pair())["notes"])


def test_what_differs_is_listed_and_what_does_not_is_named() -> None:
    made = difference(*pair(), settings=({"training": {"lr": 0.1}}, {"training": {"lr": 0.2}}))
    found = {(row["group"], row["what"]): row["values"] for row in made["differs"]}
    assert found["settings", "Budget"] == ["20 epochs of 20,000 images, batch 128", "40 epochs"]
    assert found["settings", "training.lr"] == ["0.1", "0.2"]
    assert found["teacher", "fingerprint"] == ["9e107d9d372bb6826bd81d3542a419d6", "another"]
    assert found["versions", "torch"] == ["2.15.0", "2.11.0"]
    assert found["versions", "numpy"] == ["2.3.1", None]
    assert made["same"] == ["data", "machine"]
    assert made["notes"][0].startswith("The runs have different teacher;")
    same = sample_report(epochs=2)
    assert difference(same, same)["differs"] == []


def test_changed_verdicts_are_marked() -> None:
    made = difference(*pair())
    changed = {(v["arm"], v["against"]): v["outcomes"] for v in made["verdicts"] if v["changed"]}
    assert changed["kd", "alone"][0] == "helped"
    assert changed["kd", "alone"][1] != "helped"
    assert changed["pld-shuffled", "alone"] == ["no difference seen", None]
    assert ("pld", "alone") not in changed


def test_many_arms_may_be_allowed_for() -> None:
    first, second = pair()
    plain, wide = difference(first, second), difference(first, second, adjust=True)
    assert wide["arms"][1]["difference"]["low"] < plain["arms"][1]["difference"]["low"]
    assert "are widened so that all of them hold together" in wide["family"]
    assert "not widened" in plain["family"]


def test_missing_values_and_few_seeds_claim_nothing() -> None:
    first, second = pair()
    first["arms"][1]["metrics"]["accuracy"]["last"][0] = None
    second["arms"][0]["metrics"] = None
    made = difference(first, second)
    assert made["arms"][0]["difference"] is None
    assert made["arms"][1]["how"] == "welch"
    Page(render_difference(made))
    few = sample_report(arms=2, seeds=2, epochs=2)
    far = copy.deepcopy(few)
    far["arms"][0]["metrics"]["accuracy"]["last"] = [1.0, 1.5]
    assert difference(few, far)["arms"][0]["outcome"] == "no difference seen"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"metric": {"name": "nll", "higher_is_better": True, "unit": "%"}},
            "metric is 'accuracy' in A and 'nll' in B",
        ),
        ({"metric": {"name": "accuracy", "higher_is_better": True}}, "the unit is '%' in A and 'no unit' in B"),
        (
            {"metric": {"name": "accuracy", "higher_is_better": True, "unit": "%", "score": "best"}},
            "judged score is 'last' in A and 'best' in B",
        ),
        ({"task": "nodes"}, "task is 'classification' in A and 'nodes' in B; give two runs of the same task"),
    ],
)
def test_other_metrics_and_tasks_are_refused(changes: dict[str, Any], says: str) -> None:
    first = sample_report(arms=2, epochs=2)
    with pytest.raises(DistilError, match=says):
        difference(first, copy.deepcopy(first) | changes)


def test_page_and_terminal_say_the_same() -> None:
    made = difference(*pair(), names=("old", "new"))
    words = visible(render_difference(made))
    stream = io.StringIO()
    print_difference(made, Console(file=stream, width=160, color_system=None))
    said = " ".join(stream.getvalue().split())
    for text in (words, said):
        for part in ("3 shared arms in old against new: 1 better, 2 with no difference seen.", "paired, 5 seeds"):
            assert part in text
        assert "+3.0" in text
        assert "The same in both: data, machine." in text
        assert "40 epochs" in text


def test_hostile_text_is_only_text() -> None:
    first = sample_report(arms=2, seeds=3, epochs=2, title=HOSTILE)
    first["arms"][1]["label"] = HOSTILE
    second = copy.deepcopy(first)
    second["setting"] = {HOSTILE: HOSTILE}
    second["arms"][0]["metrics"]["accuracy"]["last"] = [1.0, 2.0, 3.5]
    parsed = Page(render_difference(difference(first, second, names=(HOSTILE, "b"))))
    assert parsed.all("img") == []
    assert len(parsed.all("script")) == 1
    assert not [values for _, values in parsed.tags if any(key.startswith("on") for key in values)]
