"""A recipe: a system's experiment as named arms, run from one command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from distil import catalog
from distil.data.bundle import Bundle
from distil.engine.processes import is_first
from distil.errors import DistilError
from distil.files import write_text
from distil.loops.compare import check_seeds, compare
from distil.loops.lab import Arm, Lab
from distil.loops.settings import from_yaml, override, to_yaml
from distil.loops.training import Teacher, Training, teacher_report
from distil.report import write
from distil.tasks import get_task

__all__ = ["Experiment", "Recipe", "data_report", "load_recipe", "prepare_setup", "run_recipe"]


@dataclass(frozen=True)
class Experiment:
    """What a recipe gives to be compared.

    Attributes:
        title: of the report.
        bundle: the data.
        arms: by name, the reference first.
        teacher: the one teacher of the arms, where there is one.
        setting: what a reader must know, label → text.
        tables: further tables of the report, each with ``title``, ``head``, ``rows`` and perhaps a ``note``.
        closing: makes tables from the finished report.
        judging: gives verdicts, and how their number was allowed for, in place of the report's own.
        apart: names of settings that no single arm depends on; the seeds never count.
        pictures: makes sheets of images from the finished report (see :mod:`distil.report.pictures`).
    """

    title: str
    bundle: Bundle
    arms: Mapping[str, Arm]
    teacher: Teacher | None
    setting: Mapping[str, str]
    tables: Sequence[Mapping[str, Any]] = ()
    closing: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None
    judging: Callable[[Mapping[str, Any]], tuple[list[dict[str, Any]], dict[str, Any]]] | None = None
    apart: tuple[str, ...] = ()
    pictures: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None


class Recipe(Protocol):
    """A system's ``recipe.py``: a frozen ``Setup`` with ``seeds``, and ``experiment(setup, lab)``."""

    Setup: Callable[[], Any]
    EVIDENCE: Iterable[Mapping[str, Any]]

    def experiment(self, setup: Any, lab: Lab) -> Experiment:
        """Make teacher and arms; arms run only when they are called."""


def load_recipe(slug: str) -> ModuleType:
    """Return the recipe of a system; one that is planned, or has none, is refused."""
    if slug.lower() in catalog.rivals():
        raise DistilError(
            f"'{slug}' is a standard method and has no experiment of its own; use it in one of yours: distil train … "
            f"--method {slug.lower()}."
        )
    card = catalog.card(slug)
    if not (card.folder / "recipe.py").is_file():
        ready = [s for s, c in catalog.systems().items() if (c.folder / "recipe.py").is_file()]
        raise DistilError(
            f"'{card.slug}' is planned and has no experiment to run in this version; these have: {', '.join(ready)}."
        )
    recipe = catalog.import_code(f"{card.package}.recipe", card.slug)
    for name in ("Setup", "experiment"):
        if not callable(getattr(recipe, name, None)):
            raise DistilError(f"{recipe.__name__} has no {name}; a recipe needs Setup and experiment(setup, lab).")
    return recipe


def prepare_setup(
    recipe: Any,
    *,
    config: str | Path | None = None,
    assignments: Iterable[str] = (),
    seeds: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
) -> Any:
    """Return the recipe's settings with a YAML file, then ``key=value`` assignments, laid over them.

    Args:
        recipe: a recipe's module.
        config: a YAML file.
        assignments: ``a.b=value`` texts; they win over the file.
        seeds: how many seeds; ``seed`` is the first of them. Without either the recipe's own stay.
        seed: the first seed.
        precision: of the students' training, in every arm.
    """
    setup = recipe.Setup()
    if config is not None:
        setup = from_yaml(setup, config)
    setup = override(setup, assignments)
    if seeds is not None or seed is not None:
        first, count = seed or 0, len(setup.seeds) if seeds is None else seeds
        setup = override(setup, [f"seeds={list(range(first, first + count))}"])
    if precision is not None:
        if not isinstance(getattr(setup, "training", None), Training):
            raise DistilError("--precision does not apply: this experiment trains no student by `training` settings.")
        setup = override(setup, [f"training.precision={precision}"])
    return setup


def run_recipe(
    recipe: Any, setup: Any, out: Path, lab: Lab, *, command: str, system: str | None = None, adjust: bool = False
) -> dict[str, Any]:
    """Run a recipe and write ``report.json``, ``report.html`` and ``settings.yaml`` into ``out``; returns it.

    ``adjust`` widens the intervals so that all verdicts hold together.
    """
    check_seeds(setup.seeds)
    if is_first():
        write_text(out / "settings.yaml", to_yaml(setup))
    made: Experiment = recipe.experiment(setup, lab)
    task = get_task(made.bundle.task)
    report = compare(
        made.arms,
        setup.seeds,
        lab,
        title=made.title,
        task=task,
        command=command,
        system=system,
        adjust=adjust,
        setting=made.setting,
        data=data_report(made.bundle),
        teacher=teacher_report(made.teacher, task, made.bundle) if made.teacher is not None else None,
        settings={k: v for k, v in asdict(setup).items() if k not in ("seeds", *made.apart)},
        data_fingerprint=made.bundle.fingerprint,
        teacher_fingerprint=made.teacher.fingerprint if made.teacher is not None else None,
    )
    if made.judging:
        report["verdicts"], report["adjustment"] = made.judging(report)
    tables = [*made.tables, *(made.closing(report) if made.closing else ())]
    if tables:
        report["tables"] = tables
    if made.pictures:
        report["pictures"] = list(made.pictures(report))
    if is_first():
        write(report, out)
    return report


def data_report(bundle: Bundle) -> dict[str, Any]:
    """Return what a report says of the data."""
    return {
        "name": bundle.name,
        "fingerprint": bundle.fingerprint,
        "train": _size(bundle.train),
        "val": _size(bundle.val),
        "test": _size(bundle.test),
        "classes": list(bundle.classes),
        "notes": list(bundle.notes),
    }


def _size(part: Any) -> int:
    """The number of samples, or of the nodes that count."""
    labels = getattr(part, "labels", None)
    return len(labels) if labels is not None else len(part)
