"""Adapters of matching: gradients, distributions, trajectories (kd-dd-survey), and DM's part of the baselines' case."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import distil.functional as D
from distil.models import ConvNet

from .adapters_graph_dd import part
from .machinery import Answer, Case, adapter

PEER = "DatasetCondensation "


@adapter(
    "kd-dd-survey",
    PEER + "match_loss on a small MLP (Linear-LayerNorm-ReLU-Linear, mean cross-entropy); gradient w.r.t. the "
    "synthetic inputs",
)
def match_loss(case: Case) -> Answer:
    a, n, b = (case.weights(f"{name}.") for name in "anb")
    net = nn.ModuleDict({"a": nn.Linear(*a["weight"].T.shape), "n": nn.LayerNorm(len(n["weight"]))})
    net["b"] = nn.Linear(*b["weight"].T.shape)
    net.load_state_dict(case.weights())

    def slopes(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = net["b"](net["n"](net["a"](x)).relu())
        return torch.autograd.grad(F.cross_entropy(logits, y), list(net.parameters()), create_graph=True)

    small, whole = slopes(case.inp.x_syn, case.inp.y_syn), slopes(case.inp.x_real, case.inp.y_real)
    return case.answer(D.gradient_distance(small, whole, distance=case.hp.dis_metric))


@adapter("kd-dd-survey", PEER + "distance_wb (1 - cosine per output row, summed; 1-d tensors count 0)")
def distance_wb(case: Case) -> Answer:
    return {"out/distance": D.row_distance(case.inp.gw_syn, case.inp.gw_real)}


@adapter(
    "kd-dd-survey",
    PEER + "distribution matching (squared distance of class-mean embeddings, summed over dimensions; one class)",
)
def distributions(case: Case) -> Answer:
    return case.answer(D.mean_match(case.inp.syn, case.inp.real))


@adapter("kd-dd-survey", "MTT trajectory loss ||end-target||^2 / ||start-target||^2")
def trajectory(case: Case) -> Answer:
    return case.answer(D.trajectory_distance(case.inp.end, case.inp.start, case.inp.target))


@part
def dm(case: Case) -> Answer:
    real, small, state = case.inp.dm_real, case.inp.dm_syn, case.weights("dm_convnet.")
    width, depth = len(state["features.0.bias"]), sum(key.endswith("weight") for key in state) // 2
    net = ConvNet(real.shape[2], len(real), width=width, depth=depth, size=real.shape[-1])
    net.load_state_dict(state)
    labels = [torch.arange(len(real)).repeat_interleave(n) for n in (len(small) // len(real), real.shape[1])]
    emb = [net.features(x).flatten(1) for x in (small, real.flatten(0, 1))]
    loss = D.mean_match(*emb, small_labels=labels[0], whole_labels=labels[1], classes=len(real))
    return {"out/dm_loss": loss, "grad/dm_syn": case.gradient(loss, "dm_syn")}
