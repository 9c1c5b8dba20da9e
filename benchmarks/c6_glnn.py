"""C6: a graph network distilled into an MLP (GLNN): ``fit`` against the steps of the published script.

The peer's steps are imitated, none of its code runs: in an epoch one step on the labelled nodes (weighed 0 in the
paper's main runs) and one for every whole mini-batch of 512 of all nodes in random order, then an evaluation of the
train, validation and test nodes; patience 50, at most 200 epochs, the best validation state put back. Ours takes one
step an epoch on all nodes, and at most as many steps. Student, teacher, learning rate, weight decay and patience are
the published ones for both. One teacher for each seed, whose training is not counted; its pass over the graph is.

    python benchmarks/c6_glnn.py       # writes benchmarks/results/C6.json; reads DISTIL_DATA
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from side_by_side import clock_name, compared, needs, now, options, write
from torch import Tensor, nn
from torch.nn import functional as F

from distil import Distiller, fit
from distil.data import Bundle, load
from distil.errors import DistilError
from distil.methods import GLNN, Supervised
from distil.models import MLP, SAGE
from distil.report import paired_interval

BATCH, PATIENCE, EPOCHS, HIDDEN = 512, 50, 200, 128


class Tuned(NamedTuple):
    """The published settings of the student."""

    lr: float
    weight_decay: float
    dropout: float


TUNED = {"cora": Tuned(0.01, 0.005, 0.6), "citeseer": Tuned(0.01, 0.001, 0.1)}

Outcome = tuple[float, float, int]
"""Seconds, test accuracy in % at the best validation epoch, and optimizer steps."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = options(__doc__, repeats=10)
    parser.add_argument("--data", nargs="+", choices=tuple(TUNED), default=list(TUNED))
    given = parser.parse_args(arguments)
    needs("torch_geometric")
    rows: list[dict[str, Any]] = []
    for name in given.data:
        try:
            bundle = load(name, normalise=False) if not given.tiny else small()
        except DistilError as error:
            raise SystemExit(str(error)) from None
        few = FEW if name == given.data[0] else 0
        rows += measured(name, bundle, given, few)
    setting = {
        "data": given.data, "seeds": given.repeats, "student": f"MLP {HIDDEN}", "teacher": f"SAGE {HIDDEN}",
        "peer": "steps imitated", "lambda": 0, "features": "as they are, not normalised", "fit": "diagnose=False",
    }  # fmt: skip
    write("C6", rows, setting, out=given.out, packages=("torch-geometric",), clock=clock_name())


def small() -> Bundle:
    """A made graph, to see that the script runs."""
    from distil.data.graphs import make_graph, planetoid_split

    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    features = F.one_hot(labels, 3).repeat(1, 10) * (torch.rand(600, 30, generator=rng) < 0.3)
    edges = torch.randint(600, (2, 1200), generator=rng)
    masks = planetoid_split(labels, 0, per_class=20, val=100, test=200)
    return make_graph("small", features, edges, labels, masks=masks).bundle()


def measured(name: str, bundle: Bundle, given: argparse.Namespace, few: int) -> Iterator[dict[str, Any]]:
    """The rows of one graph: each seed runs a way once, in turn; the first ``few`` seeds run all of them."""
    runs: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    for seed in range(1 if given.tiny else given.repeats):
        teacher = taught(bundle, seed, epochs=5 if given.tiny else EPOCHS)
        ways = list(WAYS) if seed < few else list(WAYS)[:2]
        for way in ways[:: 1 if seed % 2 == 0 else -1]:
            torch.manual_seed(seed)
            runs[way].append(WAYS[way](bundle, teacher, TUNED[name], seed, 4 if given.tiny else EPOCHS))
    peer = [seconds for seconds, *_ in runs[SCRIPT]]
    for way in (FIT, DEFAULT, DENSE) if few else (FIT,):
        ours = [seconds for seconds, *_ in runs[way]]
        yield compared(
            f"GLNN on {name}, a run: {way}", ours, peer[: len(ours)], peer_name=SCRIPT, unit="s",
            target=">= 2 times quicker", met=2.0,
            tried=[spoken(runs, idea) for idea in (FIT, RARE)] if way == DENSE else [],
        ) | {"seeds": len(ours), "steps_ours": middle(runs[way]), "steps_peer": middle(runs[SCRIPT])}  # fmt: skip
    ours, theirs = ([score for _, score, _ in runs[way]] for way in (FIT, SCRIPT))
    apart = [a - b for a, b in zip(ours, theirs)]
    same = paired_interval(apart) if len(apart) > 1 else None
    yield {
        "what": f"GLNN on {name}, test accuracy: {FIT}", "unit": "%", "ours": statistics.mean(ours),
        "peer": statistics.mean(theirs), "peer_name": SCRIPT, "ratio": statistics.mean(ours) / statistics.mean(theirs),
        "target": "not lower: the 95 % interval of the paired difference reaches 0",
        "met": same is None or same.high >= 0, "tried": [], "seeds": len(ours),
        "difference_low": same.low if same else None, "difference_high": same.high if same else None,
    }  # fmt: skip


def middle(runs: Sequence[Outcome]) -> float:
    """Return the median number of steps."""
    return statistics.median(steps for *_, steps in runs)


def spoken(runs: dict[str, list[Outcome]], way: str) -> str:
    """Say in words what a way gave beside the script, on the seeds it ran on."""
    ratio = statistics.median(peer[0] / ours[0] for ours, peer in zip(runs[way], runs[SCRIPT]))
    accuracy = statistics.mean(score for _, score, _ in runs[way])
    return f"{way}: {ratio:.2f} times as quick as the script, accuracy {accuracy:.1f} %"


def taught(bundle: Bundle, seed: int, epochs: int) -> nn.Module:
    """Return a teacher: SAGE on labels."""
    torch.manual_seed(seed)
    teacher = SAGE(bundle.input_shape[0], HIDDEN, len(bundle.classes), sparse_inputs=True)
    distiller = Distiller(teacher, None, Supervised(), task=bundle.task, example=bundle.train.batch, seed=seed)
    fit(
        distiller, bundle.train, bundle.val, epochs=epochs, optimizer="adam", lr=0.01, weight_decay=5e-4,
        schedule="constant", patience=PATIENCE, diagnose=False,
    )  # fmt: skip
    return teacher.eval()


def student_of(bundle: Bundle, tuned: Tuned, *, sparse: bool) -> MLP:
    """Return a fresh student."""
    width, classes = bundle.input_shape[0], len(bundle.classes)
    return MLP(width, HIDDEN, classes, dropout=tuned.dropout, sparse_inputs=sparse)


def by_fit(
    bundle: Bundle, teacher: nn.Module, tuned: Tuned, seed: int, epochs: int, *, sparse: bool = True, **chosen: Any
) -> Outcome:
    """``fit``: one step an epoch on the whole graph."""
    began = now()
    student = student_of(bundle, tuned, sparse=sparse)
    distiller = Distiller(student, teacher, GLNN(), task=bundle.task, example=bundle.train.batch, seed=seed)
    most = epochs * (1 + len(bundle.train.batch["inputs"]) // BATCH)
    options: dict[str, Any] = {"diagnose": False, "patience": PATIENCE} | chosen
    result = fit(
        distiller, bundle.train, bundle.val, test=bundle.test, steps=most, optimizer="adam", lr=tuned.lr,
        weight_decay=tuned.weight_decay, schedule="constant", check_teacher=False, **options,
    )  # fmt: skip
    seconds = now() - began
    return seconds, result.test["best"]["accuracy"], int(result.cost["updates"])


def as_published(bundle: Bundle, teacher: nn.Module, tuned: Tuned, seed: int, epochs: int) -> Outcome:
    """The steps of the published script."""
    began = now()
    model = student_of(bundle, tuned, sparse=False)
    graph = bundle.train.batch
    features, labels, masks = (
        graph["inputs"],
        graph["labels"],
        [p.batch["mask"] for p in (bundle.train, bundle.val, bundle.test)],
    )
    with torch.no_grad():
        said = teacher(features, graph["edge_index"]).log_softmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=tuned.lr, weight_decay=tuned.weight_decay)
    known = masks[0].nonzero().flatten()
    best, state, waited, steps = -1.0, copy.deepcopy(model.state_dict()), 0, 0
    for _ in range(epochs):
        model.train()
        steps += batches(model, features[known], labels[known], optimizer, F.nll_loss, 0.0)
        steps += batches(model, features, said, optimizer, divergence, 1.0)
        scores = [evaluated(model, features[mask], labels[mask]) for mask in masks]
        if scores[1] >= best:
            best, state, waited = scores[1], copy.deepcopy(model.state_dict()), 0
        else:
            waited += 1
        if waited == PATIENCE:
            break
    model.load_state_dict(state)
    accuracy = evaluated(model, features[masks[2]], labels[masks[2]])
    return now() - began, accuracy, steps


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q), summed over classes, averaged over nodes."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def batches(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor], weight: float
) -> int:
    """One pass in mini-batches of a random order, an incomplete last one left out; fewer nodes are one batch."""
    count = max(1, len(x) // BATCH)
    order = torch.randperm(len(x))[: count * BATCH]
    for chosen in order.chunk(count):
        value = weight * loss(model(x[chosen]).log_softmax(1), y[chosen])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return count


@torch.no_grad()
def evaluated(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy in %; the loss is computed as well, as the script does."""
    model.eval()
    out = torch.cat([model(part).log_softmax(1) for part in x.split(BATCH)])
    F.nll_loss(out, y).item()
    return float((out.argmax(1) == y).float().mean()) * 100


FIT, DEFAULT = "fit, sparse first layer", "fit, sparse first layer, its diagnosis of every epoch left on"
DENSE, RARE = "fit, dense first layer", "fit, dense first layer, scored every 5 epochs"
SCRIPT, FEW = "the script's steps", 3

WAYS: dict[str, Callable[..., Outcome]] = {
    FIT: by_fit,
    SCRIPT: as_published,
    DEFAULT: lambda *given: by_fit(*given, diagnose=True),
    DENSE: lambda *given: by_fit(*given, sparse=False),
    RARE: lambda *given: by_fit(*given, sparse=False, eval_every=5, patience=PATIENCE // 5),
}
"""The first two run on every seed, the others on the first few and the first graph."""


if __name__ == "__main__":
    main()
