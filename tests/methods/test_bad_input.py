"""Every rival on inputs at the edge: a finite loss with finite gradients, or one sentence that says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil import catalog
from distil.engine import Distiller
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.loops.training import rebuilt_student
from distil.methods import AT, CATKD, CC, CRD, DIST, DKD, FSP, LSKD, MLLD, RKD, SP, FitNets
from distil.methods.expression import parse
from distil.systems.mix_kd import published as mix_kd
from distil.systems.pld import PLD
from engine import toys

ON_GRAPHS, ON_SCENES, ON_TWO_VIEWS = {"glnn"}, {"mse", "cwd", "maskd"}, {"mlld", "lskd-mlld"}

METHODS: dict[str, Callable[[], Method | Sum]] = {name: catalog.resolve(name).load() for name in catalog.rivals()}
METHODS |= {
    "at-paper": lambda: AT(variant="paper"),
    "cc-paper": lambda: CC(variant="paper"),
    "cc-bilinear": lambda: CC(variant="paper", kernel="bilinear"),
    "cc-bare": lambda: CC(variant="paper", dim=0),
    "fsp-paper": lambda: FSP(variant="paper"),
    "fsp-torchdistill": lambda: FSP(variant="torchdistill"),
    "catkd-binarised": lambda: CATKD(binarise=True, classes=2),
    "crd-relax": lambda: CRD(mode="relax", negatives=50),
    "fitnets-emb": lambda: FitNets(tap="emb"),
    "sp-emb": lambda: SP(tap="emb"),
    "lskd-dkd": lambda: LSKD(over="dkd"),
    "lskd-mlld": lambda: LSKD(over="mlld"),
    "mix-kd": mix_kd,
}


@dataclass
class Given:
    """A student, a teacher and a batch, and the data they come from."""

    student: nn.Module
    teacher: nn.Module
    data: Any
    batch: dict[str, Any]


def kind_of(name: str) -> str:
    return "graph" if name in ON_GRAPHS else "dense" if name in ON_SCENES else "images"


def task_of(name: str) -> str:
    return {"graph": "node-classification", "dense": "segmentation"}.get(kind_of(name), "classification")


def usual(name: str, *, classes: tuple[int, int] = (toys.CLASSES, toys.CLASSES)) -> Given:
    """What suits a method, without BatchNorm, so that weights alone make maps."""
    ours, theirs = classes
    if kind_of(name) == "graph":
        data = toys.graph(12)
        student = toys.seeded(partial(toys.mlp, classes=ours), 1)
        return Given(student, toys.seeded(partial(toys.GraphNet, classes=theirs), 2), data, dict(data))
    net = toys.DenseNet if kind_of(name) == "dense" else toys.CNN
    student = toys.seeded(partial(net, 4, norm=False, classes=ours), 1)
    teacher = toys.seeded(partial(net, 6, norm=False, classes=theirs), 2)
    make = toys.scenes if kind_of(name) == "dense" else toys.two_views if name in ON_TWO_VIEWS else toys.images
    data = make(24)
    data.labels.clamp_(max=min(classes) - 1)
    return Given(student, teacher, data, toys.batch(data, 8))


def stages(model: nn.Module) -> list[nn.Module]:
    return [model.one, model.two] if hasattr(model, "one") else []


def silent(model: nn.Module) -> None:
    """Make every map and embedding of a model zero."""
    for stage in stages(model):
        stage[0].weight.data.zero_()
        stage[0].bias.data.fill_(-1.0)
    if not stages(model):
        for p in model.hidden.parameters():
            p.data.zero_()


def constant(model: nn.Module) -> None:
    """Make every score of a model equal."""
    for p in model.head.parameters():
        p.data.zero_()


def dead(which: str, name: str) -> Given:
    given = usual(name)
    for role in ("student", "teacher") if which == "both" else (which,):
        silent(getattr(given, role))
    return given


def level(which: str, name: str) -> Given:
    given = usual(name)
    for role in ("student", "teacher") if which == "both" else (which,):
        constant(getattr(given, role))
    return given


def loud(name: str) -> Given:
    """Scores of thousands: one class is certain, and every other probability is 0 in float32."""
    given = usual(name)
    for model in (given.student, given.teacher):
        for p in model.head.parameters():
            p.data.mul_(1e4)
    return given


def alone(name: str) -> Given:
    given = usual(name)
    given.batch = toys.graph(1) if kind_of(name) == "graph" else toys.batch(given.data, 1)
    return given


def twins(name: str) -> Given:
    """A batch of one sample, repeated."""
    given = usual(name)
    if kind_of(name) == "graph":
        given.batch["inputs"] = given.batch["inputs"][:1].expand(12, -1).clone()
    else:
        given.batch = given.data.batch(torch.zeros(8).long())
    return given


def unlabelled(name: str) -> Given:
    given = usual(name)
    given.batch = {**given.batch, "labels": torch.full_like(given.batch["labels"], -100)}
    return given


def nameless(name: str) -> Given:
    given = usual(name)
    given.batch = {key: value for key, value in given.batch.items() if key != "id"}
    return given


class Resized(nn.Module):
    """A net that sees its images at another size; its scores come out at that size too."""

    def __init__(self, body: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.body, self.size = body, size

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(nn.functional.adaptive_avg_pool2d(inputs, self.size))


def resized(size: tuple[int, int], which: str, name: str) -> Given:
    given = usual(name)
    if kind_of(name) != "graph":
        setattr(given, which, Resized(getattr(given, which), size))
    return given


class Unpooled(nn.Module):
    """Classifies the flattened map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = toys.CNN(width, norm=False)
        self.body.pool, self.body.head = nn.Identity(), nn.Linear(16 * width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


def unpooled(which: str, name: str) -> Given:
    given = usual(name)
    if kind_of(name) == "images":
        setattr(given, which, toys.seeded(partial(Unpooled, 4), 3))
    return given


def vectors(name: str) -> Given:
    """Perceptrons on vectors: there are no maps."""
    if kind_of(name) == "graph":
        return usual(name)
    data = toys.vectors(24)
    if name in ON_TWO_VIEWS:
        data = toys.TwoViewed(data.inputs, data.labels, data.ids)
    return Given(*toys.pair(), data, toys.batch(data, 8))


GIVEN: dict[str, Callable[[str], Given]] = {
    "as usual": usual,
    "other classes, fewer": lambda name: usual(name, classes=(3, 5)),
    "other classes, more": lambda name: usual(name, classes=(5, 3)),
    "two classes": lambda name: usual(name, classes=(2, 2)),
    "one class": lambda name: usual(name, classes=(1, 1)),
    "smaller maps": partial(resized, (4, 4), "student"),
    "larger maps": partial(resized, (4, 4), "teacher"),
    "odd maps": partial(resized, (6, 5), "student"),
    "odd maps of the teacher": partial(resized, (5, 7), "teacher"),
    "maps of one position": partial(resized, (1, 1), "student"),
    "a student without a pooled head": partial(unpooled, "student"),
    "a teacher without a pooled head": partial(unpooled, "teacher"),
    "no maps": vectors,
    "no ids": nameless,
    "no labels": unlabelled,
    "a batch of one": alone,
    "one sample eight times": twins,
    "equal scores of the student": partial(level, "student"),
    "equal scores of the teacher": partial(level, "teacher"),
    "equal scores of both": partial(level, "both"),
    "a dead student": partial(dead, "student"),
    "a dead teacher": partial(dead, "teacher"),
    "both dead": partial(dead, "both"),
    "scores of thousands": loud,
}

ON_MAPS = {"at", "at-paper", "nst", "fsp", "fsp-paper", "fsp-torchdistill", "vid", "reviewkd", "fitnets", "sp"}
POOLED = {"catkd", "catkd-binarised", "simkd"}
ON_SCORES = {"kd", "dkd", "dist", "lskd", "lskd-dkd", "lskd-mlld", "mlld", "mix-kd", "glnn"} | POOLED | ON_SCENES
BY_DEVIATION = {"lskd", "lskd-dkd", "lskd-mlld", "mix-kd"}
OTHERS = r"use a method on logits or embeddings \(kd, dkd, dist, rkd"

# Where a sentence is expected, from which methods and of what; elsewhere it is a number.
REFUSED: dict[str, list[tuple[set[str], str]]] = {
    "other classes, fewer": [(ON_SCORES, "the same classes in the same order")],
    "other classes, more": [(ON_SCORES, "the same classes in the same order")],
    "two classes": [(BY_DEVIATION, "the student scores 2: below 3 classes the same numbers come out")],
    "one class": [
        ({"crd", "crd-relax"}, "give data with two classes at least"),
        (BY_DEVIATION, "the student scores 1: below 3 classes"),
        ({"catkd-binarised"}, "more than the 1 classes scored"),
    ],
    "odd maps": [({"fitnets"}, "tap a stage of the student that is larger, or exactly half as large")],
    "maps of one position": [(ON_MAPS | POOLED, OTHERS)],
    "no maps": [(ON_MAPS | POOLED, OTHERS), (ON_SCENES, "give one label for each pixel")],
    "no ids": [
        ({"crd", "crd-relax"}, "wrap the dataset in distil.data.indexed"),
        ({"glnn"}, "yield batches with 'id'"),
    ],
    "a student without a pooled head": [(POOLED, rf"needs a student in which .* which is not its average.*{OTHERS}")],
    "a teacher without a pooled head": [(POOLED, rf"needs a teacher in which .* which is not its average.*{OTHERS}")],
}


def outcome(name: str, given: Given) -> Tensor | DistilError:
    """The losses of two steps, with all gradients finite; or what the user is told."""
    try:
        distiller = Distiller(
            given.student, given.teacher, METHODS[name](), task=task_of(name), example=given.batch, steps=9, epochs=9
        )
        distiller.prepare(given.data)
        optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=1e-4))
        losses = []
        for _ in range(2):
            loss = distiller(given.batch).loss
            loss.backward()
            for key, p in distiller.named_parameters():
                assert p.grad is None or p.grad.isfinite().all(), f"the gradient of {key} is not finite"
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses)
    except DistilError as error:
        return error


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.filterwarnings("ignore")
def test_a_number_or_a_sentence(name: str, given: str) -> None:
    found = outcome(name, GIVEN[given](name))
    says = next((says for names, says in REFUSED.get(given, ()) if name in names), None)
    if says is None:
        assert isinstance(found, Tensor), found
        assert found.isfinite().all(), found
    else:
        assert isinstance(found, DistilError), found
        assert re.search(says, str(found)), found
        assert "\n" not in str(found)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("given", ["both dead", "equal scores of both", "one sample eight times", "a batch of one"])
@pytest.mark.filterwarnings("ignore")
def test_a_number_in_half_precision(name: str, given: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(name, GIVEN[given](name))
    assert isinstance(found, Tensor), found
    assert found.isfinite().all(), found


# Of two classes any two predictions correlate by 1 or -1, and nothing stands beside the target.
NOTHING_OF_TWO = {"dkd": {"dkd.nckd"}, "dist": {"dist.inter"}}
SYSTEMS = ("pld", "nd", "meal-v2", "tgeo-kd", "ofa-kd", "trg", "lelp(subclasses=2)", "random-teachers")
SYSTEMS += ("mix-kd(loss=plain)",)


@pytest.mark.parametrize("name", [*METHODS, *SYSTEMS])
@pytest.mark.filterwarnings("ignore")
def test_two_classes_teach_by_every_term_or_are_refused(name: str) -> None:
    """A loss may be far from 0 and have no gradient: of what rounding leaves none is above 1e-5."""
    made, given = METHODS[name]() if name in METHODS else parse(name), usual(name, classes=(2, 2))
    student = rebuilt_student(given.student, made, seed=0)

    def distiller() -> Distiller:
        return Distiller(student, given.teacher, made, task=task_of(name), example=given.batch, steps=9, epochs=9)

    if name in BY_DEVIATION:
        with pytest.raises(DistilError, match=r"so nothing would be learnt\. Use (kd|dkd|mlld|its plain loss)"):
            distiller()
        return
    watched = distiller()
    watched.prepare(given.data)
    watched.watch(torch.optim.SGD(watched.parameters(), lr=1e-4))
    watched.keep_live(True)
    watched(given.batch)
    steep = {}
    for term, value in watched.live.items():
        slopes = torch.autograd.grad(value, list(student.parameters()), retain_graph=True, allow_unused=True)
        steep[term] = sum(float(slope.norm()) for slope in slopes if slope is not None)
    assert steep
    assert {term for term, norm in steep.items() if norm < 1e-4} == NOTHING_OF_TWO.get(name, set()), steep


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (MLLD(standardised=True, views=1), r"mlld\(standardised=true\).*Use mlld without it"),
        (PLD(standardise="both"), r"pld\(standardise=both\).*Use pld\(standardise=teacher\)"),
    ],
)
def test_an_option_that_standardises_refuses_two_classes_too(method: Method, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        outcome_of(method, usual("kd", classes=(2, 2)))
    assert outcome_of(method, usual("kd")).isfinite()


def test_of_two_classes_nothing_is_left_beside_the_target() -> None:
    given = usual("dkd", classes=(2, 2))
    losses = [outcome_of(DKD(beta=beta), given) for beta in (0.0, 8.0)]
    assert torch.equal(*losses)


def test_a_batch_of_one_has_no_relations() -> None:
    """Nobody else is there to be compared with: the relational terms are 0, and DIST keeps its part within a sample."""
    given = alone("rkd")
    for method in (RKD(), SP(), CC()):
        assert outcome_of(method, given) == 0
    inter = outcome_of(DIST(gamma=0.0), given)
    assert outcome_of(DIST(), given) - inter == pytest.approx(1.0)  # uncorrelated: the most the part across samples is


def outcome_of(method: Method, given: Given) -> Tensor:
    distiller = Distiller(given.student, given.teacher, method, example=given.batch).eval()
    return distiller(given.batch).loss.detach()
