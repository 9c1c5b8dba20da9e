"""LELP as a method: the teacher's embeddings split each class, and the student learns the subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.regroup import FINE
from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces
from distil.errors import DistilError, nearest
from distil.functional.members import (
    filled_labels,
    hard_split,
    members_by_chance,
    members_by_clusters,
    members_by_labels,
)
from distil.functional.reduction import Term
from distil.functional.subspace import (
    class_subspaces,
    subclass_coordinates,
    subclass_cross_entropy,
    subclass_log_probs,
)
from distil.methods.supervised import Supervised
from distil.methods.table import SampleTable
from distil.models.rebuild import with_subclasses
from distil.systems.lelp.clusters import CLUSTERS, clustered
from distil.systems.lelp.head import unseen_by_head

__all__ = ["SubclassKD", "published"]

SPLITTERS = ("lelp", "pca", "projections", *CLUSTERS, "random", "fine")
TARGETS = ("live", "cached")
SCORES = "*subclasses"  # where with_subclasses puts the student's C · S scores


@final
class SubclassKD(Method):
    """Teach S pseudo-subclasses of every class, cut out of the teacher's embedding.

    ``p_cs = p_c · softmax_s(z_cs / β)`` with ``z_cs = v_csᵀ (P h − μ_c) / σ_cs``: P removes what the classifier reads,
    V_c are the class's first S principal directions, turned by a random rotation, σ the deviation of the coordinate
    over the class. The loss is the cross-entropy of the student's C · S outputs. The teacher is not trained.

    Args:
        subclasses: S; 1 is KD at temperature 1.
        beta: β above 0; small ones give a class to its largest coordinate.
        null_space, rotate, standardize: the steps P, rotation and σ.
        splitter: "lelp"; "pca" (neither P nor rotation); "projections" (random directions in place of principal ones);
            hard ones: "kmeans", "agglomerative", "tsne" clusters of each class, "random", or "fine" labels
            (``distil.data.regrouped``), a bound.
        temperature, student_temperature: of p_c and of the student's softmax.
        targets: "live" takes them of each view that is trained on (the directions stay), "cached" once for each sample.
        tap: the teacher's embedding. head: its linear classifier; none finds it by least squares from embeddings and
            logits, and so does "head" where a cache stands for the teacher, or where no such layer is found.

    Requirements: a student that :meth:`rebuild` made; ``prepare`` with training data of every class. Directions are
    those of the data that prepare reads. An unlabelled sample counts for the class the teacher gives it.

    Relations:
        KD with S = 1. DKD splits the loss, not the classes; ND reads class means of the same embeddings.

    Example:
        >>> from distil.systems.lelp import SubclassKD
        >>> SubclassKD(subclasses=3).expression
        'subclasskd(subclasses=3)'

    Paper: Linear Projections of Teacher Embeddings for Few-Class Distillation, 2024, arXiv 2409.20449.
    Differs from official code: none was found; the card says what is this project's reading.
    """

    labels = True
    at_equality: Mapping[str, AtEquality] = {"subclasskd": None}
    means: Tensor
    directions: Tensor
    scale: Tensor
    present: Tensor

    def __init__(
        self, *, subclasses: int = 5, beta: float = 0.3, null_space: bool = True, rotate: bool = True,
        standardize: bool = True, splitter: str = "lelp", temperature: float = 1.0, student_temperature: float = 1.0,
        targets: str = "live", tap: str = "emb", head: str | None = "head", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for key, value, options in (("splitter", splitter, SPLITTERS), ("targets", targets, TARGETS)):
            if value not in options:
                raise DistilError(f"subclasskd({key}={value!r}) is unknown; {nearest(str(value), options)}")
        if subclasses < 1 or not min(beta, temperature, student_temperature) > 0:
            raise DistilError(
                f"subclasskd: subclasses={subclasses} must be at least 1, and beta={beta}, temperature={temperature} "
                f"and student_temperature={student_temperature} above 0."
            )
        self.subclasses, self.beta, self.splitter = subclasses, beta, splitter
        self.temperature, self.student_temperature = temperature, student_temperature
        self.null_space = null_space and splitter in ("lelp", "projections")
        self.rotate, self.standardize = rotate and splitter == "lelp", standardize
        self.hard, self.cached, self.tap = splitter in (*CLUSTERS, "random", "fine"), targets == "cached", tap
        self.head = head if self.null_space else None
        self.at_equality = {"subclasskd": "stationary" if subclasses == 1 else None}
        layers = [] if self.head is None else ["head?" if self.head == "head" else self.head]
        theirs = ["logits", tap, *layers]
        self.taps = ((SCORES, None), ("logits", None), *((None, one) for one in theirs))

    def rebuild(self, student: nn.Module) -> nn.Module:
        """Return a copy whose last linear layer scores the subclasses and sums them to classes."""
        return with_subclasses(student, self.subclasses)

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both score the same classes, and make room for the directions."""
        (scores, *others), emb = student[SCORES], teacher[self.tap]
        classes, wanted = int(teacher.logits.shape[-1]), [len(student.logits), teacher.logits.shape[-1]]
        if (
            others
            or emb.ndim != 2
            or [*student.logits.shape] != wanted
            or scores.shape[-1] != classes * self.subclasses
        ):
            raise DistilError(
                f"subclasskd: the student gives {list(scores.shape)} subclass scores and {list(student.logits.shape)} "
                f"logits, the teacher {list(teacher.logits.shape)} logits and the embedding {list(emb.shape)}; "
                f"expected are {self.subclasses} scores for each class of the teacher, of one student head, and "
                "embeddings [N, D]. Rebuild the student for this method, and name the embedding with tap=."
            )
        needed = self.subclasses + (classes if self.null_space else 0)
        if not self.hard and emb.shape[1] < needed:
            fix = ", or null_space=False" if self.null_space else ""
            raise DistilError(
                f"subclasskd: the teacher's embedding has {emb.shape[1]} dimensions, and {needed} are needed: one for "
                f"each of {self.subclasses} subclasses{f' and of {classes} classes' if fix else ''}; give fewer "
                f"subclasses{fix}."
            )
        self.register_buffer("means", emb.new_zeros(classes, emb.shape[1]))
        self.register_buffer("directions", emb.new_zeros(classes, emb.shape[1], self.subclasses))
        self.register_buffer("scale", emb.new_zeros(classes, self.subclasses))
        self.register_buffer("present", torch.ones(classes, self.subclasses, dtype=torch.bool, device=emb.device))
        self.table = SampleTable()

    def prepare(self, teacher: Handles, data: Any) -> None:
        """Fit the directions, or find the subclass of every sample, in one pass of the teacher over the data."""
        seen = [self._row(teacher, batch) for batch in data]
        features, logits, labels, ids, fine = (torch.cat(part).cpu() for part in zip(*seen, strict=True))
        labels, classes, home = filled_labels(labels, logits), len(self.means), self.means.device
        if self.hard:
            members, present = self._members(features, labels, fine, classes)
            self.present.copy_(present)
            self.table.store(ids, members)
        else:
            unseen = unseen_by_head(teacher, self.head, features, logits) if self.null_space else None
            made = class_subspaces(
                features, labels, classes, self.subclasses, unseen=unseen,
                rotate=self.rotate, standardize=self.standardize,
                directions="random" if self.splitter == "projections" else "pca",
            )  # fmt: skip
            for name in ("means", "directions", "scale", "present"):
                getattr(self, name).copy_(getattr(made, name))
        self.table.to(home)
        if self.cached:
            self.table.store(ids.to(home), self._targets(features.to(home), logits.to(home), ids.to(home)))

    def _members(self, features: Tensor, labels: Tensor, fine: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return the subclass of each sample within each class, and which there are."""
        if self.splitter == "fine":
            return members_by_labels(fine, labels, classes, self.subclasses)
        if self.splitter == "random":
            everywhere = torch.ones(classes, self.subclasses, dtype=torch.bool)
            return members_by_chance(len(labels), classes, self.subclasses), everywhere
        seed = int(members_by_chance(1, 1, 2**31))  # drawn under the run's own
        how = partial(clustered, self.splitter, seed=seed)
        return members_by_clusters(features, labels, classes, self.subclasses, how)

    def _row(self, teacher: Handles, batch: Batch) -> tuple[Tensor, ...]:
        said, ids = teacher(batch), self._ids(batch)
        if self.splitter == "fine" and FINE not in batch:
            raise DistilError(
                "subclasskd(splitter=fine) reads labels finer than the task's, and the batches have none: "
                f"distil.data.regrouped keeps them as '{FINE}'. Use another splitter where there are none."
            )
        return said[self.tap], said.logits, batch["labels"], ids, batch.get(FINE, batch["labels"])

    def _ids(self, batch: Batch) -> Tensor:
        """Return the samples' ids; where nothing is looked up by them they may be missing."""
        if "id" not in batch and (self.hard or self.cached):
            raise DistilError(
                f"subclasskd(splitter={self.splitter}) knows samples by 'id', and the batches have none: give a "
                "dataset (distil.data.indexed), or a splitter of directions with live targets."
            )
        found: Tensor = batch["id"] if "id" in batch else torch.zeros(0, dtype=torch.long)
        return found

    def _targets(self, features: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
        if self.hard:
            split = hard_split(self.table.read(ids), self.subclasses)
        else:
            split = subclass_coordinates(features, self.means, self.directions, self.scale)
        return subclass_log_probs(logits, split, temperature=self.temperature, beta=self.beta, present=self.present)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return the term ``subclasskd``, one value per sample."""
        (scores,) = student(batch)[SCORES]
        ids = self._ids(batch)
        if self.cached:
            targets = self.table.read(ids)
        else:
            said = teacher(batch)
            targets = self._targets(said[self.tap], said.logits, ids)
        return {
            "subclasskd": Term(
                subclass_cross_entropy(scores, targets, temperature=self.student_temperature, reduction="none")
            )
        }


def published(
    *,
    subclasses: int = 5,
    beta: float = 0.3,
    null_space: bool = True,
    rotate: bool = True,
    standardize: bool = True,
    splitter: str = "lelp",
    temperature: float = 1.0,
    alpha: float = 0.0,
    targets: str = "live",
    student_temperature: float = 1.0,
    tap: str = "emb",
    head: str | None = "head",
) -> Sum:
    """Return the paper's whole loss, ``α · CE + (1 − α) · SubclassKD``; its experiments all have α = 0.

    >>> sorted(published(alpha=0.1).methods)
    ['subclasskd', 'supervised']
    """
    if not 0 <= alpha <= 1:
        raise DistilError(f"lelp(alpha={alpha}) must lie in 0 … 1.")
    taught = SubclassKD(
        subclasses=subclasses, beta=beta, null_space=null_space, rotate=rotate, standardize=standardize,
        splitter=splitter, temperature=temperature, targets=targets, student_temperature=student_temperature,
        tap=tap, head=head,
    )  # fmt: skip
    return alpha * Supervised() + (1 - alpha) * taught
