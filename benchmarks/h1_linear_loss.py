"""H1: a divergence of next tokens from hidden states, forward and backward, against full logits and Liger-Kernel.

The floor is what four matrix products take: both sides' logits, the gradients of hidden states and of the head.

    python benchmarks/h1_linear_loss.py                        # one CUDA device; writes benchmarks/results/H1.json
    python benchmarks/h1_linear_loss.py --device cpu --tiny    # shows that it runs
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from side_by_side import clock_name, compared, device_of, memory_rows, now, options, rounds, waited, write
from torch import Tensor

from distil.functional import jsd, kl
from distil.functional.linear import Head, linear_divergence

SHAPES = ((4096, 2048, 4096, 32_000), (4096, 2048, 4096, 128_256), (16_384, 2048, 4096, 128_256))
TINY = ((8, 16, 24, 96),)
"""Rows, the student's width, the teacher's width, vocabulary."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    given = options(__doc__, repeats=10, devices=True).parse_args(arguments)
    device = device_of(given)
    rows = [row for shape in (TINY if given.tiny else SHAPES) for row in measured(shape, device, given.repeats)]
    setting = {"dtype": "float32" if given.tiny else "bfloat16", "repeats": given.repeats}
    write("H1", rows, setting, out=given.out, packages=("liger-kernel",), clock=clock_name())


def measured(shape: tuple[int, int, int, int], device: torch.device, repeats: int) -> Iterator[dict[str, Any]]:
    """The rows of one shape: KL against full logits, JSD also against Liger where it is installed."""
    count, narrow, wide, size = shape
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return (torch.randn(*shape, device=device) / shape[-1] ** 0.5).to(dtype)

    hidden, head = drawn(count, narrow).requires_grad_(), drawn(size, narrow).requires_grad_()
    known, teacher = drawn(count, wide), drawn(size, wide)
    place = f"{count} rows, widths {narrow} and {wide}, vocabulary {size}"
    rounded = torch.zeros(count, size, device=device, dtype=dtype)

    def products() -> None:
        with torch.no_grad():
            _ = hidden @ head.T, known @ teacher.T, rounded @ head, rounded.T @ hidden

    def ours(divergence: str) -> Callable[[], Tensor]:
        share = Head(head), Head(teacher)
        return lambda: linear_divergence(hidden, known, *share, divergence=divergence).sum() / count

    plain = {"kl": kl, "jsd": jsd}

    def full(divergence: str) -> Callable[[], Tensor]:
        return lambda: plain[divergence](hidden @ head.T, known @ teacher.T, scale="none")

    for divergence in ("kl", "jsd"):
        sides = {"ours": ours(divergence), "full logits": full(divergence)}
        if divergence == "jsd" and find_spec("liger_kernel") and device.type == "cuda":
            sides["Liger-Kernel, chunked JSD"] = liger(hidden, head, known, teacher)
        values = [float(side().detach()) for side in sides.values()]
        assert max(values) - min(values) <= (2e-2 if dtype == torch.bfloat16 else 1e-5) * max(values), values
        steps = {name: waited(backward(side, hidden, head)) for name, side in sides.items()}
        taken = rounds({**steps, "products": waited(products)}, repeats=repeats, clock=now)
        what = f"{divergence} from hidden states, {place}"
        for name in list(sides)[1:]:
            yield compared(
                what, taken["ours"], taken[name], peer_name=name, unit="ms", scale=1e3, target="not slower", met=1.0
            )
        share = statistics.median(b / a for a, b in zip(taken["ours"], taken["products"]))
        yield compared(
            f"{what}: share of the floor", taken["ours"], taken["products"], peer_name="four matrix products",
            unit="ms", scale=1e3, target=">= 50 % of the floor", met=share >= 0.5,
        )  # fmt: skip
        peers = {name: step for name, step in steps.items() if name != "ours"}
        yield from memory_rows(what, steps["ours"], peers, target="not more", least=1.0)


def backward(side: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], None]:
    """The loss and its gradients."""

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        side().backward()

    return run


def liger(hidden: Tensor, head: Tensor, known: Tensor, teacher: Tensor) -> Callable[[], Tensor]:
    """Liger's chunked loss, the label part weighed 0."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, temperature=1.0)
    labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    return lambda: loss(hidden, head, known, teacher, labels)


if __name__ == "__main__":
    main()
