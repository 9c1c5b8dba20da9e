"""The report as data: building, refusing, writing and reading back."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distil.errors import DistilError
from distil.report import build, environment, load, save, validate
from distil.report.check import clean
from distil.report.verdict import verdict
from report.sample import sample_report

METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "%"}


def arm(name: str, values: list[float], **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "method", "metrics": {"accuracy": {"last": values}}} | more


def test_round_trip(tmp_path: Path) -> None:
    report = sample_report()
    path = save(report, tmp_path / "deep" / "report.json")
    assert load(path) == report
    assert load(path.parent) == report
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


def test_verdicts_are_made_and_the_method_comes_first() -> None:
    report = sample_report()
    assert [entry["arm"] for entry in report["verdicts"]] == ["pld", "kd", "pld-shuffled"]
    assert {entry["against"] for entry in report["verdicts"]} == {"alone"}
    first = report["verdicts"][0]
    values = {each["name"]: each["metrics"]["accuracy"]["last"] for each in report["arms"]}
    expected = verdict(values["pld"], values["alone"], higher_is_better=True)
    assert first["outcome"] == expected.outcome == "helped"
    assert first["difference"]["low"] == expected.difference.low
    assert first["difference"]["per_seed"] == list(expected.per_seed)
    assert first["text"].startswith("Distillation with PLD helped: accuracy ")


def test_the_judged_score_can_be_the_best() -> None:
    report = sample_report(metric=METRIC | {"score": "best"})
    best = {each["name"]: each["metrics"]["accuracy"]["best"] for each in report["arms"]}
    gap = [a - b for a, b in zip(best["pld"], best["alone"])]
    assert report["verdicts"][0]["difference"]["per_seed"] == pytest.approx(gap)


def test_bounds_are_not_judged_and_adjustment_widens() -> None:
    plain, adjusted = sample_report(), sample_report(adjust=True)
    width = [each["verdicts"][0]["difference"] for each in (plain, adjusted)]
    assert width[1]["high"] - width[1]["low"] > width[0]["high"] - width[0]["low"]
    assert width[1]["level"] == pytest.approx(1 - 0.05 / 3)
    arms = [arm("a", [1.0, 2.0, 3.0], role="reference"), arm("top", [9.0, 9.0, 9.0], role="bound")]
    assert build(title="t", metric=METRIC, seeds=[0, 1, 2], arms=arms)["verdicts"] == []


def test_a_missing_value_gives_a_warning_instead_of_a_verdict() -> None:
    arms = [arm("a", [1.0, 2.0, 3.0], role="reference"), arm("b", [1.0, math.nan, 3.0])]
    report = build(title="t", metric=METRIC, seeds=[4, 5, 6], arms=arms)
    assert report["verdicts"] == []
    assert "b against a" in report["warnings"][0]
    assert "seed 5" in report["warnings"][0]
    assert report["arms"][1]["metrics"]["accuracy"]["last"] == [1.0, None, 3.0]


def test_unknown_opponent() -> None:
    with pytest.raises(DistilError, match="against='alon' is not an arm; did you mean 'alone'"):
        sample_report(against="alon")


def test_clean_takes_numbers_of_all_kinds() -> None:
    seen = clean(
        {"t": torch.tensor([1.0, math.inf]), "n": np.float32(0.5), "i": np.arange(2), 3: (True, None), "p": Path("a")}
    )
    assert seen == {"t": [1.0, None], "n": 0.5, "i": [0, 1], "3": [True, None], "p": "a"}
    assert clean("bad \ud800 \x00\x9b") == "bad \\ud800 \ufffd\ufffd"
    with pytest.raises(DistilError, match=r"report\.a\[1\] is a object"):
        clean({"a": [1, object()]})


def test_written_json_is_strict(tmp_path: Path) -> None:
    report = sample_report()
    report["arms"][0]["bytes"] = math.nan
    text = save(report, tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["arms"][0]["bytes"] is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(sample_report(title="old"), tmp_path / "report.json")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(DistilError, match=r"could not be written \(disk full\)"):
        save(sample_report(title="new"), path)
    assert load(path)["title"] == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not whole JSON"),
        ('{"kind": "comparison", "ver', "not whole JSON"),
        ('{"kind": "comparison", "version": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not whole JSON"),
        ("[1, 2]", "no 'kind'"),
        ("{}", "no 'kind'"),
        ('{"kind": "plan", "version": 1}', "of kind 'plan'"),
        ('{"kind": "comparison", "version": 2}', "version 2.*update distil"),
        ('{"kind": "comparison", "version": "1"}', "version is '1'"),
        ('{"kind": "comparison", "version": 1}', "'title' is missing, expected text"),
    ],
)
def test_load_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DistilError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_load_refuses_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="cannot be read"):
        load(tmp_path / "none.json")
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DistilError, match="not whole JSON"):
        load(tmp_path / "image.json")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("metric", "higher_is_better"), 1, "'higher_is_better' is int, expected true or false"),
        (("metric", "score"), "mean", "expected 'last' or 'best'"),
        (("seeds",), None, "'seeds' is NoneType, expected a list"),
        (("setting",), [], "'setting' is list, expected an object"),
        (("arms", 0, "name"), "kd", "two arms are called 'kd'"),
        (("arms", 0, "role"), "refrence", "did you mean 'reference'"),
        (("arms", 0), 3, r"arms\[0\] is int"),
        (
            ("arms", 1, "metrics", "accuracy", "last"),
            [1.0],
            "arm 'kd' metrics.accuracy.last holds 1 values, .* 5 seeds",
        ),
        (("arms", 1, "metrics", "accuracy", "last"), 1.0, "holds float"),
        (("arms", 1, "agreement"), [1.0, 2.0], "agreement holds 2 values"),
        (("verdicts", 0, "arm"), "plt", "did you mean 'pld'"),
        (("verdicts", 0, "outcome"), "won", "outcome 'won'"),
        (("verdicts", 0, "text"), None, "'text' is NoneType"),
    ],
)
def test_validate_names_the_place(where: tuple[Any, ...], value: object, message: str) -> None:
    report = copy.deepcopy(sample_report(epochs=2))
    holder: Any = report
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    with pytest.raises(DistilError, match=message):
        validate(report)


def test_environment_states_what_runs() -> None:
    versions, machine = environment()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert machine["cpu"]
    assert machine["cores"] >= 1
