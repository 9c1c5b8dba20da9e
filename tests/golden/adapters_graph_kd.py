"""GLNN's part of the baselines' case: the value and the weighted gradient of one training step of each kind."""

from __future__ import annotations

import torch.nn.functional as F

import distil.functional as D

from .adapters_graph_dd import part
from .machinery import Answer, Case


@part
def glnn(case: Case) -> Answer:
    z, lamb = case.inp.glnn_z, case.hp.glnn_lamb
    kd, ce = D.node_kl(z, case.inp.glnn_target_kd), F.cross_entropy(z, case.inp.glnn_target_ce)
    return {
        "out/glnn_kd_unweighted": kd,
        "out/glnn_ce_unweighted": ce,
        "grad/glnn_z_kd_weighted": case.gradient((1 - lamb) * kd, "glnn_z"),
        "grad/glnn_z_ce_weighted": case.gradient(lamb * ce, "glnn_z"),
    }
