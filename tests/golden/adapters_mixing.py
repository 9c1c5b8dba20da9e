"""Adapters of the systems that mix samples."""

from __future__ import annotations

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("mix-kd", "MIXSTDLoss")
def rescaled(case: Case) -> Answer:
    s, t = case.inp.student_logits, case.inp.teacher_logits
    labels = case.hp.gamma * D.rescaled_cross_entropy(s, case.inp.soft_target)
    teacher = case.hp.alpha * D.rescaled_kl(s, t)
    answer = case.answer(labels + teacher, loss_cls=labels, loss_kd=teacher)
    del answer["out/loss"]
    return answer


@adapter("mix-kd", "PMU", "FMU")
def mixup(case: Case) -> Answer:
    share = case.inp.lam_raw.squeeze(1).clone()
    share[case.inp.unmixed_index] = 1.0
    mix = D.Mix(case.inp.perm1, case.inp.perm2, share)
    labels = D.mixed_labels(case.inp.labels, mix, classes=case.hp.num_classes)
    return {"out/lam": share.unsqueeze(1), "out/x": D.mixed(case.inp.x, mix), "out/y": labels}
