"""distil condense and distil train on what it made, with a user's own photos; and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from distil.data.condensed import load_condensed
from distil.data.fingerprint import fingerprint
from distil.loops.inputs import Normalise
from distil.loops.lab import Lab
from distil.loops.labelling import labellers_fit
from distil.loops.order import architecture, inputs_of
from distil.loops.own_condense import Named
from distil.loops.own_run import OwnRun
from distil.loops.own_small import opened_set
from distil.report import load
from distil.tasks import ClassificationTask

from .files import CLASSES
from .terminal import Said, contents, distil

Screen = pytest.CaptureFixture[str]

TEACHER = ("--teacher", "models.py:eye")
JUDGED = (
    *("--evaluate", "--student", "distil:mlp(hidden=4)", "--student", "distil:mlp(hidden=[])"),
    *("--seeds", "1", "--updates", "4"),
)


def words(*more: str, method: str = "random") -> list[str]:
    return ["condense", "--data", "photos", "--method", method, "--per-class", "2", "--device", "cpu", *more]


def test_a_set_is_made_judged_and_trained_on(here: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--out", "small", *TEACHER, "--labels", "static", *JUDGED))
    assert said.code == 0, said
    assert "6 samples; images 648 B, labels 78 B" in said.out.replace("\n", " ")
    small = load_condensed("small/set")
    assert (small.classes, small.kind, small.labels.bincount().tolist()) == (CLASSES, "static", [2, 2, 2])
    assert sorted(path.name for path in Path("small/set").iterdir()) == [
        "images", "manifest.json", "set.json", "tensors.safetensors",
    ]  # fmt: skip
    report = load("small")
    assert [arm["name"] for arm in report["arms"]] == ["random", "set", "set-hard", "real"]
    titles = [table["title"] for table in report["tables"]]
    assert titles == ["DD-Ranking's scores", "By architecture", "Accuracy over bytes", "What the set takes"]
    [group] = report["pictures"]
    assert [sheet["name"] for sheet in group["sheets"]] == list(CLASSES)

    said = distil(capsys, *trained("--out", "students"))
    assert said.code == 0, said
    report = load("students")
    assert [(arm["name"], arm["role"]) for arm in report["arms"]] == [("hard", "reference"), ("set", "method")]
    assert {arm["budget"]["updates"] for arm in report["arms"]} == {5}
    said = distil(capsys, "export", "students", "--out", "shipped")
    assert said.code == 0, said


def trained(*more: str) -> list[str]:
    return [
        *("train", "--data", "small", "--student", "distil:mlp(hidden=4)", "--set", "updates=5", "--device", "cpu"),
        *more,
    ]


@pytest.fixture
def small(here: Path, capsys: Screen) -> Path:
    """A small set of the photos with hard labels, in ``small``."""
    assert distil(capsys, *words("--out", "small")).code == 0
    return here


def mixed() -> None:
    """A user's folder as folders are: a torn file, grey images among coloured ones, and none of them of one size."""
    shutil.copytree("photos", "mixed")
    for k, file in enumerate(sorted(Path("mixed").rglob("[0-9]*.png"))):
        with Image.open(file) as image:
            changed = image.resize((6 + k % 3, 6 + k % 2))
        (changed.convert("L") if k % 6 == 0 else changed).save(file)
    (Path("mixed") / "blue" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")


def test_photos_torn_grey_and_of_many_sizes_make_a_set_that_is_trained_on(here: Path, capsys: Screen) -> None:
    mixed()
    said = distil(capsys, *[word.replace("photos", "mixed") for word in words("--out", "small", "--set", "size=8")])
    assert said.code == 0, said
    heard = " ".join(said.err.split())
    assert "12 grey and 60 colour images" in heard
    assert "cut.jpg" in heard
    assert "torn.png" in heard
    small = load_condensed("small/set")
    assert small.inputs.shape == (6, 3, 8, 8)
    assert small.labels.bincount().tolist() == [2, 2, 2]
    said = distil(capsys, *trained("--out", "students"))
    assert said.code == 0, said
    assert load("students")["data"]["test"] > 0
    exported = distil(capsys, "export", "students", "--out", "shipped")
    assert exported.code == 0, exported


def test_students_are_tested_on_the_parts_that_made_no_set(small: Path, capsys: Screen) -> None:
    held = load_condensed("small/set")
    assert held.ids is not None
    parts = {row.split(",")[0]: row.split(",")[1] for row in Path("small/splits.csv").read_text().splitlines()[1:]}
    assert {parts[str(k)] for k in held.ids.tolist()} == {"train"}
    shutil.move("small", "moved")  # the photos stay: they are found by where they were
    said = distil(capsys, *[word.replace("small", "moved") for word in trained("--dry-run", "--json")])
    assert said.json["samples"] == 6
    assert said.json["classes"] == list(CLASSES)


def test_data_that_moved_are_named_by_hand(small: Path, capsys: Screen) -> None:
    shutil.move("photos", "elsewhere")
    said = distil(capsys, *trained())
    assert said.code == 2
    assert "are not there; name them: --set real=PATH" in said.complaints[0]
    assert distil(capsys, *trained("--dry-run", "--set", "real=elsewhere")).code == 0


def test_a_set_is_ordinary_data_for_a_method_and_its_teacher(small: Path, capsys: Screen) -> None:
    said = distil(
        capsys, "train", "--data", "small", *TEACHER, "--student", "models.py:make", "--method", "kd", "--epochs", "1",
        "--device", "cpu", "--out", "taught",
    )  # fmt: skip
    assert said.code == 0, said
    assert load("taught")["data"]["train"] == 6


def test_a_dry_run_says_what_a_set_would_take_and_writes_nothing(here: Path, capsys: Screen) -> None:
    before = contents(here)
    said = distil(capsys, *words("--dry-run", "--json"))
    assert said.json["budget"] == {"samples": 6, "bytes": 6 * 108}
    assert "at most 6 samples of 3 classes, 648 B without labels. Nothing was condensed" in distil(
        capsys, *words("--dry-run")
    ).out.replace("\n", " ")
    assert contents(here) == before


def test_a_run_goes_on_where_it_was_and_gives_the_same_set(small: Path, capsys: Screen) -> None:
    first = load_condensed("small/set").fingerprint
    said = distil(capsys, "condense", "--out", "small", "--resume", "--device", "cpu")
    assert said.code == 0, said
    assert load_condensed("small/set").fingerprint == first


def test_sets_of_other_makers_are_judged(here: Path, capsys: Screen) -> None:
    shutil.copytree("photos", "made", ignore=lambda folder, names: [n for n in names if n[0] in "3456t"])
    said = distil(capsys, "condense", "--data", "photos", "--existing", "made", *JUDGED, "--json", "--device", "cpu")
    assert said.code == 0, said
    assert [arm["name"] for arm in said.json["arms"]] == ["random", "set", "real"]
    images = torch.rand(6, 3, 6, 6)
    torch.save(images, "images_best.pt")
    torch.save(torch.tensor([0, 0, 1, 1, 2, 2]), "labels_best.pt")
    said = distil(
        capsys, "condense", "--data", "photos", "--existing", "images_best.pt", *JUDGED, "--json", "--device", "cpu"
    )
    assert said.code == 0, said
    assert "others (images_best.pt)" in said.json["setting"]["Set"]
    assert not Path("runs/condense/set").exists()  # nothing was made


def test_a_table_of_numbers_is_condensed_as_vectors(here: Path, capsys: Screen) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = [f"{x:.3f},{y:.3f},{'up' if x > 0 else 'down'}" for x, y in torch.randn(60, 2, generator=draw).tolist()]
    Path("rows.csv").write_text("\n".join(["x,y,label", *rows]))
    said = distil(
        capsys, "condense", "--data", "rows.csv", "--per-class", "2", *JUDGED, "--device", "cpu", "--out", "small"
    )
    assert said.code == 0, said
    held = load_condensed("small/set")
    assert held.inputs.shape == (4, 2)
    assert held.storage()["images"] == 4 * 2 * 4
    assert distil(capsys, *trained("--dry-run")).code == 0


MADE_BY: dict[str, tuple[str, ...]] = {
    "a teacher": ("--teacher", "distil:mlp(hidden=4)", "--train-teacher", "20", "--labels", "static"),
    "a net that the method draws": ("--method", "forgetting", "--set", "net=distil:mlp(hidden=4)"),
}


@pytest.mark.parametrize("dry", [("--dry-run",), ("--out", "small")], ids=["dry", "whole"])
@pytest.mark.parametrize("who", MADE_BY)
def test_who_makes_a_set_is_no_judge_which_is_said_before_anything_is_trained(
    who: str, dry: tuple[str, ...], here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **options: object) -> None:
        raise AssertionError("something was trained")

    for place in ("own_condense.train_teacher", "own_condense.condense", "condensed.train_on", "judging.train_on"):
        monkeypatch.setattr(f"distil.loops.{place}", never)
    judge = ("--evaluate", "--student", "distil:mlp(hidden=[4])")  # the same form by another name
    before = contents(here)
    said = distil(capsys, *words(*MADE_BY[who], *judge, *dry))
    assert said.code == 2, said
    assert "is of the form of a net that makes the set, so it is no unseen architecture" in said.complaints[0]
    assert {name for name in contents(here) if not name.startswith("small")} == set(before)
    assert not Path("small/set").exists()


def test_the_usual_judges_are_checked_too(here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distil.loops.judging.IMAGES", ("distil:mlp(hidden=4)",))
    drawn = words("--set", "net=distil:mlp(hidden=4)", "--evaluate", "--dry-run", method="forgetting")
    assert "no unseen architecture" in distil(capsys, *drawn).complaints[0]
    monkeypatch.setattr("distil.loops.judging.IMAGES", ("distil:mlp(hidden=4)", "distil:mlp(hidden=6)"))
    said = distil(capsys, *drawn)
    assert said.code == 0, said
    assert "Only distil:mlp(hidden=6) is of a form that had no part" in " ".join(said.err.split())


def refused(capsys: Screen, here: Path, *typed: str) -> str:
    before = contents(here)
    said: Said = distil(capsys, *typed)
    assert said.code == 2, said
    assert "Traceback" not in said.err
    (complaint,) = said.complaints
    assert contents(here) == before
    return complaint


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["condense", "--method", "random"], "--data is missing"),
    "an unknown method": (words(method="rndom"), "'rndom' makes no sets; did you mean 'random'"),
    "an unknown option": (words("--set", "steps=3"), "random has no options"),
    "an unknown kind of labels": (words("--labels", "sfot"), "labelling.kind='sfot' is unknown"),
    "soft labels of nobody": (words("--labels", "static"), "static labels come from a trained teacher"),
    "a teacher at chance": (words("--labels", "static", "--teacher", "models.py:blind"), "at chance"),
    "a teacher of other classes": (words("--labels", "static", "--teacher", "models.py:five"), "has 5 outputs"),
    "more weights than teachers": (words("--teacher-weights", "knows.pt"), "1 --teacher-weights for 0 --teacher"),
    "one class": (["condense", "--data", "one"], "…one class only…"),
    "no images": (["condense", "--data", "empty"], "no images"),
    "a graph": (["condense", "--data", "graph.npz"], "is for node-classification"),
    "texts without an encoder": (
        ["condense", "--data", "texts.csv", "--method", "dm"],
        "encoder that makes them: --set encoder=hf:FOLDER",
    ),
    "an encoder of images": (words("--set", "encoder=hf:x"), "is for texts"),
    "no set there": (["condense", "--data", "photos", "--existing", "missing"], "there is no small set"),
    "pickled code as a set": (
        ["condense", "--data", "photos", "--existing", "hostile.pt"],
        "cannot be read as tensors alone",
    ),
    "students that cannot be": (words("--evaluate", "--student", "distil:mlpp"), "did you mean 'mlp'"),
    "students of other classes": (words("--evaluate", "--student", "models.py:five"), "has 5 outputs for 3 classes"),
    "a set that is none": (["train", "--data", "photos", "--method", "set", "--student", "x"], "is no condensed set"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(name: str, here: Path, capsys: Screen) -> None:
    typed, sentence = WRONG[name]
    Path("texts.csv").write_text("text,label\n" + "so good it is,a\nso bad it was,b\n" * 12)
    assert sentence.strip("…") in refused(capsys, here, *typed, "--device", "cpu")


def test_a_torn_set_is_refused_and_named(small: Path, capsys: Screen) -> None:
    picture = next(Path("small/set/images").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-5])
    assert picture.name in refused(capsys, small, *trained())


def test_a_set_asks_for_updates_and_no_teacher(small: Path, capsys: Screen) -> None:
    assert "--set updates=1000" in refused(capsys, small, *trained("--epochs", "3"))
    assert "ask no teacher; leave --teacher out" in refused(capsys, small, *trained(*TEACHER))


def test_dynamic_labels_ask_for_their_teacher(here: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--out", "small", *TEACHER, "--labels", "dynamic"))
    assert said.code == 0, said
    assert "name each of them with --teacher" in refused(capsys, here, *trained())
    assert "at chance" in refused(capsys, here, *trained("--teacher", "models.py:blind"))
    assert distil(capsys, *trained(*TEACHER, "--out", "students")).code == 0


def test_a_class_with_fewer_gives_all_and_it_is_said(here: Path, capsys: Screen) -> None:
    for k in range(4, 70, 3):
        Path(f"photos/green/{k:02d}.png").unlink(missing_ok=True)
    said = distil(capsys, *words("--per-class", "4", "--out", "small"))
    assert said.code == 0, said
    assert "classes have fewer than 4 training samples and give all: green" in said.err
    assert json.loads(Path("small/set/set.json").read_text())["samples"] < 12


def test_the_teacher_of_dynamic_labels_takes_images_as_it_is_told(here: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--out", "small", *TEACHER, "--labels", "dynamic"))
    assert said.code == 0, said
    run = OwnRun(data="small", student="distil:mlp(hidden=4)", teacher="models.py:eye", methods=("set",))
    made = opened_set(run, Lab(here / "lab"))
    told = replace(run, normalise=Normalise(teacher=[0.5, 0.25]))
    (plain,), (teacher,) = made.teachers, opened_set(told, Lab(here / "lab")).teachers
    images = inputs_of(made.real.test, torch.arange(3))
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), plain((images - 0.5) / 0.25))


def test_another_normalisation_is_noticed_and_makes_the_set_anew(here: Path, capsys: Screen) -> None:
    told = (*TEACHER, "--labels", "static", "--out", "small", "--set")
    assert distil(capsys, *words(*told, "normalise=[0.5,0.25]")).code == 0
    first = load_condensed("small/set")
    said = distil(capsys, *words(*told, "normalise=[0.4,0.5]", "--resume"))
    assert said.code == 0, said
    again = load_condensed("small/set")
    assert first.logits is not None
    assert again.logits is not None
    assert not torch.allclose(first.logits, again.logits)
    net, tasks = nn.Linear(4, 3), [ClassificationTask(normalise={"teacher": (mean, 0.25)}) for mean in (0.5, 0.5, 0.4)]
    called = [Named("net", net, task).called for task in tasks]
    assert fingerprint(called[0]) == fingerprint(called[1]) != fingerprint(called[2])
    assert architecture(called[0]) == architecture(net)  # which students are of its form does not change
    labelled = replace(again, record={**again.record, "labelled_by": [fingerprint(called[0])]})
    assert not labellers_fit(labelled, called[1:2])
    assert "another normalisation" in labellers_fit(labelled, called[2:])[0]


def test_seed_0_is_a_seed(here: Path, capsys: Screen) -> None:
    Path("settings.yaml").write_text("data: photos\nmethod: random\nper_class: 2\nseed: 5\n")
    said = distil(capsys, "condense", "--config", "settings.yaml", "--seed", "0", "--dry-run", "--json")
    assert said.code == 0, said
    assert said.json["settings"]["seed"] == 0


def test_a_set_kept_exactly_counts_four_bytes_a_value_in_every_table(here: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--out", "small", "--set", "exact=true", *JUDGED))
    assert said.code == 0, said
    arms = {arm["name"]: arm["diagnostics"]["images bytes"][0] for arm in load("small")["arms"]}
    assert arms["set"] == 4 * arms["random"]
