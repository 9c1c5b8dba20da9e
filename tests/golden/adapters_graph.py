"""Adapters of the graph systems and of the graph baselines."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("ff-g2m", "ff-g2m")
def ff_g2m(case: Case) -> Answer:
    z, h, edges, tau = case.inp.z_student, case.inp.z_teacher, case.inp.edge_index_no_loops, case.hp.tau
    ce = F.cross_entropy(z[case.inp.idx_train], case.inp.labels[case.inp.idx_train])
    low = D.low_frequency(z, h, D.edges(edges, len(z), self_loops=True))
    high, node = D.high_frequency(z, h, edges, temperature=tau), D.node_kl(z, h)
    answer = {"out/ce": ce, "out/loss_low": low, "out/loss_high": high, "out/loss_glnn_kd": node}
    for who, logits in (("student", z), ("teacher", h)):
        answer[f"out/high_logprob_{who}"] = D.neighbour_contrast(logits, edges, temperature=tau)
    # These weighted sums become the system's own once it is built.
    for arm, soft in {"ff_g2m": low + high, "glnn": node, "lfd": low, "hfd": high, "ce_only": None}.items():
        total = ce if soft is None else case.hp.lamb * ce + (1 - case.hp.lamb) * soft
        answer |= {f"out/total_{arm}": total, f"grad/z_student_{arm}": case.gradient(total, "z_student")}
    return answer | mlp(case)


def mlp(case: Case) -> Answer:
    from distil.models import MLP

    state = case.weights("mlp.")
    widths = [state[f"layers.{k}.weight"].shape[0] for k in range(len(state) // 2)]
    model = MLP(case.inp.mlp_x.shape[1], widths[:-1], widths[-1], layers=len(widths)).to(case.inp.mlp_x).eval()
    model.load_state_dict(state)
    seen: list[torch.Tensor] = []
    model.layers[min(1, len(widths) - 1)].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return {"out/mlp_logits": model(case.inp.mlp_x), "out/mlp_hidden0": seen[0]}
