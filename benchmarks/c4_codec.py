"""C4: what a teacher's next-token distribution takes on disk, what it loses, and what it costs to read.

The rows are made, not a model's: logits whose sorted probabilities fall as a power of the rank with a random exponent
for each row, which covers sure and unsure positions. Peers are their published layouts' byte formulas, re-implemented
here and named so; none of their code runs. The divergence is that of the teacher from what a reader makes of the stored
values, with the tail spread evenly over the classes that were not kept.

    python benchmarks/c4_codec.py            # writes benchmarks/results/C4.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side import medians, write
from torch import Tensor

from distil.cache.bits import layout, pack_fields, unpack_fields, unpack_sorted
from distil.cache.codecs import Codec, Sampled, TopK
from distil.functional import sampled_kl, topk_kl

VOCABULARY, ROWS = 128_256, 256


def logits(rows: int, seed: int = 0) -> Tensor:
    """Return rows whose probabilities fall as rank^−a, a between 1.05 and 2.5, over shuffled ids."""
    generator = torch.Generator().manual_seed(seed)
    power = torch.rand(rows, 1, generator=generator) * 1.45 + 1.05
    ranked = -power * torch.arange(1, VOCABULARY + 1).log() + 0.3 * torch.randn(rows, VOCABULARY, generator=generator)
    order = torch.rand(rows, VOCABULARY, generator=generator).argsort(1)
    return ranked.gather(1, order)


class Naive:
    """int32 ids and fp16 log-probabilities, 6 bytes an entry: the plain layout."""

    name = "naive int32 + fp16 (6 B an entry)"

    def __init__(self, k: int) -> None:
        self.k = k

    def bytes(self) -> int:
        return 6 * self.k

    def encode(self, values: Tensor) -> np.ndarray[Any, Any]:
        log_p, ids = values.log_softmax(1).topk(self.k, 1)
        parts = [ids.int().numpy().view(np.uint8), log_p.half().numpy().view(np.uint8)]
        return np.concatenate([part.reshape(len(values), -1) for part in parts], axis=1)

    def decode(self, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        ids = np.ascontiguousarray(rows[:, : 4 * self.k]).view(np.int32).astype(np.int64)
        values = np.ascontiguousarray(rows[:, 4 * self.k :]).view(np.float16).astype(np.float32)
        return torch.from_numpy(ids), torch.from_numpy(values)


def packed_bytes(k: int, exact: int, terms: int) -> int:
    """DistillKit's layout by formula: ids of ceil(log2 V) bits, ``exact`` fp16 values, a polynomial of fp32 terms."""
    return math.ceil(k * math.ceil(math.log2(VOCABULARY)) / 8) + 2 * exact + 4 * terms


def divergence(values: Tensor, ids: Tensor, log_p: Tensor) -> float:
    """Return the mean KL(teacher ‖ read back), nats."""
    live, total = values.double().log_softmax(1), 0.0
    for row in range(len(values)):
        mass = max(1e-9, 1 - float(log_p[row].double().exp().sum()))
        back = torch.full((VOCABULARY,), math.log(mass / (VOCABULARY - ids.shape[1])), dtype=torch.float64)
        back[ids[row]] = log_p[row].double()
        back = back.log_softmax(0)
        total += float((live[row].exp() * (live[row] - back)).sum())
    return total / len(values)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    values, rows = logits(ROWS), []
    for k in (32, 64):
        peer = Naive(k)
        theirs = peer.encode(values)
        loss = divergence(values, *peer.decode(theirs))
        for bits in (4, 8):
            codec = TopK(k, bits)
            ours = codec.encode(values)
            decoded = codec.decode(ours, VOCABULARY)
            mine = divergence(values, decoded["ids"], decoded["log_probs"])
            read = medians(
                lambda c=codec, o=ours: c.decode(o, VOCABULARY),
                lambda p=peer, t=theirs: p.decode(t),
                repeats=repeats,
            )
            what = f"top-{k} of {VOCABULARY}, {bits} bits"
            rows += [
                row(f"{what}: bytes a token", codec.bytes(VOCABULARY), peer.bytes(), "<= 1 of the naive layout", 1.0),
                row(
                    f"{what}: bytes a token, against DistillKit's layout with 16 exact values and 6 terms, by formula",
                    codec.bytes(VOCABULARY),
                    packed_bytes(k, 16, 6),
                    "<= 1",
                    1.0,
                ),
                row(f"{what}: KL of the teacher from what is read, nats", mine, loss, "<= 1.02", 1.02),
                row(f"{what}: decode, us a token", read[0] / ROWS * 1e6, read[1] / ROWS * 1e6, "ours <= 1 us", None),
            ]
            rows[-1]["met"] = rows[-1]["ours"] <= 1
            rows += other_layouts(what, k, bits, ours, read[0] / ROWS * 1e6, repeats)
            fewer = Naive(codec.bytes(VOCABULARY) // 6)
            cut = divergence(values, *fewer.decode(fewer.encode(values)))
            what = f"{what}: KL at equal bytes, the naive layout keeping {fewer.k}, nats"
            rows.append(row(what, mine, cut, "< 1", 1.0))
    rows += sampling(values, repeats)
    write("C4", rows, {"vocabulary": VOCABULARY, "rows": ROWS, "repeats": repeats, "data": "made, see the script"})


def other_layouts(
    what: str, k: int, bits: int, rows: np.ndarray[Any, Any], ours: float, repeats: int
) -> list[dict[str, Any]]:
    """Return what ids in fields of ceil(log2 V) bits would cost beside Elias and Fano's code: not kept, only tried."""
    ids, width = unpack_sorted(rows, k, VOCABULARY), math.ceil(math.log2(VOCABULARY))
    fixed = pack_fields(ids, width)
    assert (unpack_fields(fixed, k, width) == ids).all()
    kept, tried = medians(
        lambda: unpack_sorted(rows, k, VOCABULARY),
        lambda: unpack_fields(fixed, k, width).astype(np.int64),
        repeats=repeats,
    )
    size = layout(k, VOCABULARY).bytes
    decode = ours + (tried - kept) / ROWS * 1e6
    told = {"tried": f"ids in fields of {width} bits", "target": "none: what was not kept", "met": None}
    return [
        {**row(f"{what}: bytes of the ids", size, fixed.shape[1], "", None), **told},
        {**row(f"{what}: decode, us a token", ours, decode, "", None), **told},
    ]


def sampling(values: Tensor, repeats: int) -> list[dict[str, Any]]:
    """Return how far the gradient on drawn classes is from the full one on average over draws, beside top-k's."""
    student = logits(8, seed=9)
    few = values[:8]

    def slope(loss: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = student.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    dense = slope(lambda s: -(few.softmax(1) * s.log_softmax(1)).sum(1).mean())
    codec = Sampled(50)
    mean, draws = torch.zeros_like(student), 64
    for seed in range(draws):
        drawn = decoded(Sampled(50, seed=seed), few)
        mean += slope(lambda s, d=drawn: sampled_kl(s, d["ids"], d["weights"], d["entropy"])) / draws
    kept = decoded(TopK(32, 8), few)
    cut = slope(lambda s: topk_kl(s, kept["ids"], kept["log_probs"], tail="drop"))
    bias = [float((found - dense).norm() / dense.norm()) for found in (mean, cut)]
    coded = codec.encode(values)
    read = medians(lambda: codec.decode(coded, VOCABULARY), lambda: codec.decode(coded, VOCABULARY), repeats=repeats)
    return [
        row(
            f"50 draws ({codec.bytes(VOCABULARY)} B) over {draws} seeds against top-32 with the tail dropped "
            f"({TopK(32, 8).bytes(VOCABULARY)} B): relative error of the mean gradient",
            bias[0],
            bias[1],
            "< 1",
            1.0,
        ),
        {**row("50 draws: decode, us a token", read[0] / ROWS * 1e6, 1.0, "ours <= 1 us", 1.0), "peer": None},
    ]


def decoded(codec: Codec, values: Tensor) -> dict[str, Tensor]:
    """Return what comes back."""
    return codec.decode(codec.encode(values), values.shape[1])


def row(what: str, ours: float, peer: float, target: str, most: float | None) -> dict[str, Any]:
    """Return one line of the results; ``most`` is the largest ratio that meets the target."""
    met = None if most is None else ours / peer <= most
    return {"what": what, "ours": ours, "peer": peer, "ratio": ours / peer, "target": target, "met": met}


if __name__ == "__main__":
    main()
