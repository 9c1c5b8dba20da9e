"""C2: an epoch of plain knowledge distillation: ``fit`` against a loop by hand, torchdistill's box and timm's task.

All sides start from the same student, read the same batches in the same order, and run in float32 on the same threads;
that they do the same work is asserted. The engine's own cost is taken on a net so small that little else is left.

    python benchmarks/c2_epoch.py       # writes benchmarks/results/C2.json
"""

from __future__ import annotations

import argparse
import copy
import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from kd_sides import Shared, Start, by_distiller, by_fit, by_hand, by_timm, by_torchdistill, own_loss, same, side
from side_by_side import clock_name, compared, fresh_peak, gap, needs, options, peak_mb, rounds, write
from torch import Tensor
from torch.utils.data import TensorDataset

from distil import Distiller
from distil.cache import CachedTeacher, TeacherCache
from distil.data import DictDataset, load
from distil.errors import DistilError
from distil.methods import KD
from distil.models import MLP, CifarResNet

QUICKER = ">= 1.2 times quicker"
NAMELESS: dict[str, Any] = {"peer_name": "", "unit": "", "target": "", "met": 1.0}


TAKEN = {
    "a Distiller in a loop": [
        "taken: labels looked at once a step, and one node less in means and sums: 415 us a step from 460, with 310 by "
        "hand",
        "taken: the rank asked for only where something is drawn: within the noise",
    ],
    "fit": [
        "taken: seeding without torch.manual_seed, which queues a stack trace on a build for devices that are not "
        "there: 1,644 us a step from 2,803",
        "taken: no wrapper of accelerate around backward() and step() where it does nothing: about 950 us a step",
    ],
}
"""What was measured for the rows of the engine's own cost, on the machine and under the load of its day."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = options(__doc__, repeats=6)
    parser.add_argument("--alone", choices=("fit", "hand", "torchdistill"), help="one side once, for its memory")
    given = parser.parse_args(arguments)
    needs("torchdistill", "timm")
    name, inputs, labels = images(given.tiny)
    size = 16 if given.tiny else 64
    if given.alone:
        return alone(given.alone, given.tiny, inputs, labels, size)
    rows = [
        *epochs(inputs, labels, size, given),
        *engine(given),
        *([] if given.tiny else memory()),
    ]
    setting = {"data": name, "images": len(inputs), "batch": size, "repeats": given.repeats}
    return write("C2", rows, setting, out=given.out, packages=("torchdistill", "timm"), clock=clock_name())


def images(tiny: bool) -> tuple[str, Tensor, Tensor]:
    """Fashion-MNIST where it is, else scikit-learn's digits."""
    count = 96 if tiny else 1024
    try:
        bundle = load("digits") if tiny else load("fashion-mnist", limit=count)
    except DistilError:
        bundle = load("digits")
    batch = bundle.train.batch(torch.arange(min(count, len(bundle.train))))
    return bundle.name, batch["inputs"], batch["labels"]


def nets(tiny: bool) -> Start:
    """Return student and teacher. The teacher is as it was drawn: what it says does not change the time."""
    torch.manual_seed(0)
    return CifarResNet(8, channels=1), CifarResNet(8 if tiny else 20, channels=1)


def epochs(inputs: Tensor, labels: Tensor, size: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of the full epoch, every side on the same batches."""
    start = nets(given.tiny)
    pairs = Shared(inputs, labels, size, mirror=True)
    triples = Shared(inputs, labels, size, mirror=True, triple=True)
    few, few3 = (Shared(inputs[: 4 * size], labels[: 4 * size], size, mirror=True, triple=t) for t in (False, True))
    far = same({by_fit: few, by_hand: few, by_torchdistill: few3, by_timm: few}, start)
    sides = {
        "fit": side(by_fit, start, pairs),
        "hand": side(by_hand, start, pairs),
        "torchdistill": side(by_torchdistill, start, triples),
        "timm": side(by_timm, start, pairs),
        "teacher first": teacher_first(side(by_fit, start, pairs)),
    }
    taken, steps = rounds(sides, repeats=given.repeats), len(pairs)
    row, ours = partial(compared, unit="ms a step", scale=1e3 / steps), taken["fit"]
    more = gap(ours, taken["hand"]) / steps
    what, quicker = "KD epoch, ResNet-20 to ResNet-8", compared("", taken["teacher first"], ours, **NAMELESS)["ratio"]
    yield row(
        what, ours, taken["hand"], peer_name="the loop by hand", target="at most 1 % or 50 us a step more",
        tried=[f"the teacher's pass made before the student's: {quicker:.2f} times as quick as fit is"],
        met=more <= max(50e-6, 0.01 * min(taken["hand"]) / steps),
    ) | {"more_us_a_step": more * 1e6, "weights_differ_by": far}  # fmt: skip
    tried = ideas(start, pairs, triples, given)
    yield row(what, ours, taken["torchdistill"], peer_name="torchdistill", target=QUICKER, met=1.2, tried=tried)
    yield row(what, ours, taken["timm"], peer_name="timm's task", target="at most 1 % slower", met=0.99)


def ideas(start: Start, pairs: Shared, triples: Shared, given: argparse.Namespace) -> list[str]:
    """What else could make the epoch quicker than torchdistill's: measured against it, in words."""
    last = tuple(copy.deepcopy(net).to(memory_format=torch.channels_last) for net in start)
    plain = DictDataset(pairs.inputs, pairs.labels)
    with tempfile.TemporaryDirectory() as place:
        cached = CachedTeacher(TeacherCache.write(start[1], plain, "classification", Path(place) / "cache"))
        sides: dict[str, Callable[[], float]] = {
            "torchdistill": side(by_torchdistill, start, triples),
            "student and teacher with precision='bf16'": side(by_fit, start, pairs, precision="bf16"),
            "both nets in channels-last order": side(by_fit, last, pairs),
            "teacher's logits from a cache, without mirroring": side(
                by_fit, (start[0], cached), plain, batch_size=pairs.size
            ),
        }
        if "teacher_forward" in inspect.signature(Distiller).parameters:
            sides["teacher_forward='auto'"] = side(by_fit, start, pairs, made={"teacher_forward": "auto"})
        taken = rounds(sides, repeats=max(1, given.repeats // 2))
    peer = taken.pop("torchdistill")
    ratios = {name: compared(name, ours, peer, **NAMELESS)["ratio"] for name, ours in taken.items()}
    return [f"{name}: {ratio:.2f} times as quick as torchdistill" for name, ratio in ratios.items()]


def engine(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The engine's own cost: an MLP 64-32-10 on batches of 64, whose work takes a fraction of a millisecond."""
    torch.manual_seed(0)
    start = MLP(64, 32, 10), MLP(64, 32, 10)
    rng, count = torch.Generator().manual_seed(1), 64 * (4 if given.tiny else 300)
    inputs, labels = torch.randn(count, 64, generator=rng), torch.randint(10, (count,), generator=rng)
    pairs, triples = Shared(inputs, labels, 64), Shared(inputs, labels, 64, triple=True)
    same({by_distiller: pairs, by_fit: pairs, by_hand: pairs, by_torchdistill: triples}, start)
    sides = {
        "a Distiller in a loop": side(by_distiller, start, pairs),
        "fit": side(by_fit, start, pairs),
        "hand": side(by_hand, start, pairs),
        "own": side(by_hand, start, pairs, loss=own_loss),
        "torchdistill": side(by_torchdistill, start, triples),
        "fit, read": side(by_fit, start, DictDataset(inputs, labels), batch_size=64),
        "torchdistill, read": side(by_torchdistill, start, TensorDataset(inputs, labels), batch=64),
    }
    taken = rounds(sides, repeats=given.repeats)
    row = partial(compared, unit="us a step", scale=1e6 / len(pairs))
    net = "MLP 64-32-10, batch 64"
    for ours in ("a Distiller in a loop", "fit"):
        for peer, loop in (("hand", "a loop with F.kl_div and F.cross_entropy"), ("own", "that loop with distil's kl")):
            more = gap(taken[ours], taken[peer]) / len(pairs)
            yield row(
                f"{net}: {ours}", taken[ours], taken[peer], peer_name=loop, target="at most 50 us a step more",
                met=more <= 50e-6, tried=TAKEN[ours],
            ) | {"more_us_a_step": more * 1e6}  # fmt: skip
    peer = partial(row, peer_name="torchdistill", target=QUICKER, met=1.2)
    yield peer(f"{net}: fit", taken["fit"], taken["torchdistill"], tried=TAKEN["fit"])
    what = f"{net}: fit, each reading a dataset in memory its own way, set-up counted"
    yield peer(what, taken["fit, read"], taken["torchdistill, read"], tried=TAKEN["fit"])


def teacher_first(run: Callable[[], float]) -> Callable[[], float]:
    """A side in which the teacher's pass, which KD asks for second, is made before the student's graph is in memory."""
    plain = KD.forward

    def swapped(self: KD, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
        teacher(batch)  # kept for the step
        return plain(self, student, teacher, batch, ctx)

    def timed() -> float:
        with patch.object(KD, "forward", swapped):
            return run()

    return timed


def memory() -> Iterator[dict[str, Any]]:
    """Peak memory of one epoch, each side in a process of its own."""
    ours, hand, peer = (fresh_peak(__file__, "--alone", name) for name in ("fit", "hand", "torchdistill"))
    for name, other in (("the loop by hand", hand), ("torchdistill", peer)):
        yield {
            "what": "KD epoch, ResNet-20 to ResNet-8: peak memory of the process", "unit": "MB", "ours": ours,
            "peer": other, "peer_name": name, "ratio": other / ours, "target": "at most 10 % more",
            "met": ours <= 1.1 * other, "tried": [],
        }  # fmt: skip


def alone(name: str, tiny: bool, inputs: Tensor, labels: Tensor, size: int) -> None:
    """Run one side once and print the peak."""
    run = {"fit": by_fit, "hand": by_hand, "torchdistill": by_torchdistill}[name]
    side(run, nets(tiny), Shared(inputs, labels, size, mirror=True, triple=name == "torchdistill"))()
    print(peak_mb())


if __name__ == "__main__":
    main()
