"""Adapters of Random Teachers: heads, losses of views, and starting points near a teacher."""

from __future__ import annotations

import math

import torch
from torch import nn

import distil.functional as D
from distil.models import Headed, L2Head
from distil.models.rebuild import interpolated

from .machinery import Answer, Case, adapter

SCRIPT = {"enc.1": "encoder.1", "head.0": "head.mlp.0", "head.2": "head.mlp.2"}
SCRIPT |= {"bot_layer": "head.bottleneck", "wn_layer": "head.last"}
LIBRARY = {f"mlp.layer{k}.lin": f"mlp.{2 * k}" for k in range(8)}
LIBRARY |= {"last_layer.lin1": "bottleneck", "last_layer.lin2": "last"}


def renamed(weights: dict[str, torch.Tensor], names: dict[str, str]) -> dict[str, torch.Tensor]:
    return {f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in weights.items() if "." in k}


def head(weights: dict[str, torch.Tensor], **options: object) -> L2Head:
    layers = [key for key in weights if key.startswith("mlp.") and key.endswith(".weight")]
    hidden = [len(weights[key]) for key in sorted(layers, key=lambda key: int(key.split(".")[1]))]
    wide, outputs = weights["bottleneck.weight"], weights["last.weight"]
    return L2Head(weights["mlp.0.weight"].shape[1], len(outputs), hidden=hidden, bottleneck=len(wide), **options)


@adapter("random-teachers", "minimal_script_step: wn+fn bottleneck, CE(mean over batch)")
def step(case: Case) -> Answer:
    nets = {}
    for who in ("student", "teacher"):
        state = renamed(case.weights(f"{who}."), SCRIPT)
        flat = nn.Sequential(nn.Flatten(), nn.Linear(*state["encoder.1.weight"].shape[::-1]), nn.ReLU())
        made = head({k.removeprefix("head."): v for k, v in state.items()}, activation="relu")
        nets[who] = Headed(flat, made)
        nets[who].load_state_dict(state)
    s, t = nets["student"](case.inp.x), nets["teacher"](case.inp.x).detach()
    warm, cool = case.hp.t_temp_s_temp
    loss = D.paired_views(s[None], t[None], teacher_temperature=warm, student_temperature=cool)
    loss.backward()
    grads = {f"grad/student.{theirs}.{kind}": getattr(nets["student"].get_submodule(mine), kind).grad
             for theirs, mine in SCRIPT.items() for kind in ("weight", "bias")
             if f"student.{theirs}.{kind}" in case.weight}  # fmt: skip
    out = {"teacher_target": (t / warm).softmax(-1), "student_logprob": (s / cool).log_softmax(-1),
           "student_logits_before_temp": s, "teacher_logits_before_temp": t, "loss": loss}  # fmt: skip
    return {**{f"out/{key}": value for key, value in out.items()}, **grads}


@adapter("random-teachers", "multicrop losses")
def views(case: Case) -> Answer:
    s, t = case.inp.student_logits, case.inp.teacher_logits
    seen = {"student_views": case.hp.student_view_idx, "teacher_views": case.hp.teacher_view_idx}
    losses = {name: D.paired_views(s, t, loss=loss, pairing=case.hp.pairing, **seen)
              for name, loss in (("CE", "ce"), ("KL", "kl"), ("MSE", "mse"), ("H_pred", "entropy"))}  # fmt: skip
    losses |= {"H_preds": D.entropy(s), "H_targs": D.entropy(t)}
    gradient = torch.autograd.grad(losses["CE"], s)[0]
    return {**{f"out/{key}": value for key, value in losses.items()}, "grad/student_logits_CE": gradient}


@adapter("random-teachers", "student initialisation")
def start(case: Case) -> Answer:
    kind = {"neighborhood": "neighbourhood"}.get(case.hp.mode, case.hp.mode)
    options = {"alpha": case.hp.alpha_or_eps, "kind": kind, "variance_preserving": bool(case.hp.variance_preserving)}
    names = [key.removeprefix("teacher.") for key in case.inp if key.startswith("teacher.")]
    return {
        f"out/student.{n}": interpolated(case.inp[f"fresh.{n}"], case.inp[f"teacher.{n}"], **options) for n in names
    }


@adapter("random-teachers", "DINOHead as shipped (NB: wn flag has no effect in this commit)")
def shipped_head(case: Case) -> Answer:
    state = renamed(case.weights(), LIBRARY)
    net = head(state, normalise_weights=False)
    net.load_state_dict(state)
    raw, centre, momentum = net(case.inp.x).detach(), case.weight.cent, case.hp.centre_momentum
    first = (raw - centre) / case.hp.temp
    if not math.isnan(momentum):
        centre = D.moving_average(centre, raw.flatten(0, -2).mean(0), momentum=momentum)
    return {"out/logits_first_call": first, "out/projections": raw, "out/centre_after_first": centre,
            "out/logits_second_call": (raw - centre) / case.hp.temp}  # fmt: skip
