"""Random Teachers' experiment: what an encoder learns from a network that knows nothing, and what makes it so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from distil.data.loading import as_batches
from distil.functional.views import entropy
from distil.loops.lab import Arm, Lab, Outcome
from distil.loops.measure import latency, size_in_bytes
from distil.loops.recipe import Experiment
from distil.loops.training import Training
from distil.models import Headed
from distil.systems.random_teachers.bench import Bench, Head, Images, Taught
from distil.systems.random_teachers.controls import Controls, control_tables
from distil.tasks import get_task

__all__ = ["EVIDENCE", "Setup", "experiment"]

EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {},
    {
        "images": {"train": 5000, "test": 2000},
        "training": {"epochs": 5, "batch_size": 32},
        "controls": {"on": True},
        "seeds": [0, 1, 2],
    },
)
"""The settings under which the evidence is made: five seeds of the arms, then three of the controls, on less."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; a seed draws the teacher, the fresh start and the order of the images."""

    images: Images = field(default_factory=Images)
    encoder: str = "distil:vgg(widths=((16,), (32,), (64, 64, 64, 64, 64)))"
    head: Head = field(default_factory=Head)
    alpha: float = 1e-10
    method: str = "random-teachers"
    training: Training = field(default_factory=lambda: Training(epochs=12, batch_size=64, lr=1e-3, eval_every=4))
    controls: Controls = field(default_factory=Controls)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: the teacher itself, raw inputs, the student, and one that is taught from noise."""
    bench = Bench.of(setup.images, setup.encoder, setup.head, setup.training, lab)
    noise = setup.method[:-1] + ", inputs=noise)" if "(" in setup.method else f"{setup.method}(inputs=noise)"
    arms = {
        "teacher": Arm(
            "reference", lambda seed: _untaught(bench, bench.pair(seed, alpha=0.0)[1]),
            label="Random teacher", phrase="the untrained teacher",
        ),
        "raw": Arm("rival", lambda seed: _untaught(bench, nn.Flatten()), label="Raw input", phrase="the raw input"),
        "student": Arm(
            "method", partial(_student, bench, setup, setup.method), label="Student", phrase="the student",
            expression=setup.method,
        ),
        "noise": Arm(
            "ablation", partial(_student, bench, setup, noise), label="Student taught from noise",
            phrase="the student taught from noise", expression=noise,
        ),
    }  # fmt: skip
    tables = control_tables(bench, setup.controls, setup.seeds, setup.alpha, lab) if setup.controls.on else ()
    return Experiment("Random teachers: what is learnt from a network that knows nothing", bench.bundle, arms, None,
                      _setting(setup, bench), tables)  # fmt: skip


def _student(bench: Bench, setup: Setup, method: str, seed: int) -> Outcome:
    made = bench.taught(seed, alpha=setup.alpha, method=method, curve=True)
    metrics = bench.probe(made.student)
    return Outcome(
        metrics={"last": metrics, "best": dict(metrics)},
        history=made.result.history,
        cost=made.result.cost,
        budget=_budget(bench),
        model=_size(bench, made.result.model),
        diagnostics={} if "noise" in method else _divergence(bench, made),
    )


def _untaught(bench: Bench, net: nn.Module) -> Outcome:
    """What is there without any training: it takes none of the updates that the others are allowed."""
    metrics = bench.probe(net)
    shipped: nn.Module = net.encoder if isinstance(net, Headed) else net
    return Outcome(
        metrics={"last": metrics, "best": dict(metrics)},
        history=[],
        cost={"seconds": 0.0, "teacher_seconds": 0.0},
        budget=_budget(bench),
        model=_size(bench, shipped),
    )


def _budget(bench: Bench) -> dict[str, float]:
    updates = bench.training.epochs * len(as_batches(bench.bundle.train, bench.training.batch_size))
    return {
        "updates": updates,
        "batch_size": bench.training.batch_size,
        "labels": len(bench.bundle.train),  # of the probes; the students' training reads none
        "trials": 1,
    }


def _size(bench: Bench, module: nn.Module) -> dict[str, Any]:
    parameters, size = size_in_bytes(module)
    one = next(iter(as_batches(bench.bundle.test, 1).iterate(0)))
    return {"parameters": parameters, "bytes": size, "latency": latency(get_task("classification"), module, one)}


def _divergence(bench: Bench, made: Taught) -> dict[str, float]:
    """Return the mean KL of the first and the last epoch: the loss less the entropy of the teacher's outputs."""
    least = _over(bench, lambda inputs: entropy(made.teacher(inputs)).mean().item() * len(inputs))
    losses = [record["loss"] for record in made.result.history if record["epoch"] > 0]
    return {"KL × 1e6, first epoch": 1e6 * (losses[0] - least), "KL × 1e6, last epoch": 1e6 * (losses[-1] - least)}


def _over(bench: Bench, read: Callable[[torch.Tensor], float]) -> float:
    data = bench.bundle.train
    with torch.no_grad():
        return sum(read(batch["inputs"]) for batch in as_batches(data, min(500, len(data)))) / len(data)


def _setting(setup: Setup, bench: Bench) -> dict[str, str]:
    images, training, bundle = setup.images, setup.training, bench.bundle
    return {
        "Data": f"{images.data} at {bundle.input_shape[-1]} px, standardised by channel: {len(bundle.train)} images to "
        f"teach from without labels, {len(bundle.test)} test images; {len(bundle.val)} draw curves and choose nothing",
        "Networks": f"{setup.encoder}, without batch norm; head {'-'.join(map(str, setup.head.hidden))}, L2 bottleneck "
        f"{setup.head.bottleneck}, {setup.head.outputs} outputs; teacher drawn anew for every seed, eval mode",
        "Start": f"α = {setup.alpha:g}; at 0 the student is its teacher, at 1 a fresh start",
        "Budget": f"{training.epochs} epochs of batches of {training.batch_size}, {training.optimizer}, learning rate "
        f"{training.lr:g} ({training.schedule}), no weight decay, no augmentation; the last epoch counts. Teacher and "
        "raw input take no updates",
        "Accuracy": "k-NN on the features (k = 20, L2) with the training images' labels; `linear` is a linear layer on "
        "standardised features, 10 epochs of AdamW 1e-3. Only the probes read labels",
        "Chosen": "networks, epochs and batches by what two cores can do, after runs with seeds 1000 and 1001 on "
        "validation images; learning rate and start are the paper's. Nothing was tuned for an arm",
    }
