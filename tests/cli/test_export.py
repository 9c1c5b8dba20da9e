"""`distil export` and `distil predict`: from a trained run to labels on a machine that has neither distil nor torch."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distil import load, load_model
from distil.cli import main
from distil.loops.shipped import choose, students_of
from distil.methods import KD
from distil.ship.manifest import digest
from distil.ship.student import load_state

from .files import write
from .terminal import Said, contents, distil

Screen = pytest.CaptureFixture[str]
COUNT = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two methods and two seeds on digits, the export of its best student, and pictures."""
    place = tmp_path_factory.mktemp("trained")
    settings = ["--data", "digits", "--teacher", "distil:mlp(hidden=32)", "--train-teacher", "12", "--lr", "0.01"]
    words = ["compare", *settings, "--student", "distil:mlp(hidden=12)", "--methods", "kd,dkd", "--seeds", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*words, "--epochs", "3", "--out", "run", "--json"]) == 0
        assert main(["export", "run", "--out", "out", "--json"]) == 0
    bundle = load("digits")
    (place / "pictures").mkdir()
    for k in range(COUNT):
        pixels = (bundle.test[k]["inputs"][0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(place / "pictures" / f"{k:02d}.png")
    return place


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which a test may break, and the process in it."""
    place = tmp_path / "here"
    shutil.copytree(trained, place)
    monkeypatch.chdir(place)
    return place


def answers_of(trained: Path) -> list[str]:
    """What the chosen student, built by hand, says of the pictures."""
    student = choose(students_of(trained / "run"))
    model = load_model("distil:mlp(hidden=12)", classes=10, input_shape=(1, 8, 8))
    load_state(model, trained / "run" / "students" / student.weights)
    bundle = load("digits")
    with torch.no_grad():
        logits = model(torch.stack([bundle.test[k]["inputs"] for k in range(COUNT)]))
    return [bundle.classes[int(k)] for k in logits.argmax(1)]


def refused(said: Said, message: str) -> None:
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    assert len(said.complaints) == 1, said.err
    assert message in said.complaints[0]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file of an export, and its checksum with it, as someone would who means harm."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sign(path)


def sign(path: Path) -> None:
    manifest = path.parent / "export.json"
    if path != manifest:
        listed = json.loads(manifest.read_text())
        listed["files"][path.name]["sha256"] = digest(path)
        manifest.write_text(json.dumps(listed))


# ---- what is written


def test_students_say_what_they_are(trained: Path) -> None:
    folder = trained / "run" / "students"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert len(list(folder.iterdir())) == 12
    said = json.loads((folder / "kd-seed1.json").read_text())
    assert said["model"] == "distil:mlp(hidden=12)"
    assert said["plain"] is True
    assert said["classes"] == list("0123456789")
    assert said["preprocessing"] == {"kind": "image", "size": [8, 8], "channels": 1, "range": [0, 1]}
    assert (said["method"], said["arm"], said["role"], said["seed"]) == ("kd", "kd", "method", 1)
    assert said["teacher"] == "distil:mlp(hidden=32)"
    report = json.loads((trained / "run" / "report.json").read_text())
    scores = {arm["name"]: arm["metrics"]["accuracy"]["best"] for arm in report["arms"]}
    assert said["test"]["accuracy"] == scores["kd"][1]
    assert said["data"]["fingerprint"] == report["data"]["fingerprint"]
    curve = next(arm for arm in report["arms"] if arm["name"] == "kd")["curves"][1]
    assert said["validation"]["accuracy"] == max(curve["val"]["accuracy"])


def test_the_choice_is_made_on_validation_data_alone(trained: Path) -> None:
    students = students_of(trained / "run")
    assert [(s.arm, s.seed) for s in students] == [(a, k) for a in ("alone", "kd", "dkd") for k in (0, 1)]

    def score(arm: str, seed: int, validation: float, test: float) -> None:
        found = next(s for s in students if (s.arm, s.seed) == (arm, seed))
        found.validation["accuracy"], found.test["accuracy"] = validation, test

    for arm, seed, validation, test in (
        ("alone", 0, 99, 99), ("alone", 1, 99, 99), ("kd", 0, 80, 99), ("kd", 1, 81, 10), ("dkd", 0, 90, 99),
        ("dkd", 1, 60, 99),
    ):  # fmt: skip
        score(arm, seed, validation, test)
    assert (choose(students).arm, choose(students).seed) == ("kd", 1)
    assert (choose(students, seed=0).arm, choose(students, arm="dkd").seed) == ("dkd", 0)
    assert choose(students, arm="alone", seed=1).arm == "alone"


def test_a_machine_without_distil_and_torch_gives_the_same_labels(trained: Path, tmp_path: Path) -> None:
    for name in ("distil", "torch"):
        (tmp_path / "stubs" / name).mkdir(parents=True)
        (tmp_path / "stubs" / name / "__init__.py").write_text("raise ImportError('not on this machine')\n")
    shutil.copytree(trained / "out", tmp_path / "moved")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "stubs")}
    pictures = sorted(map(str, (trained / "pictures").iterdir()))
    command = [sys.executable, str(tmp_path / "moved" / "predict.py"), *pictures]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert said.returncode == 0, said.stderr
    assert [line.split("\t") for line in said.stdout.splitlines()] == [
        [name, label] for name, label in zip(pictures, answers_of(trained), strict=True)
    ]
    probe = [sys.executable, "-c", "import torch"]
    assert subprocess.run(probe, env=environment, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_the_card_tells_the_whole_story(trained: Path) -> None:
    card = (trained / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    report = json.loads((trained / "run" / "report.json").read_text())
    student = choose(students_of(trained / "run"))
    told = next(entry["text"] for entry in report["verdicts"] if entry["arm"] == student.arm)
    assert told.partition(":")[0] in card
    assert f"accuracy {student.test['accuracy']:.2f}" in card
    assert student.fingerprint in card
    assert "distil compare --data digits" in card
    assert "| Teacher | distil:mlp(hidden=32) |" in card
    assert "| Classes | 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in card
    assert "no split was given" in card
    assert "model.onnx was run beside the trained model on test samples of digits" in card


def test_the_manifest_says_what_was_checked(trained: Path) -> None:
    manifest = json.loads((trained / "out" / "export.json").read_text())
    assert manifest["checked_on"] == "test samples of digits"
    assert set(manifest["files"]) == {p.name for p in (trained / "out").iterdir()} - {"export.json"}
    assert all(each["sha256"] == digest(trained / "out" / name) for name, each in manifest["files"].items())
    config = json.loads((trained / "out" / "config.json").read_text())
    assert config["recognised"] == "by its answers on test samples"
    assert config["fingerprint"] == choose(students_of(trained / "run")).fingerprint


def test_both_verbs_are_there_and_train_names_the_next_step(here: Path, capsys: Screen) -> None:
    said = distil(capsys, "--help")
    assert re.search(r"\bexport\b", said.out)
    assert re.search(r"\bpredict\b", said.out)
    again = distil(capsys, "compare", "--out", "run", "--resume")
    assert again.code == 0, again.err
    assert again.out.splitlines()[-1] == "Use one elsewhere: distil export run --out run-export"


# ---- what is refused, and what is said when something is gone


def test_a_run_that_cannot_be_exported_is_named(here: Path, capsys: Screen) -> None:
    refused(distil(capsys, "export", "nowhere", "--out", "x"), "nowhere is no folder of a run")
    refused(distil(capsys, "export", "pictures", "--out", "x"), "pictures holds no student to export")
    refused(distil(capsys, "export", "run", "--out", "x", "--arm", "kdd"), "no arm 'kdd'; did you mean")
    refused(distil(capsys, "export", "run", "--out", "x", "--seed", "7"), "no student of seed 7; it has 0, 1")
    refused(distil(capsys, "export", "run", "--out", "x", "--format", "onx"), "did you mean 'onnx'")
    refused(distil(capsys, "export", "run", "--out", "out"), "add --overwrite to replace it")
    refused(distil(capsys, "export", "run", "--out", "run", "--overwrite"), "is no export of distil")
    for path in (here / "run" / "students").glob("*.json"):
        path.unlink()
    refused(distil(capsys, "export", "run", "--out", "x"), "written by an older distil")
    assert not (here / "x").exists()


def test_a_damaged_student_is_no_export(here: Path, capsys: Screen) -> None:
    weights = here / "run" / "students" / "kd-seed0.safetensors"
    whole = weights.read_bytes()
    words = ["export", "run", "--out", "x", "--arm", "kd", "--seed", "0", "--format", "safetensors"]
    weights.write_bytes(whole[: len(whole) // 2])
    refused(distil(capsys, *words), "was cut off or is no safetensors file")
    weights.write_bytes(whole[:-4] + b"\0\0\x80\x3f")
    refused(distil(capsys, *words), "another fingerprint")
    weights.write_bytes(whole)
    sidecar = weights.with_suffix(".json")
    good = sidecar.read_text()
    for change, message in (
        ({"weights": "../../secret"}, "leads out of"),
        ({"version": 9}, "version 9"),
        ({"plain": "yes"}, "'plain' is str"),
        ({"model": "distil:mlp(hidden=13)"}, "cannot be built again"),
        ({"answers": {"id": [0, 9, 11], "logits": [[0.0] * 10] * 3}}, "answers otherwise than the trained student did"),
    ):
        sidecar.write_text(json.dumps({**json.loads(good), **change}))
        refused(distil(capsys, *words), message)
    sidecar.write_text(good[:100])
    refused(distil(capsys, *words), "is not whole JSON")
    assert not (here / "x").exists()


def test_data_that_are_gone_are_replaced_and_said(here: Path, capsys: Screen) -> None:
    settings = here / "run" / "settings.yaml"
    settings.write_text(settings.read_text().replace("data: digits", "data: lost/folder"))
    said = distil(capsys, "export", "run", "--out", "x", "--json")
    assert said.code == 0, said.err
    assert said.json["checked_on"] == "random inputs (the data lost/folder are not there)"
    assert "by its weights alone" in (here / "x" / "config.json").read_text()
    words = ["export", "run", "--out", "y", "--example", "pictures/03.png", "--format", "safetensors", "--json"]
    assert distil(capsys, *words).json["checked_on"] == "the samples of 03.png"
    refused(distil(capsys, *words[:3], "z", "--example", "none.png"), "--example none.png cannot be read: there is no")


def test_a_students_code_that_changed_since_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:make", "--epochs", "1"]
    assert distil(capsys, "train", *words, "--method", "kd", "--out", "run").code == 0
    quick = ["export", "run", "--format", "safetensors", "--out"]
    assert distil(capsys, *quick, "good").code == 0
    said = distil(capsys, "predict", "good", "photos")
    refused(said, "'models.py:make' is not rebuilt from a folder")
    (tmp_path / "models.py").write_text((tmp_path / "models.py").read_text().replace("nn.ReLU()", "nn.Tanh()"))
    refused(distil(capsys, *quick, "bad"), "its code changed since")
    (tmp_path / "models.py").unlink()
    refused(distil(capsys, *quick, "bad"), "run from the folder it was trained in")
    assert not (tmp_path / "bad").exists()


def test_what_a_method_ships_is_rebuilt_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    shift = nn.Linear(3, 3)

    def deployed(self: KD, student: Any, teacher: Any) -> nn.Module:
        return nn.Sequential(student.module, shift)

    monkeypatch.setattr(KD, "deployed", deployed)
    words = ["--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:make", "--epochs", "1"]
    assert distil(capsys, "train", *words, "--method", "kd", "--out", "run").code == 0
    said = json.loads((tmp_path / "run" / "students" / "kd-seed0.json").read_text())
    assert (said["plain"], said["deployed"]) == (False, "Sequential")
    assert json.loads((tmp_path / "run" / "students" / "alone-seed0.json").read_text())["plain"] is True
    quick = ["export", "run", "--format", "safetensors", "--out"]
    assert distil(capsys, *quick, "good").code == 0
    card = (tmp_path / "good" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Sequential, made of models.py:make by the method" in card
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    refused(distil(capsys, *quick, "bad"), "the student of run cannot be built again")


def test_a_graph_student_needs_its_features_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data", "graph.npz", "--teacher", "models.py:eye", "--student", "distil:mlp(hidden=6)"]
    assert distil(capsys, *words, "--method", "ff-g2m", "--epochs", "3", "--out", "run").code == 0
    said = distil(capsys, "export", "run", "--out", "out", "--json")
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text())["kind"] == "features"
    model = load_model("distil:mlp(hidden=6)", classes=3, input_shape=(5,))
    load_state(model, tmp_path / "out" / "model.safetensors")
    bundle = load("graph.npz")
    with torch.no_grad():
        shares = model(bundle.test.batch["inputs"]).softmax(1)
    answers = distil(capsys, "predict", "out", "graph.npz", "--json", "--top", "9").json["answers"]
    assert [each["label"] for each in answers] == [bundle.classes[int(k)] for k in shares.argmax(1)]
    assert [each["probability"] for each in answers] == pytest.approx(shares.max(1).values.tolist(), abs=1e-5)
    assert all(len(each["top"]) == 3 for each in answers)
    script = [sys.executable, "out/predict.py", "graph.npz"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == [each["label"] for each in answers]
    with open("rows.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", *"abcde"])
        rows.writerows(["n", "", *row] for row in bundle.test.batch["inputs"].tolist())
    tables = distil(capsys, "predict", "out", "rows.csv", "nan.npz", "graph.npz", "--json").json
    assert [each["label"] for each in tables["answers"][:60]] == [each["label"] for each in answers]
    assert tables["answers"][0]["name"] == "rows.csv:1"
    (skipped,) = tables["skipped"]
    assert skipped["name"] == "nan.npz"
    assert "1 of its rows hold NaN or infinity (first: row 8)" in skipped["reason"]


# ---- using an export


def test_pictures_get_the_labels_of_the_trained_model(here: Path, trained: Path, capsys: Screen) -> None:
    (here / "pictures" / "torn.png").write_bytes(b"\x89PNG torn")
    (here / "notes.txt").write_text("no picture")
    words = ["predict", "out", "pictures", "notes.txt", "absent.png", "--top", "3", "--batch-size", "5"]
    said = distil(capsys, *words, "--json", "--out", "answers.csv")
    assert said.code == 0, said.err
    found = said.json
    assert found["engine"] == "onnxruntime"
    assert [each["label"] for each in found["answers"]] == answers_of(trained)
    assert [Path(each["name"]).name for each in found["answers"]] == [f"{k:02d}.png" for k in range(COUNT)]
    for each in found["answers"]:
        shares = [one["probability"] for one in each["top"]]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-9
    assert [Path(each["name"]).name for each in found["skipped"]] == ["torn.png", "notes.txt", "absent.png"]
    with open("answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == answers_of(trained)
    assert list(rows[0]) == ["name", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"]
    refused(distil(capsys, *words, "--out", "answers.csv"), "answers.csv is already there")
    plain = distil(capsys, *words, "--out", "answers.csv", "--overwrite")
    assert plain.out.splitlines()[0].startswith(f"pictures/00.png\t{answers_of(trained)[0]} ")
    assert "skipped pictures/torn.png: the image cannot be decoded" in plain.err
    assert "24 answered, 3 files skipped." in plain.err


def test_nothing_readable_is_a_mistake(here: Path, capsys: Screen) -> None:
    (here / "empty").mkdir()
    (here / "torn.png").write_bytes(b"\x89PNG torn")
    refused(distil(capsys, "predict", "out", "empty", "torn.png", "--json"), "none of the 2 files could be read")


def test_without_onnxruntime_a_known_model_is_rebuilt(
    here: Path, trained: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distil.ship.folder.find_spec", lambda name: None)
    found = distil(capsys, "predict", "out", "pictures", "--json").json
    assert found["engine"] == "torch"
    assert [each["label"] for each in found["answers"]] == answers_of(trained)
    for spec in ("models.py:make", "os:system", "timm:resnet18(checkpoint_path='x')", "timm:hf-hub:a/b"):
        edit(here / "out" / "config.json", lambda config, spec=spec: config.update(model=spec))  # type: ignore[misc]
        refused(distil(capsys, "predict", "out", "pictures"), "needs onnxruntime to run; install it")


def tear(path: Path) -> None:
    """Cut a file off and make its checksum agree."""
    path.write_bytes(path.read_bytes()[:200])
    sign(path)


def as_features(preprocessing: dict[str, Any]) -> None:
    preprocessing.clear()
    preprocessing.update(kind="features", shape=[1, 8, 8])


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "no export": (lambda out: (out / "export.json").unlink(), "is no export of distil"),
    "a torn list": (lambda out: (out / "export.json").write_text("{"), "is not whole JSON"),
    "another kind": (lambda out: edit(out / "export.json", lambda d: d.update(kind="x")), "is of kind 'x'"),
    "a later version": (lambda out: edit(out / "export.json", lambda d: d.update(version=2)), "version 2"),
    "no files": (lambda out: edit(out / "export.json", lambda d: d.update(files={})), "does not list config.json"),
    "a file elsewhere": (
        lambda out: edit(out / "export.json", lambda d: d["files"].update({"../../etc/passwd": {"sha256": ""}})),
        "leads out of",
    ),
    "a torn model": (
        lambda out: (out / "model.onnx").write_bytes((out / "model.onnx").read_bytes()[:200]),
        "model.onnx was cut off or changed",
    ),
    "a torn model that is signed": (
        lambda out: tear(out / "model.onnx"),
        "cannot be opened by onnxruntime",
    ),
    "a missing file": (lambda out: (out / "labels.json").unlink(), "labels.json is missing"),
    "changed weights": (lambda out: (out / "model.safetensors").write_bytes(b"x"), "its checksum differs"),
    "fewer labels": (lambda out: edit(out / "labels.json", lambda d: d.pop()), "labels.json names 9 classes"),
    "labels that are none": (lambda out: edit(out / "labels.json", lambda d: d.append(3)), "no list of class names"),
    "a tokenizer elsewhere": (
        lambda out: edit(
            out / "preprocessing.json",
            lambda d: d.update(kind="text", tokenizer="../../etc", max_length=8),
        ),
        "'../../etc', which leads out of",
    ),
    "a size from nowhere": (
        lambda out: edit(out / "preprocessing.json", lambda d: d.update(size=[10**9, 8])),
        "'size' is [1000000000, 8]",
    ),
    "another size": (
        lambda out: edit(out / "preprocessing.json", lambda d: d.update(size=[9, 8])),
        "onnxruntime cannot run the model",
    ),
    "inputs without names": (
        lambda out: edit(out / "config.json", lambda d: d.update(inputs=[1])),
        "inputs are called",
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_a_folder_that_was_tampered_with_is_refused(here: Path, capsys: Screen, name: str) -> None:
    change, message = HARM[name]
    change(here / "out")
    before = contents(here)
    refused(distil(capsys, "predict", "out", "pictures/00.png", "--out", "answers.csv"), message)
    assert contents(here) == before


def test_a_link_out_of_the_folder_is_not_followed(here: Path, capsys: Screen) -> None:
    (here / "secret").write_bytes((here / "out" / "labels.json").read_bytes())
    (here / "out" / "labels.json").unlink()
    (here / "out" / "labels.json").symlink_to(here / "secret")
    refused(distil(capsys, "predict", "out", "pictures/00.png"), "leads out of")


def test_features_with_a_pickle_inside_are_not_loaded(here: Path, capsys: Screen) -> None:
    edit(here / "out" / "preprocessing.json", as_features)
    np.savez(here / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    np.savez(here / "good.npz", x=np.zeros((2, 64)))
    found = distil(capsys, "predict", "out", "bad.npz", "good.npz", "--json").json
    assert [each["name"] for each in found["answers"]] == ["good.npz:1", "good.npz:2"]
    assert "no readable npz of plain arrays" in found["skipped"][0]["reason"]
