"""The golden machinery itself: it must see a wrong, missing or unknown figure, and accept other sizes and values."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .machinery import ADAPTERS, HERE, TOLERANCE, Case, Group, Plan, disagreement, load_adapters, problems, read_file
from .test_golden import cases

PLAN, NOTHING_PLANNED = Plan.read(), Plan({})
load_adapters()
SHIPPED = [case for path in sorted((HERE / "data").glob("*.npz")) for case in read_file(path)]


def example(slug: str, kind: str) -> Case:
    return next(case for case in SHIPPED if (case.slug, case.kind) == (slug, kind))


PLD = example("pld", "plackett_luce_loss")


@pytest.mark.parametrize("key", PLD.expected)
def test_a_tampered_figure_fails_and_is_named(key: str) -> None:
    wrong = PLD.expected[key].copy()
    wrong.flat[-1] += 1e-5 * np.abs(wrong).max() if wrong.dtype.kind == "f" else 1
    found = problems(replace(PLD, expected=PLD.expected | {key: wrong}), PLAN)
    assert len(found) == 1
    assert found[0].startswith(key)


def test_a_wrong_shape_fails_even_if_it_broadcasts() -> None:
    assert disagreement("out/x", np.ones((2, 2)), np.ones(2), "float64") == ["out/x: shape (2, 2), expected (2,)"]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_tolerance_follows_the_precision(precision: str) -> None:
    expected = np.array([1.0, -3.0])
    assert not disagreement("k", expected * (1 + 0.5 * TOLERANCE[precision]), expected, precision)
    # The absolute part is 1e-6 of the largest figure, so only a relative error well above both must be seen.
    assert disagreement("k", expected * (1 + 4 * TOLERANCE[precision] + 4e-6), expected, precision)


def test_rounding_noise_agrees_with_an_exact_zero_and_nothing_else_does() -> None:
    assert not disagreement("k", np.array([1e-17]), np.array([0.0]), "float64")
    assert disagreement("k", np.array([1e-12]), np.array([0.0]), "float64")


def test_a_rounded_figure_may_differ_by_one_unit_of_its_last_place() -> None:
    assert not disagreement("k", np.array([1.2346]), np.array([1.2345]), "float64", decimals=4)
    assert disagreement("k", np.array([1.2347]), np.array([1.2345]), "float64", decimals=4)


def test_a_missing_figure_is_nan_only_where_nan_is_expected() -> None:
    assert not disagreement("k", np.array([np.nan]), np.array([np.nan]), "float64")
    assert disagreement("k", np.array([np.nan]), np.array([1.0]), "float64")


def test_an_unchecked_key_fails_unless_it_is_planned() -> None:
    case = replace(PLD, expected=PLD.expected | {"out/extra": np.array(1.0)})
    assert problems(case, PLAN) == ["out/extra: expected, but the adapter leaves it unchecked"]
    planned = Plan({"pld": {"partial": [{"kind": PLD.kind, "keys": ["out/ex*"]}]}})
    assert problems(case, planned) == []


def test_a_planned_entry_that_is_answered_fails() -> None:
    kind, key = ({"pld": {"kinds": [PLD.kind]}}, {"pld": {"partial": [{"kind": PLD.kind, "keys": ["out/loss"]}]}})
    assert "still listed" in problems(PLD, Plan(kind))[0]
    assert "still listed" in problems(PLD, Plan(key))[0]


@pytest.mark.parametrize("kind", ["something new", None])
def test_an_unknown_or_unnamed_kind_fails(kind: str | None) -> None:
    assert problems(replace(PLD, kind=kind), PLAN)
    assert PLAN.kind("pld", kind) is None


def test_a_case_that_expects_nothing_fails() -> None:
    assert problems(replace(PLD, expected={}), PLAN) == ["the case expects nothing"]


def test_an_unreadable_file_and_an_empty_or_missing_folder_become_failing_tests(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert "nothing is proven" in str(cases(folder)[0])
    (tmp_path / "pld.npz").write_bytes(b"not an archive")
    assert "cannot be read" in str(cases(tmp_path)[0])


def test_the_suite_fails_visibly_on_an_empty_folder(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_golden.py")],
        env=os.environ | {"DISTIL_GOLDEN": str(tmp_path)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "nothing is proven" in run.stdout


def test_every_planned_entry_has_a_reason_and_names_something_that_exists() -> None:
    shipped = {(case.slug, case.kind): case for case in SHIPPED}
    for slug, entry in PLAN.entries.items():
        assert entry.get("reason") or not entry.get("kinds"), slug
        for kind in entry.get("kinds", []):
            assert (slug, kind) in shipped
            assert (slug, kind) not in ADAPTERS
        for part in entry.get("partial", []):
            assert part["reason"]
            keys = shipped[slug, part["kind"]].expected
            for pattern in part["keys"]:
                assert any(PLAN.key(slug, part["kind"], key) for key in keys), pattern


# --- Other sizes, values, hyper-parameters and precisions, recomputed in plain loops over float64 numbers ---

Rows = list[list[float]]


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


def pld_loops(s: Rows, t: Rows, y: list[int], tau: float) -> float:
    loss = 0.0
    for student, teacher, label in zip(s, t, y):
        order = [label, *sorted((c for c in range(len(teacher)) if c != label), key=lambda c: -teacher[c])]
        alpha = log_softmax([x / tau for x in teacher])
        for k, c in enumerate(order):
            rest = log_softmax([student[j] for j in order[k:]])
            loss -= math.exp(alpha[c]) * rest[0] / len(s)
    return loss


def dkd_loops(s: Rows, t: Rows, y: list[int], alpha: float, beta: float, tau: float) -> float:
    loss = 0.0
    for student, teacher, label in zip(s, t, y):
        q, p = ([math.exp(x) for x in log_softmax([z / tau for z in row])] for row in (student, teacher))
        two = [(p[label], q[label]), (1 - p[label], 1 - q[label])]
        rest = [(p[c] / (1 - p[label]), q[c] / (1 - q[label])) for c in range(len(p)) if c != label]
        for factor, pairs in ((alpha, two), (beta, rest)):
            loss += factor * tau**2 / len(s) * sum(a * math.log(a / b) for a, b in pairs)
    return loss


def nd_loops(s: Rows, t: Rows, means: Rows, y: list[int], factor: float) -> float:
    loss = 0.0
    for student, teacher, label in zip(s, t, y):
        unit = [m / math.hypot(*means[label]) for m in means[label]]
        length = max(math.hypot(*student), math.hypot(*teacher))
        loss += factor * (1 - sum(a * b for a, b in zip(student, unit)) / length) / len(s)
    return loss


def rkd_loops(s: Rows, t: Rows, distance: float, angle: float) -> float:
    def smooth(x: float) -> float:
        return x * x / 2 if abs(x) < 1 else abs(x) - 0.5

    def distances(rows: Rows) -> Rows:
        table = [[math.dist(a, b) for b in rows] for a in rows]
        mean = sum(map(sum, table)) / (len(rows) * (len(rows) - 1))
        return [[x / mean for x in row] for row in table]

    def angles(rows: Rows) -> list[float]:
        found = []
        for a in rows:
            arms = [[(x - y) / (math.dist(a, b) or 1) for x, y in zip(b, a)] for b in rows]
            found += [sum(x * y for x, y in zip(left, right)) for left in arms for right in arms]
        return found

    far = [smooth(a - b) for p, q in zip(distances(s), distances(t)) for a, b in zip(p, q)]
    bent = [smooth(a - b) for a, b in zip(angles(s), angles(t))]
    return distance * sum(far) / len(far) + angle * sum(bent) / len(bent)


def slope(loss: Callable[[Rows], float], rows: Rows, step: float = 1e-5) -> np.ndarray:
    """Return the central differences of a loss in every entry of ``rows``."""
    result = np.zeros((len(rows), len(rows[0])))
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            sides = []
            for shifted in (value + step, value - step):
                row[j] = shifted
                sides.append(loss(rows))
            row[j] = value
            result[i, j] = (sides[0] - sides[1]) / (2 * step)
    return result


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def other_cases() -> list[tuple[str, str, str, dict[str, Any], dict[str, np.ndarray], Callable[..., float]]]:
    rng = np.random.default_rng(7)
    label = rng.integers(0, 9, 7)
    return [
        ("pld", "plackett_luce_loss", "student_logits", {"temperature": 2.5},
         {"student_logits": draw(rng, 7, 9), "teacher_logits": draw(rng, 7, 9), "labels": label},
         lambda s, teacher_logits, labels: pld_loops(s, teacher_logits, labels, 2.5)),
        ("baselines", "dkd", "s", {"temperature": 3.0, "alpha": 2.0, "beta": 0.7},
         {"s": draw(rng, 7, 11), "t": draw(rng, 7, 11), "y": label},
         lambda s, t, y: dkd_loops(s, t, y, 2.0, 0.7, 3.0)),
        ("nd", "DirectNormLoss", "s_emb", {"nd_loss_factor": 3.0, "num_class": 9, "relation": "long"},
         {"s_emb": 5 * draw(rng, 7, 3), "t_emb": draw(rng, 7, 3), "class_mean": draw(rng, 9, 3), "labels": label},
         lambda s, t_emb, class_mean, labels: nd_loops(s, t_emb, class_mean, labels, 3.0)),
        ("baselines", "rkd", "s", {"distance_weight": 3, "angle_weight": 0.5},
         {"s": draw(rng, 4, 3), "t": draw(rng, 4, 8)},
         lambda s, t: rkd_loops(s, t, 3.0, 0.5)),
    ]  # fmt: skip


@pytest.mark.parametrize(("slug", "kind", "source", "hp", "inputs", "oracle"), other_cases(), ids=lambda x: str(x)[:20])
def test_other_sizes_and_hyper_parameters_pass(
    tmp_path: Path,
    slug: str,
    kind: str,
    source: str,
    hp: dict[str, Any],
    inputs: dict[str, np.ndarray],
    oracle: Callable[..., float],
) -> None:
    numbers = {name: array.tolist() for name, array in inputs.items()}
    fixed = {name: value for name, value in numbers.items() if name != source}
    arrays: dict[str, Any] = {"fn": kind, "out/loss": np.float32(oracle(numbers[source], **fixed))}
    arrays[f"grad/{source}"] = slope(lambda rows: oracle(rows, **fixed), numbers[source]).astype(np.float32)
    arrays |= {f"hp/{k}": v for k, v in hp.items()} | {f"inp/{k}": v for k, v in inputs.items()}
    np.savez(tmp_path / f"{slug}.npz", **{f"case12/{key}": np.asarray(value) for key, value in arrays.items()})

    (case,) = read_file(tmp_path / f"{slug}.npz")
    assert (case.slug, case.name, case.kind) == (slug, "case12", kind)
    assert problems(case, NOTHING_PLANNED) == []
    changed = next(name for name, value in hp.items() if isinstance(value, (int, float)))
    perturbed = replace(case, hp=Group(case.hp | {changed: 1.01 * hp[changed]}))
    assert len(problems(perturbed, NOTHING_PLANNED)) == 2
