"""Adapters of the small sets of images: INFER, and RDED, SRe2L and CutMix among the baselines."""

from __future__ import annotations

import torch
from torch import nn

import distil.functional as D
from distil.loops.synthesis import Observed, Synthesis, synthesis_loss, synthesise
from distil.systems.infer import share_of_budget

from .adapters_graph_dd import part
from .machinery import Answer, Case, adapter

CONSTANTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tinyIN": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Net(nn.Module):
    """The network of the golden cases: two convolutions with batch norm, the mean over places, one linear layer."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        wide, channels = state["c1.weight"].shape[:2]
        self.c1 = nn.Conv2d(channels, wide, 3, padding=1, bias=False)
        self.c2 = nn.Conv2d(wide, len(state["c2.weight"]), 3, 2, 1, bias=False)
        self.b1, self.b2 = nn.BatchNorm2d(wide), nn.BatchNorm2d(len(state["c2.weight"]))
        self.fc = nn.Linear(*reversed(state["fc.weight"].shape))
        self.load_state_dict(state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.b2(self.c2(self.b1(self.c1(x)).relu())).relu()
        return self.fc(hidden.mean((2, 3)))


def pixels(images: torch.Tensor, data: str) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = CONSTANTS[data]
    clipped = D.clipped_pixels(images, mean=mean, deviation=deviation)
    return clipped, D.unit_pixels(images, mean=mean, deviation=deviation)


# Adam divides by the size of gradients: where one is near 0, a rounding error of float32 moves a pixel by what can be
# seen. In float64 the same two of 6,144 pixels differ from the authors' figures. So pixels are compared to 3 decimals;
# losses, gradients and the mean change of an image are not.
PIXELS = {"out/final_images_normalised_clipped": 3, "out/final_images_01_first2": 3}


@adapter("infer", "infer", rounded=PIXELS)
def infer(case: Case) -> Answer:
    return compensators(case) | step(case, "static") | step(case, "dynamic") | tables(case)


def compensators(case: Case) -> Answer:
    hp, x, u = case.hp, case.inp.natural_images.detach(), case.inp.ufc0
    how = Synthesis(
        hp.iterations, hp.lr, hp.r_bn, hp.first_bn_multiplier, jitter=hp.jitter, betas=(hp.adam_beta1, hp.adam_beta2)
    )
    net, labels = Observed(Net(case.weights())), torch.arange(len(x))
    loss = synthesis_loss(net, D.compensated(x, u), labels, how)
    rolls = case.inp.jitter_offsets_h_w
    made = synthesise(net, torch.zeros_like(u), labels, how, around=x, rolls=rolls)
    clipped, unit = pixels(D.compensated(x, made.before), hp.dataset)
    return {
        "out/single_ce": loss.cross_entropy,
        "out/single_bn_terms_weighted": loss.statistics,
        "out/single_total": loss.total,
        "grad/ufc0": case.gradient(loss.total, "ufc0"),
        "out/loss_trace": made.losses,
        "out/final_images_normalised_clipped": clipped[:2],
        "out/final_images_01_first2": unit[:2],
        "out/mean_abs_change_per_image": (clipped - x).abs().mean((1, 2, 3)),
    }


def step(case: Case, labels: str) -> Answer:
    index, share = case.inp[f"{labels}_mix_index"], case.inp[f"{labels}_mix_lambda"].item()
    mix = D.Mix(torch.arange(len(index)), index, torch.full((len(index),), share))
    if labels == "static":
        soft = D.mixed(case.inp.static_soft_logits_all[case.inp.batch_indices], mix)
    else:
        soft = D.mean_logits(case.inp.dynamic_teacher_logits_each)
    s = case.inp.student_logits
    soft, temperature = soft.detach(), case.hp.temperature
    loss = D.kl(s, soft, temperature=temperature, scale="none")
    # The divergence and the cross-entropy with its label have one gradient, here of a size near float32's rounding; the
    # latter comes about by the authors' very operations.
    entropy = D.soft_label_cross_entropy(s / temperature, (soft / temperature).softmax(-1))
    return {
        f"out/{labels}_loss": loss,
        f"out/{labels}_mixed_x": D.mixed(case.inp.x, mix),
        f"grad/{labels}_student_logits": case.gradient(entropy, "student_logits"),
    }


def tables(case: Case) -> Answer:
    answer: Answer = {}
    for key, expected in case.expected.items():
        what, _, data = key.removeprefix("out/").partition("_")
        if what in ("clip", "denorm"):
            answer[key] = pixels(case.inp.clip_x, data)[what == "denorm"]
        if key.startswith("out/budget_"):
            rows = [(int(i), int(m), int(c)) for i, m, c in expected[:, :3]]
            natural = [share_of_budget(i, networks=m, classes=c) for i, m, c in rows]
            answer[key] = torch.tensor([[*row, k, k * (row[1] + 1)] for row, k in zip(rows, natural)])
        if key.startswith("out/lr_cosine_base"):
            base, steps = key.removeprefix("out/lr_cosine_base").split("_steps")
            rates = [D.cosine_rate(float(base), step=t, steps=int(steps)) for t in range(int(steps))]
            answer[key] = torch.tensor(rates, dtype=torch.float64)
    return answer


@part
def rded(case: Case) -> Answer:
    hp, crops = case.hp, case.inp.rded_crops.detach()
    size, net = (hp.rded_size, hp.rded_size), Net(case.weights("teacher.")).eval()
    with torch.no_grad():
        logits = net(D.padded(crops.flatten(0, 1), size)).unflatten(0, crops.shape[:2])
    labels = case.inp.rded_label.unsqueeze(1).expand(crops.shape[:2])
    chosen = D.best_crops(D.label_cross_entropy(logits, labels), hp.rded_ipc * hp.rded_factor**2)
    selected = crops[chosen.image, chosen.crop]
    z = case.inp.logits
    return {
        "out/rded_selected": selected,
        "out/rded_mixed": D.stitched(selected, size, factor=hp.rded_factor),
        "out/rded_pad_first2": D.padded(crops.flatten(0, 1)[:2], size),
        "out/rded_ce_each": D.label_cross_entropy(z, case.inp.labels),
        "out/rded_keep_top_k": D.as_soft_labels(z, kind="marginal", top=hp.topk),
    } | boxes(case)


def boxes(case: Case) -> Answer:
    (key,) = [key for key in case.expected if "cutmix_bbox" in key]
    wide, high = (int(part[1:]) for part in key.rpartition("for_")[2].split("_"))
    rows = []
    for share, x, y, *_ in case.expected[key].tolist():
        box = D.patch_at((high, wide), share, (int(y), int(x)))
        rows.append([share, x, y, box.left, box.top, box.left + box.width, box.top + box.height])
    return {key: torch.tensor(rows, dtype=torch.float64)}


@part
def sre2l(case: Case) -> Answer:
    images, x = case.inp.img, case.inp.bn_x
    clipped, unit = pixels(images, "imagenet")
    seen = Observed(Net(case.weights("teacher.")))(x)
    terms = D.statistics_terms(seen.layers)
    return {
        "out/sre2l_tv_l1": D.roughness(images, kind="l1"),
        "out/sre2l_tv_l2": D.roughness(images),
        "out/sre2l_clip": clipped,
        "out/sre2l_denorm": unit,
        "out/bn_r_feature_each_layer": terms,
        "grad/bn_x": case.gradient(terms.sum(), "bn_x")[:2],
    }
