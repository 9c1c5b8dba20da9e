"""Bad input: every mistake is one sentence on standard error and exit code 2, and nothing is left half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .terminal import OWN, contents, distil

Screen = pytest.CaptureFixture[str]


def own(*changed: str, verb: str = "train", data: str = "photos") -> list[str]:
    """A command that would work, with what is changed appended (the last of two equal options counts)."""
    method = ("--methods", "kd") if verb == "compare" else ("--method", "kd")
    return [verb, "--data", data, *OWN[2:], "--epochs", "1", *method, *changed]


def graph(data: str) -> list[str]:
    return ["train", "--data", data, "--teacher", "models.py:eye", "--student", "distil:mlp", "--method", "ff-g2m"]


MISTAKES = {
    # verbs and options
    "unknown verb": (["trian"], "There is no verb 'trian'; did you mean 'train'"),
    "unknown option": (["train", "--techer", "x"], "'distil train' has no option '--techer'; did you mean '--teacher'"),
    "option of the wrong type": (own("--epochs", "many"), "Invalid value for '--epochs'"),
    "no seeds": (own("--seeds", "0", verb="compare"), "Invalid value for '--seeds'"),
    "no epochs": (own("--epochs", "0"), "Invalid value for '--epochs'"),
    "no seeds of the demo": (["run", "--seeds", "0"], "Invalid value for '--seeds'"),
    "missing data": (["train", "--method", "kd"], "--data is missing"),
    "missing teacher": (["train", "--data", "photos", "--student", "models.py:make"], "--teacher is missing"),
    "resume and overwrite": (own("--resume", "--overwrite"), "--resume and --overwrite exclude each other"),
    "nothing to resume": (own("--out", "nowhere", "--resume"), "--resume found no run in nowhere"),
    # settings
    "set without a sign": (own("--set", "training.epochs"), "--set training.epochs is no assignment"),
    "unknown setting": (own("--set", "training.epoch=3"), "'training.epoch' does not exist; did you mean 'epochs'"),
    "setting of another type": (own("--set", "training.lr=fast"), "'training.lr' is 'fast'; a number is expected"),
    "setting out of range": (own("--set", "training.epochs=0"), "epochs=0 must be a whole number of at least 1"),
    "no seeds set": (own("--set", "seeds=[]"), "give at least one"),
    "a seed too large": (own("--seed", "99999999999999999999"), "from 0 to 2**63 - 1"),
    "bad YAML": (own("--config", "bad.yaml"), "The settings file bad.yaml is no readable YAML (line 2)"),
    "odd YAML": (own("--config", "odd.yaml"), "odd.yaml does not fit: The setting 'training.epoch' does not exist"),
    "missing YAML": (own("--config", "none.yaml"), "The settings file none.yaml does not exist"),
    "unknown setting of a recipe": (["run", "pld", "--set", "temprature=1"], "did you mean 'temperature'"),
    "unknown optimizer": (own("--set", "training.optimizer=adamm"), "did you mean 'adam'"),
    "unknown schedule": (own("--set", "training.schedule=cosin"), "did you mean 'cosine'"),
    "unknown precision": (own("--precision", "fp8"), "precision='fp8' is unknown"),
    "negative rate": (own("--lr", "-1"), "must be a finite number above 0"),
    "a rate that is no number": (own("--lr", "nan"), "must be a finite number above 0"),
    "device that is not there": (own("--device", "tpu9"), "device=tpu9"),
    "impossible channels": (own("--set", "channels=7"), "expected 1 (grey) or 3 (RGB)"),
    "impossible size": (own("--set", "size=0"), "size=0 is impossible"),
    # systems and methods
    "unknown system": (["run", "pdl"], "There is no system 'pdl'; did you mean 'pld'"),
    "planned system": (["run", "dense2moe"], "'dense2moe' is planned and has no experiment to run"),
    "a rival is no system": (["run", "kd"], "'kd' is a standard method and has no experiment of its own"),
    "planned method": (own("--method", "dense2moe"), "'dense2moe' (Dense2MoE) is planned"),
    "unknown method": (own("--method", "kdd"), "'kdd' is no method; did you mean 'kd'"),
    "unknown argument": (own("--method", "kd(temprature=4)"), "did you mean 'temperature'"),
    "impossible argument": (own("--method", "kd(temperature=-1)"), "must be above 0"),
    "method that cannot be read": (own("--method", "kd +"), "cannot be read"),
    "method that is code": (own("--method", "__import__('os').system('touch was-run')"), "is not allowed"),
    "a number is no method": (own("--method", "0.5"), "is only a number"),
    "method of one thing twice": (own("--method", "kd + 2*kd"), "two components called 'kd'"),
    "two methods for train": (own("--set", "methods=[kd, dkd]"), "distil train takes one method and got 2"),
    "an empty method": (own("--methods", "kd,,pld", verb="compare"), "has an empty entry"),
    "unknown tap": (own("--method", "at(taps=layer9)"), "Tap 'layer9' does not exist in the student"),
    "edges for images": (own("--method", "ff-g2m"), "The method 'ff-g2m' does not fit: This method distils over edges"),
    # models
    "unknown reference net": (own("--student", "distil:mpl"), "distil has no reference net 'mpl'; did you mean 'mlp'"),
    "unknown timm model": (
        own("--student", "timm:resnet1888"),
        "timm has no model 'resnet1888'; did you mean 'resnet18'",
    ),
    "no library": (own("--student", "resnet18"), "names no library"),
    "unknown factory": (own("--student", "models.py:mkae"), "has no function 'mkae'; did you mean 'make'"),
    "missing factory file": (own("--student", "nets.py:make"), "there is no file 'nets.py'"),
    "factory of no module": (own("--student", "models.py:number"), "it must return a torch.nn.Module"),
    "unknown argument of a model": (own("--student", "models.py:make(widht=3)"), "cannot be called with"),
    "published weights of one's own": (own("--pretrained"), "has no published weights"),
    "student of other classes": (
        own("--student", "models.py:five"),
        "student gives logits [8, 5] and the teacher [8, 3]",
    ),
    "teacher of other classes": (
        own("--teacher", "models.py:five"),
        "student gives logits [8, 3] and the teacher [8, 5]",
    ),
    "teacher at chance": (own("--teacher", "models.py:blind"), "not above the chance level of 40.0 %"),
    # weights
    "missing weights": (own("--teacher-weights", "none.pt"), "there is no weights file 'none.pt'"),
    "torn safetensors": (own("--teacher-weights", "torn.safetensors"), "the weights file 'torn.safetensors'"),
    "torn torch file": (own("--teacher-weights", "torn.pt"), "the weights file 'torn.pt'"),
    "weights of another model": (own("--teacher-weights", "knows.pt"), "do not fit Eye: 1 missing: scale (3,)"),
    "weights of another shape": (
        own("--teacher", "models.py:make(width=3)", "--teacher-weights", "other.safetensors"),
        "1 of another shape: 3.bias (3,) in the model, (4,) in the file",
    ),
    "weights that are code": (own("--teacher-weights", "hostile.pt"), "holds more than tensors"),
    # data
    "unknown data": (own(data="digts"), "there is no data set or file called 'digts'; did you mean 'digits'"),
    "missing path": (own(data="photo/s"), "there is no data set or file called 'photo/s'; correct the path"),
    "empty folder": (own(data="empty"), "holds no images in class sub-folders"),
    "one class": (own(data="one"), "has one class only ('red', 6 images)"),
    "a file of another kind": (own(data="models.py"), "is no folder, .parquet or .csv"),
    "NaN features": (graph("nan.npz"), "the features of 1 nodes hold NaN or infinity (first: node 7)"),
    "labels out of range": (graph("labels.npz"), "node 4 has the label -5"),
    "edges out of range": (graph("edges.npz"), "node numbers go from 0 to 59"),
    "edges of a csv to nowhere": (graph("lost"), "names an unknown node"),
    "a graph of no arrays": (graph("knows.safetensors"), "lacks ['x', 'edge_index', 'y']"),
    "a graph of code": (graph("hostile.pt"), "cannot be read safely"),
    "a split too large": (["run", "nd", "--set", "pair.data=digits", "--set", "pair.train=99999"], "99999"),
    # output
    "out is a file": (own("--out", "models.py"), "--out models.py is a file"),
    "out holds something": (own("--out", "photos"), "--out photos already holds something"),
    "out is no run": (own("--out", "photos", "--overwrite"), "which is no run of distil"),
    "out cannot be written": (own("--out", "models.py/run"), "cannot be written to"),
    "out of a recipe": (["run", "pld", "--out", "models.py/run"], "cannot be written to"),
    # reading back
    "no report": (["report", "photos"], "photos"),
    "a report that is none": (["report", "models.py"], "models.py"),
    "a shape that is none": (["taps", "distil:mlp", "--input", "3xx4"], "--input 3xx4 is no shape"),
    "taps of the wrong shape": (["taps", "timm:resnet18", "--input", "5"], "--input"),
}


@pytest.mark.parametrize(("words", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    here: Path, capsys: Screen, words: list[str], sentence: str
) -> None:
    before = contents(here)
    said = distil(capsys, *words)
    assert said.code == 2, said
    assert said.out == ""
    (complaint,) = said.complaints
    assert sentence in complaint
    assert "Traceback" not in said.err
    assert said.err.splitlines()[-1] == complaint
    assert contents(here) == before


def test_named_data_without_their_root_say_which_files_they_need(
    here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTIL_DATA", raising=False)
    before = contents(here)
    said = distil(capsys, "run", "pld")
    assert said.code == 2
    assert "'fashion-mnist' needs the files FashionMNIST/raw/train-images-idx3-ubyte" in said.complaints[0]
    assert "set DISTIL_DATA" in said.complaints[0]
    assert contents(here) == before


def test_every_mistake_in_a_teachers_training_is_found_before_it_is_trained(here: Path, capsys: Screen) -> None:
    for wrong in (("--method", "at(taps=layer9)"), ("--student", "models.py:five"), ("--precision", "fp8")):
        said = distil(capsys, *own("--teacher", "models.py:make", "--train-teacher", "1000000", *wrong))
        assert said.code == 2
        assert "teacher: trained" not in said.err


def test_a_trained_teacher_at_chance_is_refused_too(here: Path, capsys: Screen) -> None:
    words = own("--teacher", "models.py:make", "--train-teacher", "1", "--lr", "1e-9")
    said = distil(capsys, *words)
    assert said.code == 2
    assert "is not above the chance level" in said.complaints[0]
