"""The report of ``distil unlearn``: the models before and after, every request, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distil.loops.forgetting import METRICS, in_words
from distil.loops.links import LinkTask
from distil.loops.recipe import data_report
from distil.report import build
from distil.systems.d2dgn.asked import Prepared, UnlearnRun
from distil.tasks import NodeTask, Task

__all__ = ["original_report", "steps_report"]

SAME = "gives the same answer whatever it is asked, so its figures say nothing of forgetting"
SILENT = {
    "before": f"the model before {SAME}; train it first, or with a lower rate.",
    "after": f"the model that forgot {SAME}: its hidden units died in training. Lower the method's rate (--set "
    "d2dgn.lr=0.003), or try another --seed.",
    "retrained": f"the retrained model {SAME}; lower training.lr, or try another --seed.",
}
"""What is said of a model that answers one thing."""
CHANGE = (
    "deleted against unseen elements by how far their posterior moved from the model's before that request, %; from "
    "the second request on that is the model that the one before left, not the first original"
)
"""Requests of the verb come one after another, those of the recipe never: there the model before is the original."""


def steps_report(
    run: UnlearnRun,
    made: Prepared,
    steps: list[dict[str, Any]],
    original: Mapping[str, Any] | None,
    *,
    command: str,
    title: str,
) -> dict[str, Any]:
    """Return the report of a run: the last request as arms, every request in a table, and what they mean."""
    task = NodeTask() if made.links is None else LinkTask()
    last = steps[-1]
    roles = {
        "before": ("reference", "The model before", "the model before the last request"),
        "after": ("method", f"After {run.method}", "the model that forgot"),
        "retrained": ("bound", "Retrained", "a model trained on the rest"),
    }
    arms = []
    for who, scores in last["scores"].items():
        role, label, phrase = roles[who]
        arms.append(_arm(who, role, label, phrase, scores, last["seconds"].get(who, 0.0), last["sizes"][who]))
    warnings = [*_warnings(steps), *(_operators(steps) if run.method == "gnndelete" else ())]
    report = _built(run, made, task, arms, original, warnings, command=command, title=title)
    return report | {"tables": [_table(steps, task.metric), _meanings()]}


def original_report(
    run: UnlearnRun, made: Prepared, original: Mapping[str, Any], *, command: str, title: str
) -> dict[str, Any]:
    """Return the report of a run that trained an original and was asked to delete nothing."""
    facts = (original["scores"], original["seconds"], original["size"])
    arm = _arm("original", "reference", "The original", "the original", *facts)
    return _built(run, made, original["task"], [arm], original, [], command=command, title=title)


def _arm(
    name: str, role: str, label: str, phrase: str, scores: Mapping[str, float], seconds: float, sizes: tuple[int, int]
) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "label": label,
        "phrase": phrase,
        "metrics": {key: {"last": [value], "best": [value]} for key, value in scores.items()},
        "parameters": sizes[0],
        "bytes": sizes[1],
        "cost": {"seconds": [seconds], "teacher_seconds": [0.0], "teacher_share": 0.0},
    }


def _built(
    run: UnlearnRun, made: Prepared, task: Task, arms: list[dict[str, Any]], original: Mapping[str, Any] | None,
    warnings: list[str], *, command: str, title: str,
) -> dict[str, Any]:  # fmt: skip
    return build(
        title=title,
        metric={"name": task.metric, "higher_is_better": True, "unit": task.unit, "score": "last"},
        seeds=[run.seed],
        arms=arms,
        command=command,
        system="d2dgn",
        task=task.name,
        setting=_setting(run, made, original),
        data=data_report(made.bundle),
        warnings=warnings,
    )


def _setting(run: UnlearnRun, made: Prepared, original: Mapping[str, Any] | None) -> Mapping[str, str]:
    named = run.model if original is None else original["path"]
    facts = {
        "Model": f"{named}, {made.loaded.net}, for {made.loaded.task}",
        "Data": f"{made.bundle.name}: {made.standings[0].count} nodes, {made.standings[0].pairs.shape[1]} edges before",
        "Requests": f"{len(made.removals)}, after {len(made.records)} recorded ones",
        "Method": run.expression,
        "Records": "step-N/audit.json beside each model",
    }
    if not made.removals:
        facts = {name: facts[name] for name in ("Model", "Data")}
    if original is not None:
        t, metric = run.training, original["task"].metric
        facts["Original"] = (
            f"trained here: {t.steps} full-batch steps of Adam, learning rate {t.lr:g}, weight decay "
            f"{t.weight_decay:g}; {metric} {original['scores'][metric]:.1f} on the test part before any deletion"
        )
    if made.links is not None:
        known = "as the model was trained" if made.split else "a model trained on another split has seen them"
        facts["Held-out links"] = f"5 % for validation and 5 % for test, by seed {made.split_seed}; {known}"
    return facts


def _operators(steps: list[dict[str, Any]]) -> list[str]:
    later = "Each request's operators are trained anew for all that went since; " if len(steps) > 1 else ""
    return [
        f"{later}GNNDelete leaves the network's weights as they are and adds a matrix and a mask of nodes for each "
        "layer. Its parameters are called model.…, operators.K and maskK, so the network's own code cannot load them: "
        "`distil unlearn` can, and distil.models.deletion.under_operators. Whoever has the file has the model before, "
        "and the masks show which nodes lie near what was deleted."
    ]


def _warnings(steps: list[dict[str, Any]]) -> list[str]:
    said = []
    for place, step in enumerate(steps, 1):
        after, retrained = step["scores"]["after"], step["scores"].get("retrained")
        words = in_words(after["forget AUC"], retrained and retrained["forget AUC"])
        said.append(f"Request {place}: {words}")
        said += [f"Request {place}: {SILENT[who]}" for who in step["silent"]]
        if step["held out"]:
            said.append(
                f"Request {place}: {step['held out']} of its edges were held out: the model never learned them; they "
                "are removed from the graph and from the held-out links."
            )
    if "retrained" not in steps[-1]["scores"]:
        said.append(
            "No model was retrained: its columns are left open, among them the distance to it and its seconds; "
            "--retrain fills them."
        )
    if steps[-1]["seen"] < 10:
        said.append(f"The last request deletes {steps[-1]['seen']} elements; its AUCs and attacks rest on so few.")
    return said


def _table(steps: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    head = ["request", "deletes", "model", metric, *METRICS, "seconds"]
    rows: list[list[Any]] = []
    for place, step in enumerate(steps, 1):
        removal = step["removal"]
        what = f"{len(removal.nodes)} nodes, " * bool(len(removal.nodes)) + f"{removal.pairs.shape[1]} edges"
        what += f" ({step['held out']} held out)" * bool(step["held out"])
        for who in ("before", "after", "retrained"):
            scores = step["scores"].get(who, {})
            values = [scores.get(name) for name in (metric, *METRICS)]
            rows.append([str(place), what, who, *values, step["seconds"].get(who)])
    note = "Each request starts from the model that the one before left. An open cell was not measured."
    return {"title": "Requests, one after another", "note": note, "head": head, "rows": rows}


def _meanings() -> dict[str, Any]:
    return {
        "title": "What the columns mean",
        "head": ["column", "meaning"],
        "rows": [list(row) for row in (METRICS | {"change AUC": CHANGE}).items()],
    }
