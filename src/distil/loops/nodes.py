"""What recipes on graphs share: answers of a graph network kept by node, and runs in which an epoch is one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.loading import FullBatch, mix_seed
from distil.engine.distiller import Distiller
from distil.engine.gradient import gradient_shares
from distil.errors import DistilError
from distil.functional.frequency import output_cosine, pair_distance_divergence
from distil.functional.node_features import noisy_features
from distil.loops.training import Training
from distil.methods.glnn import TAUGHT
from distil.methods.nodes import NodeMemory
from distil.tasks import NodeTask
from distil.tasks.base import BatchReader

__all__ = ["NodeAnswers", "NodeTraining", "featured", "frequency_diagnostics", "noisy", "rows_of", "without_edges"]


@final
class NodeAnswers(BatchReader):
    """A graph network's logits of every node of a bundle, in its place: read by ``id``, and no edge is touched.

    Nodes of the training graph are answered as that graph lets the network answer; nodes that only the test graph has
    (hidden ones), as the whole graph does.
    """

    def __init__(self, network: nn.Module, bundle: Bundle) -> None:
        super().__init__()
        self.memory = NodeMemory()
        for part in (bundle.test, bundle.train):  # the observed graph's answers win
            said = NodeTask().predict(network, part, role="teacher")
            self.memory.store(said["id"], said["logits"])

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits ``[B, C]`` of a batch's nodes."""
        if not isinstance(batch, Mapping) or "id" not in batch:
            raise DistilError("The answers of a graph network are kept by node: give batches with 'id'.")
        return self.memory.read(batch["id"])


@dataclass(frozen=True)
class NodeTraining(Training):
    """Training on full batches, where an epoch is one step.

    Shares of the gradient cost a backward pass for each term and are read at every epoch, so they are left to
    :func:`frequency_diagnostics`. Adam's step is torch's fused one: the same formula in one pass over the weights.
    """

    optimizer: str = "adam"

    def options(self) -> dict[str, Any]:
        """Return them as ``fit`` takes them."""
        given = super().options()
        if self.optimizer == "adam":
            given["optimizer"] = partial(torch.optim.Adam, fused=True)
        return given | {"diagnose": False}


def rows_of(part: FullBatch) -> FullBatch:
    """Return the nodes in a part's mask as rows of features with labels, for models that read no edges."""
    batch = part.batch
    nodes = batch["mask"].nonzero().flatten()
    return FullBatch({name: batch[name][nodes] for name in ("inputs", "labels", "id")})


def without_edges(bundle: Bundle) -> Bundle:
    """Return a graph's bundle for students that read features alone: only nodes that count are scored in validation.

    >>> from distil.data.graphs import make_graph
    >>> masks = {name: torch.arange(6) % 3 == k for k, name in enumerate(("train", "val", "test"))}
    >>> ring = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
    >>> graph = make_graph("ring", torch.eye(6), ring, torch.arange(6) // 3, masks=masks)
    >>> without_edges(graph.bundle()).val.batch["id"]
    tensor([1, 4])
    """
    return replace(bundle, val=rows_of(bundle.val))


def featured(bundle: Bundle, make: Callable[[Tensor, Tensor], Tensor]) -> Bundle:
    """Return a bundle whose features are ``make(inputs, edge_index)`` of each part's own graph.

    Features that hold neighbours know of a node's edges: in training only of those that are observed.
    """
    made: dict[tuple[int, int], Tensor] = {}

    def changed(part: FullBatch) -> FullBatch:
        inputs, edges = part.batch["inputs"], part.batch["edge_index"]
        key = (id(inputs), id(edges))
        if key not in made:  # parts of one graph keep sharing one tensor
            made[key] = make(inputs, edges)
        return FullBatch(part.batch | {"inputs": made[key]})

    parts: dict[str, Any] = {name: changed(getattr(bundle, name)) for name in ("train", "val", "test")}
    content = {f"inputs {k}": inputs for k, inputs in enumerate(made.values())}
    return replace(bundle, **parts, fingerprint=fingerprint({"of": bundle.fingerprint, **content}))


def noisy(bundle: Bundle, amount: float, *, seed: int = 0) -> Bundle:
    """Return a graph whose features are ``(1 − amount) X + amount N(0, 1)``, the same for teacher and students."""
    draw = torch.Generator().manual_seed(mix_seed("noise", seed))
    changed = featured(
        bundle, lambda x, _: noisy_features(x, torch.randn(x.shape, generator=draw, dtype=x.dtype), amount=amount)
    )
    return replace(changed, notes=(*bundle.notes, f"a share of {amount:g} of every feature is noise."))


def frequency_diagnostics(bundle: Bundle) -> Callable[[Distiller], Mapping[str, float]]:
    """Return what reads off a trained distiller how far low and high frequency agree, and each term's share.

    ``cosine``: mean cosine of student and teacher outputs over nodes; ``distances``: KL between their distributions of
    distances over edges, in nats; ``share of TERM``: of the gradient on the shipped weights, in %.
    """
    batch = dict(bundle.train.batch)
    batch[TAUGHT] = torch.ones(len(batch["id"]), dtype=torch.bool)  # all, also where training saw some nodes only

    def read(distiller: Distiller) -> Mapping[str, float]:
        task = distiller.task
        (teacher,) = distiller.teachers.values()
        ours, theirs = (task.predict(model, [batch])["logits"] for model in (distiller.deployed(), teacher))
        found = {
            "cosine": float(output_cosine(ours, theirs).mean()),
            "distances": float(pair_distance_divergence(ours, theirs, batch["edge_index"])),
        }
        shares = _shares(distiller, batch)
        return found | {f"share of {name}": 100 * share for name, share in shares.items() if len(shares) > 1}

    return read


def _shares(distiller: Distiller, batch: Mapping[str, Any]) -> dict[str, float]:
    modes = [(part, part.training) for part in distiller.modules()]
    distiller.eval()
    distiller.keep_live(True)
    try:
        distiller(dict(batch))
        return gradient_shares(distiller)["share"]
    finally:
        distiller.keep_live(False)
        for part, training in modes:
            part.training = training
