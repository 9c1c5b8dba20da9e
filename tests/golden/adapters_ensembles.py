"""Adapters of the systems that learn from several teachers together."""

from __future__ import annotations

import torch

import distil.functional as D
from distil.engine import Regime
from distil.models import LogitDiscriminator

from .machinery import Answer, Case, adapter

LAYERS = {"conv1": "first", "conv2": "second", "conv3": "last"}
KINDS = {"marginal_renorm": "renormalised"}


@adapter("meal-v2", "teacher average + soft cross-entropy + output discriminator")
def ensemble(case: Case) -> Answer:
    s, teachers = case.inp.student_logits, list(case.inp.teacher_logits.detach())
    net = LogitDiscriminator(s.shape[-1], reduction=case.hp.K, final_relu=True, least=1)
    own = {name: net.get_parameter(LAYERS[name[:5]] + name[5:]) for name in case.weight}
    for name, parameter in own.items():
        parameter.data = case.weight[name].reshape(parameter.shape)
    label, real = D.mean_labels(teachers), D.mean_logits(teachers)
    soft, ours, theirs = D.soft_label_cross_entropy(s, label), net(s.float()), net(real.float())
    told = D.source_cross_entropy(ours, theirs)
    (soft + told).backward()
    slopes = {f"grad/disc/{name}": one.grad.view_as(case.weight[name]) for name, one in own.items()}
    outputs = {"soft_label": label, "mean_teacher_logits": real, "g_loss": soft, "d_loss": told}
    answer = {f"out/{key}": value for key, value in outputs.items()} | {"grad/student_logits": s.grad, **slopes}
    return answer | {"out/disc_out": torch.cat([ours, theirs])}


@adapter("meal-v2", "Recover_soft_label")
def recovered(case: Case) -> Answer:
    kind, label = str(case.hp.label_type).partition("_smoothing_k")[0], case.inp.label.detach()
    ids, probs = (label, torch.ones(label.shape)) if kind == "hard" else label.unbind(1)
    ids, probs = (part.view(len(label), -1) for part in (ids, probs))
    soft = D.recover_labels(ids.long(), probs, classes=case.hp.n_classes, kind=KINDS.get(kind, kind))
    return {"out/soft_label": soft}


@adapter("meal-v2", "LearningRateRegime")
def regime(case: Case) -> Answer:
    table = Regime.flat(case.hp.regime)
    return {"out/lr": [table(epoch) for epoch in case.inp.epoch.tolist()]}
