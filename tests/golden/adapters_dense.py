"""Adapters of the dense systems and of the dense baselines."""

from __future__ import annotations

import torch

import distil.functional as D

from .machinery import Answer, Case, adapter

_MASKS = (
    "PEER MasKD.MaskModule.forward_mask + dice_coeff (= ASCM spatial mask and a correct pairwise Dice, if x is the "
    "fused feature)"
)


@adapter("acam-kd", _MASKS)
def masks_and_dice(case: Case) -> Answer:
    tokens = case.weight.mask_token.requires_grad_()
    masks = D.spatial_masks(case.inp.x, tokens)
    overlap = D.dice(masks)
    slope = torch.autograd.grad(overlap, (case.inp.x, tokens))
    return {"out/mask": masks, "out/dice": overlap, "grad/x": slope[0], "grad/mask_token": slope[1]}


@adapter("acam-kd", "PEER MasKDLoss (segmentation): masks from teacher, per-mask normalised squared error, x0.5")
def maskd_segmentation(case: Case) -> Answer:
    return case.answer(D.maskd_segmentation(case.inp.s, case.inp.t, case.weight["mask_module.mask_token"]))


@adapter(
    "acam-kd",
    "PEER MasKDLoss (detection): per-token weights softmax(prob(t)); masks multiplied by (no-grad) student masks once "
    "iter>=warmup",
)
def maskd_detection(case: Case) -> Answer:
    from distil.methods.maskd import MaskTokens

    losses = []
    for k in range(len([key for key in case.inp if key.startswith("t")])):
        s, t, state = case.inp[f"s{k}"], case.inp[f"t{k}"], case.weights(f"mask_modules.{k}.")
        tokens = MaskTokens(*reversed(state["mask_token"].shape), importance=True)
        tokens.load_state_dict({key.replace("mask_token", "tokens"): value for key, value in state.items()})
        late = case.hp.iter >= case.hp.warmup
        losses.append(D.maskd_detection(s, t, tokens.tokens, tokens.importance(t), customised=late))
    return case.answer(case.hp.loss_weight * sum(losses))


@adapter("baselines-dense", "mmrazor ChannelWiseDivergence")
def channel_wise_divergence(case: Case) -> Answer:
    return case.answer(case.hp.loss_weight * D.cwd(case.inp.s, case.inp.t, temperature=case.hp.tau))


@adapter("baselines-dense", "TorchDistiller CriterionCWD (official CWD)")
def channel_wise_distillation(case: Case) -> Answer:
    options = {"norm": case.hp.norm_type, "divergence": case.hp.divergence, "temperature": case.hp.temperature}
    return case.answer(D.cwd(case.inp.s, case.inp.t, **options))
