"""Adapters of OFA-KD: its loss alone, and a whole distiller with exits on given features."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import distil.functional as D
from distil.methods.exits import MapExit, TokenExit, token_grid

from .machinery import Answer, Case, adapter

NAMES = {"0.fn.": "merging.", "1.": "blocks.", "3.": "head."}  # of a token exit's members in the official code


@adapter("ofa-kd", "ofa-kd")
def ofa(case: Case) -> Answer:
    if "stages" in case.hp:
        return distiller(case)
    labels = case.inp.soft_label if "soft_label" in case.inp else case.inp.label
    options = {"gamma": case.hp.eps, "temperature": case.hp.temperature}
    return case.answer(D.enhanced_cross_entropy(case.inp.student_logits, case.inp.teacher_logits, labels, **options))


def distiller(case: Case) -> Answer:
    hp, inp, scores = case.hp, case.inp, {}
    for stage in hp.stages:
        tap = inp[f"feat_stage{stage}"]
        net = made(case, tap, left=4 - stage, weights=case.weights(f"{stage}."))
        scores[f"head_logits_stage{stage}"] = net.to(tap).train()(tap)
    *gammas, last = hp.eps_per_stage_then_logit
    terms = [
        D.enhanced_cross_entropy(z, inp.teacher_logits, inp.label, gamma=g, temperature=hp.temperature)
        for z, g in zip((*scores.values(), inp.student_logits), (*gammas, last), strict=True)
    ]
    losses = [F.cross_entropy(inp.student_logits, inp.label), terms.pop(), sum(terms)]
    gt, kd, exits = (w * loss for w, loss in zip(hp.weights_gt_kd_ofa, losses, strict=True))
    answer = case.answer(gt + kd + exits, loss_gt=gt, loss_kd=kd, loss_ofa=exits, **scores)
    del answer["out/loss"]
    return answer


def made(case: Case, tap: torch.Tensor, *, left: int, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    ours, theirs = case.hp.feature_dim_student, case.hp.feature_dim_teacher
    options = {"left": left, "classes": case.inp.student_logits.shape[1]}
    if tap.ndim == 4:
        net: torch.nn.Module = MapExit(tap.shape[1], width=max(ours, theirs), **options)
    else:
        count, side = token_grid(tap.shape[1], case.hp.num_cls_tokens)
        net = TokenExit(tap.shape[2], grid=(side, side), width=ours, class_tokens=count, **options)
        weights = {new + k.removeprefix(old): v for k, v in weights.items() for old, new in NAMES.items() if k.startswith(old)}
    net.load_state_dict(weights)
    return net
