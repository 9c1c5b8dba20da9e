"""The lab: stages stored by what went into them, arms that give an outcome for a seed, and tuning that is counted."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import PartialState
from torch import Tensor, nn

from distil import catalog
from distil.data.fingerprint import fingerprint
from distil.data.loading import mix_seed
from distil.engine.processes import is_first, of_first, on_every_disk
from distil.engine.serial import load_tree, save_tree
from distil.engine.track import Tracking, Tracks, check_trackers
from distil.engine.window import world_size
from distil.errors import DistilError
from distil.methods.expression import parse

__all__ = ["Arm", "Lab", "Outcome", "Progress", "Role", "Stage", "code_for", "code_of"]
__all__ += ["methods_of", "replay"]

Role = Literal["reference", "rival", "method", "ablation", "bound"]
PACKAGE = Path(__file__).resolve().parents[1]


class Progress(Protocol):
    """Where a run shows how far it is."""

    def begin(self, name: str, total: int | None = None) -> None:
        """Name what runs now."""

    def step(self, done: int, total: int) -> None:
        """Say how far it is."""

    def say(self, text: str) -> None:
        """Print a line."""


class Quiet:
    """A progress that shows nothing."""

    def begin(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def step(self, done: int, total: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Outcome:
    """What one arm gave for one seed: plain data, so that it can be stored.

    Attributes:
        metrics: ``{"last": {...}, "best": {...}}`` on the test data; "best" is the epoch that was best on validation.
        history: the run's records, epoch by epoch.
        cost: seconds, the teacher's part of them, updates made.
        budget: what must be equal between arms: ``updates`` (allowed), ``batch_size``, ``labels``, ``trials``.
        model: ``parameters``, ``bytes`` and ``latency`` of what ships.
        agreement: share of test samples, in %, on which it answers as the teacher does.
        reliability: confidence, accuracy and count by bin.
        diagnostics: further numbers that the recipe wants shown.
        teacher_forward: by teacher, how its passes were made cheap.
        notes: what a reader must know of how the models were read.
    """

    metrics: dict[str, dict[str, float]]
    history: list[dict[str, Any]]
    cost: dict[str, float]
    budget: dict[str, float]
    model: dict[str, Any]
    agreement: float | None = None
    reliability: dict[str, list[float]] | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    teacher_forward: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """One way of getting a model: ``run(seed)`` gives an :class:`Outcome`.

    ``role`` says what it is compared as: the reference (same budget without the system), a rival, the method, one of
    its ablations, or a bound (other budget, for orientation). ``code`` names the code that its outcome depends on where
    that is not all of it (:func:`code_for`), so that a change elsewhere leaves what is stored as it is.
    """

    role: Role
    run: Callable[[int], Outcome]
    label: str = ""
    expression: str = ""
    phrase: str = ""
    code: str = ""


@dataclass(frozen=True)
class Stage:
    """A stored result and what it cost when it was made."""

    value: Any
    seconds: float
    reused: bool


class Lab:
    """A folder of results, each under the hash of what went into it, and the progress display of a run.

    Args:
        out: where this run keeps its arms; a killed run goes on from there.
        shared: where results that many runs share (teachers) are kept; by default ``DISTIL_CACHE``, or a folder in the
            user's cache.
        progress: what shows how far the run is.
        device: passed on to every ``fit``.
        trackers: names of trackers ("tensorboard", "wandb"); each arm and seed is a run under ``out/trackers``.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        shared: str | Path | None = None,
        progress: Progress | None = None,
        device: str | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        self.out = Path(out)
        self.shared = Path(shared or os.environ.get("DISTIL_CACHE") or Path.home() / ".cache" / "distil")
        self.progress: Progress = progress or Quiet()
        self.device = device
        self.costs: dict[str, float] = {}
        check_trackers(trackers)
        self.trackers = tuple(dict.fromkeys(trackers))
        self._tracked: str | None = None

    def stage(self, name: str, fn: Callable[[], Any], *, shared: bool = False, code: str = "", **inputs: Any) -> Stage:
        """Return ``fn()``, or what it gave when it was last run on the same inputs by the same code.

        Many processes run ``fn`` together, each its share of every batch; the first stores what it gave, and all go on
        from that. The folder must lie where all of them see it.

        Args:
            name: what it is; part of the folder's name.
            fn: makes a tree of tensors, numbers, strings, lists and dicts (``module.state_dict()`` is one).
            shared: keep it where other runs find it.
            code: the hash of the code that the result depends on; that of all of it by default.
            inputs: everything that the result depends on: settings, seeds, tensors, modules, data sets.
        """
        folder = (self.shared if shared else self.out) / "stages" / f"{name}-{self.key(name, code=code, **inputs)}"
        stored = self._known(folder) if is_first() else None
        reused = of_first(lambda: stored is not None)
        if not reused:
            began = time.perf_counter()
            value = fn()
            made = {"value": value, "seconds": time.perf_counter() - began}
            of_first(lambda: str(save_tree(made, folder)))
        # Read back, so that a first run and a resumed one continue from the very same values, on every process.
        on_every_disk(folder.is_dir(), f"The stage {folder}")
        stored = stored or load_tree(folder)
        self.costs[name] = stored["seconds"]
        return Stage(stored["value"], stored["seconds"], reused=reused)

    def _known(self, folder: Path) -> Any:
        """What is stored in a folder; None where there is nothing, or nothing that can be read."""
        if not folder.is_dir():
            return None
        try:
            return load_tree(folder)
        except DistilError as error:
            self.progress.say(f"{error} It is made anew.")
            return None

    def key(self, name: str, *, code: str = "", **inputs: Any) -> str:
        """Return the hash of a stage's inputs and of the code that results depend on."""
        many = {"processes": world_size()} if world_size() > 1 else {}  # a larger batch than one process sees
        return _key({"name": name, "code": code or _code_hash(), **many, **inputs})

    def run(self, name: str, arm: Arm, seed: int, **inputs: Any) -> Outcome:
        """Return the outcome of ``arm`` for ``seed``, stored in the run's own folder, and track it."""
        self._tracked = f"{name}-seed{seed}" if self.trackers else None
        try:
            outcome = self._arm(name, arm, seed, **inputs)
            tracking = self.tracking()
        finally:
            self._tracked = None
        if (
            tracking is not None and is_first() and not tracking.place.exists()
        ):  # stored before, or not made by a tracked fit
            replay(tracking, outcome, {"method": arm.expression, "seed": seed}, device=self.device)
        return outcome

    def tracking(self) -> Tracking | None:
        """Return where the arm that runs now is tracked; None outside arms, and where nothing is."""
        if self._tracked is None:
            return None
        return Tracking(self.trackers, self.out / "trackers", self._tracked)

    def _arm(self, name: str, arm: Arm, seed: int, **inputs: Any) -> Outcome:
        # An input may itself be called code (of a user's own methods): it stands beside the arm's, not in its place.
        inputs = {"own_code" if key == "code" else key: value for key, value in inputs.items()}
        stage = self.stage(
            f"arm-{name}-{seed}",
            lambda: asdict(arm.run(seed)),
            arm=name,
            expression=arm.expression,
            seed=seed,
            code=arm.code,
            **inputs,
        )
        return Outcome(**stage.value)

    def tune(
        self, name: str, arm: Callable[[Mapping[str, Any]], Callable[[int], Outcome]], grid: Mapping[str,
        Sequence[Any]], *, trials: int, seed: int, metric: str, higher_is_better: bool = True, **inputs: Any,
    ) -> tuple[dict[str, Any], int]:  # fmt: skip
        """Choose among the points of ``grid`` by the best validation ``metric`` of one run each.

        Args:
            arm: from a point of the grid to a run ``seed → Outcome`` (its history holds the validation metrics).
            trials: how many points are tried at most, drawn by ``seed`` where the grid has more.
            seed: of the tuning runs; not one of those reported.

        Returns:
            The chosen point, and the number of trials, which counts in the arm's budget.
        """
        points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
        if not points:
            raise DistilError(f"The grid of '{name}' is empty; give at least one value for each key.")
        if len(points) > trials:
            points = random.Random(mix_seed("tune", name, seed)).sample(points, trials)
        scores = self.trials(name, arm, points, seed=seed, metric=metric, higher_is_better=higher_is_better, **inputs)
        return points[scores.index((max if higher_is_better else min)(scores))], len(points)

    def trials(
        self, name: str, arm: Callable[[Mapping[str, Any]], Callable[[int], Outcome]], points: Sequence[Mapping[str,
        Any]], *, seed: int, metric: str, higher_is_better: bool = True, code: str = "", **inputs: Any,
    ) -> list[float]:  # fmt: skip
        """Run ``arm`` once at every point, and return the best validation ``metric`` of each; ``code`` as an Arm's."""
        scores = []
        for point in points:
            made = Arm("method", arm(point), expression=json.dumps(point), code=code)
            outcome = self._arm(f"{name}-tune", made, seed, point=point, **inputs)
            seen = [r["val"][metric] for r in outcome.history if r.get("val")]
            if not seen:
                raise DistilError(
                    f"'{name}' cannot be tuned: its runs have no validation '{metric}'. Give fit() validation data."
                )
            scores.append((max if higher_is_better else min)(seen))
        return scores


def replay(tracking: Tracking, outcome: Outcome, config: Mapping[str, Any], *, device: str | None = None) -> None:
    """Log a stored outcome as its run would have been logged."""
    PartialState(cpu=device == "cpu")  # accelerate's trackers ask it which process they are in
    with Tracks(tracking, config) as tracks:
        for record in outcome.history:
            tracks.epoch(record)
        tracks.finish(outcome.metrics, outcome.cost, outcome.history)


def code_of(module: nn.Module) -> str:
    """Hash how a model is built and the source of its classes: equal weights mean nothing under other code.

    This package's own classes are left out: the key of every stage holds their code anyway.
    """
    digest = hashlib.sha256(repr(module).encode())
    for file in sorted({_source_of(type(part)) for part in module.modules()} - {""}):
        if PACKAGE not in Path(file).resolve().parents:
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _source_of(kind: type) -> str:
    """The file that a class comes from; "" for torch's, whose version is in every key, and for those of a console."""
    if kind.__module__.partition(".")[0] == "torch":
        return ""
    try:
        file = inspect.getsourcefile(kind) or ""
    except (TypeError, OSError):
        return ""
    return file if Path(file).is_file() else ""


def _key(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_canonical(inputs), sort_keys=True).encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    """Return ``value`` as JSON that is equal where the content is."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _canonical({"type": type(value).__name__, **asdict(value)})
    if isinstance(value, (Tensor, nn.Module)):
        return fingerprint(value)
    raise DistilError(
        f"A stage cannot depend on a {type(value).__name__}; give numbers, strings, tensors, modules or dataclasses."
    )


RUN = ("engine", "tasks", "loops/training.py", "loops/measure.py", "data/bundle.py", "data/loading.py", "data/plain.py")
"""What every training run goes through. Data count by their fingerprint, models by the source of their classes."""


def code_for(expression: str, *models: nn.Module) -> str:
    """Return the hash of the code that a run of one expression with these models depends on.

    So a result stays known where another method, model or data set is added: of ``functional``, ``methods`` and
    ``systems`` that counts which the engine and this expression's methods import, of ``models`` and ``data`` what those
    methods import, and the files of these models' classes. Docstrings and comments are left out.
    """
    return _hash_of(sorted(files_behind(expression, *models)))


def files_behind(expression: str, *models: nn.Module) -> set[Path]:
    """Return the files of which :func:`code_for` is the hash."""
    homes = {_source_of(type(part)) for model in models for part in model.modules()} - {""}
    behind = catalog.code_behind([*_sources(RUN), *methods_of(expression), *(Path(home) for home in homes)])
    written = [file for file in behind if file.is_relative_to(PACKAGE) and file.relative_to(PACKAGE).parts[0] in OWN]
    return behind | {place for file in written for place in _borrowed(file)}


OWN = ("methods", "systems")


def _borrowed(file: Path) -> Iterator[Path]:
    """The modules of ``models`` and ``data`` that a method's file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("distil.models.", "distil.data.")):
            yield PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")


def methods_of(expression: str) -> list[Path]:
    """Return the files in which the methods of an expression are written."""
    homes = {inspect.getsourcefile(type(component.method)) for component in parse(expression)}
    return sorted(Path(home) for home in homes if home)


@lru_cache(maxsize=1)
def _code_hash() -> str:
    """Hash the code that results depend on, without its docstrings and comments."""
    theirs = [card.folder for card in catalog.systems().values() if card.origin != "distil"]
    own = _sources(("functional", "tasks", "data", "models", "engine", "methods", "systems", "loops"))
    return _hash_of([*PACKAGE.glob("demo.py"), *own, *(f for folder in theirs for f in sorted(folder.rglob("*.py")))])


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for file in files:
        where = file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else file.parents[1])
        digest.update(str(where).encode() + ast.dump(_bare(ast.parse(file.read_text(encoding="utf-8")))).encode())
    return digest.hexdigest()[:16]


def _sources(places: Iterable[str]) -> list[Path]:
    """Files, and all files below folders."""
    found = [PACKAGE / place for place in places]
    return sorted(file for place in found for file in ([place] if place.is_file() else place.rglob("*.py")))


def _bare(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return tree
