"""Random Teachers' controls, as tables: what the gain depends on, what the start is worth, and the plane around it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from distil.data.loading import as_batches
from distil.functional.divergence import kl
from distil.loops.lab import Lab
from distil.report.pieces import count_of
from distil.report.verdict import paired_interval
from distil.systems.random_teachers.bench import Bench, Taught
from distil.systems.random_teachers.tickets import Supervision, along_path, lottery_tickets, on_plane, supervise
from distil.tasks import get_task

__all__ = ["Controls", "control_tables"]

PROBED = 2000  # training images of the probes on the plane
DINO = (
    "random-teachers(student_temperature=0.1, teacher_temperature=0.04, centring=0.9, averaging=0.99, crops=(2, 0), "
    "views=opposite, freeze_last=1)"
)


def _supervision() -> Supervision:
    return Supervision(epochs=4, batch_size=32, lr=0.03, augment=False)


@dataclass(frozen=True)
class Controls:
    """Which controls are run; all off by default.

    Attributes:
        on: whether any is.
        updates: of every student of the first table.
        alphas: starts farther from the teacher.
        samples: numbers of images, and of noise samples, to teach from.
        outputs: widths m of the head.
        other: another data set to teach from, read in colour.
        supervision: training with labels between two prunings, and of the paths.
        labelled: how many images have labels there.
        rounds, share: of pruning.
        grid: places along each side of the plane.
    """

    on: bool = False
    updates: int = 400
    alphas: tuple[float, ...] = (0.3, 1.0)
    samples: tuple[int, ...] = (1000,)
    outputs: tuple[int, ...] = (16,)
    other: str = "fashion-mnist"
    supervision: Supervision = field(
        default_factory=lambda: Supervision(epochs=4, batch_size=32, lr=0.03, augment=False)
    )
    labelled: int = 2000
    rounds: int = 4
    share: float = 0.4
    grid: int = 7


def control_tables(bench: Bench, how: Controls, seeds: Sequence[int], alpha: float, lab: Lab) -> list[dict[str, Any]]:
    """Return the tables of the controls, each figure stored by what it was made from."""
    inputs: dict[str, Any] = {
        "images": bench.images, "encoder": bench.encoder, "head": bench.head, "training": bench.training,
        "controls": how, "alpha": alpha, "data": bench.bundle.fingerprint,
    }  # fmt: skip
    found: dict[int, dict[str, Any]] = {}
    for i, seed in enumerate(seeds):
        lab.progress.begin(f"controls · seed {i + 1}/{len(seeds)}")
        make = partial(_seed, bench, how, seed, alpha, i == 0)
        found[seed] = lab.stage(f"controls-{seed}", make, seed=seed, plane=i == 0, **inputs).value
    first = found[seeds[0]]
    return [
        _gains([found[seed]["gains"] for seed in seeds], how),
        _tickets([found[seed]["tickets"] for seed in seeds], how),
        _paths([found[seed]["paths"] for seed in seeds], how),
        *(_plane(name, values, first["at"]) for name, values in first["planes"].items()),
    ]


def _seed(bench: Bench, how: Controls, seed: int, alpha: float, plane: bool) -> dict[str, Any]:
    """Make every figure of one seed, as plain numbers."""
    gains, plain = _every_gain(bench, how, seed, alpha)
    nets: Mapping[str, Any] = {"the student": plain.student, "the teacher": plain.teacher}
    made: dict[str, Any] = {
        "gains": gains,
        "tickets": _pruned(bench, how, seed, nets),
        "paths": _between(bench, how, seed, nets),
    }
    if plane:
        made["at"] = [round(-0.5 + 2 * k / max(how.grid - 1, 1), 3) for k in range(how.grid)]
        made["planes"] = _around(bench, plain, made["at"])
    return made


def _every_gain(bench: Bench, how: Controls, seed: int, alpha: float) -> tuple[dict[str, list[float]], Taught]:
    """Return, by control, the k-NN accuracy of the teacher and of the student, and the plain student."""
    count = len(bench.bundle.train)
    usual: dict[str, Any] = {"alpha": alpha, "method": "random-teachers"}
    gains: dict[str, list[float]] = {}

    def run(name: str, where: Bench = bench, samples: int = count, **changed: Any) -> Taught:
        bench.lab.progress.begin(f"controls, seed {seed}: {name}")
        made = where.taught(seed, **(usual | {"training": bench.steps(samples, how.updates)} | changed))
        gains[name] = [where.probe(net, linear=False)["accuracy"] for net in (made.teacher, made.student)]
        return made

    plain = run(f"as it is, {count} images")
    for share in how.alphas:
        run(f"α = {share:g}", alpha=share)
    for n in how.samples:
        run(f"{n} images", samples=n, data=bench.fewer(n))
        run(f"{n} samples of noise", samples=n, data=bench.noise(n, seed))
    for m in how.outputs:
        run(f"m = {m} outputs", replace(bench, head=replace(bench.head, outputs=m)))
    plainer = replace(bench.head, bottleneck=0, normalise_features=False, normalise_weights=False)
    run("no bottleneck, no norms", replace(bench, head=plainer))
    other = Bench.of(replace(bench.images, data=how.other), bench.encoder, bench.head, bench.training, bench.lab)
    run(f"taught from {how.other}", data=other.bundle.train)
    run("second round", teacher=deepcopy(plain.student))
    run("DINO's options on", method=DINO)
    return gains, plain


def _labelled(bench: Bench, how: Controls) -> tuple[Any, Callable[[nn.Module], float]]:
    """Return labelled images to train on, and the test accuracy as a score."""
    task = get_task("classification")
    return bench.fewer(how.labelled), lambda net: task.evaluate(net, bench.bundle.test)["accuracy"]


def _classifier(bench: Bench, net: Any) -> nn.Module:
    """Put a linear layer that begins at 0 on a copy of an encoder."""
    encoder: Any = deepcopy(net.encoder)
    with torch.no_grad():
        width = encoder(torch.zeros(1, *bench.bundle.input_shape)).shape[1]
    layer = nn.Linear(width, len(bench.bundle.classes))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(encoder, layer).requires_grad_(True)


def _pruned(bench: Bench, how: Controls, seed: int, nets: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    data, score = _labelled(bench, how)
    found = {}
    for name, rewind in (("the student", 0), ("the teacher", 0), ("the teacher", 1)):
        bench.lab.progress.begin(f"controls, seed {seed}: tickets from {name}, rewound to epoch {rewind}")
        tickets = lottery_tickets(
            _classifier(bench, nets[name]), data, score, how.supervision, rounds=how.rounds, share=how.share,
            rewind=rewind, seed=seed,
        )  # fmt: skip
        found[f"{name}, epoch {rewind}"] = [[ticket.kept, ticket.score] for ticket in tickets]
    return found


def _between(bench: Bench, how: Controls, seed: int, nets: Mapping[str, Any]) -> dict[str, list[float]]:
    data, score = _labelled(bench, how)
    found = {}
    for name, net in nets.items():
        start = _classifier(bench, net)
        one, other = (supervise(deepcopy(start), data, how.supervision, seed=seed + 1000 * k).state for k in (1, 2))
        found[name] = along_path(start, one, other, score)
    return found


def _around(bench: Bench, made: Taught, at: Sequence[float]) -> dict[str, list[list[float]]]:
    """Return loss and probe on the plane through the teacher (0, 0), the student (1, 0) and a fresh start (0, 1)."""
    # A start near the teacher is the teacher but for rounding, so a far one takes its place.
    fresh, _ = bench.pair(0, alpha=1.0)
    few = replace(bench, bundle=replace(bench.bundle, train=bench.fewer(PROBED), test=bench.bundle.val))
    images = next(iter(as_batches(few.bundle.train, len(few.bundle.train)).iterate(0)))["inputs"]
    with torch.no_grad():
        theirs = made.teacher(images)

    def loss(net: nn.Module) -> float:
        with torch.no_grad():
            return 1000 * kl(net(images), theirs).item()

    scores = {"KL from the teacher × 1000": loss, "k-NN accuracy": lambda net: few.probe(net, linear=False)["accuracy"]}
    points = (made.teacher, made.student, fresh)
    return {name: on_plane(made.student, points, score, across=at, up=at) for name, score in scores.items()}


def _gains(seen: Sequence[Mapping[str, Sequence[float]]], how: Controls) -> dict[str, Any]:
    rows: list[list[Any]] = []
    for name in seen[0]:
        before, after = ([one[name][k] for one in seen] for k in (0, 1))
        gain = paired_interval([b - a for a, b in zip(before, after)])
        half = None if gain.high is None else gain.high - gain.mean
        rows.append([name, statistics.fmean(before), statistics.fmean(after), gain.mean, half])
    note = (
        f"k-NN accuracy in %, before and after about {how.updates} updates, over {count_of(len(seen), 'seed')}; the "
        "last column is half of the 95 % interval of the gain. Where heads differ, encoders begin equal; at α = 1 "
        "the student begins afresh. A second round has the first one's student as its teacher."
    )
    head = ["taught", "teacher", "student", "gain", "±"]
    return {"title": "What the gain depends on", "note": note, "head": head, "rows": rows}


def _tickets(seen: Sequence[Mapping[str, Any]], how: Controls) -> dict[str, Any]:
    kept = [f"{100 * share:.0f} %" for share, _ in next(iter(seen[0].values()))]
    rows = [[name, *(statistics.fmean(one[name][k][1] for one in seen) for k in range(len(kept)))] for name in seen[0]]
    note = (
        f"Test accuracy of a classifier trained {how.supervision.epochs} epochs on {how.labelled} labelled images, by "
        f"the weights kept: pruned by magnitude by {100 * how.share:.0f} % a round and rewound; means over "
        f"{count_of(len(seen), 'seed')}. The encoder begins as the student or as its teacher."
    )
    return {"title": "Lottery tickets", "note": note, "head": ["begins as, rewound to", *kept], "rows": rows}


def _paths(seen: Sequence[Mapping[str, Sequence[float]]], how: Controls) -> dict[str, Any]:
    rows = []
    for name in seen[0]:
        places = [statistics.fmean(values) for values in zip(*(one[name] for one in seen))]
        rows.append([name, *places, statistics.fmean((places[0], places[-1])) - min(places)])
    note = (
        "Test accuracy on the straight line between two trainings from one start that differ in the order of batches; "
        f"means over {count_of(len(seen), 'seed')}. The barrier is the mean of the ends minus the least on the line."
    )
    head = ["begins as", "one end", "1/4", "middle", "3/4", "other end", "barrier"]
    return {"title": "Paths between two trainings", "note": note, "head": head, "rows": rows}


def _plane(name: str, values: Sequence[Sequence[float]], at: Sequence[float]) -> dict[str, Any]:
    rows = [[f"{b:g}", *row] for b, row in zip(at, values)]
    note = (
        "Teacher at (0, 0), student at (1, 0), a fresh start at (0, 1); to the right towards the student, down towards "
        "the fresh start. One seed."
    )
    head = ["", *(f"{a:g}" for a in at)]
    return {"title": f"{name} on a plane of weights", "note": note, "head": head, "rows": rows, "drawing": "heat"}
