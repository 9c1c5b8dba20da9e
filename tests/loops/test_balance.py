"""The weight at which a method pulls as hard as the labels: against gradients taken by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distil.data import load
from distil.data.loading import Batches
from distil.engine.schedule import as_schedule, cosine, during, ramp
from distil.errors import DistilError
from distil.functional import kl
from distil.loops.balance import balanced, peak
from distil.loops.training import Training, build_model
from distil.methods.expression import parse

BUNDLE = load("digits", limit=80)
STUDENT = "distil:mlp(hidden=6)"
TRAINING = Training(epochs=4, batch_size=16)
TEACHER = build_model("distil:mlp(hidden=20)", BUNDLE, seed=7, role="teacher").eval()


def norms() -> tuple[float, float]:
    """The norms of cross-entropy's and KD's gradient on the first batch of seed 3."""
    batch = next(iter(Batches(BUNDLE.train, 16, seed=3, shuffle=True).iterate(0)))
    found = []
    for loss in ("labels", "kd"):
        model = build_model(STUDENT, BUNDLE, seed=3).train()
        z = model(batch["inputs"])
        with torch.no_grad():
            t = copy.deepcopy(TEACHER)(batch["inputs"])
        value = F.cross_entropy(z, batch["labels"]) if loss == "labels" else kl(z, t, temperature=4)
        found.append(float(torch.cat([g.flatten() for g in torch.autograd.grad(value, model.parameters())]).norm()))
    return found[0], found[1]


def measure(expression: str, student: str = STUDENT) -> tuple[str, float, float]:
    made = balanced(expression, student, TEACHER, BUNDLE, TRAINING, seed=3)
    return made.expression, made.factor, made.share


def test_labels_have_weight_one_and_the_rest_pulls_as_hard() -> None:
    labels, teacher = norms()
    expression, factor, share = measure("0.1*supervised + 0.9*kd(temperature=4)")
    assert factor == pytest.approx(labels / (0.9 * teacher), rel=1e-3)
    assert share == pytest.approx(0.9 * teacher / (0.9 * teacher + 0.1 * labels), rel=1e-3)
    weights = {c.name: c.coefficient.constant for c in parse(expression)}
    assert weights["supervised"] == 1
    assert weights["kd"] == pytest.approx(labels / teacher, rel=1e-3)


def test_a_balanced_sum_is_balanced() -> None:
    expression, _, _ = measure("supervised + 7*rkd")
    assert measure(expression)[1:] == (pytest.approx(1, rel=1e-3), pytest.approx(0.5, rel=1e-3))


def test_a_warm_up_is_measured_at_its_peak_and_kept() -> None:
    warm, flat = (measure(f"supervised + {c}2*dkd") for c in ("ramp(fraction=0.5)*", ""))
    assert warm[1:] == flat[1:]
    assert "ramp(fraction=0.5)" in warm[0]


def test_a_stage_before_the_labels_keeps_them_at_one() -> None:
    expression, _, _ = measure("5*during(end=1)*kd + 0.5*during(start=1)*supervised")
    coefficients = {c.name: str(c.coefficient) for c in parse(expression)}
    assert coefficients["supervised"].removeprefix("1*") == "during(start=1)"


def test_where_the_method_holds_the_labels_all_of_it_is_weighed() -> None:
    labels, _ = norms()
    expression, factor, share = measure("pld")
    assert share == 1
    assert [c.coefficient.constant for c in parse(expression)] == [pytest.approx(factor)]
    assert measure(f"{factor:g}*pld")[1] == pytest.approx(1, rel=1e-3)
    assert float(peak(parse(expression).components[0].coefficient, steps=8, epochs=4)) == pytest.approx(factor)
    assert labels != factor


def test_draws_are_those_of_the_run_and_nothing_is_moved() -> None:
    """ND's projector has dropout: equal seeds give equal factors, and the caller's generator stays where it was."""
    before = {name: value.clone() for name, value in TEACHER.state_dict().items()}
    state = torch.get_rng_state()
    first = measure("supervised + 2*directnorm")
    torch.rand(3)
    torch.set_rng_state(state)
    assert measure("supervised + 2*directnorm") == first
    torch.rand(7)
    assert measure("supervised + 2*directnorm") == first
    torch.set_rng_state(state)
    measure("supervised + 2*directnorm")
    assert all(torch.equal(before[name], value) for name, value in TEACHER.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("during(end=30)*kd + during(start=30)*supervised", "is 0 through all of 4 epochs"),
        ("supervised", "no part beside the labels"),
        ("supervised + at", "no tap 'stages'|feature maps"),
        ("supervised + 0.5*nosuch", "nosuch"),
    ],
)
def test_what_cannot_be_weighed_is_refused(expression: str, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        measure(expression)


def test_a_method_without_gradient_has_no_balance() -> None:
    same = build_model(STUDENT, BUNDLE, seed=3)
    with pytest.raises(DistilError, match="no balance"):
        balanced("supervised + kd", STUDENT, same, BUNDLE, replace(TRAINING, batch_size=8), seed=3)


def test_peaks_of_schedules() -> None:
    run = {"steps": 40, "epochs": 10}
    assert peak(as_schedule(0.3), **run) == 0.3
    assert peak(2 * ramp(epochs=5), **run) == 2
    assert peak(ramp(epochs=20), **run) == pytest.approx(9 / 20)
    assert peak(3 * during(end=1), **run) == 3
    assert peak(cosine(fraction=1.0), **run) == 1
