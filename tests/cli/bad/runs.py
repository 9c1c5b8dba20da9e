"""Runs: what is resumed, reported, exported and predicted with, torn or tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distil.cli import main

from .row import Row, blob, own

TRAINED = own("--student", "distil:mlp(hidden=4)", "--epochs", "2", "--out", "done")
RESUMED = [*TRAINED, "--resume"]
EXPORT = ["export", "done", "--out", "new"]
PREDICT = ["predict", "shipped", "photos/red/02.png"]


def make_run(place: Path) -> None:
    """A finished run and an export of it, in ``place``; the process stands in a folder of the user's things."""
    assert main([*TRAINED, "--out", str(place / "done")]) == 0
    words = ["export", str(place / "done"), "--out", str(place / "shipped"), "--format", "safetensors"]
    assert main(words) == 0


def spoil(file: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Change what a JSON file holds."""

    def make(here: Path) -> None:
        path = here / file
        tree = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(tree)), encoding="utf-8")

    return make


def cut(file: str) -> Callable[[Path], object]:
    """Keep the first half of the files of this pattern."""

    def make(here: Path) -> None:
        found = sorted(here.glob(file))
        assert found, file
        for path in found:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def gone(file: str) -> Callable[[Path], object]:
    """Delete the files of this pattern."""

    def make(here: Path) -> None:
        found = sorted(here.glob(file))
        assert found, file
        for path in found:
            path.unlink()

    return make


def sealed(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Change a file of an export, and its checksum with it, as who tampers would."""

    def make(here: Path) -> None:
        from distil.ship.manifest import digest

        path = here / "shipped" / file
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
        manifest = here / "shipped" / "export.json"
        tree = json.loads(manifest.read_text(encoding="utf-8"))
        tree["files"][file] = {"bytes": path.stat().st_size, "sha256": digest(path)}
        manifest.write_text(json.dumps(tree), encoding="utf-8")

    return make


def with_(**changed: Any) -> Callable[[Any], Any]:
    return lambda tree: {**tree, **changed}


def without(*keys: str) -> Callable[[Any], Any]:
    return lambda tree: {key: value for key, value in tree.items() if key not in keys}


def said(**changed: Any) -> Callable[[bytes], bytes]:
    """The same for the text of a JSON file."""
    return lambda text: json.dumps({**json.loads(text), **changed}).encode()


def arm(**changed: Any) -> Callable[[Any], Any]:
    return lambda tree: {**tree, "arms": [{**tree["arms"][0], **changed}, *tree["arms"][1:]]}


def report(wrong: str, change: Callable[[Any], Any], sentence: str) -> Row:
    return Row(wrong, ["report", "done"], sentence, spoil("done/report.json", change), run=True)


def resumed(wrong: str, make: Callable[[Path], object] | None, sentence: str, *words: str) -> Row:
    return Row(wrong, [*RESUMED, *words], sentence, make, run=True)


def exported(wrong: str, make: Callable[[Path], object] | None, sentence: str, *words: str) -> Row:
    return Row(wrong, [*EXPORT, *words], sentence, make, run=True)


def predicted(wrong: str, make: Callable[[Path], object] | None, sentence: str, words: list[str] = PREDICT) -> Row:
    return Row(wrong, words, sentence, make, run=True)


SIDECAR = "done/students/kd-seed0.json"

REPORTS = [
    Row("no report", ["report", "photos"], "photos"),
    Row("a report that is none", ["report", "models.py"], "models.py is not whole JSON"),
    Row("a report that is not there", ["report", "nowhere"], "nowhere"),
    Row("an index of nothing", ["report", "empty"], "empty"),
    Row("an index to adjust", ["report", "empty", "--adjust"], "--adjust is for one run"),
    Row("a run that has not finished", ["report", "done"], "The run in done has not finished", gone("done/report.json"), run=True),
    Row("a torn report", ["report", "done"], "is not whole JSON", cut("done/report.json"), run=True),
    Row("an empty report", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"", "odd.json")),
    Row("a report of bytes", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"\xff\xfe\0", "odd.json")),
    Row("a report of NaN", ["report", "odd.json"], "NaN is not JSON", blob(b'{"a": NaN}', "odd.json")),
    Row("a report nested deeply", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"[" * 200_000, "odd.json")),
    Row("a report of a huge number", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"9" * 5000, "odd.json")),
    Row("a report of a list", ["report", "odd.json"], "it has no 'kind'; give a report.json that distil wrote", blob(b"[]", "odd.json")),
    Row("a report of another kind", ["report", "odd.json"], "of kind 'x\\x1b[31m', not 'comparison'", blob(b'{"kind": "x\\u001b[31m"}', "odd.json")),
    report("a report of tomorrow", with_(version=99), "has version 99, and this distil reads up to"),
    report("a report without arms", without("arms"), "report: 'arms' is missing, expected a list"),
    report("a report with arms of words", with_(arms=["kd"]), "arms[0] is str, expected an object"),
    report("a report with a metric of a word", with_(metric="accuracy"), "'metric' is str, expected an object"),
    report("a report with seeds of a word", with_(seeds="0"), "'seeds' is str, expected a list"),
    report("a report with more seeds than values", with_(seeds=[0, 1, 2]), "expected a list with one value for each of 3 seeds"),
    report("an arm of an unknown role", arm(role="methd"), "did you mean 'method'?"),
    report("an arm without a name", arm(name=None), "'name' is"),
    report("an arm twice", arm(name="kd"), "two arms are called 'kd'"),
    report("a verdict on nobody", lambda tree: {**tree, "verdicts": [{**tree["verdicts"][0], "arm": "nobody"}]}, "names the arm 'nobody', which is not in the report"),
    report("a verdict of another outcome", lambda tree: {**tree, "verdicts": [{**tree["verdicts"][0], "outcome": "won"}]}, "has outcome 'won'"),
    report("metrics of words", arm(metrics={"accuracy": {"last": ["good"], "best": ["better"]}}), "metrics.accuracy.last holds 'good', expected numbers"),
    report("metrics of lists", arm(metrics={"accuracy": {"last": [[1]]}}), "metrics.accuracy.last holds '[1]', expected numbers"),
    report("agreement of words", arm(agreement=["much"]), "agreement holds 'much', expected numbers"),
    report("curves of a word", arm(curves="up"), "'curves' is str, expected a list"),
    report("verdicts of a word", with_(verdicts="helped"), "'verdicts' is str, expected a list"),
    Row("a difference to itself", ["report", "done", "--against", "done"], "done and done are the same run", run=True),
    Row("a difference to nothing", ["report", "done", "--against", "nowhere"], "nowhere", run=True),
    Row("a difference to a torn run", ["report", "done", "--against", "odd.json"], "odd.json is not whole JSON", blob(b"{", "odd.json"), run=True),
    Row("a page in a file", ["report", "done", "--out", "models.py"], "models.py", run=True),
]  # fmt: skip

RESUMES = [
    resumed("a resume with another rate", None, "belongs to a run with lr = 0.001; this one has 0.5", "--lr", "0.5"),
    resumed("a resume of torn settings", lambda here: (here / "done" / "settings.yaml").write_text("data: [a"), "done/settings.yaml is no readable YAML (line 1)"),
    resumed("a resume of settings of another version", lambda here: (here / "done" / "settings.yaml").write_text("datum: a"), "The setting 'datum' does not exist; did you mean 'data'?"),
    resumed("a resume of torn splits", cut("done/splits.csv"), "splits.csv"),
    resumed("a resume of hostile settings", lambda here: (here / "done" / "settings.yaml").write_text("data: !!python/object/apply:os.system ['touch was-run']"), "is no readable YAML"),
    Row("an overwrite of a run with a mistake", [*TRAINED, "--overwrite", "--lr", "-1"], "must be a finite number above 0", run=True),
    Row("a resume of another recipe", ["run", "pld", "--out", "done", "--resume"], "The settings file done/settings.yaml does not fit", run=True),
]  # fmt: skip

EXPORTS = [
    Row("an export of nothing there", ["export", "nowhere", "--out", "new"], "nowhere is no folder of a run"),
    Row("an export of no run", ["export", "photos", "--out", "new"], "photos holds no student to export"),
    exported("an export of an unknown format", None, "--format onxx is unknown; did you mean 'onnx'?", "--format", "onxx"),
    exported("an export of an unknown arm", None, "the run has no arm 'kdd'; did you mean 'kd'?", "--arm", "kdd"),
    exported("an export of an unknown seed", None, "the run has no student of seed 7; it has 0", "--seed", "7"),
    exported("an export into a file", None, "--out models.py is a file; name a folder", "--out", "models.py"),
    exported("an export over something", None, "--out photos already holds something", "--out", "photos"),
    exported("an export over what is no export", None, "which is no export of distil", "--out", "photos", "--overwrite"),
    exported("an export into a file's folder", None, "leads through the file …models.py; name a folder", "--out", "models.py/new"),
    exported("an export of an opset that is none", None, "Invalid value for '--opset'", "--opset", "0"),
    exported("an export of an opset of tomorrow", None, "opset", "--opset", "9999", "--format", "onnx"),
    exported("an example that is not there", None, "none.png", "--example", "none.png"),
    exported("an example of another kind", None, "models.py", "--example", "models.py"),
    exported("an example that is torn", None, "torn.png", "--example", "photos/red/torn.png"),
    exported("a run without students", gone("done/students/*"), "its folder students is empty or missing"),
    exported("a run without sidecars", gone("done/students/*.json"), "its students were written by an older distil"),
    exported("a run without weights", gone("done/students/*.safetensors"), "which are not beside it; train again"),
    exported("torn weights of a student", cut("done/students/*.safetensors"), "the student of done cannot be built again"),
    exported("a torn sidecar", cut(SIDECAR), "kd-seed0.json is not whole JSON"),
    exported("a sidecar of another kind", spoil(SIDECAR, with_(kind="x")), "is of kind 'x'; 'distil-student' is expected"),
    exported("a sidecar of tomorrow", spoil(SIDECAR, with_(version=9)), "has version 9, and this distil reads up to 1"),
    exported("a sidecar without its model", spoil(SIDECAR, without("model")), "is no whole description of a student"),
    exported("a sidecar that leads out", spoil(SIDECAR, with_(weights="../../knows.safetensors")), "leads out of done/students"),
    exported("a sidecar of another model", spoil(SIDECAR, with_(model="distil:mlp(hidden=5)")), "of another shape", "--arm", "kd"),
    exported("a sidecar of an unknown model", spoil(SIDECAR, with_(model="distil:mpl")), "did you mean 'mlp'?", "--arm", "kd"),
    exported("a sidecar of an unknown task", spoil(SIDECAR, with_(task="clasification")), "did you mean 'classification'", "--arm", "kd"),
    exported("a sidecar of fewer classes", spoil(SIDECAR, with_(classes=["a"])), "cannot be built again", "--arm", "kd"),
    exported("a sidecar of classes of numbers", spoil(SIDECAR, with_(classes=[1, 2, 3])), "'classes' is no list of names", "--arm", "kd"),
    exported("a sidecar of another fingerprint", spoil(SIDECAR, with_(fingerprint="0" * 16)), "are not those that were trained", "--arm", "kd"),
    exported("a sidecar of odd preprocessing", spoil(SIDECAR, with_(preprocessing={"kind": "sound"})), "preprocessing", "--arm", "kd"),
    exported("a sidecar of an odd shape", spoil(SIDECAR, with_(input_shape=["a", "b"])), "'input_shape' is ['a', 'b']; a list of sizes is expected", "--arm", "kd"),
    exported("a sidecar of other answers", spoil(SIDECAR, with_(answers={"id": [0], "logits": "x"})), "'answers' holds no ids and rows of numbers", "--arm", "kd"),
    exported("a sidecar of scores of words", spoil(SIDECAR, with_(validation={"accuracy": "good"})), "'validation' is {'accuracy': 'good'}; numbers are expected", "--arm", "kd"),
    exported("a sidecar of a deep list", lambda here: (here / SIDECAR).write_text("[" * 100_000), "kd-seed0.json is not whole JSON"),
]  # fmt: skip

PREDICTS = [
    Row("a prediction without an export", ["predict", "photos", "photos"], "photos is no export of distil"),
    Row("a prediction of an export not there", ["predict", "nowhere", "photos"], "nowhere is no export of distil"),
    predicted("a prediction of nothing there", None, "none of the 1 files could be read; the first: none.png: there is no such file", ["predict", "shipped", "none.png"]),
    predicted("a prediction of an empty folder", None, "none of the 1 files could be read; the first: empty", ["predict", "shipped", "empty"]),
    predicted("a prediction of code", None, "the first: models.py: it is no", ["predict", "shipped", "models.py"]),
    predicted("a prediction of torn images alone", None, "the first: photos/red/torn.png: the image cannot be decoded", ["predict", "shipped", "photos/red/torn.png"]),
    predicted("a prediction of a table", None, "the first: graph.npz: it is no", ["predict", "shipped", "graph.npz"]),
    predicted("a prediction of no labels", None, "Invalid value for '--top'", [*PREDICT, "--top", "0"]),
    predicted("a prediction in batches of none", None, "Invalid value for '--batch-size'", [*PREDICT, "--batch-size", "0"]),
    predicted("answers over a file", None, "--out models.py is already there", [*PREDICT, "--out", "models.py"]),
    predicted("answers over a folder", None, "--out photos is already there", [*PREDICT, "--out", "photos", "--overwrite"]),
    predicted("answers into a device", None, "--out /dev/full is already there", [*PREDICT, "--out", "/dev/full", "--overwrite"]),
    predicted("an export without its list", gone("shipped/export.json"), "shipped is no export of distil"),
    predicted("a torn list", cut("shipped/export.json"), "export.json is not whole JSON"),
    predicted("a list of no files", spoil("shipped/export.json", without("files")), "does not list config.json"),
    predicted("a list of tomorrow", spoil("shipped/export.json", with_(version=99)), "has version 99"),
    predicted("a list that leads out", spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "../models.py": {}}}), "which leads out of shipped"),
    predicted("a list of the root", spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "/etc/passwd": {}}}), "which leads out of shipped"),
    predicted("a list of checksums of words", spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "config.json": "x"}}), "its checksum differs"),
    predicted("weights cut short", cut("shipped/model.safetensors"), "its checksum differs"),
    predicted("weights that are gone", gone("shipped/model.safetensors"), "model.safetensors is missing"),
    predicted("labels that were changed", lambda here: (here / "shipped" / "labels.json").write_text('["a", "b", "c"]'), "its checksum differs"),
    predicted("a link out of an export", lambda here: ((here / "shipped" / "labels.json").unlink(), (here / "shipped" / "labels.json").symlink_to(here / "models.py")), "leads out of shipped"),
    predicted("weights torn and sealed", sealed("model.safetensors", lambda held: held[:40]), "model.safetensors"),
    predicted("labels of one too few", sealed("labels.json", lambda _: b'["a", "b"]'), "2 of another shape: layers.1.weight, layers.1.bias"),
    predicted("labels of numbers", sealed("labels.json", lambda _: b"[1, 2, 3]"), "is no list of class names"),
    predicted("a model of the user's own code", sealed("config.json", said(model="models.py:make")), "is not rebuilt from a folder"),
    predicted("a model of a foreign folder", sealed("config.json", said(model="hf:../x")), "is not rebuilt from a folder"),
    predicted("a model past all memory", sealed("config.json", said(model="distil:mlp(hidden=10000000000)")), "distil:mlp"),
    predicted("a model of another width", sealed("config.json", said(model="distil:mlp(hidden=9)")), "of another shape"),
    predicted("a shape of words", sealed("config.json", said(input_shape=["a"])), "'input_shape' is ['a']; a list of sizes is expected"),
    predicted("inputs without names", sealed("config.json", said(inputs=[1])), "does not say what its inputs are called"),
    predicted("preprocessing of another kind", sealed("preprocessing.json", said(kind="sound")), "sound"),
    predicted("preprocessing past all memory", sealed("preprocessing.json", said(size=[10**9, 10**9])), "size"),
    predicted("preprocessing of words", sealed("preprocessing.json", said(size="large")), "size"),
    predicted("preprocessing by nothing", sealed("preprocessing.json", said(mean=[0, 0, 0], std=[0, 0, 0])), "std"),
    predicted("a torn network", sealed("model.onnx", lambda _: b"\x08\x07torn"), "model.onnx"),
    predicted("an empty network", sealed("model.onnx", lambda _: b""), "model.onnx"),
]  # fmt: skip

ROWS = [*REPORTS, *RESUMES, *EXPORTS, *PREDICTS]
