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


@adapter("baselines", "sp")
def similarity_preserving(case: Case) -> Answer:
    return case.answer(D.sample_gram(case.inp.s, case.inp.t))


@adapter("baselines", "pkt")
def probabilistic_transfer(case: Case) -> Answer:
    return case.answer(D.pkt(case.inp.s, case.inp.t))


@adapter("baselines", "cc (code)")
def correlation_congruence(case: Case) -> Answer:
    return case.answer(D.correlation_congruence(case.inp.s, case.inp.t))


@adapter("baselines", "cc (paper) gaussian", "cc (paper) bilinear")
def kernel_congruence(case: Case) -> Answer:
    kernel = str(case.kind).rsplit(" ", 1)[1]
    hp = {"kernel": kernel, "gamma": case.hp.gamma, "order": case.hp.max_p}
    return case.answer(D.kernel_congruence(case.inp.s, case.inp.t, **hp))


@adapter("baselines", "nst")
def neuron_selectivity(case: Case) -> Answer:
    return case.answer(D.nst(case.inp.s, case.inp.t))


@adapter("baselines", "mlld")
def multilevel(case: Case) -> Answer:
    inp, hp = case.inp, case.hp
    weak, strong = (inp.s_weak, inp.t_weak), (inp.s_strong, inp.t_strong)
    parts = D.multilevel(*weak, *strong, temperature=hp.temperature)
    kd, cc, bc = (hp.kd_weight * parts[name].mean() for name in ("instance", "class", "batch"))
    ce = hp.ce_weight * (F.cross_entropy(inp.s_weak, inp.y) + F.cross_entropy(inp.s_strong, inp.y))
    named = {"kd": D.kl, "cc": D.class_relation, "bc": D.batch_relation}
    at_four = {f"{name}_T4_weak": loss(*weak, temperature=4.0) for name, loss in named.items()}
    return case.answer(ce + kd + cc + bc, loss_ce=ce, loss_kd=kd, loss_cc=cc, loss_bc=bc, **at_four)


@adapter("baselines", "crd")
def contrastive(case: Case) -> Answer:
    inp, hp = case.inp, case.hp
    index, heat = inp.contrast_index, {"temperature": case.hp.temperature}
    embedded, banks = (inp.student_embed_before_l2, inp.teacher_embed_before_l2), (inp.memory_v1, inp.memory_v2)
    across = [D.bank_logits(e, bank, index, **heat) for e, bank in zip(embedded, banks[::-1])]
    log_z = tuple(D.log_normaliser(logits, hp.n_data) for logits in across)
    loss = D.crd(*embedded, *banks, index, log_z=log_z, **heat)
    rows = [D.bank_rows(bank[inp.index], e, momentum=hp.momentum) for e, bank in zip(embedded, banks)]
    after = [bank.detach().index_copy(0, inp.index, new) for bank, new in zip(banks, rows)]
    second = D.crd(*embedded, *after, index, log_z=log_z, **heat)
    scores = {f"out_{side}": (f - z).exp().unsqueeze(-1) for side, f, z in zip("st", across, log_z)}
    memory = {"memory_v1_after": after[0], "memory_v2_after": after[1], "loss_second_call": second}
    params = [hp.K, hp.temperature, *(z.exp() for z in log_z), hp.momentum]
    return case.answer(loss, params_after=params, **scores, **memory)
