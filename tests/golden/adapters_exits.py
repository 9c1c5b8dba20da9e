"""Adapters of OFA-KD: its loss alone, and a whole distiller with exits on given features."""

from __future__ import annotations

import re

import torch
from torch.nn import functional as F

import distil.functional as D
from distil.methods.exits import exit_for

from .machinery import Answer, Case, adapter

NAMES = {r"^0\.(fn\.)?": "merging.", r"^1\.": "blocks.", r"^3\.": "head."}  # a token exit's members there and here


@adapter("ofa-kd", "ofa-kd")
def ofa(case: Case) -> Answer:
    if "stages" in case.hp:
        return distiller(case)
    options = {"gamma": case.hp.eps, "temperature": case.hp.temperature}
    pair = case.inp.student_logits, case.inp.teacher_logits
    return case.answer(D.enhanced_cross_entropy(*pair, labels_of(case), **options))


def labels_of(case: Case) -> torch.Tensor:
    return case.inp.soft_label.detach() if "soft_label" in case.inp else case.inp.label


def distiller(case: Case) -> Answer:
    hp, inp, scores = case.hp, case.inp, {}
    widths = {"width": hp.feature_dim_student, "teacher_width": hp.feature_dim_teacher}
    for k in hp.stages:
        tap, weights = inp[f"feat_stage{k}"], case.weights(f"{k}.")
        options = {"left": 4 - k, "classes": inp.student_logits.shape[1], "class_tokens": hp.num_cls_tokens}
        net = exit_for(tap.shape, **options, **widths)
        if tap.ndim == 3:
            for theirs, ours in NAMES.items():
                weights = {re.sub(theirs, ours, key): value for key, value in weights.items()}
        net.load_state_dict(weights)
        scores[f"head_logits_stage{k}"] = net.to(tap).train()(tap)
    *gammas, last = hp.eps_per_stage_then_logit
    terms = [
        D.enhanced_cross_entropy(z, inp.teacher_logits, labels_of(case), gamma=g, temperature=hp.temperature)
        for z, g in zip((*scores.values(), inp.student_logits), (*gammas, last), strict=True)
    ]
    losses = [F.cross_entropy(inp.student_logits, labels_of(case)), terms.pop(), sum(terms)]
    gt, kd, exits = (w * loss for w, loss in zip(hp.weights_gt_kd_ofa, losses, strict=True))
    answer = case.answer(gt + kd + exits, loss_gt=gt, loss_kd=kd, loss_ofa=exits, **scores)
    del answer["out/loss"]
    return answer
