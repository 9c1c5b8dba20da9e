"""Adapters of the systems that hide a part of what they see."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import distil.functional as D
from distil.models import MaskedAutoencoder, token_head

from .machinery import Answer, Case, adapter

HEADS = "student.aligned_feature_projection_heads."


def ours(key: str) -> str:
    """The authors' name of a tensor as this project's: what is of the decoder stands under it."""
    decoder = key.startswith(("decoder_", "mask_token"))
    return f"decoder.{key.removeprefix('decoder_')}" if decoder else f"encoder.{key}"


def net(case: Case, role: str) -> MaskedAutoencoder:
    size, patch = case.hp.img_patch
    dim, depth, heads, *decoder = case.hp[f"{role}_dim_depth_heads_decdim_decdepth_decheads"]
    sizes = dict(zip(("decoder_dim", "decoder_depth", "decoder_heads"), decoder, strict=True))
    options = {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "channels": case.inp.images.shape[1]}
    made = MaskedAutoencoder(size, **options, **sizes)
    given = case.weights(f"{role}.")
    state = {ours(key): value for key, value in given.items() if not f"{role}.{key}".startswith(HEADS)}
    missing, extra = made.load_state_dict(state, strict=False)
    assert not extra
    assert all(role == "teacher" and key.startswith("decoder.") for key in missing)
    return made


def head_of(case: Case, prefix: str, widths: tuple[int, int]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A loaded head, and its parameters by the authors' names: both sides list them from first to last."""
    head, theirs = token_head(case.hp.projection, *widths), case.weights(prefix)
    head.load_state_dict(dict(zip(head.state_dict(), theirs.values(), strict=True)), assign=True)
    named = dict(zip((prefix + key for key in theirs), head.requires_grad_().parameters(), strict=True))
    return head, named


def distance(case: Case) -> partial[Tensor]:
    return partial(D.token_distance, distance=case.hp.distance.lower(), normalise=case.hp.projection != "none")


@adapter("dmae", "dmae")
def dmae(case: Case) -> Answer:
    if "noise" not in case.inp:  # the feature loss alone
        s, t = case.inp.student_feat, case.inp.teacher_feat
        return case.answer(distance(case)(head_of(case, "0.", (s.shape[-1], t.shape[-1]))[0](s), t.detach()))
    student, teacher, images = net(case, "student"), net(case, "teacher"), case.inp.images
    mask = D.patch_mask(case.inp.noise, case.hp.mask_ratio)
    prediction = student(images, mask.keep, mask.restore)
    targets = D.patch_targets(images, case.hp.img_patch[1], normalise=bool(case.hp.norm_pix_loss))
    total = pixels = D.masked_reconstruction(prediction, targets, mask.removed)
    out = {"mask": mask.removed, "ids_keep": mask.keep, "ids_restore": mask.restore, "pred": prediction}
    named = {
        f"student.{key.replace('decoder.', 'decoder_').replace('decoder_mask', 'mask').removeprefix('encoder.')}": p
        for key, p in student.named_parameters()
    }
    for k, (i, j) in enumerate(zip(case.hp.student_blocks, case.hp.teacher_blocks, strict=True)):
        s, t = student.encoder.tokens(images, mask.keep, stop=i), teacher.encoder.tokens(images, mask.keep, stop=j)
        head, learned = head_of(case, f"{HEADS}{k}.", (s.shape[-1], t.shape[-1]))
        out |= {f"teacher_feat_block{j}": t, f"loss_align_block{i}": distance(case)(head(s), t.detach())}
        total, named = total + out[f"loss_align_block{i}"], named | learned
    wanted = [key for key in case.expected if key.startswith("grad/")]
    grads = torch.autograd.grad(total, [named[key.removeprefix("grad/")] for key in wanted])
    losses = {"out/loss_reconstruction": pixels, "out/loss_total": total}
    return {f"out/{key}": value for key, value in out.items()} | losses | dict(zip(wanted, grads, strict=True))
