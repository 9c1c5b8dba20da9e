"""``distil unlearn``: a user's graph network, graph and requests; the model that forgot, its record and its audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from distil.errors import DistilError
from distil.loops.forgetting import audit, shadow_attack, silent
from distil.loops.lab import Lab, code_of
from distil.loops.links import LinkTask, link_bundle
from distil.loops.measure import size_in_bytes
from distil.loops.scene import Scene
from distil.loops.unlearning import Made, ascended, deleted, fresh, trained
from distil.models.deletion import under_operators, without_operators
from distil.systems.d2dgn.asked import Prepared, UnlearnRun, deletion_scene, prepared, scene_of
from distil.systems.d2dgn.files import left_of, record_of, write_model, write_step
from distil.systems.d2dgn.procedure import unlearn
from distil.systems.d2dgn.report import original_report, steps_report
from distil.tasks import NodeTask

__all__ = ["run_unlearn"]


def run_unlearn(run: UnlearnRun, lab: Lab, *, command: str, title: str) -> dict[str, Any]:
    """Meet the requests one after another, write each model with its record, and return the report."""
    made = prepared(run, lab)
    _no_later_steps(lab, len(made.removals))
    original: dict[str, Any] | None = None
    if run.train_original:
        made, original = _original(run, made, lab)
    if original is not None and not made.removals:
        return original_report(run, made, original, command=command, title=title)
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
        after = under_operators(made.loaded.make(), kept["state"])
        after.load_state_dict(kept["state"])
        sizes = {"before": model, "after": after, "retrained": without_operators(after)}
        held_out = 0 if made.links is None else removal.pairs.shape[1] - scene.gone.shape[1]
        steps.append(
            kept
            | {
                "removal": removal,
                "seen": len(scene.forget),
                "held out": held_out,
                "sizes": {who: size_in_bytes(each) for who, each in sizes.items()},
            }
        )
        data = {
            "name": made.bundle.name,
            "fingerprint": made.bundle.fingerprint,
            "left": left_of(made.standings[place + 1]),
        }
        method, scores = run.expression, kept["scores"]
        records.append(
            record_of(
                removal, before=model, after=after, data=data, method=method, seed=run.seed, scores=scores,
                held_out=held_out,
            )
        )  # fmt: skip
        path = write_step(
            lab.out / f"step-{place + 1}", after.eval(), made.loaded, scene.to("cpu"), made.bundle,
            scores=scores["after"], records=records, method=method, seed=run.seed, split_seed=made.split_seed,
        )  # fmt: skip
        lab.progress.say(f"request {place + 1} of {len(made.removals)} met: {path}")
        model = after
    return steps_report(run, made, steps, original, command=command, title=title)


def _no_later_steps(lab: Lab, requests: int) -> None:
    """Refuse to go on with a run that met more requests: its later models would pass for this run's."""
    steps = {int(number): path for path in lab.out.glob("step-*") if (number := path.name[5:]).isdecimal()}
    last = max(steps, default=0)
    if last > requests:
        raise DistilError(
            f"{lab.out} holds {steps[last].name}, and this run has {requests} request{'s' * (requests != 1)}, so that "
            "step would pass for its result; name all the requests again, or begin in another --out."
        )


def _original(run: UnlearnRun, made: Prepared, lab: Lab) -> tuple[Prepared, dict[str, Any]]:
    """Train the model that is to forget, on all but the held-out links, and write it with its sidecar."""
    loaded, links = made.loaded, made.links is not None
    task = LinkTask() if links else NodeTask()
    bundle = link_bundle(made.bundle, made.split_seed)[0] if links else made.bundle

    def train() -> dict[str, Any]:
        lab.progress.begin("the original")
        batch = {k: v.to(made.device) if isinstance(v, Tensor) else v for k, v in bundle.train.batch.items()}
        done = trained(fresh(loaded.make, seed=run.seed, device=made.device), task, batch, run.training, seed=run.seed)
        return {"state": {k: v.cpu() for k, v in done.module.state_dict().items()}, "seconds": done.seconds}

    kept = lab.stage(
        "original", train, data=bundle.fingerprint, net=loaded.net, kind=code_of(loaded.module), how=run.training,
        seed=run.seed, task=loaded.task, device=str(made.device),
    ).value  # fmt: skip
    module = loaded.make()
    module.load_state_dict(kept["state"])
    scores = task.evaluate(module.eval(), bundle.test)
    path = write_model(
        lab.out / "original", module, loaded, task, replace(bundle, fingerprint=made.bundle.fingerprint),
        scores=scores, method="supervised", seed=run.seed, split_seed=made.split_seed,
    )  # fmt: skip
    lab.progress.say(f"the original is trained: {path}")
    told = {
        "scores": scores,
        "seconds": kept["seconds"],
        "path": str(path),
        "size": size_in_bytes(module),
    }
    return replace(made, loaded=replace(loaded, module=module)), told | {"task": task}


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
        "gnndelete": lambda: deleted(
            without_operators(model),
            deletion_scene(made, place).to(made.device),
            run.gnndelete.descent(),
            alpha=run.gnndelete.alpha,
            seed=seed,
        ),
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
        "silent": [who for who, each in models.items() if silent(scene, each)],
        "seconds": {"after": forgot.seconds, **({"retrained": retrained.seconds} if retrained else {})},
    }
