"""Sets that are there, labelled anew; and settings that no run on small sets would read, which are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from distil.data.condensed import load_condensed
from distil.functional import eight_bit
from distil.report import load

from .terminal import contents, distil, refused

Screen = pytest.CaptureFixture[str]

EYE = ("--teacher", "models.py:eye")
JUDGES = ("--student", "distil:mlp(hidden=4)", "--student", "distil:mlp(hidden=[])", "--seeds", "1", "--updates", "3")
EXISTING = ("condense", "--data", "photos", "--existing", "made")
ORDER = ("condense", "--data", "photos", "--per-class", "2")
TRAIN = ("train", "--data", "small", "--student", "distil:mlp(hidden=4)", "--set", "updates=3")


@pytest.fixture
def user(here: Path) -> Path:
    """A user's folder with a set of someone else's, ``made``, of class folders."""
    shutil.copytree("photos", "made", ignore=lambda folder, names: [n for n in names if n[0] in "3456t"])
    return here


def test_a_set_of_others_is_labelled_anew_and_so_are_the_random_samples(user: Path, capsys: Screen) -> None:
    for kind, arms in {"static": ["random", "set", "set-hard", "real"], "hard": ["random", "set", "real"]}.items():
        soft = (*EYE, "--set", "labelling.temperature=4") if kind == "static" else ()
        said = distil(capsys, *EXISTING, "--labels", kind, *soft, *JUDGES, "--device", "cpu", "--out", kind)
        assert said.code == 0, said
        report = load(kind)
        assert [arm["name"] for arm in report["arms"]] == arms
        by = " by models.py:eye" if soft else ""
        assert report["setting"]["Labels"] == f"{kind}, given here{by}"
        assert "not known" not in str(report["tables"][0])  # the gain over random under the same labels
        assert not any("random samples have hard labels only" in warning for warning in report["warnings"])


def test_what_is_labelled_anew_is_kept_as_a_set_that_students_are_trained_on(user: Path, capsys: Screen) -> None:
    before = contents(Path("made"))
    soft = ("--labels", "static", *EYE, "--set", "labelling.temperature=4", *JUDGES, "--device", "cpu")
    said = distil(capsys, *EXISTING, *soft, "--out", "small")
    assert said.code == 0, said
    assert "Train on it: distil train --data small" in said.out.replace("\n", " ")
    assert contents(Path("made")) == before
    small = load_condensed("small/set")
    assert (small.kind, small.record["temperature"], small.made["method"]) == ("static", 4.0, "others (made)")
    assert len(small.record["labelled_by"]) == len(small.made["nets"]) == 1
    assert small.logits is not None
    assert small.logits.argmax(1).tolist() == small.labels.tolist()
    assert distil(capsys, *TRAIN, "--device", "cpu", "--out", "students").code == 0
    assert [arm["name"] for arm in load("students")["arms"]] == ["hard", "set"]
    assert not load("students")["warnings"]
    again = distil(capsys, "condense", "--resume", "--out", "small", "--device", "cpu")
    assert again.code == 0, again
    assert load_condensed("small/set").fingerprint == small.fingerprint


def test_a_set_of_distils_labelled_anew_keeps_its_samples_and_its_own_folder(user: Path, capsys: Screen) -> None:
    assert distil(capsys, *ORDER, "--out", "small", "--device", "cpu").code == 0
    before, first = contents(Path("small")), load_condensed("small/set")
    anew = ("condense", "--data", "photos", "--existing", "small", *EYE, "--labels", "dynamic", *JUDGES)
    for out in (
        ("small", "--resume"),
        ("small", "--overwrite"),
        ("small/set",),
        ("small/set/more",),
        (".", "--resume"),
    ):
        assert "is where the set small lies, which stays as it is" in refused(capsys, *anew, "--out", *out)
    for word, name in (("set", "small/set"), ("small", "small")):
        said = distil(capsys, *(w if w != "small" else name for w in anew), "--device", "cpu", "--out", f"anew-{word}")
        assert said.code == 0, said
        small = load_condensed(f"anew-{word}/set")
        assert (small.kind, small.made["seed"], small.made["data"]) == ("dynamic", 0, first.made["data"])
        assert torch.equal(small.inputs, first.inputs)
        assert torch.equal(small.ids, first.ids)
        assert contents(Path("small")) == before
    asked = distil(capsys, *(w if w != "small" else "anew-set" for w in TRAIN), *EYE, "--device", "cpu", "--dry-run")
    assert asked.code == 0, asked


def test_labels_are_of_the_images_as_they_are_kept(user: Path, capsys: Screen) -> None:
    torch.manual_seed(0)
    torch.save({"images": torch.rand(6, 3, 6, 6), "labels": torch.arange(6) % 3}, "odd.pt")
    told = ("condense", "--data", "photos", "--existing", "odd.pt", *EYE, "--labels", "static", *JUDGES)
    for exact in ("true", "false"):
        said = distil(capsys, *told, "--set", f"exact={exact}", "--device", "cpu", "--out", exact)
        assert said.code == 0, said
    kept, rounded = load_condensed("true/set"), load_condensed("false/set")
    assert torch.equal(kept.inputs, torch.load("odd.pt", weights_only=True)["images"])
    assert torch.equal(rounded.inputs, eight_bit(kept.inputs))
    assert not torch.equal(kept.logits, rounded.logits)
    again = [word.replace("odd.pt", "true") for word in told]  # a set that was kept exactly, which its record says
    for more, expected in {(): kept, ("--set", "exact=false"): rounded}.items():
        out = f"again{len(more)}"
        said = distil(capsys, *again, *more, "--device", "cpu", "--out", out)
        assert said.code == 0, said
        small = load_condensed(f"{out}/set")
        assert (small.made.get("exact") is True) == (expected is kept)
        assert small.storage()["images"] == expected.storage()["images"]
        assert torch.equal(small.inputs, expected.inputs)
        torch.testing.assert_close(small.logits, expected.logits)


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--out", "more"), ("--out", "more", "--dry-run")])
def test_a_run_that_would_write_into_the_folder_of_its_set_leaves_nothing_there(
    more: tuple[str, ...], user: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("a folder was opened")

    monkeypatch.setattr("distil.cli.condense.open_out", never)
    monkeypatch.chdir("made")
    before = contents(Path())
    said = refused(capsys, "condense", "--data", "../photos", "--existing", ".", "--labels", "hard", *more)
    assert "is where the set . lies, which stays as it is" in said
    assert contents(Path()) == before


def test_a_set_that_is_only_judged_is_not_kept(user: Path, capsys: Screen) -> None:
    assert distil(capsys, *EXISTING, *JUDGES, "--device", "cpu", "--out", "judged").code == 0
    assert not Path("judged/set").exists()


def test_a_set_is_kept_whole_or_not_at_all(user: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distil.data.condensed_files._write_json", full)
    said = distil(capsys, *EXISTING, *EYE, "--labels", "static", *JUDGES, "--device", "cpu", "--out", "small")
    assert said.code == 2, said
    assert "No space left on device" in said.complaints[0]
    assert not Path("small/set").exists()
    assert not [path for path in Path("small").iterdir() if path.name.startswith(".set")]


def test_who_labels_a_set_is_no_judge_of_it(user: Path, capsys: Screen) -> None:
    taught = ("--teacher", "distil:mlp(hidden=4)", "--train-teacher", "20", "--labels", "static")
    said = refused(capsys, *EXISTING, *taught, "--student", "distil:mlp(hidden=[4])", "--dry-run")
    assert "is of the form of a net that makes the set" in said


def test_a_dry_run_on_a_set_that_is_there_tells_of_it(user: Path, capsys: Screen) -> None:
    said = distil(capsys, *EXISTING, *EYE, "--labels", "static", "--dry-run", "--device", "cpu")
    assert said.code == 0, said
    heard = " ".join(said.out.split())
    assert "images with static labels, to be kept as a set of its own and judged on photos. No student" in heard
    assert "labels, to be judged on photos" in " ".join(distil(capsys, *EXISTING, "--dry-run").out.split())
    assert "condensed" not in said.out
    facts = distil(capsys, *EXISTING, "--dry-run", "--json", "--device", "cpu").json
    assert facts["set"]["labels"] == "hard"
    assert "budget" not in facts


UNREAD: dict[str, tuple[tuple[str, ...], str]] = {
    "labels that are none": ((*EXISTING, "--labels", "nonsense"), "labelling.kind='nonsense' is unknown"),
    "labels of nobody": ((*EXISTING, "--labels", "static"), "static labels come from a trained teacher"),
    "a teacher of none": ((*EXISTING, *EYE), "leave --teacher out, or say how it is to be labelled"),
    "a blind teacher": ((*EXISTING, "--labels", "static", "--teacher", "models.py:blind"), "at chance"),
    "a method": ((*EXISTING, "--method", "infer"), "--method is of making a set"),
    "a budget": ((*EXISTING, "--per-class", "77"), "--per-class is of making a set"),
    "an option of a method": ((*EXISTING, "--set", "steps=3"), "--set steps=3 is of making a set"),
    "a seed of a method": ((*EXISTING, "--seed", "3"), "--seed is of making a set"),
    "a normalisation of pictures": ((*EXISTING, "--set", "mean=[0.5]", "--set", "std=[0.2]"), "holds none from a .pt"),
    "a normalisation of nothing": ((*ORDER, "--set", "mean=[0.5]"), "name that with --existing"),
    "seeds of no judging": ((*ORDER, "--seeds", "5"), "--seeds is how a set is judged"),
    "updates of no judging": ((*ORDER, "--updates", "7"), "--updates is how a set is judged"),
    "judges of no judging": ((*ORDER, "--student", "distil:cnn"), "add --evaluate"),
    "a temperature of no labels": ((*ORDER, "--set", "labelling.temperature=3"), "name their kind with --labels"),
    "epochs of static labels": (
        (*ORDER, *EYE, "--labels", "static", "--set", "labelling.epochs=3"),
        "labelling.epochs=3 is not read for static labels",
    ),
    "training of no teacher": ((*ORDER, "--train-teacher", "3"), "--train-teacher is of teachers"),
    "a rate of no training": ((*ORDER, *EYE, "--set", "training.lr=0.1"), "add --train-teacher"),
    "a teacher trained for nothing": ((*ORDER, *EYE, "--train-teacher", "3"), "random with hard labels does not ask"),
    "tokens of images": ((*ORDER, "--set", "max_length=7"), "max_length=7 is for texts"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_condense_would_not_read_is_refused(name: str, user: Path, capsys: Screen) -> None:
    typed, sentence = UNREAD[name]
    assert sentence in refused(capsys, *typed)


STUDENTS: dict[tuple[str, ...], str] = {
    ("--grid", "training.lr=0.1,0.01"): "--grid is of methods",
    ("--set", "size=32"): "--set size=32 says how data are read",
    ("--set", "limit=20"): "--set limit=20 says how data are read",
    ("--set", "columns.label=kind"): "--set columns.label=kind says how data are read",
    ("--set", "input_size.student=12"): "--set input_size.student=12 changes images",
    ("--set", "normalise.student=imagenet"): "--set normalise.student=imagenet changes images",
    ("--set", "normalise.teacher=imagenet"): "leave --set normalise.teacher out",
    ("--set", "taps.emb=x"): "is of methods",
    ("--set", "max_length=7"): "max_length=7 is for texts",
    ("--set", "training.patience=2"): "training.patience=2 is not for a condensed set",
}


def test_what_train_on_a_set_would_not_read_is_refused(user: Path, capsys: Screen) -> None:
    said = distil(capsys, *ORDER, "--out", "small", "--device", "cpu")
    assert said.code == 0, said
    stored = Path("small/set")
    assert {path.stat().st_mode for path in stored.iterdir() if path.is_file()} == {
        (stored / "manifest.json").stat().st_mode
    }
    for typed, sentence in STUDENTS.items():
        assert sentence in refused(capsys, *TRAIN, *typed, "--dry-run")


def test_a_set_made_from_other_data_is_judged_with_a_warning(user: Path, capsys: Screen) -> None:
    said = distil(capsys, *ORDER, "--out", "small", "--device", "cpu")
    assert said.code == 0, said
    judged = ("condense", "--data", "photos", "--existing", "small", *JUDGES, "--device", "cpu", "--json")
    assert not distil(capsys, *judged, "--out", "same").json["warnings"]
    [warning] = distil(capsys, *judged, "--set", "split_seed=1", "--out", "other").json["warnings"]
    assert f"The set was made from other data ({load_condensed('small/set').made['data']})" in warning
    assert "may stand among the test samples" in warning


def test_tensors_of_some_classes_alone_are_refused(user: Path, capsys: Screen) -> None:
    torch.save({"images": torch.rand(4, 3, 6, 6), "labels": torch.tensor([1, 1, 1, 1])}, "one.pt")
    said = refused(capsys, "condense", "--data", "photos", "--existing", "one.pt", "--dry-run")
    assert "one.pt has no samples of blue, red, and photos has 3 classes" in said
