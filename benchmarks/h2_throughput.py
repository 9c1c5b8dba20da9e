"""H2: images a second of plain distillation, data resident on the device: ``fit``, a loop by hand, torchdistill's box.

ResNet-101 to ResNet-50 and ViT-L to ViT-B of timm at 224 pixels with random weights, bf16 by autocast on every side.

    python benchmarks/h2_throughput.py                        # one CUDA device; writes benchmarks/results/H2.json
    python benchmarks/h2_throughput.py --device cpu --tiny    # shows that it runs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from kd_sides import Outcome, Run, Shared, by_fit, by_hand, by_torchdistill, side
from side_by_side import clock_name, compared, device_of, gap, memory_rows, needs, options, rounds, write
from torch import nn

PAIRS = {
    "ResNet-101 to ResNet-50": ("resnet101", "resnet50"),
    "ViT-L/16 to ViT-B/16": ("vit_large_patch16_224", "vit_base_patch16_224"),
}
TINY = {"ResNet to ResNet, tiny": ("resnet10t", "resnet10t"), "ViT to ViT, tiny": ("test_vit", "test_vit")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = options(__doc__, repeats=5, devices=True)
    parser.add_argument("--batch", type=int, default=0, help="images of a batch")
    given = parser.parse_args(arguments)
    device, size = device_of(given), given.batch or (2 if given.tiny else 128)
    needs("timm", "torchdistill")
    pixels, count = (32, 2 * size) if given.tiny else (224, 20 * size)
    rows = [
        row
        for what, names in (TINY if given.tiny else PAIRS).items()
        for row in measured(what, names, device, size, count, pixels, given.repeats)
    ]
    setting = {"batch": size, "images": count, "pixels": pixels, "precision": "bf16", "repeats": given.repeats}
    write("H2", rows, setting, out=given.out, packages=("timm", "torchdistill"), clock=clock_name())


def measured(
    what: str, names: tuple[str, str], device: torch.device, size: int, count: int, pixels: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """The rows of one pair of teacher and student."""
    teacher, student = (made(name, pixels).to(device) for name in names)
    images = torch.randn(count, 3, pixels, pixels, device=device)
    labels = torch.randint(1000, (count,), device=device)
    pairs, triples = Shared(images, labels, size), Shared(images, labels, size, triple=True)
    start = student, teacher
    sides = {
        "ours": side(by_fit, start, pairs, precision="bf16"),
        "the loop by hand": side(in_bf16(by_hand), start, pairs),
        "torchdistill": side(in_bf16(by_torchdistill), start, triples),
    }
    taken = rounds(sides, repeats=repeats)
    row = partial(compared, unit="ms an image", scale=1e3 / count)
    more = gap(taken["ours"], taken["the loop by hand"]) / len(pairs)
    allowed = max(50e-6, 0.01 * min(taken["the loop by hand"]) / len(pairs))
    for name, target, met in (
        ("the loop by hand", "at most 1 % or 50 us a step more", more <= allowed),
        ("torchdistill", ">= 1.2 times quicker", 1.2),
    ):
        found = row(what, taken["ours"], taken[name], peer_name=name, target=target, met=met)
        yield found | {"images_per_second": 1e3 / found["ours"]}
    peers = {name: run for name, run in sides.items() if name != "ours"}
    yield from memory_rows(what, sides["ours"], peers, target="at most 10 % more", least=1 / 1.1)


def made(name: str, pixels: int) -> nn.Module:
    """A timm model with random weights."""
    import timm

    torch.manual_seed(0)
    given = {"img_size": pixels} if "vit" in name else {}
    return timm.create_model(name, pretrained=False, num_classes=1000, **given)


def in_bf16(run: Run) -> Run:
    """A side under autocast."""

    def cast(student: nn.Module, teacher: nn.Module, data: Shared) -> Outcome:
        with torch.autocast(data.inputs.device.type, torch.bfloat16):
            return run(student, teacher, data)

    return cast


if __name__ == "__main__":
    main()
