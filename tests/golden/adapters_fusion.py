"""Adapters of the systems that fuse teacher and label sample by sample."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.func import functional_call

import distil.functional as D
from distil.systems.tgeo_kd.controller import Controller

from .machinery import Answer, Case, adapter


def controller(case: Case, width: int) -> Controller:
    """The controller of a case, with its weights: fc1, fc2, … are its linear layers in order."""
    given = case.weights("controller.")
    made = Controller(width, [len(given[f"fc{k}.bias"]) for k in range(1, len(given) // 2)])
    names = [name.rpartition(".")[0] for name in made.state_dict()][::2]
    made.load_state_dict({f"{names[int(k[2]) - 1]}.{k[4:]}": value for k, value in given.items()})
    return made.to(case.inp.teacher_logits.dtype)


@adapter("tgeo-kd", *(f"state_design option {k} + Controller + lower-level loss" for k in range(1, 8)))
def lower_level(case: Case) -> Answer:
    s, t, labels = case.inp.student_logits, case.inp.teacher_logits, case.inp.labels
    design = re.search(r"option (\d)", str(case.kind))[1]
    state = D.trilateral_state(s, t, labels, D.class_probabilities(t, labels), design=design)
    alpha = controller(case, state.shape[1])(state).detach()
    one, heat = torch.ones_like(alpha), {"temperature": case.hp.temperature}
    answer: Answer = {"out/state": state, "out/alpha": alpha}
    answer["out/kd_per_sample"] = D.kl(s, t, scale="none", reduction="none", **heat)
    for on, ce, name in (("logits", "logits", "logits"), ("probabilities", "softmax_as_published", "published")):
        said = "ce_on_logits" if name == "logits" else "as_published"
        loss = D.fused(s, t, labels, alpha, labels_on=on, **heat)
        answer[f"out/ce_on_{ce}"] = D.fused(s, t, labels, 0 * one, labels_on=on, reduction="none")
        answer |= {f"out/loss_{said}": loss, f"grad/student_logits_{said}": case.gradient(loss, "student_logits")}
    return answer


@adapter("tgeo-kd", "one-step unrolled hyper-gradient (linear student)")
def hyper_gradient(case: Case) -> Answer:
    params = {key: case.inp[f"student/{key}"] for key in ("weight", "bias")}
    t, labels = case.inp.teacher_logits, case.inp.labels
    net = nn.Linear(*reversed(params["weight"].shape), dtype=torch.float64)

    def said(x: Tensor, by: dict[str, Tensor]) -> Tensor:
        return functional_call(net, by, (x,))

    s, means = said(case.inp.x, params), D.class_probabilities(t, labels)
    state = D.trilateral_state(s, t, labels, means)
    alpha = (decides := controller(case, state.shape[1]))(state)
    inner = D.fused(s, t, labels, alpha, temperature=case.hp.temperature)
    fast = D.unrolled_step(inner, params, lr=case.hp.inner_lr)
    later = said(case.inp.x_val, fast)
    outer = nn.functional.cross_entropy(later, case.inp.labels_val)
    slopes = torch.autograd.grad(outer, list(decides.parameters()))
    names = [f"grad/controller/fc{k // 2 + 1}.{('weight', 'bias')[k % 2]}" for k in range(len(slopes))]
    outs = {"class_mean_teacher": means, "state": state, "alpha": alpha, "inner_loss": inner}
    outs |= {"val_loss_after_step": outer, "fast/weight": fast["weight"], "fast/bias": fast["bias"]}
    return {f"out/{key}": value for key, value in outs.items()} | dict(zip(names, slopes))
