"""Adapters of the standard baselines that compare feature maps."""

from __future__ import annotations

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("baselines", "vid")
def vid(case: Case) -> Answer:
    from distil.methods.vid import Regressor

    s, t = D.pool_match(case.inp.s, case.inp.t)
    regressor = Regressor(s.shape[1], t.shape[1]).to(s)
    regressor.load_state_dict({k: v for k, v in case.weight.items() if k != "log_scale"})
    scale = case.weight.log_scale.requires_grad_()
    case.inp["log_scale"] = scale
    return case.answer(D.vid(regressor(s), t, scale, eps=case.hp.eps))


@adapter("baselines", "fsp (code)", "fsp (torchdistill)")
def fsp(case: Case) -> Answer:
    plain, inp = "code" in str(case.kind), case.inp
    pairs = ((inp.s_first, inp.s_second), (inp.t_first, inp.t_second))
    ours, theirs = (D.flow_matrix(*pair, pool="avg" if plain else "max") for pair in pairs)
    shown = {"s_fsp": ours} if plain else {}
    return case.answer(D.fsp(ours, theirs, variant="code" if plain else "torchdistill"), **shown)


@adapter("baselines", "reviewkd")
def reviewkd(case: Case) -> Answer:
    from distil.methods.reviewkd import Review

    count = len(case.hp.shapes) - 1
    ours, theirs = (
        [*(case.inp[f"{side}_feat{k + 1}"] for k in range(count)), case.inp[f"{side}_pooled"][:, :, None, None]]
        for side in "st"
    )
    review = Review([m.shape for m in ours], [m.shape for m in theirs]).to(ours[0])
    review.load_state_dict(case.weights())
    loss = sum(D.hierarchical_context(s, t) for s, t in zip(review.train()(ours), theirs, strict=True))
    moved = [(theirs[0], theirs[0] + 1), (theirs[1], theirs[1] * 0.5)]
    return case.answer(loss, hcl_of_raw_teacher_vs_shifted=sum(D.hierarchical_context(*pair) for pair in moved))


@adapter("baselines", "simkd")
def simkd(case: Case) -> Answer:
    from distil.methods.simkd import Projector

    projector = Projector(case.inp.s.shape, case.inp.t.shape, factor=case.hp.factor).to(case.inp.s)
    projector.load_state_dict({k: v for k, v in case.weight.items() if k.startswith("transfer.")})
    projected, target = D.pool_match(projector.train()(case.inp.s), case.inp.t)
    head = case.weights("teacher_classifier.")
    logits = projected.mean((2, 3)) @ head["weight"].T + head["bias"]
    return case.answer(D.mse(projected, target), projected=projected, target=target, logits=logits)


@adapter("baselines", "cat-kd")
def cat_kd(case: Case) -> Answer:
    options = {"size": case.hp.cam_resolution, "normalise": bool(case.hp.if_normalize)}
    return case.answer(D.class_attention(case.inp.s, case.inp.t, **options))
