"""D2DGN: a student copies the trained graph network on what is kept, and one that never knew on what is deleted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distil.data.links import non_edges, pairs_of
from distil.data.loading import mix_seed
from distil.errors import DistilError, nearest
from distil.functional import retain_and_forget
from distil.loops.scene import Elements, Scene
from distil.loops.unlearning import (
    KNOWLEDGE,
    Clock,
    Descent,
    Made,
    copying,
    descended,
    fresh,
    known_by,
    trained,
    unconnected_graph,
)

__all__ = ["D2DGN", "DESTROYERS", "check_scene", "unlearn"]

DESTROYERS = ("untrained", "negatives", "nonedge-prediction")
CHOICES = {
    "destroyer": DESTROYERS,
    "knowledge": KNOWLEDGE,
    "init": ("random", "original"),
    "student_graph": ("retained", "full"),
    "reduction": ("mean", "sum"),
}


@dataclass(frozen=True)
class D2DGN:
    """How a graph network is made to forget: ``alpha · L_keep + (1 − alpha) · L_forget``.

    L_keep is the student's distance from the trained model (the preserver) on what is kept, L_forget that from an
    ignorant one (the destroyer) on what is deleted. Of a pair of nodes the distance is the KL of link or no link, its
    probabilities held within 1e-5 of 0 and 1; of a node, the KL of its classes; of features, the squared distance of
    every layer's embeddings (of pairs: of the scores they give).

    Args:
        destroyer: "untrained" (fresh weights), "negatives" (trained on as many pairs without an edge in place of the
            edges) or "nonedge-prediction" (the preserver's own scores of unconnected pairs; of pairs alone).
        knowledge: "kl", "features" or "both".
        alpha: the share of what is kept, 0 … 1.
        temperature: of the KL; no T² factor.
        init: "random" starts from fresh weights, "original" from the trained ones: that is faster and forgets less.
        student_graph: the edges that the student's messages pass along: "retained", or "full" as the peer has it.
        forget_with_negatives: let the pairs without an edge join the forget term, as the peer has it.
        reduction: of features within a layer, "mean" or "sum".
        steps, lr, weight_decay: of Adam; every step sees the whole graph. Without weight decay by default: the
            gradients of soft answers are small, and a decay made for labels outweighs them.

    Example:
        >>> from distil.systems.d2dgn import D2DGN
        >>> D2DGN(knowledge="both").expression
        'd2dgn(knowledge=both)'

    Paper: Sinha, Mandal, Kankanhalli, Distill to Delete: Unlearning in Graph Networks with Knowledge Distillation,
    2023, arXiv 2309.16173. No official code was found; the terms are those of the OpenGU benchmark (golden).
    """

    destroyer: str = "untrained"
    knowledge: str = "kl"
    alpha: float = 0.5
    temperature: float = 1.0
    init: str = "random"
    student_graph: str = "retained"
    forget_with_negatives: bool = False
    reduction: str = "mean"
    steps: int = 150
    lr: float = 0.01
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise DistilError(f"d2dgn({name}='{value}') is unknown; {nearest(str(value), known)}")
        if not 0 <= self.alpha <= 1:
            raise DistilError(f"d2dgn(alpha={self.alpha}) is the share of what is kept; it must lie in [0, 1].")
        if not self.temperature > 0:
            raise DistilError(f"d2dgn(temperature={self.temperature}) must be above 0.")
        self.descent()

    @property
    def expression(self) -> str:
        """The settings that differ from the default; ``--set d2dgn.KEY=VALUE`` sets them."""
        plain = D2DGN()
        said = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(plain, k)]
        return "d2dgn" + (f"({', '.join(said)})" if said else "")

    def descent(self) -> Descent:
        """Return how the student is trained."""
        return Descent(steps=self.steps, lr=self.lr, weight_decay=self.weight_decay)


def unlearn(
    original: nn.Module, scene: Scene, how: D2DGN | None = None, *, make: Callable[[], nn.Module], seed: int = 0
) -> Made:
    """Return a model of the original's architecture that keeps what is kept and has forgotten what is deleted.

    Args:
        original: the trained model; it is left as it is.
        scene: the graph and the deletion (:func:`distil.loops.scene.link_scene`, ``node_scene``).
        how: :class:`D2DGN`.
        make: makes a new model of the same architecture, for the student and the destroyer.
        seed: of all draws.

    Raises:
        DistilError: nothing is left to keep, a destroyer that the request does not allow, or a loss that diverges.
    """
    how = how or D2DGN()
    check_scene(scene, how)
    clock = Clock()
    preserver = _frozen(original)
    keep, forget = scene.learn, scene.forget
    if keep.kind == "pairs":
        negatives = _negatives(scene, len(keep), seed=seed)
        keep = replace(keep, index=torch.cat([keep.index, negatives], 1))
        if how.forget_with_negatives:
            forget = replace(forget, index=torch.cat([forget.index, negatives], 1))
    with torch.no_grad():
        kept = known_by(scene, preserver, scene.before, knowledge=how.knowledge).of(keep)
    gone = _ignorance(scene, preserver, forget, how, make, seed=seed)
    student = copy.deepcopy(original).requires_grad_(True) if how.init == "original" else None
    student = student or fresh(make, seed=seed, device=scene.inputs.device)
    edges = scene.after if how.student_graph == "retained" else scene.before

    def loss(_: torch.Generator) -> Tensor:
        seen = known_by(scene, student, edges, knowledge=how.knowledge)
        sides = [
            copying(
                side,
                seen.of(side),
                told,
                knowledge=how.knowledge,
                temperature=how.temperature,
                reduction=how.reduction,
            )
            if len(side)
            else None
            for side, told in ((keep, kept), (forget, gone))
        ]
        return retain_and_forget(*sides, alpha=how.alpha)

    student.train()
    descended(student.parameters(), loss, how.descent(), seed=seed)
    return clock.made(student, how.steps)


def check_scene(scene: Scene, how: D2DGN) -> None:
    """Refuse a deletion that these settings cannot meet.

    Raises:
        DistilError: nothing is left to keep, or the destroyer knows pairs alone and the request deletes nodes.
    """
    if not len(scene.learn):
        raise DistilError("d2dgn: the request leaves nothing to keep; delete less, or train a new model.")
    if how.destroyer == "nonedge-prediction" and scene.forget.kind != "pairs":
        raise DistilError(
            "d2dgn(destroyer=nonedge-prediction) gives deleted pairs the scores of unconnected ones, and this "
            "request deletes nodes of a classifier; use untrained or negatives."
        )


def _frozen(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False).eval()


def _negatives(scene: Scene, count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix_seed("fixed negatives", seed))
    return non_edges(count, scene.known, scene.nodes, generator, among=scene.among).to(scene.inputs.device)


def _ignorance(
    scene: Scene, preserver: nn.Module, forget: Elements, how: D2DGN, make: Callable[[], nn.Module], *, seed: int
) -> list[Tensor]:
    """What the student is to say of deleted elements."""
    if how.destroyer == "nonedge-prediction":
        drawn = replace(forget, index=_negatives(scene, len(forget), seed=seed + 1))
        with torch.no_grad():
            return known_by(scene, preserver, scene.before, knowledge=how.knowledge).of(drawn)
    destroyer = fresh(make, seed=mix_seed("destroyer", seed), device=scene.inputs.device)
    if how.destroyer == "negatives":
        edges = unconnected_graph(scene, seed=seed)
        batch = scene.training() | {"edge_index": edges}
        if scene.learn.kind == "pairs":
            batch |= {"pairs": pairs_of(edges), "known": edges}
        trained(destroyer, scene.task, batch, how.descent(), seed=mix_seed("destroyer", seed))
    with torch.no_grad():
        return known_by(scene, _frozen(destroyer), scene.before, knowledge=how.knowledge).of(forget)
