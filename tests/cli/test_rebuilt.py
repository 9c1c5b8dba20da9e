"""A method that rebuilds its student, on the user's own data: trained, reported, exported with the classes' outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distil.cli import main
from distil.report import load

OWN = ["--data", "digits", "--teacher", "distil:mlp(hidden=48)", "--student", "distil:mlp(hidden=8)"]
SHORT = ["--train-teacher", "8", "--epochs", "2", "--lr", "0.01", "--set", "limit=200"]


def outputs(folder: Path) -> list[list[int | str]]:
    import onnx

    model = onnx.load(folder / "model.onnx")
    shapes = [[d.dim_value or d.dim_param for d in out.type.tensor_type.shape.dim] for out in model.graph.output]
    return shapes


def test_train_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", *OWN, *SHORT, "--method", "lelp(subclasses=3)", "--out", str(out)]) == 0, capsys.readouterr()
    report = load(out)
    alone, taught = report["arms"]
    assert taught["expression"] == "lelp(subclasses=3)"
    assert taught["parameters"] - alone["parameters"] == 2 * 10 * (8 + 1)  # two more rows for every class
    assert alone["budget"] == taught["budget"]
    sidecars = {p.name: json.loads(p.read_text()) for p in (out / "students").glob("*.json")}
    assert [len(s["answers"]["logits"][0]) for s in sidecars.values()] == [10, 10]
    assert {s["plain"] for s in sidecars.values()} == {True, False}
    capsys.readouterr()
    assert main(["export", str(out), "--out", str(tmp_path / "shipped"), "--json"]) == 0, capsys.readouterr()
    (shape,) = outputs(tmp_path / "shipped")
    assert shape[1] == 10
    told = json.loads((tmp_path / "shipped" / "config.json").read_text())
    assert "lelp" in json.dumps(told)


def test_compare_a_plan_and_a_dry_run_rebuild_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = "kd,lelp(subclasses=3),0.5*supervised + 0.5*subclasskd(subclasses=2)"
    out = tmp_path / "run"
    words = ["compare", *OWN, *SHORT, "--methods", methods, "--seeds", "1", "--out", str(out), "--json"]
    assert main(words) == 0, capsys.readouterr()
    assert [arm["parameters"] for arm in load(out)["arms"]] == [610, 610, 610 + 180, 610 + 90]
    capsys.readouterr()
    assert main(["train", "--dry-run", *OWN, *SHORT, "--method", "lelp"]) == 0
    assert main(["plan", *OWN, "--train-teacher", "8", "--epochs", "2", "--methods", "lelp"]) == 0
    capsys.readouterr()


def test_a_cache_teaches_without_the_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A teacher that is above chance: a student of a longer run.
    own = ["--student", "distil:mlp(hidden=48)", "--data", "digits", "--teacher", "distil:mlp(hidden=48)"]
    longer = tmp_path / "longer"
    assert main(["train", *own, "--train-teacher", "6", "--epochs", "6", "--lr", "0.01", "--method", "kd",
                 "--no-baseline", "--out", str(longer)]) == 0  # fmt: skip
    weights = next((longer / "students").glob("*.safetensors"))
    store = ["--teacher-weights", str(weights), "--features", "emb", "--out", str(tmp_path / "cache")]
    assert main(["cache", "--data", "digits", "--teacher", "distil:mlp(hidden=48)", *store]) == 0, capsys.readouterr()
    out = tmp_path / "run"
    words = ["--data", "digits", "--teacher", f"cache:{tmp_path / 'cache'}", "--student", "distil:mlp(hidden=8)"]
    method = ["--method", "subclasskd(head=none)", "--epochs", "2", "--out", str(out)]
    assert main(["train", *words, *method]) == 0, capsys.readouterr()
    assert main(["export", str(out), "--out", str(tmp_path / "shipped")]) == 0, capsys.readouterr()


def test_a_class_too_many_dimensions_and_a_typo_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, said in (
        ("lelp(subclasses=40)", "null_space=False"),
        ("lelp(beta=0)", "beta=0"),
        ("lelp(splitter=fine)", "distil.data.regrouped"),
        ("lelp + subclasskd(name=other)", "at most one method of a sum may"),
    ):
        out = tmp_path / method.partition("=")[2].partition(")")[0]
        assert main(["train", *OWN, *SHORT, "--method", method, "--out", str(out), "--overwrite"]) != 0
        shown = capsys.readouterr()
        assert said in " ".join((shown.out + shown.err).split()), method


def test_texts_of_two_classes_are_taught_and_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (["dull", "cold", "grey", "flat"], ["fine", "warm", "bright", "rich"])
    rows = [f"the film {k} is {words[k % 2][k % 3]} and {words[k % 2][(k // 5) % 4]},{k % 2}" for k in range(200)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    out = tmp_path / "run"
    names = ["--data", str(tmp_path / "reviews.csv"), "--teacher", "distil:bow(vocab=300, dim=16, hidden=16)"]
    student = ["--student", "distil:bow(vocab=30, dim=6, hidden=0)", "--train-teacher", "6", "--epochs", "2"]
    taught = ["--lr", "0.02", "--batch-size", "16", "--method", "lelp", "--out", str(out)]
    assert main(["train", *names, *student, *taught]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main(["export", str(out), "--out", str(tmp_path / "shipped")]) == 0, capsys.readouterr()
    assert outputs(tmp_path / "shipped")[0][1] == 2
