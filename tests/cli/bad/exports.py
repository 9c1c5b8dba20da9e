"""Students that are exported, and exports that are predicted with, torn or tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .row import Row
from .runs import cut, gone, spoil, with_, without

EXPORT = ["export", "done", "--out", "new"]
PREDICT = ["predict", "shipped", "photos/red/02.png"]
SIDECAR = "done/students/kd-seed0.json"


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


def said(**changed: Any) -> Callable[[bytes], bytes]:
    """The same for the text of a JSON file."""
    return lambda text: json.dumps({**json.loads(text), **changed}).encode()


def exported(wrong: str, make: Callable[[Path], object] | None, sentence: str, *words: str) -> Row:
    return Row(wrong, [*EXPORT, *words], sentence, make, run=True)


def predicted(wrong: str, make: Callable[[Path], object] | None, sentence: str, words: list[str] = PREDICT) -> Row:
    return Row(wrong, words, sentence, make, run=True)


EXPORTS = [
    exported("an export on an unknown device", None, "device=gpu cannot be used here", "--device", "gpu"),
    Row("an export of nothing there", ["export", "nowhere", "--out", "new"], "nowhere is no folder of a run"),
    Row("an export of no run", ["export", "photos", "--out", "new"], "photos holds no student to export"),
    exported(
        "an export of an unknown format", None, "--format onxx is unknown; did you mean 'onnx'?", "--format", "onxx"
    ),
    exported("an export of an unknown arm", None, "the run has no arm 'kdd'; did you mean 'kd'?", "--arm", "kdd"),
    exported("an export of an unknown seed", None, "the run has no student of seed 7; it has 0", "--seed", "7"),
    exported("an export into a file", None, "--out models.py is a file; name a folder", "--out", "models.py"),
    exported("an export over something", None, "--out photos already holds something", "--out", "photos"),
    exported(
        "an export over what is no export", None, "which is no export of distil", "--out", "photos", "--overwrite"
    ),
    exported(
        "an export into a file's folder",
        None,
        "leads through the file …models.py; name a folder",
        "--out",
        "models.py/new",
    ),
    exported("an export of an opset that is none", None, "Invalid value for '--opset'", "--opset", "0"),
    exported("an export of an opset of tomorrow", None, "opset", "--opset", "9999", "--format", "onnx"),
    exported("an example that is not there", None, "none.png", "--example", "none.png"),
    exported("an example of another kind", None, "models.py", "--example", "models.py"),
    exported("an example that is torn", None, "torn.png", "--example", "photos/red/torn.png"),
    exported("a run without students", gone("done/students/*"), "its folder students is empty or missing"),
    exported("a run without sidecars", gone("done/students/*.json"), "its students were written by an older distil"),
    exported("a run without weights", gone("done/students/*.safetensors"), "which are not beside it; train again"),
    exported(
        "torn weights of a student", cut("done/students/*.safetensors"), "the student of done cannot be built again"
    ),
    exported("a torn sidecar", cut(SIDECAR), "kd-seed0.json is not whole JSON"),
    exported(
        "a sidecar of another kind", spoil(SIDECAR, with_(kind="x")), "is of kind 'x'; 'distil-student' is expected"
    ),
    exported("a sidecar of tomorrow", spoil(SIDECAR, with_(version=9)), "has version 9, and this distil reads up to 1"),
    exported("a sidecar without its model", spoil(SIDECAR, without("model")), "is no whole description of a student"),
    exported(
        "a sidecar that leads out",
        spoil(SIDECAR, with_(weights="../../knows.safetensors")),
        "leads out of done/students",
    ),
    exported(
        "a sidecar of another model",
        spoil(SIDECAR, with_(model="distil:mlp(hidden=5)")),
        "of another shape",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of an unknown model", spoil(SIDECAR, with_(model="distil:mpl")), "did you mean 'mlp'?", "--arm", "kd"
    ),
    exported(
        "a sidecar of an unknown task",
        spoil(SIDECAR, with_(task="clasification")),
        "did you mean 'classification'",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of fewer classes", spoil(SIDECAR, with_(classes=["a"])), "cannot be built again", "--arm", "kd"
    ),
    exported(
        "a sidecar of classes of numbers",
        spoil(SIDECAR, with_(classes=[1, 2, 3])),
        "'classes' is no list of names",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of another fingerprint",
        spoil(SIDECAR, with_(fingerprint="0" * 16)),
        "are not those that were trained",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of odd preprocessing",
        spoil(SIDECAR, with_(preprocessing={"kind": "sound"})),
        "preprocessing",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of an odd shape",
        spoil(SIDECAR, with_(input_shape=["a", "b"])),
        "'input_shape' is ['a', 'b']; a list of sizes is expected",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of other answers",
        spoil(SIDECAR, with_(answers={"id": [0], "logits": "x"})),
        "'answers' holds no ids and rows of numbers",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of scores of words",
        spoil(SIDECAR, with_(validation={"accuracy": "good"})),
        "'validation' is {'accuracy': 'good'}; numbers are expected",
        "--arm",
        "kd",
    ),
    exported(
        "a sidecar of a deep list",
        lambda here: (here / SIDECAR).write_text("[" * 100_000),
        "kd-seed0.json is not whole JSON",
    ),
]
PREDICTS = [
    Row("a prediction without an export", ["predict", "photos", "photos"], "photos is no export of distil"),
    Row("a prediction of an export not there", ["predict", "nowhere", "photos"], "nowhere is no export of distil"),
    predicted(
        "a prediction of nothing there",
        None,
        "none of the 1 files could be read; the first: none.png: there is no such file",
        ["predict", "shipped", "none.png"],
    ),
    predicted(
        "a prediction of an empty folder",
        None,
        "none of the 1 files could be read; the first: empty",
        ["predict", "shipped", "empty"],
    ),
    predicted("a prediction of code", None, "the first: models.py: it is no", ["predict", "shipped", "models.py"]),
    predicted(
        "a prediction of torn images alone",
        None,
        "the first: photos/red/torn.png: the image cannot be decoded",
        ["predict", "shipped", "photos/red/torn.png"],
    ),
    predicted("a prediction of a table", None, "the first: graph.npz: it is no", ["predict", "shipped", "graph.npz"]),
    predicted("a prediction of no labels", None, "Invalid value for '--top'", [*PREDICT, "--top", "0"]),
    predicted(
        "a prediction in batches of none", None, "Invalid value for '--batch-size'", [*PREDICT, "--batch-size", "0"]
    ),
    predicted("answers over a file", None, "--out models.py is already there", [*PREDICT, "--out", "models.py"]),
    predicted(
        "answers over a folder", None, "--out photos is already there", [*PREDICT, "--out", "photos", "--overwrite"]
    ),
    predicted(
        "answers into a device",
        None,
        "--out /dev/full is already there",
        [*PREDICT, "--out", "/dev/full", "--overwrite"],
    ),
    predicted("an export without its list", gone("shipped/export.json"), "shipped is no export of distil"),
    predicted("a torn list", cut("shipped/export.json"), "export.json is not whole JSON"),
    predicted("a list of no files", spoil("shipped/export.json", without("files")), "does not list config.json"),
    predicted("a list of tomorrow", spoil("shipped/export.json", with_(version=99)), "has version 99"),
    predicted(
        "a list that leads out",
        spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "../models.py": {}}}),
        "which leads out of shipped",
    ),
    predicted(
        "a list of the root",
        spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "/etc/passwd": {}}}),
        "which leads out of shipped",
    ),
    predicted(
        "a list of checksums of words",
        spoil("shipped/export.json", lambda tree: {**tree, "files": {**tree["files"], "config.json": "x"}}),
        "its checksum differs",
    ),
    predicted("weights cut short", cut("shipped/model.safetensors"), "its checksum differs"),
    predicted("weights that are gone", gone("shipped/model.safetensors"), "model.safetensors is missing"),
    predicted(
        "labels that were changed",
        lambda here: (here / "shipped" / "labels.json").write_text('["a", "b", "c"]'),
        "its checksum differs",
    ),
    predicted(
        "a link out of an export",
        lambda here: (
            (here / "shipped" / "labels.json").unlink(),
            (here / "shipped" / "labels.json").symlink_to(here / "models.py"),
        ),
        "leads out of shipped",
    ),
    predicted("weights torn and sealed", sealed("model.safetensors", lambda held: held[:40]), "model.safetensors"),
    predicted(
        "labels of one too few",
        sealed("labels.json", lambda _: b'["a", "b"]'),
        "2 of another shape: layers.1.weight, layers.1.bias",
    ),
    predicted("labels of numbers", sealed("labels.json", lambda _: b"[1, 2, 3]"), "is no list of class names"),
    predicted(
        "a model of the user's own code",
        sealed("config.json", said(model="models.py:make")),
        "is not rebuilt from a folder",
    ),
    predicted(
        "a model of a foreign folder", sealed("config.json", said(model="hf:../x")), "is not rebuilt from a folder"
    ),
    predicted(
        "a model past all memory", sealed("config.json", said(model="distil:mlp(hidden=10000000000)")), "distil:mlp"
    ),
    predicted(
        "a model of another width", sealed("config.json", said(model="distil:mlp(hidden=9)")), "of another shape"
    ),
    predicted(
        "a shape of words",
        sealed("config.json", said(input_shape=["a"])),
        "'input_shape' is ['a']; a list of sizes is expected",
    ),
    predicted(
        "inputs without names", sealed("config.json", said(inputs=[1])), "does not say what its inputs are called"
    ),
    predicted("preprocessing of another kind", sealed("preprocessing.json", said(kind="sound")), "sound"),
    predicted("preprocessing past all memory", sealed("preprocessing.json", said(size=[10**9, 10**9])), "size"),
    predicted("preprocessing of words", sealed("preprocessing.json", said(size="large")), "size"),
    predicted("preprocessing by nothing", sealed("preprocessing.json", said(mean=[0, 0, 0], std=[0, 0, 0])), "std"),
    predicted("a torn network", sealed("model.onnx", lambda _: b"\x08\x07torn"), "model.onnx"),
    predicted("an empty network", sealed("model.onnx", lambda _: b""), "model.onnx"),
]
ROWS = [*EXPORTS, *PREDICTS]
