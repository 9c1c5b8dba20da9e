"""T1: the teacher's forward pass, plain and by the ways that ``teacher_forward="auto"`` keeps, in one run.

    python benchmarks/forward.py

One row for each teacher and for what methods read of it: its logits, or feature maps before the last. A row says which
ways were kept, the lowest cosine with the plain pass, and why the others were dropped. Plain is the pass under
``no_grad``, as any loop makes it, with the same hooks where layers are tapped. The weights are drawn (no network), and
BatchNorm's statistics are those of random inputs, so the cosines are those of such nets, not of trained ones.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from side_by_side import medians, write
from torch import nn

from distil.engine import Distiller, Method, Term

BATCH, SIDE, CLASSES = 8, 64, 100
QUICKER = 1.2


class Reads(Method):
    """Asks for taps of the teacher, and learns next to nothing from them."""

    at_equality = {"reads": None}  # noqa: RUF012

    def __init__(self, tap: str) -> None:
        super().__init__()
        self.tap, self.taps = tap, (("logits", None), (None, tap))

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        return {"reads": Term((student(batch).logits.mean(1) - teacher(batch)[self.tap].mean()).square())}


def resnet() -> nn.Module:
    net: nn.Module = timm.create_model("resnet50", num_classes=CLASSES)
    with torch.no_grad():
        net.train()(torch.randn(BATCH, 3, SIDE, SIDE))
    return net


def vit() -> nn.Module:
    net: nn.Module = timm.create_model("vit_small_patch16_224", img_size=SIDE, patch_size=8, num_classes=CLASSES)
    return net


def row(name: str, teacher: nn.Module, tap: str, repeats: int) -> dict[str, Any]:
    """Settle on real passes, then time both sides again."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    batch = {"inputs": torch.randn(BATCH, 3, SIDE, SIDE)}
    sides = {}
    for forward in ("auto", "plain"):
        distiller = Distiller(student, teacher, Reads(tap), example=batch, teacher_forward=forward)
        handle = distiller.cast.handles()[1]

        def once(handle: Any = handle) -> None:
            handle(batch)
            handle.forget()

        once()
        sides[forward] = (once, distiller.cast.said())
    settled = sides["auto"][1]["model"]
    ours, peer = medians(sides["auto"][0], sides["plain"][0], repeats=repeats)
    return {
        "what": f"{name}, {tap} read: ms a pass", "ours": 1000 * ours, "peer": 1000 * peer, "ratio": peer / ours,
        "target": f"plain / auto >= {QUICKER}", "met": peer / ours >= QUICKER, "kept": settled["kept"],
        "lowest_cosine": min(settled["cosine"].values()) if settled["cosine"] else None,
        "dropped": settled["dropped"], "trying_seconds": settled["checking_seconds"],
    }  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for name, make, taps in (
        ("ResNet-50", resnet, ("logits", "layer3")),
        ("ViT-S/8", vit, ("logits", "blocks.7")),
    ):
        teacher = make().eval()
        rows += [row(f"{name} at {SIDE} px", teacher, tap, repeats=4) for tap in taps]
    write(
        "T1", rows, {"batch": BATCH, "side": SIDE, "student": "one linear layer, not timed", "timm": timm.__version__}
    )


if __name__ == "__main__":
    main()
