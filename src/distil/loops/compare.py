"""Arms side by side: equal budgets asserted, seeds paired, one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distil.engine.track import Tracking, Tracks
from distil.errors import DistilError
from distil.loops.lab import Arm, Lab, Outcome
from distil.report import document
from distil.tasks import Task

__all__ = ["check_seeds", "compare", "equal_budgets", "run_arms"]

COST_PARTS = ("validation_seconds", "diagnosis_seconds", "prepare_seconds")


def run_arms(arms: Mapping[str, Arm], seeds: Sequence[int], lab: Lab, **inputs: Any) -> dict[str, list[Outcome]]:
    """Run every arm for every seed, seed by seed, so that an early stop leaves whole rows; stored runs are reused.

    Args:
        inputs: what all arms depend on (settings, fingerprints); part of the key under which a run is stored.
    """
    if len(arms) > 1 and not any(arm.role == "reference" for arm in arms.values()):
        raise DistilError("A comparison needs a reference arm: the same budget without the method.")
    check_seeds(seeds)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in arms}
    for i, seed in enumerate(seeds):
        for name, arm in arms.items():
            lab.progress.begin(f"{arm.label or name} · seed {i + 1}/{len(seeds)}")
            outcomes[name].append(lab.run(name, arm, seed, **inputs))
    equal_budgets(arms, outcomes)
    return outcomes


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that no run can be paired by."""
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
        raise DistilError(f"seeds={list(seeds)}: give at least one, all different, from 0 to 2**63 - 1.")


def equal_budgets(arms: Mapping[str, Arm], outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """Refuse a comparison in which an arm that is no bound was allowed more than the reference.

    Updates, batch size, labels and tuning trials must be equal; a rival with fewer trials is refused as well.
    """
    reference = next((name for name, arm in arms.items() if arm.role == "reference"), next(iter(arms)))
    expected = outcomes[reference][0].budget
    for name, arm in arms.items():
        for outcome in outcomes[name] if arm.role != "bound" else ():
            for key, value in expected.items():
                if outcome.budget.get(key) != value:
                    raise DistilError(
                        f"The arms '{reference}' and '{name}' have unequal budgets: {key} {value:g} against "
                        f"{outcome.budget.get(key, 0):g}. "
                        "Give both the same, or mark the arm as a bound."
                    )


def compare(
    arms: Mapping[str, Arm],
    seeds: Sequence[int],
    lab: Lab,
    *,
    title: str,
    task: Task,
    command: str = "",
    system: str | None = None,
    setting: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    adjust: bool = False,
    **inputs: Any,
) -> dict[str, Any]:
    """Run the arms and return the report.

    Args:
        arms: by name; one has the role "reference", unless there is no other to compare with it.
        seeds: shared by all arms: same initial weights, same order of the data.
        lab: where runs are stored.
        title, command, system, setting, data, teacher: what the report says about the run.
        adjust: widen the intervals so that all verdicts of the report hold together.
        inputs: what all arms depend on; part of the key of stored runs.
    """
    outcomes = run_arms(arms, seeds, lab, **inputs)
    described = [_described(name, arm, outcomes[name]) for name, arm in arms.items()]
    report = document.build(
        title=title,
        metric={"name": task.metric, "higher_is_better": task.higher_is_better, "unit": task.unit, "score": "best"},
        seeds=list(seeds),
        arms=described,
        command=command,
        system=system,
        task=task.name,
        rivals=True,
        adjust=adjust,
        setting=dict(setting or {}),
        data=data,
        teacher=teacher,
        warnings=_notes(arms, outcomes),
    )
    _track_verdicts(report, lab)
    return report


def _track_verdicts(report: Mapping[str, Any], lab: Lab) -> None:
    """Log what the comparison came to as a run of its own beside those of the arms."""
    if not lab.trackers:
        return
    about = {"title": report["title"], "command": report["command"], "seeds": report["seeds"]}
    with Tracks(Tracking(lab.trackers, lab.out / "trackers", "verdict"), about) as tracks:
        for entry in report["verdicts"]:
            name = f"{entry['arm']} against {entry['against']}"
            bounds = {f"{name}/{key}": entry["difference"][key] for key in ("mean", "low", "high")}
            tracks.log({f"{name}/verdict": entry["text"]}, 0)
            tracks.log({key: value for key, value in bounds.items() if value is not None}, 0)


def _notes(arms: Mapping[str, Arm], outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """What the runs of each arm say of how models were read, each once."""
    said = {name: dict.fromkeys(note for one in outcomes[name] for note in one.notes) for name in arms}
    return [f"{arms[name].label or name}: {note}" for name, notes in said.items() for note in notes]


def _described(name: str, arm: Arm, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    first = outcomes[0]
    names = sorted({metric for o in outcomes for metric in o.metrics["last"]})
    seconds = [o.cost["seconds"] for o in outcomes]
    taught = [o.cost["teacher_seconds"] for o in outcomes]
    return {
        "name": name,
        "role": arm.role,
        "label": arm.label or name,
        "phrase": arm.phrase or arm.label or name,
        "expression": arm.expression,
        "metrics": {
            m: {score: [o.metrics[score].get(m) for o in outcomes] for score in ("last", "best")} for m in names
        },
        **first.model,
        "curves": [_curve(o.history) for o in outcomes],
        "terms": [_terms(o.history) for o in outcomes],
        "agreement": None if first.agreement is None else [o.agreement for o in outcomes],
        "reliability": first.reliability,
        "cost": {
            "seconds": seconds,
            "teacher_seconds": taught,
            "teacher_share": sum(taught) / sum(seconds) if sum(seconds) else 0.0,
            **{part: [o.cost[part] for o in outcomes] for part in COST_PARTS if all(part in o.cost for o in outcomes)},
        },
        "budget": first.budget,
        "diagnostics": {key: [o.diagnostics[key] for o in outcomes] for key in first.diagnostics},
        **({"teacher_forward": [o.teacher_forward for o in outcomes]} if first.teacher_forward else {}),
    }


def _curve(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The learning curve: whole epochs with a validation score, thinned to at most 100 points."""
    rows = [r for r in history if r["epoch"] > 0 and r.get("val")]
    rows = _thinned(rows)
    metrics = rows[0]["val"] if rows else {}
    return {
        "epoch": [r["epoch"] for r in rows],
        "update": [r["step"] for r in rows],
        "train_loss": [r["loss"] for r in rows],
        "val": {m: [r["val"].get(m) for r in rows] for m in metrics},
    }


def _terms(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = _thinned([r for r in history if r.get("shares")])
    names = sorted({name for r in rows for name in r["terms"]})
    pick = {"loss": "terms", "share": "shares", "cosine": "cosines"}
    return {"epoch": [r["epoch"] for r in rows]} | {
        shown: {n: [r[key].get(n) for r in rows] for n in names} for shown, key in pick.items()
    }


def _thinned(rows: Sequence[Mapping[str, Any]], most: int = 100) -> list[Mapping[str, Any]]:
    if len(rows) <= most:
        return list(rows)
    picks = sorted({round(i * (len(rows) - 1) / (most - 1)) for i in range(most)})
    return [rows[i] for i in picks]
