"""`distil train`, `export` and `predict` on a table of numbers and categories, and TGeo-KD by its name."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distil import load, load_model
from distil.cli import main
from distil.loops.shipped import choose, students_of
from distil.ship.student import load_state

Screen = pytest.CaptureFixture[str]
TOWNS = ("Rome", "Oslo", "Bonn")
MODELS = ("--teacher", "distil:mlp(hidden=16)", "--train-teacher", "15", "--student", "distil:mlp(hidden=4)")
SHORT = ("--lr", "0.02", "--epochs", "3", "--batch-size", "16")


def table(path: Path, count: int = 200) -> Path:
    """Rows whose class depends on a number and on a town."""
    draw = torch.Generator().manual_seed(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "age", "town", "outcome"])
        for k in range(count):
            age, town = 20 + 60 * float(torch.rand((), generator=draw)), int(torch.randint(3, (), generator=draw))
            lines.writerow([k, f"{age:.2f}", TOWNS[town], "sick" if age + 20 * town > 65 else "well"])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of TGeo-KD on a table, and its export."""
    place = tmp_path_factory.mktemp("tables")
    data = str(table(place / "table.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = ["train", "--data", data, *MODELS, "--method", "tgeo-kd", *SHORT, "--out", "run"]
        assert main([*words, "--set", "columns.label=outcome", "--json"]) == 0
        assert main(["export", "run", "--out", "out", "--json"]) == 0
    return place


def answers_of(place: Path) -> list[str]:
    """What the trained student says of all rows, from the encoding that was learned."""
    bundle = load(place / "table.csv", label="outcome", splits=place / "run" / "splits.csv")
    student = choose(students_of(place / "run"))
    model = load_model("distil:mlp(hidden=4)", classes=2, input_shape=bundle.input_shape)
    load_state(model, place / "run" / "students" / student.weights)
    with torch.no_grad():
        said = model(bundle.train.dataset.inputs).argmax(1)
    return [bundle.classes[k] for k in said.tolist()]


def test_the_student_says_how_its_rows_are_made(trained: Path) -> None:
    student = choose(students_of(trained / "run"))
    made = student.preprocessing
    assert (made["kind"], made["shape"], made["missing"]) == ("table", [4], "refuse")
    assert [column["name"] for column in made["columns"]] == ["age", "town"]
    assert json.loads((trained / "out" / "preprocessing.json").read_text()) == made
    card = (trained / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "columns age, town" in card.replace("\\", "")
    report = json.loads((trained / "run" / "report.json").read_text())
    assert {arm["expression"].partition("(")[0] for arm in report["arms"]} >= {"supervised", "tgeo-kd"}


def test_predict_encodes_a_table_as_training_did(
    trained: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    assert main(["predict", "out", "table.csv", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [answer["label"] for answer in said["answers"]] == answers_of(trained)
    assert len({answer["label"] for answer in said["answers"]}) == 2


def test_predict_names_what_a_table_lacks(
    trained: Path, tmp_path: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "few.csv": "age\n30\n",
        "hole.csv": "age,town\n,Rome\n",
        "odd.csv": "age,town\nold,Rome\n",
    }.items():
        Path(name).write_text(text, encoding="utf-8")
        assert main(["predict", str(trained / "out"), name]) == 2
    seen = capsys.readouterr()
    shown = " ".join((seen.out + seen.err).split())
    assert "the column 'town' is not there" in shown
    assert "the column 'age' holds nothing there" in shown
    assert "holds 'old'; a number is expected" in shown
    Path("new.csv").write_text("town,age,more\nParis,30,x\n", encoding="utf-8")
    assert main(["predict", str(trained / "out"), "new.csv"]) == 0


def test_the_script_beside_the_model_gives_the_same_labels(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(trained / "out", tmp_path / "out")
    shutil.copy(trained / "table.csv", tmp_path / "table.csv")
    command = [sys.executable, "out/predict.py", "table.csv"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split("\t")[1] for line in made.stdout.splitlines()] == answers_of(trained)


def test_a_label_that_is_not_found_says_how_to_name_it(tmp_path: Path, capsys: Screen) -> None:
    data = str(table(tmp_path / "table.csv", 30))
    assert main(["train", "--data", data, *MODELS, "--method", "kd", "--dry-run", "--out", str(tmp_path / "run")]) == 2
    assert "--set columns.label=NAME" in " ".join(capsys.readouterr().err.split())


def test_categories_holes_and_columns_to_leave_out_are_settings(tmp_path: Path, capsys: Screen) -> None:
    data = table(tmp_path / "table.csv")
    data.write_text(data.read_text(encoding="utf-8").replace("Oslo", ""), encoding="utf-8")
    words = ["train", "--data", str(data), *MODELS, *SHORT, "--method", "kd", "--dry-run"]
    words += ["--set", "columns.label=outcome"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "columns.missing=fill" in " ".join(capsys.readouterr().err.split())
    more = ["--set", "columns.missing=fill", "--set", "columns.ignore=[id]"]
    assert main([*words, *more, "--out", str(tmp_path / "b")]) == 0


def test_a_network_for_images_is_refused_in_a_sentence(tmp_path: Path, capsys: Screen) -> None:
    data = str(table(tmp_path / "table.csv", 60))
    words = ["train", "--data", data, "--teacher", "distil:mlp(hidden=8)", "--train-teacher", "1", "--student"]
    more = ["--method", "kd", "--set", "columns.label=outcome", "--out", str(tmp_path / "run")]
    assert main([*words, "distil:cnn", *more]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "distil:cnn" in said or "(4,)" in said
