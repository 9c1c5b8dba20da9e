"""Adapters of unlearning in graphs: D2DGN's terms, and GNNDelete's by its official code."""

from __future__ import annotations

from functools import partial

import torch

import distil.functional as D

from .machinery import Answer, Case, adapter


@adapter("d2dgn", "d2dgn")
def d2dgn(case: Case) -> Answer:
    inp, keep, forget, alpha = case.inp, case.inp.keep_mask, case.inp.forget_mask, case.hp.alpha
    z = inp.student_logits
    kls = [
        D.kl(z[rows], inp[f"{who}_logits"][rows], scale="none")
        for who, rows in (("preserver", keep), ("destroyer", forget))
    ]
    layers = {who: [inp[f"{who}_emb{k}"] for k in (0, 1)] for who in ("student", "preserver", "destroyer")}
    squares = [
        D.layer_mse([e[rows] for e in layers["student"]], [e[rows] for e in layers[who]], reduction="sum")
        for who, rows in (("preserver", keep), ("destroyer", forget))
    ]
    answer: Answer = {}
    for name, (kept, gone) in {"node_kl": kls, "node_mse_sum": squares}.items():
        total = D.retain_and_forget(kept, gone, alpha=alpha)
        answer |= {f"out/{name}_retain": kept, f"out/{name}_forget": gone, f"out/{name}_total": total}
        for source in ("student_logits",) if name == "node_kl" else ("student_emb0", "student_emb1"):
            answer[f"grad/{source}_{name.removesuffix('_sum')}"] = case.gradient(total, source)
    return answer | links(case) | gnndelete(case)


def links(case: Case) -> Answer:
    inp, scale = case.inp, case.hp.edge_input_scale
    z = (inp.student_logits * scale).detach().requires_grad_()
    teachers = [inp.preserver_logits * scale, inp.destroyer_logits * scale]
    sets = [torch.cat([pairs, inp.negative_edges], 1) for pairs in (inp.retained_edges, inp.forget_edges)]
    kept, gone = (
        D.bernoulli_kl(D.link_scores(z, pairs), D.link_scores(teacher, pairs)) for teacher, pairs in zip(teachers, sets)
    )
    total = D.retain_and_forget(kept, gone, alpha=case.hp.alpha)
    (slope,) = torch.autograd.grad(total, z)
    answer = {"out/edge_kl_retain": kept, "out/edge_kl_forget": gone, "out/edge_kl_total": total}
    return answer | {"grad/half_student_logits_edge_kl": slope}


def gnndelete(case: Case) -> Answer:
    inp, weight = case.inp, case.weight.gnndelete_deletion_weight
    answer: Answer = {
        "out/gnndelete_layer": D.deletion_operator(inp.student_emb0, weight, inp.forget_mask),
        "out/gnndelete_init_weight_value": D.DELETION_START,
        "out/gnndelete_cosine_distance": D.cosine_distance(inp.pair_a, inp.pair_b, reduction="none"),
        "out/gnndelete_bounded_kld_official_call": D.bounded_kl(inp.pair_a, inp.pair_b),
    }
    forget = inp.gnndelete_all_edges[:, inp.gnndelete_forget_edge_mask]
    embedding = partial(D.deletion_by_embedding, unconnected="student", ends="sum")
    for mode, function, kind in (("edgeprob", D.deletion_by_link, "pair"), ("nodeemb", embedding, "node")):
        ours = [(inp[f"student_emb{k}"] * 0.5).detach().requires_grad_() for k in (0, 1)]
        theirs = [inp[f"preserver_emb{k}"] * 0.5 for k in (0, 1)]
        masks = [inp[f"gnndelete_{kind}_mask_{hops}hop"] for hops in (1, 2)]
        parts = [
            function(*each[:2], forget, inp.gnndelete_negative_edges, each[2]) for each in zip(ours, theirs, masks)
        ]
        random, local = (torch.stack(side).sum() for side in zip(*parts))
        total = D.retain_and_forget(local, random, alpha=0.5)
        slopes = torch.autograd.grad(total, ours)
        answer |= {
            f"out/gnndelete_{mode}_{k}": v for k, v in {"total": total, "random": random, "local": local}.items()
        }
        answer |= {f"grad/gnndelete_{mode}_half_student_emb{k}": slopes[k] for k in (0, 1)}
    return answer
