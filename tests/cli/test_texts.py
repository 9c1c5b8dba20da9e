"""`distil train` and `distil compare` on a user's own texts, with models of transformers from folders."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distil.data import load, tokenised
from distil.models import load_model, load_tokenizer
from distil.models.tokenizers import word_tokenizer
from distil.report.check import validate
from distil.tasks import TextTask

from .terminal import Said, contents, distil

transformers = pytest.importorskip("transformers")

Screen = pytest.CaptureFixture[str]
CLASSES = ("<b>bad</b>", "good & warm")
WORDS = (["dull", "cold", "grey", "flat", "slow"], ["fine", "warm", "bright", "rich", "quick"])
BERT = "hf:tiny"
STUDENT = "distil:bow(vocab=20, dim=8, hidden=0)"
QUICK = ("--epochs", "2", "--batch-size", "16", "--lr", "0.01", "--set", "max_length=12")


def sentences(count: int) -> list[tuple[str, str]]:
    draw = random.Random(0)
    return [
        (" ".join(["the film", str(k), "is", *draw.choices(WORDS[k % 2], k=draw.randint(2, 5))]), CLASSES[k % 2])
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews, and a BERT with random weights whose tokenizer knows their words."""
    root = tmp_path_factory.mktemp("texts")
    with (root / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sentences(240)])
    words = word_tokenizer([text for text, _ in sentences(240)], 200)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(root / "tiny")
    words.save_pretrained(root / "tiny")
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def train(capsys: Screen, *words: str, student: str = STUDENT, verb: str = "train", data: str = "reviews.csv") -> Said:
    method = () if any(word.startswith("--method") for word in words) else ("--method", "kd")
    own = [verb, "--data", data, "--teacher", BERT, "--student", student, "--train-teacher", "4", *QUICK]
    return distil(capsys, *own, *method, *words)


def good(said: Said) -> Said:
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    return said


def test_texts_are_taught_from_one_command(place: Path, capsys: Screen) -> None:
    report = good(train(capsys, "--out", "run", "--json")).json
    validate(report)
    assert report["task"] == "text-classification"
    assert report["data"]["classes"] == list(CLASSES)
    assert report["data"]["train"] == 168
    assert report["teacher"]["metrics"]["accuracy"] > 90
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert "<b>bad" not in page
    assert "different tokenizers" in " ".join(report["data"]["notes"])
    assert sorted(path.name for path in (place / "run" / "students").glob("*.safetensors")) == [
        "alone-seed0.safetensors",
        "kd-seed0.safetensors",
    ]
    # What shipped, read with the tokenizer beside it, scores what the report says.
    tokenizer = load_tokenizer(str(place / "run" / "tokenizer"))
    student = load_model(STUDENT, classes=2, tokenizer=tokenizer)
    student.load_state_dict(load_file(place / "run" / "students" / "kd-seed0.safetensors"))
    bundle = tokenised(load("reviews.csv", splits="run/splits.csv"), tokenizer, max_length=12)
    found = TextTask().evaluate(student, bundle.test)["accuracy"]
    arm = next(arm for arm in report["arms"] if arm["name"] == "kd")
    assert found == pytest.approx(arm["metrics"]["accuracy"]["best"][0])


def test_a_resumed_run_reads_its_own_splits(place: Path, capsys: Screen) -> None:
    good(train(capsys, "--out", "run"))
    before = contents(place / "run")
    stored = (place / "run" / "splits.csv").read_text()
    again = good(distil(capsys, "train", "--out", "run", "--resume", "--set", "split_seed=3", "--json")).json
    assert (place / "run" / "splits.csv").read_text() == stored
    assert "the splits are those stored in splits.csv" in " ".join(again["data"]["notes"])
    assert {name for name in before if name.startswith("tokenizer")} <= set(contents(place / "run"))
    other = good(train(capsys, "--set", "split_seed=3", "--out", "other", "--dry-run", "--json")).json
    assert other["settings"]["split_seed"] == 3
    good(train(capsys, "--set", "splits=run/splits.csv", "--set", "split_seed=9", "--out", "third"))
    assert (place / "third" / "splits.csv").read_text() == stored
    with (place / "reviews.csv").open(encoding="utf-8") as file:
        kept = file.readlines()[:-20]
    (place / "reviews.csv").write_text("".join(kept), encoding="utf-8")
    said = distil(capsys, "train", "--out", "run", "--resume")
    assert said.code == 2
    assert "the data were changed since" in said.err


def test_methods_compare_on_a_student_that_shares_the_tokenizer(place: Path, capsys: Screen) -> None:
    student = "hf:tiny(pretrained=false, num_hidden_layers=1, hidden_size=8)"
    methods = "kd, dkd+supervised, dist, pld, supervised+rkd, supervised+fitnets(tap=emb)"
    said = train(capsys, "--methods", methods, "--seeds", "1", "--json", student=student, verb="compare")
    report = good(said).json
    validate(report)
    assert len(report["arms"]) == 7
    assert "different tokenizers" not in " ".join(report["data"]["notes"])
    updates = {arm["budget"]["updates"] for arm in report["arms"]}
    assert updates == {2 * 11}


def test_columns_classes_and_leaks_are_settings(place: Path, capsys: Screen) -> None:
    rows = [{"words": text, "verdict": label} for text, label in sentences(120)]
    (place / "odd").mkdir()
    for part, own in (("train", rows), ("val", rows[:20]), ("test", rows[100:])):
        (place / "odd" / f"{part}.jsonl").write_text("\n".join(json.dumps(row) for row in own))
    said = train(capsys, data="odd")
    assert (said.code, said.out) == (2, "")
    assert "no label column called label" in said.err
    assert "columns.text=NAME" in " ".join(said.err.split())
    assert not (place / "runs").exists()
    settings = [
        *("--set", "columns.text=words", "--set", "columns.label=verdict", "--set", "drop_leaks=true"),
        *("--set", 'classes=["good & warm", "<b>bad</b>"]', "--out", "run"),
    ]
    report = good(train(capsys, *settings, "--json", data="odd")).json
    assert report["data"]["classes"] == list(reversed(CLASSES))
    assert report["data"]["train"] == 80
    assert "LEAK: 20 of val and 20 of test also stand in train" in " ".join(report["data"]["notes"])
    stored = yaml.safe_load((place / "run" / "settings.yaml").read_text())
    others = {"image": None, "split": None, "prompt": None, "categories": [], "ignore": [], "missing": None}
    assert stored["columns"] == {"text": "words", "label": "verdict", **others}


MISTAKES = {
    "a column": (("--set", "columns.txt=x"), "The setting 'columns.txt' does not exist; did you mean 'text'"),
    "an unknown class": (("--set", "classes=[bad, good]"), "has the label '<b>bad</b>', and the setting 'classes' has"),
    "a name on the hub": (("--teacher", "hf:bert-base-uncased"), "is looked up only with --pretrained"),
    "a net of images": (("--student", "distil:mlp(hidden=4)"), "reads no texts"),
    "a factory of images": (("--student", "nets.py:make"), "Linear (student) takes (input) and no input_ids"),
    "the size of images": (("--set", "size=8"), "size=8 means nothing for 'reviews.csv'"),
    "no splits": (("--set", "splits=none.csv"), "the splits 'none.csv' cannot be read"),
    "a teacher at chance": (("--train-teacher", "0"), "which is not above the chance level"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place: Path, capsys: Screen, name: str) -> None:
    (place / "nets.py").write_text("from torch import nn\n\n\ndef make(classes):\n    return nn.Linear(3, classes)\n")
    words, said = MISTAKES[name]
    before = contents(place)
    result = train(capsys, *words)
    assert result.code == 2, result.err
    assert [line for line in result.complaints if said in line], result.err
    assert "Traceback" not in result.err
    assert contents(place) == before


def test_taps_of_a_text_model_are_listed(place: Path, capsys: Screen) -> None:
    meanings = good(distil(capsys, "taps", BERT, "--input", "7", "--classes", "2", "--json")).json["meanings"]
    assert meanings["emb"] == ["head:in"]
    assert meanings["tokens"] == ["encoder"]


def test_a_student_of_texts_is_exported_with_its_tokenizer(place: Path, capsys: Screen) -> None:
    good(train(capsys, "--method", "supervised + kd", "--out", "run"))
    good(distil(capsys, "export", "run", "--out", "student"))
    assert (place / "student" / "tokenizer" / "tokenizer.json").is_file()
    texts = [text for text, _ in sentences(6)]
    (place / "new.txt").write_text("\n".join(texts), encoding="utf-8")
    said = json.loads(good(distil(capsys, "predict", "student", "new.txt", "--json")).out)
    bundle = load("reviews.csv")
    words = load_tokenizer("run/tokenizer")
    student = load_model(STUDENT, classes=2, tokenizer=words)
    student.load_state_dict(load_file("run/students/supervised-kd-seed0.safetensors"))
    task = TextTask(tokenizer=words, max_length=12)
    batch = task.unpack(
        {"inputs": dict(words(texts, padding=True, truncation=True, max_length=12, return_tensors="pt"))}
    )
    with torch.no_grad():
        best = task.logits(task.call(student.eval(), batch)).argmax(1)
    assert [row["label"] for row in said["answers"]] == [bundle.classes[k] for k in best]
