"""Adapters of architecture search."""

from __future__ import annotations

import numpy as np
import torch

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("diswot", "relation")
def relation(case: Case) -> Answer:
    loss = D.sample_gram(case.inp.student_feat, case.inp.teacher_feat)
    return {**case.answer(loss), "out/loss": loss.reshape(1), "out/score": -loss.reshape(1)}


@adapter("diswot", "channel_correlation")
def channel_correlation(case: Case) -> Answer:
    return case.answer(D.channel_gram(case.inp.student_feat, case.inp.teacher_feat))


@adapter("diswot", "semantic_from_fc_grad_and_relation")
def full_score(case: Case) -> Answer:
    grads: dict[str, torch.Tensor] = {}
    for who in ("student", "teacher"):
        emb = case.inp[f"{who}_feat"].mean((2, 3))
        grads[who] = D.fc_gradient(emb @ case.inp[f"{who}_fc"].mT, emb, case.inp.label)
    semantic = -D.gradient_gram(grads["student"], grads["teacher"])
    relation = -D.sample_gram(case.inp.student_feat, case.inp.teacher_feat).reshape(1)
    answer = {f"out/{who}_fc_grad": grad for who, grad in grads.items()}
    return {
        **answer, "out/semantic_score": semantic, "out/relation_score": relation, "out/total_score": semantic + relation
    }  # fmt: skip


@adapter("diswot", "published_accuracies_space_S0")
def published_table(case: Case) -> Answer:
    from distil.systems.diswot import s0_accuracies

    table = s0_accuracies()
    nets = [table[tuple(blocks)] for blocks in case.inp.blocks_per_stage.tolist()]
    return {f"out/acc_{kind}": np.array([getattr(net, kind) for net in nets]) for kind in ("vanilla", "distilled")}
