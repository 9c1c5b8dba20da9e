"""``distil search``: the user's teacher, data and space; the student that the score picks, distilled beside others."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from distil.data.bundle import Bundle
from distil.engine.host import find_accelerator
from distil.engine.serial import load_tree, save_tree
from distil.errors import DistilError
from distil.files import write_text
from distil.loops.compare import check_seeds, compare
from distil.loops.lab import Arm, Lab, Role, code_of
from distil.loops.own import Opened, OwnRun, opened, tried
from distil.loops.recipe import data_report
from distil.loops.search import Evaluation, Guarded, Limits, Search, search
from distil.loops.spaces import load_space
from distil.loops.training import Teacher, Training, teacher_report
from distil.methods.expression import parse
from distil.report import build
from distil.systems.diswot.nets import BEWARE, Others, candidates_table, distilled, one_batch, others
from distil.systems.diswot.procedure import Score, Scorer, Scoring, scored

__all__ = ["Prepared", "SearchRun", "prepared", "run_search", "teaching"]

SAVE_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class SearchRun:
    """The settings of ``distil search``.

    Attributes:
        data: a path or a name that ``distil.load`` reads.
        teacher, teacher_weights, pretrained, train_teacher: as for ``distil train``.
        space: "s0", "tiny-cnn", ``module:object`` or ``file.py:object``.
        limits: on parameters and FLOPs of a candidate.
        search: strategy and sizes.
        scoring: what the score is made of.
        distil: distil the winner beside the median, the largest and a random net within the limits.
        method: by which they are distilled.
        size, channels, limit: how images are read.
        taps: your paths for meanings, ``{map: layer4}``.
        training: how students are trained.
        seed: of the search; seeds: of the distillations.
    """

    data: str = ""
    teacher: str = ""
    space: str = ""
    teacher_weights: str | None = None
    pretrained: bool = False
    train_teacher: int = 0
    limits: Limits = field(default_factory=Limits)
    search: Search = field(default_factory=Search)
    scoring: Scoring = field(default_factory=Scoring)
    distil: bool = True
    method: str = "diswot"
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    taps: dict[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    seed: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)

    def reading(self) -> OwnRun:
        """Return what ``distil train`` would make of the teacher, the data and the method."""
        same = ("data", "teacher", "teacher_weights", "pretrained", "train_teacher", "size", "channels", "limit")
        given = {name: getattr(self, name) for name in (*same, "taps", "training", "seeds")}
        return OwnRun(**given, student=self.space, methods=(self.method,))


@dataclass(frozen=True)
class Prepared:
    """What a search works on, checked: the data, the teacher as loaded, the guarded space and the scorer."""

    bundle: Bundle
    module: torch.nn.Module
    opened: Opened
    space: Guarded
    scorer: Scorer
    code: str


def prepared(run: SearchRun, lab: Lab) -> Prepared:
    """Load everything and score one candidate, so that whatever does not fit is found before the search.

    Raises:
        DistilError: missing data or models, an unknown space, limits that nothing meets, networks that cannot be
            compared, …
    """
    for name in ("data", "teacher", "space"):
        if not getattr(run, name):
            raise DistilError(f"--{name} is missing; see `distil search --help`.")
    check_seeds(run.seeds)
    check_seeds([run.seed])
    for text in (run.method, *([run.scoring.proxy] if run.scoring.proxy else [])):
        parse(text)
    device = find_accelerator(precision="fp32", device=lab.device).device
    known = opened(run.reading(), lab)
    bundle, module = known.bundle, known.teacher
    if len(bundle.input_shape) != 3:
        raise DistilError(
            f"{bundle.name} gives inputs of shape {bundle.input_shape}; distil search takes images (channels, H, W)."
        )
    made = load_space(run.space, classes=len(bundle.classes), input_shape=bundle.input_shape)
    space = Guarded(made, run.limits, shape=bundle.input_shape)
    batch = one_batch(bundle, run.scoring.batch, run.seed)
    lab.progress.begin("scoring one candidate")
    scorer = Scorer(module, batch, run.scoring, task=bundle.task, taps=run.taps, device=device, seed=run.seed)
    first = others(space, seed=run.seed)["random"]
    scored(scorer, space, first)
    return Prepared(bundle, module, known, space, scorer, code_of(space.build(first)) + _source(made))


def run_search(run: SearchRun, lab: Lab, *, command: str) -> dict[str, Any]:
    """Search, distil what was found beside other nets of the space, and return the report."""
    made = prepared(run, lab)
    teacher = teaching(run, made, lab)
    history, seconds = searched(run, made, lab)
    winner = best(history, made.space)
    write_text(lab.out / "history.json", _listing(history, made.space))
    picks = {"winner": winner.genome, **others(made.space, winner=winner.genome, seed=run.seed)}
    seen: dict[str, Score] = {}

    def parts(genome: Any) -> Score:
        if str(genome) not in seen:
            seen[str(genome)] = scored(made.scorer, made.space, genome)
        return seen[str(genome)]

    table = candidates_table(history, made.space, parts, picks)
    shared: dict[str, Any] = {
        "title": f"{run.space} searched for a student of {run.teacher} on {made.bundle.name}",
        "command": command,
    }
    setting = _setting(run, made, winner, len(history), seconds)
    if teacher is None:
        metric = {"name": "score", "higher_is_better": True}
        report = build(
            **shared,
            metric=metric,
            seeds=[run.seed],
            arms=[],
            setting=setting,
            data=data_report(made.bundle),
            warnings=[BEWARE],
        )
        return report | {"tables": [table]}
    task = made.opened.task
    arms, notes = _arms(run, made, teacher, lab, picks, parts)
    report = compare(
        arms,
        run.seeds,
        lab,
        **shared,
        task=task,
        system="diswot",
        setting=setting,
        data=data_report(made.bundle),
        teacher=teacher_report(teacher, task, made.bundle),
        settings={key: value for key, value in asdict(run).items() if key != "seeds"},
        picks=dict(picks),
        code=made.code,
        data_fingerprint=made.bundle.fingerprint,
        teacher_fingerprint=teacher.fingerprint,
    )
    report["warnings"] += [*notes, BEWARE]
    return report | {"tables": [table]}


def teaching(run: SearchRun, made: Prepared, lab: Lab) -> Teacher | None:
    """Try the distillation on a median net, then score the teacher (and train it before, where that is wanted)."""
    if not run.distil:
        return None
    student = others(made.space, seed=run.seed)["median"]
    return tried(run.reading(), made.opened, lab, lambda: made.space.build(student))


def searched(run: SearchRun, made: Prepared, lab: Lab) -> tuple[list[Evaluation], float]:
    """Return the search's history and its seconds; it is kept while it grows, and a stopped one goes on."""
    inputs: dict[str, Any] = {
        "space": run.space,
        "limits": run.limits,
        "search": run.search,
        "scoring": run.scoring,
        "seed": run.seed,
        "taps": run.taps,
        "source": made.code,
        "teacher": made.module,
        "teacher_code": code_of(made.module),
        "data": made.bundle.fingerprint,
    }
    partial = lab.out / "stages" / f"searching-{lab.key('search', **inputs)}"

    def make() -> dict[str, Any]:
        kept: dict[str, Any] = load_tree(partial) if partial.is_dir() else {"history": [], "seconds": 0.0}
        if kept["history"]:
            lab.progress.say(f"going on after {len(kept['history'])} evaluations")
        lab.progress.begin(f"search: {run.space}", run.search.evaluations)
        began = saved = time.monotonic() - kept["seconds"]

        def record(history: list[Evaluation]) -> None:
            nonlocal saved
            lab.progress.step(len(history), run.search.evaluations)
            if time.monotonic() - saved > SAVE_EVERY:
                save_tree({"history": _rows(history), "seconds": time.monotonic() - began}, partial)
                saved = time.monotonic()

        history = search(
            made.space,
            lambda genome: scored(made.scorer, made.space, genome).total,
            run.search,
            seed=run.seed,
            history=[Evaluation(*row) for row in kept["history"]],
            record=record,
        )
        return {"history": _rows(history), "seconds": time.monotonic() - began}

    found = lab.stage("search", make, **inputs).value
    shutil.rmtree(partial, ignore_errors=True)
    return [Evaluation(*row) for row in found["history"]], found["seconds"]


def best(history: list[Evaluation], space: Guarded) -> Evaluation:
    """Return the winner; a search without a finite score is refused."""
    winner = max(history, key=lambda evaluation: evaluation.rank)
    if winner.score is None:
        raise DistilError(
            f"None of the {len(history)} candidates of {space.name} got a finite score; look at the data for NaN, or "
            "try init=kaiming."
        )
    return winner


def _listing(history: list[Evaluation], space: Guarded) -> str:
    rows = [asdict(each) | {"cost": space.cost(each.genome)} for each in history]
    return json.dumps(rows, indent=1) + "\n"


def _rows(history: list[Evaluation]) -> list[list[Any]]:
    return [[each.genome, each.score, each.parent] for each in history]


def _arms(
    run: SearchRun, made: Prepared, teacher: Teacher, lab: Lab, picks: Others, parts: Any
) -> tuple[dict[str, Arm], list[str]]:
    """Return the arms, a reference first, and what must be said of picks that coincide with the winner."""
    roles: dict[str, tuple[Role, str]] = {
        "median": ("reference", "the median net within the limits"),
        "random": ("rival", "a random net within the limits"),
        "largest": ("rival", "parameter count's pick, the largest net within the limits"),
        "winner": ("method", "the net that the score picked"),
    }
    notes, arms = [], {}
    for name, (role, phrase) in roles.items():
        if name != "winner" and picks[name] == picks["winner"]:
            notes.append(f"The score picked {picks[name]}, which is also {phrase}: the two cannot be compared.")
            continue
        arms[name] = _arm(run, made, teacher, lab, name, picks[name], role, phrase, parts)
    if not any(arm.role == "reference" for arm in arms.values()):
        first = next(iter(arms))
        arms[first] = _arm(run, made, teacher, lab, first, picks[first], "reference", roles[first][1], parts)
    return arms, notes


def _arm(
    run: SearchRun,
    made: Prepared,
    teacher: Teacher,
    lab: Lab,
    name: str,
    genome: Any,
    role: Role,
    phrase: str,
    parts: Any,
) -> Arm:
    def train(seed: int) -> Any:
        return distilled(
            lab,
            genome,
            made.space,
            teacher,
            made.bundle,
            run.training,
            run.method,
            seed=seed,
            scores={"score": parts(genome).total},
            checkpoints=f"{name}-seed{seed}",
            check_teacher=False,
            task=made.opened.task,
            about={"arm": name, "role": role},
            ship=lab.out / "students" / f"{name}-seed{seed}.safetensors",
            taps=run.taps,
        )

    label = {"winner": "Winner", "median": "Median net", "largest": "Largest net", "random": "Random net"}[name]
    return Arm(role, train, label=f"{label} {genome}", phrase=phrase, expression=run.method)


def _setting(run: SearchRun, made: Prepared, winner: Evaluation, evaluations: int, seconds: float) -> Mapping[str, str]:
    limits = [f"{n:,} {name}" for name, n in (("parameters", run.limits.parameters), ("FLOPs", run.limits.flops)) if n]
    s, t = run.scoring, run.training
    parts = [f"semantic ({s.semantic})"] * (s.semantic != "none") + ["relation"] * s.relation
    facts = {
        "Winner": f"{winner.genome}, score {winner.score:.6g}",
        "Data": f"{made.bundle.name}: {len(made.bundle.classes)} classes",
        "Teacher": f"{run.teacher}; for the score its weights are drawn anew"
        + (" (init=keep: they are not)" if s.init == "keep" else ""),
        "Space": f"{run.space}, at most {' and '.join(limits) or 'anything'}",
        "Search": f"{run.search.strategy}, {evaluations} evaluations, seed {run.seed}, {seconds:.0f} s",
        "Score": f"{f'−{s.proxy}' if s.proxy else ' + '.join(parts)}; {s.init} weights, mean of {s.repeats} draws, one "
        f"batch of {s.batch}",
    }
    if run.distil:
        facts["Budget"] = (
            f"{t.epochs} epochs of batches of {t.batch_size}, {t.optimizer}, learning rate {t.lr:g} ({t.schedule}), by "
            f"{run.method}, for every net"
        )
        facts["Choice"] = "the epoch is chosen on validation data and scored on test data"
    return facts


def _source(space: Any) -> str:
    """Hash the file that a space's class comes from, so that a changed space is searched anew."""
    try:
        file = inspect.getsourcefile(type(space)) or ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):
        return ""
