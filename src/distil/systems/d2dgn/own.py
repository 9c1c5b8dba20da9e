"""``distil unlearn``: a user's graph network, graph and requests; the model that forgot, its record and its audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.data.deletions import Removal, Standing, node_numbers, read_requests
from distil.data.links import Links, split_links
from distil.engine.host import find_accelerator
from distil.errors import DistilError, nearest
from distil.loops.compare import check_seeds
from distil.loops.forgetting import METRICS, audit, in_words, shadow_attack
from distil.loops.lab import Lab, code_of
from distil.loops.measure import size_in_bytes
from distil.loops.recipe import data_report
from distil.loops.scene import Scene, link_scene, node_scene
from distil.loops.unlearning import Descent, Made, ascended, fresh, trained
from distil.report import build
from distil.systems.d2dgn.files import (
    Loaded,
    left_of,
    load_graph,
    load_trained,
    read_audit,
    record_of,
    replayed,
    write_step,
)
from distil.systems.d2dgn.procedure import D2DGN, unlearn

__all__ = ["METHODS", "Prepared", "UnlearnRun", "prepared", "run_unlearn"]

METHODS = ("d2dgn", "retrain", "gradient-ascent")


@dataclass(frozen=True)
class UnlearnRun:
    """The settings of ``distil unlearn``.

    Attributes:
        model: a safetensors file (or a state dict); a sidecar beside it says what it is.
        data: the graph it was trained on, deletions included.
        requests: files, taken one after another, each from the last model.
        method: "d2dgn", "retrain" or "gradient-ascent".
        net, task: the network (``distil:gcn(hidden=64)``, ``file.py:function``) and "nodes" or "links", where no
            sidecar says it.
        retrain: also train a new model on what is left, to compare with.
        attack: also train a shadow model and attack with it.
        d2dgn: how D2DGN forgets. ascent: steps and rate of gradient ascent.
        training: how the original was trained: by it retraining and the shadow model are.
        split_seed: decides which links are held out (and the masks of a graph that brings none).
        seed: of all other draws.
    """

    model: str = ""
    data: str = ""
    requests: tuple[str, ...] = ()
    method: str = "d2dgn"
    net: str | None = None
    task: str | None = None
    retrain: bool = False
    attack: bool = True
    d2dgn: D2DGN = field(default_factory=D2DGN)
    ascent: Descent = field(default_factory=lambda: Descent(steps=10, lr=0.001, weight_decay=0.0))
    training: Descent = field(default_factory=Descent)
    split_seed: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """A run that fits: the graph, the model, what was deleted before, and what each request takes away."""

    bundle: Bundle
    loaded: Loaded
    records: list[dict[str, Any]]
    standings: list[Standing]
    removals: list[Removal]
    links: Links | None
    split_seed: int
    device: torch.device


def prepared(run: UnlearnRun, lab: Lab) -> Prepared:
    """Load everything and check every request, so that whatever does not fit is found before anything is trained.

    Raises:
        DistilError: missing files, a model that does not fit the graph, requests that cannot be met.
    """
    for name, option in (("model", "--model"), ("data", "--data"), ("requests", "--request")):
        if not getattr(run, name):
            raise DistilError(f"{option} is missing; see `distil unlearn --help`.")
    if run.method not in METHODS:
        raise DistilError(f"--method '{run.method}' is unknown; {nearest(run.method, METHODS)}")
    check_seeds([run.seed])
    device = find_accelerator(precision="fp32", device=lab.device).device
    bundle = load_graph(run.data, seed=run.split_seed or 0)
    loaded = load_trained(Path(run.model), bundle, net=run.net, task=run.task)
    split_seed = loaded.split_seed if run.split_seed is None else run.split_seed
    links = None
    if loaded.task == "links":
        whole = bundle.train.batch
        links = split_links(whole["edge_index"], len(whole["inputs"]), split_seed or 0)
    records = read_audit(Path(run.model), loaded, bundle)
    numbers = node_numbers(run.data)
    standing = Standing.of(bundle, numbers=numbers, keeps_classes=loaded.task == "nodes")
    standings, removals = [replayed(standing, records)], []
    for request in [each for file in run.requests for each in read_requests(file, known=numbers)]:
        removals.append(standings[-1].removal(request))
        standings.append(standings[-1].after(removals[-1]))
    made = Prepared(bundle, loaded, records, standings, removals, links, split_seed or 0, device)
    for place in range(len(removals)):
        scene_of(made, place)
    return made


def scene_of(made: Prepared, place: int) -> Scene:
    """Return the scene of one request: the graph as earlier ones left it, and what this one takes away."""
    standing, removal = made.standings[place], made.removals[place]
    if made.links is None:
        earlier = torch.tensor(sorted(standing.gone_nodes), dtype=torch.long)
        return node_scene(made.bundle, standing.pairs, removal.pairs, removal.nodes, earlier=earlier)
    return link_scene(made.bundle, made.links, removal.pairs, left=standing.pairs)


def run_unlearn(run: UnlearnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Meet the requests one after another, write each model with its record, and return the report."""
    made = prepared(run, lab)
    model, records = made.loaded.module, list(made.records)
    steps: list[dict[str, Any]] = []
    for place, removal in enumerate(made.removals):
        scene = scene_of(made, place).to(made.device)
        kept = lab.stage(
            f"request-{place + 1}",
            partial(_met, run, made, scene, model.to(made.device), lab, place),
            model=model,
            request=removal.request.plain(),
            data=made.bundle.fingerprint,
            earlier=made.standings[place].pairs,
            settings=asdict(run) | {"requests": [], "split_seed": made.split_seed},
            net=code_of(model),
        ).value
        after = made.loaded.make()
        after.load_state_dict(kept["state"])
        steps.append(kept | {"removal": removal, "seen": len(scene.forget)})
        data = {
            "name": made.bundle.name,
            "fingerprint": made.bundle.fingerprint,
            "left": left_of(made.standings[place + 1]),
        }
        method = run.d2dgn.expression if run.method == "d2dgn" else run.method
        records.append(
            record_of(
                removal, before=model, after=after, data=data, method=method, seed=run.seed, scores=kept["scores"]
            )
        )
        path = write_step(
            lab.out / f"step-{place + 1}",
            after.eval(),
            made.loaded,
            scene.to("cpu"),
            made.bundle,
            scores=kept["scores"]["after"],
            records=records,
            method=method,
            seed=run.seed,
            split_seed=made.split_seed,
        )
        lab.progress.say(f"request {place + 1} of {len(made.removals)} met: {path}")
        model = after
    return _report(run, made, steps, model, command=command, title=title)


def _met(run: UnlearnRun, made: Prepared, scene: Scene, model: nn.Module, lab: Lab, place: int) -> dict[str, Any]:
    """Meet one request: the new state, and what an audit finds before, after and, where it was asked for, retrained."""
    make, seed, name = made.loaded.make, run.seed, f"request {place + 1}"
    lab.progress.begin(f"{name}: {run.method}")
    retrained: Made | None = None
    if run.retrain or run.method == "retrain":
        start = fresh(make, seed=seed, device=made.device)
        retrained = trained(start, scene.task, scene.training(), run.training, seed=seed)
    ways: dict[str, Callable[[], Made]] = {
        "d2dgn": lambda: unlearn(model, scene, run.d2dgn, make=make, seed=seed),
        "gradient-ascent": lambda: ascended(model, scene, run.ascent, seed=seed),
    }
    forgot = retrained if run.method == "retrain" and retrained else ways[run.method]()
    attack = None
    if run.attack:
        lab.progress.begin(f"{name}: the attacker")
        attack = shadow_attack(scene, make, run.training, seed=seed)
    other = retrained.module if retrained else None
    lab.progress.begin(f"{name}: the audit")
    models = {"before": model, "after": forgot.module, **({"retrained": other} if other else {})}
    scores = {
        who: audit(scene, each, original=model, attack=attack, retrained=other, seed=seed)
        for who, each in models.items()
    }
    return {
        "state": {key: value.cpu() for key, value in forgot.module.state_dict().items()},
        "scores": scores,
        "seconds": {"after": forgot.seconds, **({"retrained": retrained.seconds} if retrained else {})},
    }


def _report(
    run: UnlearnRun, made: Prepared, steps: list[dict[str, Any]], model: nn.Module, *, command: str, title: str
) -> dict[str, Any]:
    task = scene_of(made, len(steps) - 1).task
    last = steps[-1]
    parameters, size = size_in_bytes(model)
    roles = {
        "before": ("reference", "The model before", "the model before the last request"),
        "after": ("method", f"After {run.method}", "the model that forgot"),
        "retrained": ("bound", "Retrained", "a model trained on the rest"),
    }
    arms = []
    for who, scores in last["scores"].items():
        role, label, phrase = roles[who]
        seconds = last["seconds"].get(who, 0.0)
        arms.append(
            {
                "name": who,
                "role": role,
                "label": label,
                "phrase": phrase,
                "metrics": {name: {"last": [value], "best": [value]} for name, value in scores.items()},
                "parameters": parameters,
                "bytes": size,
                "cost": {"seconds": [seconds], "teacher_seconds": [0.0], "teacher_share": 0.0},
            }
        )
    report = build(
        title=title,
        metric={"name": task.metric, "higher_is_better": True, "unit": task.unit, "score": "last"},
        seeds=[run.seed],
        arms=arms,
        command=command,
        system="d2dgn",
        task=task.name,
        setting=_setting(run, made),
        data=data_report(made.bundle),
        warnings=_warnings(steps, task.metric),
    )
    return report | {"tables": [_table(steps, task.metric), _meanings()]}


def _setting(run: UnlearnRun, made: Prepared) -> Mapping[str, str]:
    how = run.d2dgn.expression if run.method == "d2dgn" else run.method
    facts = {
        "Model": f"{run.model}, {made.loaded.net}, for {made.loaded.task}",
        "Data": f"{made.bundle.name}: {made.standings[0].count} nodes, {made.standings[0].pairs.shape[1]} edges before",
        "Requests": f"{len(made.removals)}, after {len(made.records)} recorded ones",
        "Method": how,
        "Records": "step-N/audit.json beside each model",
    }
    if made.links is not None:
        facts["Held-out links"] = (
            f"5 % for validation and 5 % for test, by seed {made.split_seed}; a model trained on another split has "
            "seen them"
        )
    return facts


def _warnings(steps: list[dict[str, Any]], metric: str) -> list[str]:
    said = []
    for place, step in enumerate(steps, 1):
        after, retrained = step["scores"]["after"], step["scores"].get("retrained")
        words = in_words(after["forget AUC"], retrained and retrained["forget AUC"])
        said.append(f"Request {place}: {words}")
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
        "rows": [list(row) for row in METRICS.items()],
    }
