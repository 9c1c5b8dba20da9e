"""`distil run`, `distil report` and `distil taps`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from distil.cli import main
from distil.report import load as load_report
from distil.report.check import validate

from .terminal import Said, contents, distil

Screen = pytest.CaptureFixture[str]
TINY = ("--set", "training.epochs=1", "--set", "teacher_training.epochs=3")


def demo(capsys: Screen, *words: str) -> Said:
    return distil(capsys, "run", *TINY, *words)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo of two seeds."""
    folder = tmp_path_factory.mktemp("finished") / "x"
    assert main(["run", *TINY, "--seeds", "2", "--out", str(folder), "--json"]) == 0
    return folder


@pytest.fixture
def finished(_finished: Path, empty: Path, capsys: Screen) -> Path:
    """That folder as ``x`` in an empty one."""
    shutil.copytree(_finished, empty / "x")
    capsys.readouterr()
    return empty / "x"


def test_the_demo_says_whether_it_helped_and_where_the_page_is(empty: Path, capsys: Screen) -> None:
    said = demo(capsys, "--seeds", "3")
    assert (said.code, said.complaints) == (0, [])
    assert "distillation" in said.out.splitlines()[1].lower()
    assert f"Report: {empty / 'runs' / 'demo' / 'report.html'}" in said.out
    assert "Student alone · seed 3/3" in said.err or "✓" in said.err
    report = load_report(empty / "runs" / "demo")
    validate(report)
    assert report["seeds"] == [0, 1, 2]
    assert report["command"] == "distil run --set training.epochs=1 --set teacher_training.epochs=3 --seeds 3"
    assert (empty / "runs" / "demo" / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert yaml.safe_load((empty / "runs" / "demo" / "settings.yaml").read_text())["seeds"] == [0, 1, 2]


def test_json_is_pure_and_equal_to_the_file(empty: Path, capsys: Screen) -> None:
    said = demo(capsys, "--seeds", "1", "--json")
    assert said.code == 0
    assert said.json == load_report(empty / "runs" / "demo")
    assert said.out.count("\n") == 1


@pytest.mark.parametrize("slug", [None, "pld", "nd", "ff-g2m"])
def test_a_dry_run_shows_settings_that_can_be_read_back_and_writes_nothing(
    empty: Path, capsys: Screen, slug: str | None
) -> None:
    words = ["run", *([slug] if slug else []), "--seeds", "4", "--dry-run"]
    said = distil(capsys, *words)
    assert (said.code, said.err) == (0, "")
    (empty / "s.yaml").write_text(said.out)
    again = distil(capsys, *words[:-3], "--config", "s.yaml", "--dry-run")
    assert again.out == said.out
    assert distil(capsys, *words, "--json").json == json.loads(json.dumps(yaml.safe_load(said.out)))
    assert list(empty.iterdir()) == [empty / "s.yaml"]


def test_settings_come_from_a_file_then_set_then_seeds(empty: Path, capsys: Screen) -> None:
    (empty / "s.yaml").write_text("labels_per_class: 7\nseeds: [9]\ntraining: {epochs: 5, lr: 0.5}\n")
    said = distil(capsys, "run", "--config", "s.yaml", "--set", "training.lr=0.1", "--seeds", "2", "--dry-run")
    found = yaml.safe_load(said.out)
    assert (found["labels_per_class"], found["seeds"]) == (7, [0, 1])
    assert (found["training"]["epochs"], found["training"]["lr"]) == (5, 0.1)


def test_a_finished_run_resumes_to_the_same_report_without_its_options(finished: Path, capsys: Screen) -> None:
    first = load_report(finished)
    stages = sorted((finished / "stages").iterdir())
    again = distil(capsys, "run", "--out", "x", "--resume", "--json").json
    assert sorted((finished / "stages").iterdir()) == stages
    assert again["arms"] == first["arms"]
    assert again["verdicts"] == first["verdicts"]
    assert distil(capsys, "run", "--out", "x").code == 2
    more = distil(capsys, "run", "--out", "x", "--resume", "--seeds", "3", "--json").json
    assert more["arms"][0]["metrics"]["accuracy"]["best"][:2] == first["arms"][0]["metrics"]["accuracy"]["best"]


def test_overwrite_replaces_a_run_and_nothing_else(finished: Path, empty: Path, capsys: Screen) -> None:
    (finished / "mine.txt").write_text("kept?")
    assert demo(capsys, "--seeds", "1", "--out", "x", "--overwrite").code == 0
    assert not (finished / "mine.txt").exists()
    assert load_report(finished)["seeds"] == [0]
    (empty / "other").mkdir()
    (empty / "other" / "thesis.txt").write_text("years of work")
    assert demo(capsys, "--out", "other", "--overwrite").code == 2
    assert (empty / "other" / "thesis.txt").read_text() == "years of work"


def test_the_settings_of_another_system_are_refused(finished: Path, empty: Path, capsys: Screen) -> None:
    kept = contents(empty)
    said = distil(capsys, "run", "pld", "--out", "x", "--resume")
    assert said.code == 2
    assert "x/settings.yaml does not fit: The setting 'labels_per_class' does not exist" in said.complaints[0]
    assert contents(empty) == kept


def test_a_demo_on_another_batch_size_is_refused_where_budgets_would_differ(empty: Path, capsys: Screen) -> None:
    said = demo(capsys, "--set", "training.batch_size=48")
    assert said.code == 2
    assert "which do not divide the 27 updates" in said.complaints[0]
    assert list(empty.iterdir()) == []


# ---- report


def test_report_prints_the_verdict_and_makes_the_page_again(finished: Path, empty: Path, capsys: Screen) -> None:
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    said = distil(capsys, "report", "x")
    assert (said.code, said.err) == (0, "")
    assert "Too few seeds to say whether distillation helped" in " ".join(said.out.split())
    assert f"Report: {finished / 'report.html'}" in said.out
    assert (finished / "report.html").read_bytes() == page
    assert distil(capsys, "report", "x/report.json", "--out", "y").code == 0
    assert (empty / "y" / "report.html").read_bytes() == page


def test_report_as_json_writes_nothing(finished: Path, empty: Path, capsys: Screen) -> None:
    before = contents(empty)
    said = distil(capsys, "report", "x", "--json")
    assert said.json == load_report(finished)
    assert contents(empty) == before


def test_a_report_that_was_cut_off_or_is_newer_is_named(finished: Path, capsys: Screen) -> None:
    file = finished / "report.json"
    whole = file.read_text()
    for text, says in (
        (whole[:500], "report.json"),
        (whole.replace('"version": 1', '"version": 99', 1).replace('"version":1', '"version":99', 1), "version 99"),
        ("[]", "this is not a report of distil"),
    ):
        file.write_text(text)
        said = distil(capsys, "report", "x")
        assert said.code == 2
        assert says in said.complaints[0]


def test_report_widens_intervals_when_asked_and_back(finished: Path, capsys: Screen) -> None:
    before = load_report(finished)
    assert before["adjustment"]["kind"] == "none"
    assert distil(capsys, "report", "x", "--adjust", "--out", "y").code == 0
    assert load_report("y")["adjustment"] == {"kind": "bonferroni", "comparisons": 1, "level": 0.95}
    assert distil(capsys, "report", "y", "--no-adjust", "--json").json == before
    assert load_report(finished) == before


def test_report_indexes_a_folder_of_runs(finished: Path, empty: Path, capsys: Screen) -> None:
    (empty / "runs").mkdir()
    finished.rename(empty / "runs" / "x")
    (empty / "runs" / "notes").mkdir()
    found = distil(capsys, "report", "runs", "--json").json
    assert [run["folder"] for run in found["runs"]] == ["x"]
    assert [each["folder"] for each in found["skipped"]] == ["notes"]
    assert not (empty / "runs" / "index.html").exists()
    said = distil(capsys, "report", "runs")
    assert (said.code, said.err) == (0, "")
    assert f"Index: {empty / 'runs' / 'index.html'}" in said.out
    assert "left out: notes: there is no report.json in it" in said.out
    assert 'href="./x/report.html"' in (empty / "runs" / "index.html").read_text()
    assert distil(capsys, "report", "runs", "--out", "elsewhere").code == 0
    assert 'href="./../runs/x/report.html"' in (empty / "elsewhere" / "index.html").read_text()


def test_report_says_what_differs_between_two_runs(finished: Path, empty: Path, capsys: Screen) -> None:
    shutil.copytree(finished, empty / "y")
    report = load_report(empty / "y")
    for values in report["arms"][1]["metrics"]["accuracy"].values():
        values[:] = [value - 10 for value in values]
    (empty / "y" / "report.json").write_text(json.dumps(report))
    (empty / "y" / "settings.yaml").write_text("training: {epochs: 7}")
    found = distil(capsys, "report", "x", "--against", "y", "--json").json
    assert found["names"] == ["x", "y"]
    assert [arm["difference"]["mean"] for arm in found["arms"]] == pytest.approx([0, 10])
    assert {"group": "settings", "what": "training.epochs", "values": ["1", "7"]} in found["differs"]
    before = contents(finished)
    said = distil(capsys, "report", "x", "--against", "y")
    assert (said.code, said.err) == (0, "")
    assert "2 shared arms in x against y" in said.out
    assert set(contents(finished)) - set(before) == {"against-y.html"}
    assert f"Difference: {finished / 'against-y.html'}" in said.out


def test_report_refuses_what_cannot_be_compared(finished: Path, empty: Path, capsys: Screen) -> None:
    shutil.copytree(finished, empty / "y")
    report = load_report(empty / "y")
    report["metric"]["higher_is_better"] = False
    (empty / "y" / "report.json").write_text(json.dumps(report))
    (empty / "half").mkdir()
    (empty / "half" / "settings.yaml").write_text("seeds: [0]")
    for words, says in (
        (["x", "--against", "y"], "the direction is 'higher is better' in x and 'lower is better' in y"),
        (["x", "--against", "x/report.json"], "are the same run"),
        (["x", "--against", "nowhere"], "nowhere cannot be read"),
        (["half"], "has not finished"),
        ([".", "--adjust"], "--adjust is for one run"),
    ):
        before = contents(empty)
        said = distil(capsys, "report", *words)
        assert (said.code, contents(empty)) == (2, before)
        assert says in said.complaints[0]


# ---- trackers


def test_a_tracker_gets_a_run_for_each_arm_and_seed_and_the_verdict(empty: Path, capsys: Screen) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("--seeds", "2", "--out", "x", "--json")
    first = demo(capsys, *words).json
    assert not (empty / "x" / "trackers").exists()
    # What was stored before is logged as it would have been.
    assert distil(capsys, "run", "--out", "x", "--resume", "--tracker", "tensorboard").code == 0
    folders = sorted(each.name for each in (empty / "x" / "trackers").iterdir())
    assert folders == ["alone-seed0", "alone-seed1", "distilled-seed0", "distilled-seed1", "verdict"]
    seen = EventAccumulator(str(empty / "x" / "trackers" / "distilled-seed1"))
    seen.Reload()
    scores = first["arms"][1]["metrics"]["accuracy"]["best"]
    assert seen.Scalars("test/best/accuracy")[0].value == pytest.approx(scores[1])
    assert [event.step for event in seen.Scalars("val/accuracy")] == [26]
    verdict = EventAccumulator(str(empty / "x" / "trackers" / "verdict"))
    verdict.Reload()
    text = verdict.Tensors("distilled against alone/verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == first["verdicts"][0]["text"]


def test_an_unknown_tracker_is_refused_before_anything_is_written(empty: Path, capsys: Screen) -> None:
    said = demo(capsys, "--tracker", "tensorbord")
    assert said.code == 2
    assert "The tracker 'tensorbord' is unknown; did you mean 'tensorboard'" in said.complaints[0]
    assert list(empty.iterdir()) == []


# ---- taps


def test_taps_names_meanings_and_paths(capsys: Screen) -> None:
    said = distil(capsys, "taps", "timm:resnet18", "--input", "3x32x32")
    assert (said.code, said.err) == (0, "")
    for shown in ("by meaning", "by path", "fc:in", "layer4", "Nx512"):
        assert shown in said.out


def test_taps_of_a_net_that_takes_another_size_name_one_that_takes_it(capsys: Screen) -> None:
    said = distil(capsys, "taps", "timm:vit_tiny_patch16_224", "--input", "3x32x32")
    assert said.code == 2
    assert "Input height (32) doesn't match model (224)" in said.complaints[0]
    assert "take timm:vit_tiny_patch16_224(img_size=32, patch_size=4)" in said.complaints[0]


def test_taps_as_json_hold_every_module_with_shapes(here: Path, capsys: Screen) -> None:
    found = distil(capsys, "taps", "models.py:make", "--input", "3x6x6", "--classes", "4", "--json").json
    assert found["model"] == "models.py:make"
    assert found["meanings"]["emb"] == ["3:in"]
    assert found["meanings"]["map"] == []
    last = next(row for row in found["modules"] if row["path"] == "3")
    assert last == {"path": "3", "kind": "Linear", "calls": 1, "input": [2, 6], "output": [2, 4]}


def test_taps_check_that_weights_fit(here: Path, capsys: Screen) -> None:
    words = ["taps", "models.py:make(width=3)", "--input", "3x6x6", "--classes", "3", "--weights"]
    assert distil(capsys, *words, "knows.pt").code == 0
    said = distil(capsys, *words, "other.safetensors")
    assert said.code == 2
    assert "1 of another shape: 3.bias" in said.complaints[0]


@pytest.mark.parametrize("depth", ["1", "3"])
def test_taps_go_as_deep_as_asked(capsys: Screen, depth: str) -> None:
    said = distil(capsys, "taps", "timm:resnet18", "--input", "3x32x32", "--depth", depth)
    assert ("layer1.0.conv1" in said.out) == (depth == "3")
