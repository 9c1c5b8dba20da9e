"""Adapters of the classification systems and of the standard baselines."""

from __future__ import annotations

from types import SimpleNamespace

import torch.nn.functional as F

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("pld", "plackett_luce_loss")
def plackett_luce(case: Case) -> Answer:
    s, t, y = case.inp.student_logits, case.inp.teacher_logits, case.inp.labels
    loss = D.plackett_luce(s, t, y, teacher_temperature=case.hp.temperature)
    return case.answer(loss, ranking_top_first=D.teacher_ranking(t, y))


@adapter("nd", "DirectNormLoss")
def direct_norm(case: Case) -> Answer:
    inp = case.inp
    return case.answer(case.hp.nd_loss_factor * D.directional_norm(inp.s_emb, inp.t_emb, inp.class_mean, inp.labels))


@adapter("nd", "KDLoss*warmup")
def kd_with_warm_up(case: Case) -> Answer:
    from distil.engine.schedule import ramp

    factor = case.hp.kl_loss_factor * ramp(epochs=case.hp.warm_up)(SimpleNamespace(epoch=case.hp.epoch))
    return case.answer(factor * D.kl(case.inp.s_logits, case.inp.t_logits, temperature=case.hp.T))


@adapter("nd", "class_mean (values rounded to 4 decimals before and after the mean)", rounded={"out/class_mean": 4})
def class_mean(case: Case) -> Answer:
    return {"out/class_mean": D.class_means(case.inp.features, case.inp.labels, case.hp.num_class, decimals=4)}


@adapter("baselines", "kd")
def kd(case: Case) -> Answer:
    return case.answer(D.kd(case.inp.s, case.inp.t, temperature=case.hp.temperature, convention="mdistiller"))


@adapter("baselines", "kd+ce")
def kd_and_labels(case: Case) -> Answer:
    hard = F.cross_entropy(case.inp.s, case.inp.y)
    soft = D.kd(case.inp.s, case.inp.t, temperature=case.hp.temperature, convention="torchdistill")
    return case.answer(case.hp.alpha * hard + (1 - case.hp.alpha) * soft)


@adapter("baselines", "dkd")
def dkd(case: Case) -> Answer:
    logits, temperature = (case.inp.s, case.inp.t, case.inp.y), case.hp.temperature
    loss = D.dkd(*logits, alpha=case.hp.alpha, beta=case.hp.beta, temperature=temperature)
    return case.answer(
        loss, tckd=D.tckd(*logits, temperature=temperature), nckd=D.nckd(*logits, temperature=temperature)
    )


@adapter("baselines", "dist")
def dist(case: Case) -> Answer:
    hp = {"temperature": case.hp.tau, "beta": case.hp.beta, "gamma": case.hp.gamma}
    peer = D.dist(case.inp.s, case.inp.t, variant="torchdistill", **hp)
    return case.answer(D.dist(case.inp.s, case.inp.t, **hp), loss_torchdistill=peer)


@adapter("baselines", "logit-std-kd")
def logit_standardisation(case: Case) -> Answer:
    s, t = D.standardise(case.inp.s), D.standardise(case.inp.t)
    return case.answer(D.kl(s, t, temperature=case.hp.base_temperature), standardised_s=s, standardised_t=t)


@adapter("baselines", "rkd")
def rkd(case: Case) -> Answer:
    s, t = case.inp.s, case.inp.t
    loss = D.rkd(s, t, distance=case.hp.distance_weight, angle=case.hp.angle_weight)
    return case.answer(loss, distance=D.rkd_distance(s, t), angle=D.rkd_angle(s, t))


@adapter("baselines", "at (code)", "at (paper)")
def attention_transfer(case: Case) -> Answer:
    variant = "paper" if "paper" in str(case.kind) else "code"
    return case.answer(D.attention_transfer(case.inp.s, case.inp.t, p=case.hp.get("p", 2), variant=variant))


@adapter("baselines", "fitnet")
def fitnet(case: Case) -> Answer:
    from distil.methods.fitnets import Regressor

    regressor = Regressor(case.inp.s.shape, case.inp.t.shape).to(case.inp.s)
    regressor.load_state_dict(case.weights())
    regressed = regressor.train()(case.inp.s)
    return case.answer(D.mse(regressed, case.inp.t), regressed=regressed)
