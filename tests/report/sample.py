"""A made-up comparison with every optional part, for the tests of the report; no figure in it was measured."""

from __future__ import annotations

import math
import random
from typing import Any

from distil.report.document import build

ARMS: list[dict[str, Any]] = [
    {
        "name": "alone",
        "label": "Student alone",
        "phrase": "the student alone",
        "role": "reference",
        "expression": "supervised",
        "level": 78.2,
        "terms": ("supervised",),
    },
    {
        "name": "kd",
        "label": "KD",
        "role": "rival",
        "expression": "0.1*supervised + 0.9*kd(temperature=4)",
        "level": 81.0,
        "terms": ("supervised", "kd"),
    },
    {
        "name": "pld",
        "label": "PLD",
        "phrase": "distillation with PLD",
        "role": "method",
        "expression": "pld",
        "level": 83.1,
        "terms": ("pld", "ranking", "features"),
    },
    {
        "name": "pld-shuffled",
        "label": "PLD, teacher's order shuffled",
        "role": "ablation",
        "expression": "pld(order=shuffled)",
        "level": 77.9,
        "terms": ("pld", "ranking"),
    },
]


def _curve(rng: random.Random, level: float, epochs: int) -> dict[str, Any]:
    steps = list(range(1, epochs + 1))
    rise = [level - (level - 42) * math.exp(-epoch / 4.5) + rng.gauss(0, 0.5) for epoch in steps]
    fall = [0.42 + 1.7 * math.exp(-epoch / 4.0) + rng.gauss(0, 0.02) for epoch in steps]
    return {"epoch": steps, "train_loss": fall, "val": {"accuracy": rise}}


def _terms(rng: random.Random, names: tuple[str, ...], epochs: int) -> dict[str, Any]:
    steps = list(range(epochs + 1))
    raw = {
        name: [math.exp(-step / (5 + 4 * i)) * (1 + i) + 0.3 + abs(rng.gauss(0, 0.04)) for step in steps]
        for i, name in enumerate(names)
    }
    total = [sum(raw[name][step] for name in names) for step in steps]
    return {
        "epoch": steps,
        "loss": {name: [value * (2.1 - 0.6 * i) for value in raw[name]] for i, name in enumerate(names)},
        "share": {name: [value / whole for value, whole in zip(raw[name], total)] for name in names},
        "cosine": {
            name: [max(-1.0, min(1.0, 0.9 - 0.35 * i - 0.01 * step + rng.gauss(0, 0.03))) for step in steps]
            for i, name in enumerate(names)
        },
    }


def _arm(rng: random.Random, facts: dict[str, Any], noise: list[float], epochs: int) -> dict[str, Any]:
    last = [facts["level"] + shared + rng.gauss(0, 0.45) for shared in noise]
    distilled = facts["name"] != "alone"
    seconds = [41.0 + (19.0 if distilled else 0.0) + rng.gauss(0, 1.2) for _ in noise]
    teacher = [(17.0 + rng.gauss(0, 0.5)) if distilled else 0.0 for _ in noise]
    centres = [(i + 0.5) / 15 for i in range(15)]
    lean = 0.05 if distilled else 0.12
    arm = {key: value for key, value in facts.items() if key not in ("level", "terms")}
    return arm | {
        "metrics": {
            "accuracy": {"last": last, "best": [value + abs(rng.gauss(0, 0.3)) for value in last]},
            "nll": {score: [1.9 - value / 60 + rng.gauss(0, 0.008) for value in last] for score in ("last", "best")},
            "ece": {score: [lean / 2 + rng.gauss(0, 0.004) for _ in last] for score in ("last", "best")},
        },
        "parameters": 268_650,
        "bytes": 1_074_600,
        "latency": {"p50_ms": 1.84, "p95_ms": 2.31, "throughput_per_s": 17_400.0, "batch": 32},
        "curves": [_curve(rng, value, epochs) for value in last],
        "terms": [_terms(rng, facts["terms"], epochs) for _ in last],
        "agreement": [value + 4.1 + rng.gauss(0, 0.4) for value in last],
        "reliability": {
            "confidence": centres,
            "accuracy": [max(0.0, centre - lean * math.sin(math.pi * centre)) for centre in centres],
            "count": [round(20 + 900 * centre**4) for centre in centres],
        },
        "cost": {
            "seconds": seconds,
            "teacher_seconds": teacher,
            "teacher_share": sum(teacher) / sum(seconds),
        },
        "budget": {"updates": 4_680, "batch_size": 128, "labels": 20_000, "trials": 4},
        "diagnostics": {"grad_norm": [1.2 + rng.gauss(0, 0.1) for _ in last]},
    }


def sample_report(*, arms: int = 4, seeds: int = 5, epochs: int = 20, **changes: Any) -> dict[str, Any]:
    """Return a plausible report; beyond four arms the last ones repeat with other names and levels."""
    rng = random.Random(7)
    noise = [rng.gauss(0, 0.8) for _ in range(seeds)]
    facts = [dict(fact) for fact in ARMS[:arms]]
    for i in range(len(facts), arms):
        base = dict(ARMS[1 + i % 3])
        extra = {"name": f"{base['name']}-{i}", "label": f"{base['label']} (T = {i})", "level": 76.4 + 0.21 * i}
        base.pop("phrase", None)
        facts.append(base | extra)
    given: dict[str, Any] = {
        "title": "PLD on Fashion-MNIST",
        "system": "pld",
        "metric": {"name": "accuracy", "higher_is_better": True, "unit": "%"},
        "seeds": list(range(seeds)),
        "arms": [_arm(rng, fact, noise, epochs) for fact in facts],
        "command": "distil run pld --seeds 5 --device cpu --set train.epochs=20 --out runs/pld",
        "created": "2026-11-22T16:20:00+00:00",
        "setting": {
            "Teacher": "residual net, 11.2 M parameters, trained on the same labels",
            "Student": "four-layer convolutional net",
            "Optimizer": "AdamW, lr 0.002, cosine, weight decay 0.05",
            "Budget": "20 epochs of 20,000 images, batch 128",
            "Tuning": "4 trials per arm on validation",
            "KL convention": "summed over classes, averaged over samples, times T²",
        },
        "data": {
            "name": "Fashion-MNIST",
            "fingerprint": "b1946ac92492d2347c6235b4d2611184a5d2b8f3",
            "train": 20_000,
            "val": 5_000,
            "test": 10_000,
            "classes": ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"],
            "notes": ["The validation split was made from the training images, stratified, seed 0."],
        },
        "teacher": {
            "name": "residual net, width 64",
            "parameters": 11_173_962,
            "bytes": 44_695_848,
            "metrics": {"accuracy": 91.2, "nll": 0.27, "ece": 0.031},
            "fingerprint": "9e107d9d372bb6826bd81d3542a419d6",
            "latency": {"p50_ms": 17.6, "p95_ms": 21.9, "throughput_per_s": 1_820.0, "batch": 32},
            "cost": {"seconds": 512.0},
        },
        "versions": {"distil": "0.1.0", "torch": "2.15.0", "python": "3.11.7", "numpy": "2.3.1"},
        "machine": {"cpu": "a processor", "cores": 2, "device": "cpu"},
        "warnings": ["Two images could not be read and were left out: a.png, b.png."],
    }
    return build(**(given | changes))
