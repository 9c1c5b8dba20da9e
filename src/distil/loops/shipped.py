"""From a finished run to an exported student: which one, built again as it was, checked on the run's own test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import as_batches
from distil.engine.anatomy import unwrapped
from distil.engine.distiller import Distiller
from distil.errors import DistilError, nearest
from distil.loops.own import OwnRun, read_data
from distil.loops.settings import from_yaml
from distil.methods.expression import parse
from distil.models import load_model
from distil.models.deletion import WithDeletion
from distil.models.hf import load_tokenizer
from distil.report import load as load_report
from distil.report.text import fixed, with_unit
from distil.report.view import View
from distil.ship import ExportResult, ModelCard, Student, export, read_student
from distil.ship.inputs import Batch, batches, encoder
from distil.ship.manifest import inside, read_json
from distil.ship.served import batch_of
from distil.ship.student import first_answers, load_state, same_answers
from distil.tasks import Task

__all__ = ["choose", "export_run", "located", "rebuilt", "students_of"]

SAMPLES = 8


def located(path: Path) -> tuple[Path, Path | None]:
    """Return the folder of a run, and the sidecar of the model in it that was named; None where the run was.

    A step of ``distil unlearn``, its ``original``, and a model.safetensors with its sidecar are models of their own.
    """
    if path.is_file():
        side = path.with_suffix(".json")
        if path.suffix != ".safetensors" or not side.is_file():
            raise DistilError(
                f"nothing says what network {path} holds: no {side.name} lies beside it, as distil train and distil "
                "unlearn write it; name the run's folder, or call distil.export(model, …) in Python."
            )
        return (path.parent.parent if path.parent.name == "students" else path.parent), side
    side = path / "model.json"
    if side.is_file() and not (path / "students").is_dir():
        return path, side
    models = sorted((each.parent for each in path.glob("*/model.json")), key=_place) if path.is_dir() else []
    if models and not (path / "students").is_dir():
        raise DistilError(
            f"{path} holds {', '.join(each.name for each in models)}, models of distil unlearn; name one of them, such "
            f"as {models[-1]}."
        )
    return path, None


def _place(step: Path) -> tuple[int, str]:
    number = step.name.removeprefix("step-")
    return (int(number) if number.isdecimal() else 0, step.name)


def _settled(run: Path) -> bool:
    return (run / "settings.yaml").is_file()


def _alone(side: Path) -> Student:
    """Read the sidecar of one model; say why some cannot be exported."""
    weights = side.with_suffix(".safetensors")
    content = read_json(side)
    if isinstance(content, dict) and content.get("kind") == "distil-link-model":
        raise DistilError(
            f"{weights} is a model of links: it gives embeddings, and an export answers with one of several labels; "
            f"build {content.get('model')} in Python and fill it with these weights (distil.models.load_model(…, "
            "weights=…))."
        )
    student = read_student(side)
    if student.deployed == WithDeletion.__qualname__:
        raise DistilError(
            f"{weights} is {student.model} under GNNDelete's operators, whose masks name the nodes of its own graph: "
            "it answers for no other. In Python distil.models.deletion.under_operators loads it. For a plain network "
            "that can be exported, unlearn with --method d2dgn or retrain."
        )
    return student


def students_of(run: Path) -> list[Student]:
    """Return the trained students of a run, in the order of its report."""
    folder = run / "students"
    if not run.is_dir():
        raise DistilError(f"{run} is no folder of a run; give what `distil train --out` wrote.")
    found = [read_student(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    if not found:
        weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        why = "its students were written by an older distil" if weights else "its folder students is empty or missing"
        raise DistilError(f"{run} holds no student to export: {why}; train one with `distil train`.")
    order = [arm["name"] for arm in _report(run).get("arms", [])]
    return sorted(found, key=lambda s: (order.index(s.arm) if s.arm in order else len(order), s.seed))


def choose(students: Sequence[Student], *, arm: str | None = None, seed: int | None = None) -> Student:
    """Return one student: of the named arm and seed, else of the method and the seed that are best on validation.

    Test scores play no part: a model chosen by them would be worth less than they say.
    """
    arms = list(dict.fromkeys(student.arm for student in students))
    if arm is not None and arm not in arms:
        raise DistilError(f"the run has no arm {arm!r}; {nearest(arm, arms)}")
    pool = [s for s in students if arm is None or s.arm == arm]
    seeds = sorted({s.seed for s in pool})
    if seed is not None and seed not in seeds:
        raise DistilError(f"the run has no student of seed {seed}; it has {', '.join(map(str, seeds))}.")
    pool = [s for s in pool if seed is None or s.seed == seed]
    pool = [s for s in pool if s.role == "method"] or pool if arm is None else pool
    mean = {name: _mean([s.score for s in pool if s.arm == name]) for name in {s.arm for s in pool}}
    best = max(pool, key=lambda s: mean[s.arm]).arm
    return max((s for s in pool if s.arm == best), key=lambda s: s.score)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    arm: str | None = None,
    seed: int | None = None,
    formats: Sequence[str] = ("safetensors", "onnx"),
    opset: int | None = None,
    example: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> tuple[Student, ExportResult]:
    """Export a student of a run; see :func:`distil.ship.export` for what is written.

    Args:
        run: a folder of ``distil train`` or ``distil compare``, a model.safetensors with its sidecar, or a folder that
            holds one (a step of ``distil unlearn``).
        out: the folder to write.
        arm, seed: which student; see :func:`choose`.
        example: a file of inputs to check it on; default the run's test data, or random numbers where those are gone.
        formats, opset, overwrite, device: as in :func:`distil.ship.export`.
    """
    run, side = located(Path(run))
    student = choose(students_of(run) if side is None else [_alone(side)], arm=arm, seed=seed)
    trained_here = side is None or side.parent == run / "students"
    own = from_yaml(OwnRun(), run / "settings.yaml") if trained_here and _settled(run) else OwnRun()
    bundle, gone = _data(run, own, student)
    task = bundle.task if bundle is not None and isinstance(bundle.task, Task) else student.make_task()
    preprocessing = dict(student.preprocessing)
    if preprocessing.get("kind") == "text":
        preprocessing["tokenizer"] = str(inside(run, preprocessing.get("tokenizer"), "the tokenizer of the run"))
    if bundle is not None:
        batch, checked_on = _test_samples(bundle, task), f"test samples of {bundle.name}"
    else:
        batch, checked_on = _random(preprocessing), f"random inputs ({gone})"
    folder = run / "students" if side is None else side.parent
    module = rebuilt(run, student, own, task, batch, bundle, folder=folder)
    if example is not None:
        batch, checked_on = _from_file(example, preprocessing, batch), f"the samples of {Path(example).name}"
    result = export(
        module,
        batch,
        out,
        task=task,
        classes=student.classes,
        preprocessing=preprocessing,
        card=_card(run, student, checked_on),
        formats=formats,
        opset=opset,
        overwrite=overwrite,
        device=device,
        origin=_origin(student, known=bundle is not None),
        checked_on=checked_on,
    )
    return student, result


def rebuilt(
    run: Path, student: Student, own: OwnRun, task: Task, batch: Any, bundle: Bundle | None, *, folder: Path
) -> nn.Module:
    """Return the module that was trained, built again from its specification and recognised by its answers.

    A method that rebuilds its student does so again; one that ships another module is set up on a batch and asked for
    it.

    Raises:
        DistilError: it cannot be built, its weights do not fit, or it answers otherwise than the trained one did.
    """
    advice = "run from the folder it was trained in, or call distil.export(model, …) where the module lives"
    try:
        module = load_model(student.model, **_fitting(run, student))
        if not student.plain:
            module = _deployed(module, student, own, task, batch)
        load_state(unwrapped(module), folder / student.weights)
    except DistilError as error:
        raise DistilError(f"the student of {run} cannot be built again: {error} ({advice}).") from error
    module = unwrapped(module).eval()
    if fingerprint(module) != student.fingerprint:
        raise DistilError(f"the weights {student.weights} are not those that were trained (another fingerprint).")
    if bundle is not None and not same_answers(student, first_answers(task, module, bundle)):
        raise DistilError(
            f"{student.model} with the weights of {run} answers otherwise than the trained student did: its code "
            f"changed since, or it holds more than its state dict says; {advice}."
        )
    return module


def _fitting(run: Path, student: Student) -> dict[str, Any]:
    """What the data said of the model, and the tokenizer that was kept for it."""
    made: dict[str, Any] = {"classes": len(student.classes), "input_shape": tuple(student.input_shape)}
    made["labels"] = tuple(student.classes)
    if student.preprocessing.get("kind") == "text":
        folder = inside(run, student.preprocessing.get("tokenizer"), "the tokenizer of the run")
        made["tokenizer"] = load_tokenizer(str(folder))
    return made


def _deployed(model: nn.Module, student: Student, own: OwnRun, task: Task, batch: Any) -> nn.Module:
    methods = parse(student.method)
    model = methods.rebuild(model)
    if not methods.having("deployed"):
        return model
    classes, shape = len(student.classes), student.input_shape
    teacher = load_model(own.teacher, classes=classes, input_shape=shape) if own.teacher else None
    options: dict[str, Any] = {"epochs": own.training.epochs, "taps": own.taps}
    labelled = {"labels": torch.zeros(len(next(iter(_tensors(batch)))), dtype=torch.long), **batch}
    distiller = Distiller(model, teacher, methods, task=task, example=labelled, **options)
    return distiller.deployed()


def _tensors(batch: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    inputs = batch["inputs"]
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def _data(run: Path, own: OwnRun, student: Student) -> tuple[Bundle | None, str]:
    """Return the run's data, or why they cannot serve."""
    if not own.data:
        return None, "the run does not say which data it read"
    try:
        bundle = read_data(own, run)
    except DistilError:
        return None, f"the data {own.data} are not there"
    name = str(student.data.get("fingerprint"))
    if bundle.fingerprint not in (name, name.partition("-")[0]):  # a name of views follows that of the data
        return None, f"the data {own.data} changed since"
    return bundle, ""


def _test_samples(bundle: Bundle, task: Task) -> dict[str, Any]:
    batch = task.unpack(next(iter(as_batches(bundle.test, SAMPLES).iterate(0))))
    return {key: value for key, value in batch.items() if key != "id"}


def _random(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    if preprocessing["kind"] == "image":
        shape = (preprocessing["channels"], *preprocessing["size"])
        return {"inputs": torch.rand(SAMPLES, *shape, generator=draw)}
    if preprocessing["kind"] == "text":
        encode = encoder(Path(preprocessing["tokenizer"]), preprocessing, ("input_ids", "attention_mask"))
        found = encode([" ".join(["a short text", "and more of it"][: 1 + k % 2]) for k in range(SAMPLES)])
        return {"inputs": {name: torch.from_numpy(value) for name, value in found.items()}}
    batch = {"inputs": torch.randn(SAMPLES, *preprocessing["shape"], generator=draw)}
    if preprocessing.get("edges"):
        nodes = torch.arange(SAMPLES)
        ring = torch.stack([nodes, nodes.roll(1)])
        batch["edge_index"] = torch.cat([ring, ring.flip(0)], dim=1)
    return batch


def _from_file(path: str | Path, preprocessing: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    inputs = known["inputs"]
    names = list(inputs) if isinstance(inputs, Mapping) else ["inputs"]
    place = preprocessing.get("tokenizer")
    tokenizer = Path(place) if place else None
    found = next(batches([path], preprocessing, inputs=names, tokenizer=tokenizer, batch_size=SAMPLES))
    if not isinstance(found, Batch):
        raise DistilError(f"--example {found.name} cannot be read: {found.reason}")
    return batch_of({name: torch.from_numpy(array) for name, array in found.arrays.items()})


def _origin(student: Student, *, known: bool) -> dict[str, Any]:
    """What ``config.json`` keeps of where the model comes from."""
    kept = ("model", "plain", "deployed", "input_shape", "method", "teacher", "data", "arm", "seed", "metric")
    return {
        **{name: getattr(student, name) for name in kept},
        "test": student.test,
        "validation": student.validation,
        "trained_by": student.distil,
        "recognised": "by its answers on test samples" if known else "by its weights alone",
    }


def _report(run: Path) -> dict[str, Any]:
    return load_report(run) if (run / "report.json").is_file() else {}


def _card(run: Path, student: Student, checked_on: str) -> ModelCard:
    report = _report(run)
    record = {"Deletions": "requests were met; audit.json beside the model tells them"}
    facts = {
        "Model": student.model if student.plain else f"{student.deployed}, made of {student.model} by the method",
        "Taught by": student.method,
        "Teacher": student.teacher,
        "Data": f"{student.data['name']} (fingerprint {student.data['fingerprint']})",
        "Seed": str(student.seed),
        **(record if student.arm == "unlearned" else {}),
    }
    scores = ", ".join(f"{name} {fixed(value, 2 if name == 'accuracy' else 4)}" for name, value in student.test.items())
    results = [f"On the test data this model scores {scores}; the epoch was chosen on validation data."]
    if not report:
        return ModelCard(title=f"{student.model} taught by {student.method}", facts=facts, results=results)
    told = [entry["text"] for entry in report.get("verdicts") or [] if entry["arm"] == student.arm]
    limits = [*report.get("warnings", []), *((report.get("data") or {}).get("notes") or [])]
    if len(report["seeds"]) < 2:
        limits.append("It was trained with one seed: how much its scores owe to chance is not known.")
    return ModelCard(
        title=str(report["title"]),
        facts=facts,
        results=[*told, *results],
        table=_figures(View(report)),
        limits=limits,
        command=str(report.get("command") or ""),
    )


def _figures(view: View) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", view.metric, f"difference ({view.level})", "parameters")]
    for row in view.rows():
        value, spread = row.best if view.score == "best" else row.last
        gap = " ".join(part for part in (row.difference[0], row.difference[1]) if part)
        rows.append((row.label, with_unit(" ".join(filter(None, (value, spread))), view.unit), gap, row.parameters))
    if view.teacher_score is not None:
        rows.append(("teacher", with_unit(fixed(view.teacher_score, view.decimals), view.unit), "", ""))
    return rows
