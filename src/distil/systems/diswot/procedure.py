"""DisWOT as a procedure: score untrained students against an untrained teacher on one batch, and search by that."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.loading import mix_seed
from distil.engine.anatomy import anatomy
from distil.engine.distiller import Distiller
from distil.engine.trace import ModelHandle
from distil.errors import DistilError, nearest
from distil.functional.gram import channel_gram, class_maps, fc_gradient, gradient_gram, sample_gram
from distil.loops.search import Evaluation, Guarded, Limits, Search, search
from distil.methods.expression import parse
from distil.models.fresh import INITS, redrawn
from distil.systems.diswot.method import head_weight
from distil.tasks import Task, get_task
from distil.tasks.base import to_device

__all__ = ["Score", "Scorer", "Scoring", "search_student"]

SEMANTIC = ("fc_grad", "cam", "none")


@dataclass(frozen=True)
class Scoring:
    """What a score is made of.

    Attributes:
        semantic: "fc_grad" (the classifier's gradients, as in the authors' code; both classifiers read as many values),
            "cam" (class activation maps, as in the paper; any widths) or "none".
        relation: whether the batch's Gram matrices of the last map are compared.
        init: how weights are drawn: "normal" (N(0, 1)), "kaiming" or "keep" (as the networks come).
        proxy: a distillation method ("rkd", "at", "kd(temperature=4)", …) whose loss takes the place of both.
        repeats: over how many draws of all weights the score is averaged.
        batch: the size of the one batch, for callers that draw it.
    """

    semantic: str = "fc_grad"
    relation: bool = True
    init: str = "normal"
    proxy: str | None = None
    repeats: int = 1
    batch: int = 64

    def __post_init__(self) -> None:
        if self.semantic not in SEMANTIC:
            raise DistilError(f"semantic='{self.semantic}' is unknown; {nearest(self.semantic, SEMANTIC)}")
        if self.init not in INITS:
            raise DistilError(f"init='{self.init}' is unknown; {nearest(self.init, INITS)}")
        if self.proxy is None and self.semantic == "none" and not self.relation:
            raise DistilError("semantic=none, relation=false leaves no score; switch one of them on, or name a proxy.")
        for name in ("repeats", "batch"):
            if getattr(self, name) < 1:
                raise DistilError(f"{name}={getattr(self, name)} must be a whole number of at least 1.")


@dataclass(frozen=True)
class Score:
    """A candidate's score, 0 at most (higher is better), and its parts; a part that is off is None."""

    total: float
    semantic: float | None = None
    relation: float | None = None


@dataclass(frozen=True)
class _Seen:
    """What one untrained network shows of itself on the batch."""

    map: Tensor | None
    maps: Tensor | None
    gradient: Tensor | None


@final
class Scorer:
    """Score candidates by how alike they and a teacher are, both untrained, on one labelled batch.

    Everything happens on copies: no weight, gradient, buffer or mode of a network given is changed. Both networks run
    in training mode. One fixed teacher serves all candidates, and all candidates draw from the same seeds: a score does
    not depend on what was scored before, and nets that begin alike get like weights.

    ``total = −(Σ_n ‖E_n^s − E_n^t‖² / (N·C) + Σ (𝒜_s − 𝒜_t)² / B²)`` for the default settings.

    Args:
        teacher: the teacher; only its architecture counts, unless ``init="keep"``.
        batch: ``inputs`` and ``labels``.
        how: what the score is made of.
        task: how models are called.
        taps: your paths for "map", "emb" or "head".
        device: where networks run.
        seed: of the weights drawn.

    Raises:
        DistilError: the networks cannot be compared: classifiers of other widths, other classes, no feature map.

    >>> from distil.models import SmallCNN
    >>> batch = {"inputs": torch.ones(4, 1, 8, 8), "labels": torch.tensor([0, 1, 2, 3])}
    >>> net = SmallCNN(1, 10, widths=(4, 8))
    >>> Scorer(net, batch, Scoring(init="keep"))(net)
    Score(total=0.0, semantic=0.0, relation=0.0)
    """

    def __init__(
        self,
        teacher: nn.Module,
        batch: Mapping[str, Any],
        how: Scoring | None = None,
        *,
        task: str | Task = "classification",
        taps: Mapping[str, str | tuple[str, str]] | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.how, self.task, self.taps = how or Scoring(), get_task(task), dict(taps or {})
        self.device, self.seed = torch.device(device), seed
        self.batch = to_device(self.task.unpack(batch), self.device)
        if self.how.proxy is None and self.how.semantic == "fc_grad" and bool((self.batch["labels"] < 0).all()):
            raise DistilError(
                "semantic='fc_grad' needs labels and the batch has none; give labelled samples, or use semantic='cam'."
            )
        self._teachers = [self._drawn(teacher, "teacher", i) for i in range(self.how.repeats)]
        self._shown: list[_Seen] = []
        if self.how.proxy is None:
            self._shown = [self._look(net, "teacher") for net in self._teachers]
            self._teachers = []  # what they show is all that is needed
        else:
            parse(self.how.proxy)

    def __call__(self, candidate: nn.Module) -> Score:
        """Return the score of a candidate, averaged over the repeats."""
        found = [self._score(self._drawn(candidate, "student", i), i) for i in range(self.how.repeats)]
        return Score(
            statistics.fmean(score.total for score in found),
            _mean([score.semantic for score in found]),
            _mean([score.relation for score in found]),
        )

    def _drawn(self, model: nn.Module, role: str, repeat: int) -> nn.Module:
        seed = mix_seed("untrained", role, self.seed, repeat)
        return redrawn(model, init=self.how.init, seed=seed).to(self.device)

    def _score(self, student: nn.Module, repeat: int) -> Score:
        if self.how.proxy is not None:
            return Score(self._proxied(student, self._teachers[repeat], self.how.proxy))
        ours, theirs = self._look(student, "student"), self._shown[repeat]
        semantic = relation = None
        if ours.gradient is not None and theirs.gradient is not None:
            self._same(ours.gradient, theirs.gradient)
            semantic = 0.0 - float(gradient_gram(ours.gradient, theirs.gradient))
        if ours.maps is not None and theirs.maps is not None:
            semantic = 0.0 - float(channel_gram(ours.maps, theirs.maps))
        if ours.map is not None and theirs.map is not None:
            relation = 0.0 - float(sample_gram(ours.map, theirs.map))
        return Score((semantic or 0.0) + (relation or 0.0), semantic, relation)

    def _same(self, ours: Tensor, theirs: Tensor) -> None:
        if len(ours) != len(theirs):
            raise DistilError(
                f"The student scores {len(ours)} classes and the teacher {len(theirs)}; build both for the same ones."
            )
        if ours.shape[1] != theirs.shape[1]:
            raise DistilError(
                f"semantic='fc_grad' compares classifiers that read as many values, and the student's reads "
                f"{ours.shape[1]} and the teacher's {theirs.shape[1]}; use semantic='cam', which takes any widths, or "
                f"candidates whose last layer reads {theirs.shape[1]}."
            )

    def _look(self, net: nn.Module, role: str) -> _Seen:
        """Run a network once and keep what the score needs of it."""
        semantic = self.how.semantic
        wanted = {"fc_grad": ("head", "emb"), "cam": ("head", "map"), "none": ()}[semantic]
        names = {*wanted, *(("map",) if self.how.relation else ())}
        side = 0 if role == "student" else 1
        own = {name: path if isinstance(path, str) else path[side] for name, path in self.taps.items()}
        few = {key: value[:2] if isinstance(value, Tensor) else value for key, value in self.batch.items()}
        with _named(role, net, self.batch):
            found = anatomy(net, lambda model: self.task.call(model, few, role=role), logits=self.task.logits)
        taps = {name: found.resolve(name, role=role, overrides=own) for name in names}
        handle = ModelHandle(role, "model", net, self.task, taps, frozen=True)
        trace = handle(self.batch)
        labels = self.batch["labels"]
        return _Seen(
            map=trace["map"] if self.how.relation else None,
            maps=class_maps(trace["map"], head_weight(handle).detach()) if semantic == "cam" else None,
            gradient=fc_gradient(trace.logits, trace["emb"].flatten(1), labels) if semantic == "fc_grad" else None,
        )

    def _proxied(self, student: nn.Module, teacher: nn.Module, proxy: str) -> float:
        """Return the negative loss of a distillation method between two untrained networks."""
        options: dict[str, Any] = {"task": self.task, "epochs": 1, "taps": self.taps, "seed": self.seed}
        with _named("student", student, self.batch):
            distiller = Distiller(student, teacher, parse(proxy), example=self.batch, **options)
        # Statistics of the batch on both sides: running ones mean nothing in an untrained network.
        distiller.eval()
        student.train()
        teacher.train()
        distiller.prepare([self.batch])
        with torch.no_grad():
            return 0.0 - float(distiller(self.batch).loss)


@contextmanager
def _named(role: str, net: nn.Module, batch: Mapping[str, Any]) -> Iterator[None]:
    """Name the network, the user's own, that cannot be run on the data."""
    try:
        yield
    except DistilError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shape = list(batch["inputs"].shape[1:]) if isinstance(batch["inputs"], Tensor) else "these"
        raise DistilError(
            f"The {role} ({type(net).__name__}) cannot be run on inputs {shape}: {reason}. Build it for the data's "
            "shape."
        ) from error


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def search_student(
    teacher: nn.Module,
    space: Any,
    batch: Mapping[str, Any],
    *,
    how: Search | None = None,
    scoring: Scoring | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    history: Sequence[Evaluation] = (),
    record: Callable[[list[Evaluation]], None] | None = None,
    **options: Any,
) -> list[Evaluation]:
    """Search a space for the student that will distil best, without training anything; return all evaluations.

    The winner is the evaluation of the highest ``rank``; of equals the first.

    Args:
        teacher: see :class:`Scorer`; ``options`` (task, taps, device) go there.
        space: an object with ``sample(rng)``, ``mutate(genome, rng)``, ``build(genome)``; see `distil.loops.search`.
        batch: one labelled batch.
        how: strategy and sizes.
        scoring: what the score is made of.
        limits: on parameters and FLOPs.
        seed: of the search and of the weights drawn.
        history: evaluations to go on from.
        record: called with the history after every evaluation.

    >>> from distil.loops.spaces import TinyCNN
    >>> from distil.models import SmallCNN
    >>> batch = {"inputs": torch.rand(8, 1, 8, 8), "labels": torch.arange(8)}
    >>> few = Search(strategy="random", evaluations=3)
    >>> found = search_student(SmallCNN(1, 10), TinyCNN(channels=1, last=64), batch, how=few)
    >>> len(found), all(each.score < 0 for each in found)
    (3, True)
    """
    guarded = space if isinstance(space, Guarded) else Guarded(space, limits, shape=batch["inputs"].shape[1:])
    scorer = Scorer(teacher, batch, scoring, seed=seed, **options)
    return search(
        guarded,
        lambda genome: scored(scorer, guarded, genome).total,
        how or Search(),
        seed=seed,
        history=history,
        record=record,
    )


def scored(scorer: Scorer, space: Guarded, genome: Any) -> Score:
    """Return the score of a genome; what its building draws depends on the seed and the genome alone."""
    return scorer(space.build(genome, seed=scorer.seed))
