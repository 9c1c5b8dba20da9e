"""Opening an exported folder: nothing in it is trusted before its checksums, names and sizes agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distil.errors import DistilError
from distil.ship.check import run_session
from distil.ship.export import KIND, MANIFEST, VERSION
from distil.ship.manifest import digest, inside, read_json
from distil.ship.onnx import open_session
from distil.ship.preprocessing import checked_preprocessing

__all__ = ["Exported", "open_export"]

Arrays = Mapping[str, np.ndarray[Any, Any]]
# What may be rebuilt from a folder that anyone may have written: a library's own nets by plain name, never a file.
_SAFE = re.compile(r"distil:\w+(\(.*\))?|(timm|torchvision):[A-Za-z]\w*")
_NEEDED = ("config.json", "labels.json", "preprocessing.json")


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to use.

    Attributes:
        folder: where it is.
        labels: class names by number.
        preprocessing: how its inputs are made.
        inputs: the names of its inputs.
        engine: "onnxruntime" or "torch".
        run: from arrays by input name to logits ``[B, C]``.
    """

    folder: Path
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    inputs: tuple[str, ...]
    engine: str
    run: Callable[[Arrays], np.ndarray[Any, Any]]


def open_export(folder: str | Path) -> Exported:
    """Open a folder that ``distil export`` wrote.

    ONNX is run where onnxruntime is installed; else a model of a known library is rebuilt and filled from safetensors.

    Raises:
        DistilError: a folder that is no export, a file that is missing, was cut off or changed, a name that leads out
            of the folder, labels that are not as many as the outputs, or nothing installed that can run it.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise DistilError(f"{folder} is no export of distil (it has no {MANIFEST}); make one with `distil export RUN`.")
    files = _verified(folder)
    config = read_json(folder / "config.json", kind="distil-model", version=VERSION)
    labels = read_json(folder / "labels.json")
    preprocessing = checked_preprocessing(read_json(folder / "preprocessing.json"))
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise DistilError(f"{folder / 'labels.json'} is no list of class names; export the model again.")
    if preprocessing["kind"] == "text":
        inside(folder, preprocessing["tokenizer"], "the tokenizer of preprocessing.json")
    engine = _engine(folder, files, config)
    named = config.get("inputs")
    if not isinstance(named, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in named
    ):
        raise DistilError(f"{folder / 'config.json'} does not say what its inputs are called; export the model again.")
    run = _onnx(folder) if engine == "onnxruntime" else _torch(folder, config, labels, preprocessing)
    return Exported(
        folder=folder,
        labels=tuple(labels),
        preprocessing=preprocessing,
        inputs=tuple(each["name"] for each in named),
        engine=engine,
        run=_counted(run, len(labels), folder),
    )


def _verified(folder: Path) -> dict[str, Any]:
    """Compare every file of the list with its checksum."""
    files = read_json(folder / MANIFEST, kind=KIND, version=VERSION).get("files")
    if not isinstance(files, dict) or not set(_NEEDED) <= set(files):
        raise DistilError(f"{folder / MANIFEST} does not list {', '.join(_NEEDED)}; export the model again.")
    for name, facts in files.items():
        path = inside(folder, name, f"a file of {MANIFEST}")
        if not path.is_file():
            raise DistilError(f"{path} is missing; copy the whole folder, or export the model again.")
        if not isinstance(facts, dict) or digest(path) != facts.get("sha256"):
            raise DistilError(f"{path} was cut off or changed (its checksum differs); export the model again.")
    return files


def _engine(folder: Path, files: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if "model.onnx" in files and find_spec("onnxruntime") is not None:
        return "onnxruntime"
    spec = config.get("model")
    if "model.safetensors" in files and config.get("plain") is True and isinstance(spec, str) and _SAFE.fullmatch(spec):
        return "torch"
    if "model.onnx" in files:
        raise DistilError(f"{folder} needs onnxruntime to run; install it with pip install onnxruntime.")
    raise DistilError(
        f"{folder} holds no model.onnx, and its model {str(spec)[:80]!r} is not rebuilt from a folder, since that "
        "could run foreign code; export it with --format all, or load its safetensors in Python."
    )


def _onnx(folder: Path) -> Callable[[Arrays], np.ndarray[Any, Any]]:
    session = open_session(folder / "model.onnx")

    def run(arrays: Arrays) -> np.ndarray[Any, Any]:
        lacking = [i.name for i in session.get_inputs() if i.name not in arrays]
        if lacking:
            raise DistilError(f"{folder / 'model.onnx'} takes {lacking[0]!r}, which these inputs do not give.")
        return run_session(session, arrays)

    return run


def _torch(
    folder: Path, config: Mapping[str, Any], labels: list[str], preprocessing: Mapping[str, Any]
) -> Callable[[Arrays], np.ndarray[Any, Any]]:
    import torch

    from distil.models import load_model
    from distil.ship.served import batch_of
    from distil.ship.student import load_state, task_for

    shape = config.get("input_shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise DistilError(f"{folder / 'config.json'}: 'input_shape' is {shape!r}; a list of sizes is expected.")
    model = load_model(config["model"], classes=len(labels), input_shape=shape)
    load_state(model, folder / "model.safetensors").eval()
    task = task_for(str(config.get("task")), preprocessing)

    def run(arrays: Arrays) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            batch = batch_of({name: torch.from_numpy(array) for name, array in arrays.items()})
            found: np.ndarray[Any, Any] = task.logits(task.call(model, batch)).float().numpy()
        return found

    return run


def _counted(
    run: Callable[[Arrays], np.ndarray[Any, Any]], classes: int, folder: Path
) -> Callable[[Arrays], np.ndarray[Any, Any]]:
    """Refuse answers that do not fit the labels."""

    def counted(arrays: Arrays) -> np.ndarray[Any, Any]:
        answer = run(arrays)
        if answer.ndim != 2 or answer.shape[1] != classes:
            raise DistilError(
                f"{folder}: the model gives outputs of shape {list(answer.shape)}, and labels.json names {classes} "
                "classes; one output for each class is expected."
            )
        return answer

    return counted
