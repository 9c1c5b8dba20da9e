"""A deletion on a graph as data: what the model saw before, what is left, and which elements are kept and forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distil.data.bundle import NO_LABEL, Bundle
from distil.data.links import Links, both_ways, non_edges, pairs_of
from distil.errors import DistilError
from distil.functional import bernoulli_kl, kl, link_posteriors, link_scores
from distil.loops.links import LinkTask
from distil.tasks import NodeTask, Task
from distil.tasks.base import evaluating

__all__ = ["Elements", "Scene", "divergence", "link_scene", "node_scene", "said"]

Kind = Literal["pairs", "nodes"]


@dataclass(frozen=True)
class Elements:
    """Pairs of nodes ``[2, P]``, or nodes ``[P]``: what a model is asked about."""

    kind: Kind
    index: Tensor

    def __len__(self) -> int:
        return self.index.shape[-1]

    def of(self, output: Tensor) -> Tensor:
        """Return a model's answers: the scores ``[P]`` of pairs, or the logits ``[P, C]`` of nodes."""
        return link_scores(output, self.index) if self.kind == "pairs" else output[self.index]

    def posteriors(self, answers: Tensor) -> Tensor:
        """Return the probabilities of answers, ``[P, 2]`` of pairs or ``[P, C]`` of nodes."""
        return link_posteriors(answers) if self.kind == "pairs" else answers.float().softmax(1)

    def part(self, positions: Tensor) -> Elements:
        """Return some of them."""
        return replace(self, index=self.index[..., positions])


def divergence(elements: Elements, student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher ‖ student) of answers, mean over the elements; no T² factor."""
    if elements.kind == "pairs":
        return bernoulli_kl(student, teacher, temperature=temperature)
    return kl(student, teacher, temperature=temperature, scale="none")


@dataclass(frozen=True)
class Scene:
    """One deletion on one graph.

    Attributes:
        task: what the model is for: links, or the classes of nodes.
        inputs, labels: ``[N, F]`` and ``[N]``, of every node; a deleted node stays as a row without edges.
        before, after: ``[2, E]``, both directions: the edges that the original model's messages passed along, and those
            that are left.
        learn: what the original was trained on and is kept: pairs, or training nodes.
        retain, forget: elements of one kind that are kept and that are to be forgotten.
        unseen: elements of that kind that no model was trained on.
        test, val: batches that ``task`` scores, on the edges that are left.
        known: ``[2, K]``, every edge there ever was; pairs without an edge are drawn around it.
        gone: ``[2, D]``, the edges that go, once each.
        among: ``[K]``, the nodes that are left, where this or an earlier request deleted some: pairs without an edge
            are drawn among them, so that nothing is trained on a deleted node. None where none was deleted.
        drawn: ``[K]``, the nodes that GNNDelete's pairs without an edge are drawn among: as ``among``, or all (None),
            as its authors draw for deleted nodes of a classifier.
    """

    task: Task
    inputs: Tensor
    labels: Tensor
    before: Tensor
    after: Tensor
    learn: Elements
    retain: Elements
    forget: Elements
    unseen: Elements
    test: Mapping[str, Any]
    val: Mapping[str, Any]
    known: Tensor
    gone: Tensor
    among: Tensor | None = None
    drawn: Tensor | None = None

    @property
    def nodes(self) -> int:
        """The number of nodes, deleted ones among them."""
        return len(self.inputs)

    def training(self, *, kept: bool = True) -> dict[str, Any]:
        """Return the batch that a model is trained on: what is kept, or all there was before."""
        learn, edges = self.learn, self.after if kept else self.before
        if not kept and self.forget.kind == learn.kind:
            learn = replace(learn, index=torch.cat([learn.index, self._trained().index], -1))
        if learn.kind == "pairs":
            batch = {"inputs": self.inputs, "edge_index": edges, "pairs": learn.index, "known": self.known}
            return batch | ({"among": self.among} if kept and self.among is not None else {})
        mask = torch.zeros(self.nodes, dtype=torch.bool, device=self.inputs.device)
        mask[learn.index] = True
        return {"inputs": self.inputs, "edge_index": edges, "labels": self.labels, "mask": mask}

    def _trained(self) -> Elements:
        """Those of the deleted elements that the original was trained on."""
        if self.forget.kind == "pairs" or "trained" not in self.test:
            return self.forget
        return self.forget.part(self.test["trained"][self.forget.index])

    def to(self, device: torch.device | str) -> Scene:
        """Return the scene with every tensor on ``device``."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, Elements):
                return replace(value, index=value.index.to(device))
            return {key: moved(each) for key, each in value.items()} if isinstance(value, Mapping) else value

        return Scene(**{name: moved(getattr(self, name)) for name in self.__dataclass_fields__})


def said(scene: Scene, model: nn.Module, elements: Elements, *, kept: bool = True) -> Tensor:
    """Return a model's answers about elements, in eval mode and without gradient."""
    with evaluating(model), torch.no_grad():
        batch = {"inputs": scene.inputs, "edge_index": scene.after if kept else scene.before}
        return elements.of(scene.task.logits(scene.task.call(model, batch)))


def link_scene(
    bundle: Bundle, links: Links, gone: Tensor, *, left: Tensor | None = None, gone_nodes: Tensor | None = None
) -> Scene:
    """Return the scene of a link predictor that is to forget edges.

    Args:
        bundle: the graph.
        links: its edges in three parts.
        gone: ``[2, D]`` edges to delete, in any direction, of any part; only training edges can be forgotten, held-out
            ones are no longer used for scores.
        left: ``[2, P]``, the edges that earlier deletions left; all by default.
        gone_nodes: ``[K]``, nodes that this deletion or an earlier one takes; no pair without an edge names them.
    """
    whole = bundle.train.batch
    inputs, nodes = whole["inputs"], len(whole["inputs"])
    gone = pairs_of(gone)
    standing = {name: getattr(links, name) for name in ("train", "val", "test")}
    if left is not None:
        standing = {name: _within(part, left, nodes) for name, part in standing.items()}
    parts = {name: _without(part, gone, nodes) for name, part in standing.items()}
    forget = _within(standing["train"], gone, nodes)
    if not forget.shape[1]:
        held = sum(_within(standing[name], gone, nodes).shape[1] for name in ("val", "test"))
        raise DistilError(
            f"Every edge of the request ({held}) is held out for validation or test: the model never learned it, so "
            "there is nothing to forget. Ask for it together with a training edge: both are then removed, and recorded."
            if held
            else "The request deletes no edge that is left, and a model of links learns nothing else; delete edges."
        )
    among = _left_of(nodes, gone_nodes)
    negatives = {"val": links.val_negatives, "test": links.test_negatives}
    if among is not None:
        negatives = {name: part[:, torch.isin(part, among).all(0)] for name, part in negatives.items()}
    if min(part.shape[1] for part in (*parts.values(), *negatives.values())) < 2:
        raise DistilError(
            "The request leaves fewer than two edges, or pairs without an edge, to train on, to validate or to test "
            "with; delete less."
        )
    after = both_ways(parts["train"])
    scored = {
        name: {"inputs": inputs, "edge_index": after, "pairs": parts[name], "negatives": absent}
        for name, absent in negatives.items()
    }
    retain = Elements("pairs", parts["train"])
    return Scene(
        task=LinkTask(),
        inputs=inputs,
        labels=whole["labels"],
        before=both_ways(standing["train"]),
        after=after,
        learn=retain,
        retain=retain,
        forget=Elements("pairs", forget),
        unseen=Elements("pairs", parts["test"]),
        known=links.every,
        gone=forget,
        among=among,
        drawn=among,
        **scored,
    )


def node_scene(
    bundle: Bundle, pairs: Tensor, gone: Tensor, nodes: Tensor, *, earlier: Tensor | None = None, seed: int = 0
) -> Scene:
    """Return the scene of a node classifier that is to forget nodes, or edges.

    Args:
        bundle: the graph with its three masks.
        pairs: ``[2, P]``, its edges as they stand, once each.
        gone: ``[2, D]``, those that are deleted, the nodes' own among them.
        nodes: ``[K]``, the deleted nodes; empty for a request of edges, whose elements are then pairs: the product of
            the logits at both ends.
        earlier: ``[K]``, nodes that earlier deletions took, perhaps none: the graph is someone's as it stands, and no
            pair without an edge names a deleted node. None for an experiment on a graph of which nothing was deleted:
            there GNNDelete's pairs are its authors', drawn among all nodes.
        seed: of the non-edges that stand for unseen pairs.
    """
    whole = bundle.train.batch
    inputs, labels, count = whole["inputs"], whole["labels"], len(whole["inputs"])
    left = _without(pairs, pairs_of(gone), count)
    alive = torch.ones(count, dtype=torch.bool)
    if earlier is not None:
        alive[earlier] = False
    trained = whole["mask"] & (labels != NO_LABEL) & alive
    alive[nodes] = False
    among = None if alive.all() else alive.nonzero().flatten()
    masks = {name: getattr(bundle, name).batch["mask"] & alive for name in ("train", "val", "test")}
    for name in ("val", "test"):
        if not masks[name].any():
            raise DistilError(f"The request leaves no {name} node, so nothing could be scored; delete fewer nodes.")
    learn = Elements("nodes", masks["train"].nonzero().flatten())
    after = both_ways(left)
    batch = {"inputs": inputs, "edge_index": after, "labels": labels, "trained": trained}
    scored = {name: batch | {"mask": masks[name]} for name in ("val", "test")}
    if len(nodes):
        retain, forget = learn, Elements("nodes", nodes)
        unseen = Elements("nodes", masks["test"].nonzero().flatten())
    else:
        generator = torch.Generator().manual_seed(seed)
        retain, forget = Elements("pairs", left), Elements("pairs", pairs_of(gone))
        # Around every edge there ever was: one that an earlier request deleted was seen in training.
        unseen = Elements("pairs", non_edges(len(forget), whole["edge_index"], count, generator, among=among))
    return Scene(
        task=NodeTask(),
        inputs=inputs,
        labels=labels,
        before=both_ways(pairs),
        after=after,
        learn=learn,
        retain=retain,
        forget=forget,
        unseen=unseen,
        known=pairs_of(whole["edge_index"]),
        gone=pairs_of(gone),
        among=among,
        drawn=None if earlier is None and len(nodes) else among,
        **scored,
    )


def _left_of(nodes: int, gone: Tensor | None) -> Tensor | None:
    """Return the nodes that are left, or None where none is gone."""
    if gone is None or not len(gone):
        return None
    alive = torch.ones(nodes, dtype=torch.bool)
    alive[gone] = False
    return alive.nonzero().flatten()


def _codes(pairs: Tensor, nodes: int) -> Tensor:
    return pairs[0] * nodes + pairs[1]


def _without(pairs: Tensor, gone: Tensor, nodes: int) -> Tensor:
    return pairs[:, ~torch.isin(_codes(pairs, nodes), _codes(gone, nodes))]


def _within(pairs: Tensor, gone: Tensor, nodes: int) -> Tensor:
    return pairs[:, torch.isin(_codes(pairs, nodes), _codes(gone, nodes))]
