"""The report as data: built from arms, checked, written so that a crash cannot halve it, and read back with care.

The file is strict JSON (a value that is not finite is ``null``) with a ``kind`` and a ``version``; whatever is not
named as required in `validate` may be missing or null, and every reader of the file must live with that.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from distil.errors import DistilError, nearest
from distil.files import write_text
from distil.report.check import KIND, VERSION, clean, validate
from distil.report.verdict import Verdict, bonferroni, sentence, verdict

__all__ = ["build", "clean", "entry_of", "environment", "judge", "load", "rejudge", "save", "validate"]


def environment() -> tuple[dict[str, str], dict[str, Any]]:
    """Return the versions and the machine that a report states, without importing any of the packages.

    >>> versions, machine = environment()
    >>> "python" in versions and machine["cores"] >= 1
    True
    """
    versions = {"python": platform.python_version()}
    for name in ("distil", "torch", "numpy", "scipy", "accelerate", "timm", "torchvision", "torch-geometric"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions, {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def build(
    *,
    title: str,
    metric: Mapping[str, Any],
    seeds: Sequence[int],
    arms: Sequence[Mapping[str, Any]],
    command: str = "",
    system: str | None = None,
    task: str = "classification",
    against: str | None = None,
    rivals: bool = False,
    adjust: bool = False,
    level: float = 0.95,
    setting: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    verdicts: Sequence[Mapping[str, Any]] | None = None,
    versions: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    created: str | None = None,
) -> dict[str, Any]:
    """Make a report from arms: fill in what is the same for every run, and the verdicts.

    Args:
        title: what was compared.
        metric: ``name``, ``higher_is_better``, optionally ``unit`` and ``score`` ("last", the default, or "best": which
            of an arm's two values is judged).
        seeds: the seeds, in the order of every per-seed list.
        arms: one mapping per arm; ``phrase`` says how its name reads inside a sentence (default: its label).
        command: the command that repeats the run.
        against: the arm the others are compared with; default: the first of role ``reference``.
        rivals: judge each arm of role ``method`` against each of role ``rival`` as well.
        adjust: widen the intervals so that all verdicts hold together (Bonferroni); the report says which.
        verdicts: ready ones instead of those made here.
        versions: default with `machine`: `environment`.
        created: ISO 8601; default now, in UTC.

    Returns:
        A report that `validate` accepts. An arm with a missing value gets a warning instead of a verdict.

    >>> arms = [{"name": n, "role": r, "metrics": {"accuracy": {"last": v}}} for n, r, v in
    ...     [("alone", "reference", [70.0, 71.0, 70.5]), ("kd", "rival", [74.0, 75.1, 74.6])]]
    >>> report = build(title="KD", metric={"name": "accuracy", "higher_is_better": True}, seeds=[0, 1, 2], arms=arms)
    >>> report["verdicts"][0]["outcome"]
    'helped'
    """
    found = environment()
    report = clean(
        {
            "kind": KIND,
            "version": VERSION,
            "title": title,
            "system": system,
            "created": created or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "task": task,
            "metric": metric,
            "setting": setting or {},
            "seeds": seeds,
            "data": data,
            "teacher": teacher,
            "arms": arms,
            "verdicts": verdicts or [],
            "versions": found[0] if versions is None else versions,
            "machine": found[1] if machine is None else machine,
            "warnings": list(warnings),
        }
    )
    validate(report)
    if verdicts is None:
        _judge(report, against, level, rivals, adjust)
    return report


def _judge(report: dict[str, Any], against: str | None, level: float, rivals: bool, adjust: bool) -> None:
    """Add one verdict per arm that is not the one compared with, then the methods' against rivals; no bounds."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    if against is None:
        against = next((name for name, arm in arms.items() if arm.get("role") == "reference"), None)
    elif against not in arms:
        raise DistilError(f"against={against!r} is not an arm; {nearest(against, arms)}")
    judged = [name for name, arm in arms.items() if name != against and arm.get("role") != "bound"]
    if against is None or not judged:
        return
    judged.sort(key=lambda name: arms[name].get("role") != "method")  # what the comparison is about comes first
    methods, others = ([n for n, arm in arms.items() if arm.get("role") == role] for role in ("method", "rival"))
    pairs = [(method, rival) for method in methods for rival in others if rivals and against not in (method, rival)]
    family = len(judged) + len(pairs)
    each = bonferroni(level, family) if adjust else level
    report["adjustment"] = {"kind": "bonferroni" if adjust else "none", "comparisons": family, "level": level}
    judge(report, judged, against=against, level=each)
    for method, rival in pairs:
        judge(report, [method], against=rival, level=each)
    if adjust:  # intervals that hold together allow for picking the best after the fact
        _best_first(report, against)


def _best_first(report: dict[str, Any], against: str) -> None:
    roles = {arm["name"]: arm.get("role") for arm in report["arms"]}
    sign = -1 if report["metric"]["higher_is_better"] else 1
    report["verdicts"].sort(
        key=lambda v: (v["against"] != against, roles[v["arm"]] != "method", sign * v["difference"]["mean"])
    )


def judge(report: dict[str, Any], names: Sequence[str], *, against: str, level: float = 0.95) -> None:
    """Add to ``report`` the verdict of each arm in ``names`` against the arm ``against``.

    An arm with a missing value gets a warning instead.

    Args:
        report: as `build` made it; changed in place.
        names: arms to judge.
        against: the arm they are compared with.
        level: of the intervals.

    Raises:
        DistilError: if an arm does not exist.
    """
    arms = {arm["name"]: arm for arm in report["arms"]}
    for name in (against, *names):
        if name not in arms:
            what = f"against={against!r}" if name == against else repr(name)
            raise DistilError(f"{what} is not an arm; {nearest(name, arms)}")
    metric = report["metric"]
    score = metric.get("score") or "last"
    other = _values(arms[against], metric["name"], score)
    for name in names:
        ours = _values(arms[name], metric["name"], score)
        try:
            result = verdict(
                ours, other, higher_is_better=metric["higher_is_better"], level=level, seeds=report["seeds"]
            )
        except DistilError as error:
            report["warnings"].append(f"No verdict for {name} against {against}: {error}")
            continue
        report["verdicts"].append(entry_of(report, name, against, result))


def entry_of(report: Mapping[str, Any], name: str, against: str, result: Verdict) -> dict[str, Any]:
    """Return a verdict as a report holds it: the difference, its outcome and the sentence that says so."""
    arms, metric, gap = {arm["name"]: arm for arm in report["arms"]}, report["metric"], result.difference
    text = sentence(
        result,
        metric=metric["name"],
        unit=metric.get("unit") or "",
        subject=_phrase(arms[name]),
        against=_phrase(arms[against]),
    )
    difference = {"mean": gap.mean, "low": gap.low, "high": gap.high, "level": gap.level, "per_seed": result.per_seed}
    made = {"arm": name, "against": against, "metric": metric["name"], "difference": clean(difference)}
    return made | {"outcome": result.outcome, "text": text}


def rejudge(report: Mapping[str, Any], *, adjust: bool, level: float = 0.95) -> dict[str, Any]:
    """Return a report with the verdicts it has made anew, their intervals widened for their number or not.

    Args:
        report: as `build` made it or `load` read it; it is left as it is.
        adjust: whether all verdicts are to hold together (Bonferroni).
        level: of all of them together, or of each.

    >>> arms = [{"name": n, "role": r, "metrics": {"accuracy": {"last": v}}} for n, r, v in
    ...     [("alone", "reference", [70.0, 71.0, 70.5]), ("kd", "rival", [74.0, 75.1, 74.6])]]
    >>> report = build(title="KD", metric={"name": "accuracy", "higher_is_better": True}, seeds=[0, 1, 2], arms=arms)
    >>> rejudge(report, adjust=True)["adjustment"]["kind"]
    'bonferroni'
    """
    made = clean(report)
    validate(made)
    pairs = [(entry["arm"], entry["against"]) for entry in made.get("verdicts") or []]
    made["verdicts"], made["warnings"] = [], list(made.get("warnings") or [])
    if pairs:
        made["adjustment"] = {"kind": "bonferroni" if adjust else "none", "comparisons": len(pairs), "level": level}
    for arm, against in pairs:
        judge(made, [arm], against=against, level=bonferroni(level, len(pairs)) if adjust else level)
    if adjust and pairs:
        _best_first(made, pairs[0][1])
    return dict(made)


def _values(arm: Mapping[str, Any], metric: str, score: str) -> list[float | None]:
    return list(((arm.get("metrics") or {}).get(metric) or {}).get(score) or [])


def _phrase(arm: Mapping[str, Any]) -> str:
    return str(arm.get("phrase") or arm.get("label") or arm["name"])


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a report that `save` wrote.

    Raises:
        DistilError: no such file, not strict JSON (cut off, say), another kind of file, or a newer version.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
        report = json.loads(text, parse_constant=_refuse)
    except OSError as error:
        raise DistilError(f"{path} cannot be read ({error.strerror}); give the path of a report.json.") from error
    except (ValueError, RecursionError) as error:
        raise DistilError(
            f"{path} is not whole JSON ({error}); it was cut off or changed, so run the command again."
        ) from error
    try:
        validate(report)
    except DistilError as error:
        raise DistilError(f"{path}: {error}") from error
    return dict(report)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def save(report: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a report as strict JSON, whole or not at all; return its path."""
    report = clean(report)
    validate(report)
    return write_text(Path(path), json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
