"""Adapters of the choice of samples: DeepCore's rules, as coded and by the book."""

from __future__ import annotations

import torch

import distil.functional as D

from .machinery import Answer, Case, adapter


def in_order(index: torch.Tensor) -> Answer:
    return {"out/selected": index.sort().values}


@adapter(
    "kd-dd-survey",
    "DeepCore herding AS CODED (it takes the ARGMAX of the distance to (i+1)*mean-sum; indices returned in ascending "
    "order)",
)
def herding_as_coded(case: Case) -> Answer:
    return in_order(D.herding(case.inp.X, case.hp.budget, rule="farthest").index)


@adapter(
    "kd-dd-survey",
    "DeepCore herding function called with the NEGATED distance = textbook herding (nearest to (i+1)*mean-sum); "
    "indices ascending",
)
def herding(case: Case) -> Answer:
    return in_order(D.herding(case.inp.X, case.hp.budget).index)


@adapter("kd-dd-survey", "DeepCore k_center_greedy, one start point (index 3); budget counts the new points")
def k_center(case: Case) -> Answer:
    start = case.hp.already_selected
    found = D.k_center(case.inp.X, case.hp.budget, start=start).index
    return in_order(torch.cat([torch.tensor(start), found]))


@adapter("kd-dd-survey", "DeepCore GradMatch orthogonal matching pursuit (non-negative final weights)")
def pursuit(case: Case) -> Answer:
    found = D.match_pursuit(case.inp.A, case.inp.b, case.hp.budget, ridge=case.hp.lam)
    weights = torch.zeros(case.inp.A.shape[1], dtype=torch.float64)
    weights[found.index] = found.weight
    return {"out/x": weights}


@adapter(
    "kd-dd-survey",
    "DeepCore uncertainty score AS CODED (LeastConfidence is the largest raw logit, Entropy is sum p*log(p+1e-6), "
    "Margin is p1-p2; small = uncertain)",
)
def uncertainty(case: Case) -> Answer:
    kind = {"LeastConfidence": "confidence", "Entropy": "entropy", "Margin": "margin"}[case.hp.method]
    return {"out/score": D.uncertainty(case.inp.logits, kind=kind, as_coded=True)}


@adapter("kd-dd-survey", "DeepCore GraNd score (L2 norm of the last-layer gradient, bias part included)")
def grand(case: Case) -> Answer:
    logits = case.inp.embedding @ case.inp.weight.mT + case.inp.bias
    return {"out/score": D.grand(logits, case.inp.embedding, case.inp.labels)}


@adapter("kd-dd-survey", "DeepCore CRAIG calc_weights (1 + number of points assigned to each selected one)")
def craig(case: Case) -> Answer:
    return {"out/weights": D.facility_weights(case.inp.similarity, case.inp.selected.nonzero().flatten())}
