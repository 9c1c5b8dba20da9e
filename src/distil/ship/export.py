"""Any module as one folder: weights, ONNX, labels, preprocessing, card and script, checked before it exists."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distil.data.fingerprint import fingerprint
from distil.engine.anatomy import unwrapped
from distil.errors import DistilError, nearest
from distil.files import write_folder, write_text
from distil.models.load import summary
from distil.report import environment
from distil.ship.card import ModelCard, write_card
from distil.ship.check import TOLERANCE, compared, timed
from distil.ship.manifest import files_in, write_json
from distil.ship.onnx import OUTPUT, OnnxFailure, free_dimensions, open_session, write_onnx
from distil.ship.preprocessing import checked_preprocessing, preprocessing_of
from distil.ship.scripts import predict_script
from distil.ship.served import Served, as_float32, rows, sample_batches, tensors_of
from distil.ship.student import save_state
from distil.tasks import Task, get_task
from distil.tasks.base import evaluating

__all__ = ["FORMATS", "KIND", "VERSION", "ExportResult", "export"]

KIND, VERSION = "distil-export", 1
FORMATS = ("safetensors", "onnx")
MANIFEST = "export.json"


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes:
        folder: where it is.
        files: bytes by file name.
        checked: by batch, how far the exported model is from the trained one; empty without ONNX.
        latency: by batch and engine, p50 and p95 in ms.
        opset: of the ONNX file.
        manifest: the content of ``export.json``.
    """

    folder: Path
    files: dict[str, int]
    checked: dict[str, dict[str, float]]
    latency: dict[str, dict[str, dict[str, float]]]
    opset: int | None
    manifest: dict[str, Any] = field(repr=False)


def export(
    model: nn.Module,
    example: Any,
    out: str | Path,
    *,
    task: str | Task = "classification",
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    card: ModelCard | Mapping[str, str] | None = None,
    formats: Sequence[str] = FORMATS,
    opset: int | None = None,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    origin: Mapping[str, Any] | None = None,
    checked_on: str = "the example",
) -> ExportResult:
    """Write ``model`` to a folder that is all another machine needs, and check it beside the model.

    The folder holds ``model.safetensors``, ``model.onnx`` (traced through ``task.call``, so a normalisation of the
    student's is inside; the batch dimension is free), ``labels.json``, ``preprocessing.json``, ``config.json``,
    ``MODEL_CARD.md``, a ``predict.py`` that needs no distil, a text's ``tokenizer/``, and ``export.json`` with the
    check, latencies and a checksum of every file. It is made beside ``out`` and renamed at the end.

    Args:
        model: a trained module, as ``distiller.deployed()`` gives it; it is run in eval mode and left as it was.
        example: a batch as the task takes it, best eight real samples: the check repeats or cuts it to 1, 3 and 8.
        out: a folder that does not exist.
        task: how the model is called on a batch; its normalisation for "student" becomes part of the ONNX file.
        classes: label names; numbers by default.
        preprocessing: how inputs are made: ``{"kind": "image", "size": [h, w], "channels": 1 or 3}``,
            ``{"kind": "features", "shape": [...]}``, ``{"kind": "table", "shape", "columns", "missing"}`` (the
            ``preprocessing`` of a bundle of :func:`distil.data.read_columns`) or ``{"kind": "text", "tokenizer":
            FOLDER, "max_length": N}``; by default the task's own word, else read off the example's shape.
        card: what the model card says of the model's origin: a :class:`ModelCard`, or label → text.
        formats: "safetensors", "onnx" or both.
        opset: the ONNX operator set; default what torch's exporter prefers.
        overwrite: replace an earlier export.
        device: where the trained model is timed; the check runs on the CPU in float32.
        origin: kept in ``config.json``; ``model`` is a specification that ``distil predict`` may rebuild.
        checked_on: how the card calls the example.

    Raises:
        DistilError: a folder in the way, an example that does not fit, or an exported model whose answers differ by
            more than 1e-4 of the largest: nothing is left. Where ONNX alone fails, the rest stays in ``out`` and the
            message says so.

    >>> import tempfile
    >>> made = export(nn.Linear(4, 2), torch.rand(8, 4), tempfile.mkdtemp() + "/linear", formats=["safetensors"])
    >>> sorted(made.files)[:3]
    ['MODEL_CARD.md', 'config.json', 'labels.json']
    """
    for name in formats:
        if name not in FORMATS:
            raise DistilError(f"formats has {name!r}; {nearest(name, FORMATS)}")
    out, place = check_out(Path(out), overwrite=overwrite), _device(device)
    chosen, module = get_task(task), unwrapped(model)
    tensors = tensors_of(chosen, module, example)
    with evaluating(module), _clean_parents(out):
        made = _Export(module, chosen, tensors, dict(origin or {}), tuple(formats), opset, checked_on)
        made.look(classes, preprocessing)
        if not isinstance(card, ModelCard):
            card = ModelCard(title=f"{type(module).__name__}", facts=dict(card or {}))
        write_folder(out, lambda folder: made.fill(folder, card, place))
    if made.failure is not None:
        raise DistilError(f"{made.failure} The rest of the export, with model.safetensors, is in {out}.") from None
    return made.result(out)


def check_out(out: Path, *, overwrite: bool) -> Path:
    """Return where an export may be written; refuse what it would destroy."""
    above = next((parent for parent in (out, *out.absolute().parents) if parent.exists()), out)
    if above.exists() and not above.is_dir():
        raise DistilError(
            f"--out {out} leads through the file {above}; name a folder."
            if above != out
            else f"--out {out} is a file; name a folder."
        )
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise DistilError(f"--out {out} already holds something; add --overwrite to replace it, or name another.")
        if not (out / MANIFEST).is_file():
            raise DistilError(f"--overwrite would delete {out}, which is no export of distil; name another folder.")
    return out.absolute()


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DistilError(f"device={name} cannot be used here ({str(error).splitlines()[0][:120]}); use cpu.") from None


@contextmanager
def _clean_parents(out: Path) -> Iterator[None]:
    """Take back the parent folders that were made for an export that did not come about."""
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        yield
    finally:
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


class _Export:
    """One export on its way: what is written, and what the check found."""

    def __init__(
        self, module: nn.Module, task: Task, tensors: dict[str, Tensor], origin: dict[str, Any],
        formats: tuple[str, ...], opset: int | None, checked_on: str,
    ) -> None:  # fmt: skip
        self.module, self.task, self.tensors, self.origin, self.formats = module, task, tensors, origin, formats
        self.opset, self.checked_on = opset, checked_on
        self.served = Served(task, as_float32(module), tuple(tensors))
        self.served.training = False
        self.failure: OnnxFailure | None = None
        self.manifest: dict[str, Any] = {}

    def look(self, classes: Sequence[str] | None, preprocessing: Mapping[str, Any] | None) -> None:
        """Run the model once, and settle labels and preprocessing by what it takes and gives."""
        name = type(self.module).__name__
        try:
            with torch.no_grad():
                answer = self.served(*rows(self.tensors, 2).values())
        except DistilError:
            raise
        except Exception as error:
            shapes = {key: list(value.shape) for key, value in self.tensors.items()}
            raise DistilError(
                f"{name} cannot run on the example {shapes} ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:200]}); give a batch as it was trained on."
            ) from error
        if answer.ndim < 2:
            raise DistilError(
                f"{name} answers in the shape {list(answer.shape)}; logits [batch, classes] are expected."
            )
        self.classes = [str(c) for c in classes] if classes is not None else list(map(str, range(answer.shape[1])))
        if len(self.classes) != answer.shape[1]:
            raise DistilError(
                f"{len(self.classes)} class names for {answer.shape[1]} outputs of {name}; name each once."
            )
        shape = list(next(iter(self.tensors.values())).shape[1:])
        found = preprocessing if preprocessing is not None else preprocessing_of(self.task, self.module, shape)
        if preprocessing is None and "inputs" not in self.tensors and found["kind"] == "features":
            found = {"kind": "tensors"}
        self.preprocessing = checked_preprocessing(found)
        self.shape = shape

    def fill(self, folder: Path, card: ModelCard, device: torch.device) -> None:
        """Write everything into a fresh folder."""
        state = {key: value.cpu() for key, value in self.module.state_dict().items()}
        reached = None
        if "safetensors" in self.formats:
            save_state(self.module, folder / "model.safetensors")
            _same_tensors(state, folder / "model.safetensors")
        if "onnx" in self.formats:
            try:
                reached = self._onnx(folder / "model.onnx", device)
            except OnnxFailure as error:
                if "safetensors" not in self.formats:
                    raise
                self.failure = error
                for file in folder.glob("model.onnx*"):
                    file.unlink()
        report = {"checked": {}, "checked_on": self.checked_on, "latency": {}, **self.manifest}
        config = self._config(reached)
        self._describe(folder, config)
        if reached is not None:
            write_text(folder / "predict.py", predict_script(self.preprocessing))
        sizes = {name: each["bytes"] for name, each in files_in(folder).items() if name.startswith("model.")}
        write_text(folder / "MODEL_CARD.md", write_card(card, config=config, sizes=sizes, report=report))
        self.manifest = {
            "kind": KIND,
            "version": VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": environment()[0],
            "threads": torch.get_num_threads(),
            "tolerance": TOLERANCE,
            "onnx": {"opset": reached, "failure": str(self.failure) if self.failure else None},
            **report,
            "files": files_in(folder),
        }
        write_json(folder / MANIFEST, self.manifest)

    def _onnx(self, path: Path, device: torch.device) -> int:
        graph = "edge_index" in self.tensors
        example = self.tensors if graph else rows(self.tensors, max(2, min(8, len(next(iter(self.tensors.values()))))))
        reached = write_onnx(self.served, example, path, opset=self.opset, longest=self.preprocessing.get("max_length"))
        session = open_session(path, threads=torch.get_num_threads())
        _free(session, example, type(self.module).__name__)
        batches = sample_batches(self.tensors)
        checked = compared(self.served, session, batches)
        names = list(batches)
        latency = {n: timed(self.served, session, batches[n], device=device) for n in {names[0]: 0, names[-1]: 0}}
        self.manifest = {"checked": checked, "latency": latency}
        return reached

    def _config(self, opset: int | None) -> dict[str, Any]:
        free = free_dimensions(self.tensors)
        inputs = [
            {
                "name": name,
                "dtype": str(value.dtype).removeprefix("torch."),
                "shape": [free[name].get(axis, size) for axis, size in enumerate(value.shape)],
            }
            for name, value in self.tensors.items()
        ]
        return {
            "kind": "distil-model",
            "version": VERSION,
            **self.origin,
            "task": self.task.name,
            "class": type(self.module).__qualname__,
            "classes": self.classes,
            "input_shape": self.origin.get("input_shape", self.shape),
            "inputs": inputs,
            "output": OUTPUT,
            "opset": opset,
            "parameters": summary(self.module).parameters,
            "fingerprint": fingerprint(self.module),
            "preprocessing": self.preprocessing,
        }

    def _describe(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Write labels, preprocessing, the tokenizer and the configuration."""
        write_json(folder / "labels.json", list(self.classes))
        if self.preprocessing["kind"] == "text":
            source = Path(self.preprocessing["tokenizer"])
            if not (source / "tokenizer.json").is_file():
                raise DistilError(f"preprocessing['tokenizer'] is {str(source)!r}, which holds no tokenizer.json.")
            (folder / "tokenizer").mkdir()
            for file in sorted(source.iterdir()):
                if file.is_file() and file.suffix in (".json", ".txt", ".model"):
                    shutil.copyfile(file, folder / "tokenizer" / file.name)
            self.preprocessing["tokenizer"] = "tokenizer"
        write_json(folder / "preprocessing.json", self.preprocessing)
        write_json(folder / "config.json", config)

    def result(self, out: Path) -> ExportResult:
        """Return what was written."""
        files = {name: each["bytes"] for name, each in self.manifest["files"].items()}
        found = self.manifest
        return ExportResult(out, files, found["checked"], found["latency"], found["onnx"]["opset"], found)


def _same_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Read the weights back: what lies on the disk must be what was trained."""
    stored = load_file(path)
    if fingerprint(stored) != fingerprint({name: state[name] for name in stored}):
        raise DistilError(f"{path.name} does not hold the weights that were written to it; is the disk full?")


def _free(session: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse an ONNX file whose free dimensions were fixed on the way."""
    found = {each.name: each.shape for each in session.get_inputs()}
    for key, axes in free_dimensions(tensors).items():
        for axis, dimension in axes.items():
            if key in found and not isinstance(found[key][axis], str):
                raise OnnxFailure(f"{name} fixes the dimension '{dimension}' of {key!r} at {found[key][axis]}.")
