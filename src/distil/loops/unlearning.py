"""Full-batch loops that make a graph model, or make one forget: training, ascent, GNNDelete, and two-sided copying."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distil.data.links import both_ways, non_edges
from distil.data.loading import mix_seed
from distil.errors import DistilError
from distil.functional import deletion_by_embedding, layer_mse, link_ascent, near, node_ascent, retain_and_forget
from distil.functional.graph import edges as checked_edges
from distil.loops.scene import Elements, Scene, divergence
from distil.models.deletion import WithDeletion, layer_outputs
from distil.tasks import Task

__all__ = ["KNOWLEDGE", "Clock", "Descent", "Knowledge", "Made", "ascended", "copying", "deleted", "descended", "fresh"]
__all__ += ["gone_negatives", "known_by", "trained", "unconnected_graph"]

KNOWLEDGE = ("kl", "features", "both")


@dataclass(frozen=True)
class Descent:
    """How long and how fast Adam goes down; every step sees the whole graph."""

    steps: int = 200
    lr: float = 0.01
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or self.weight_decay < 0:
            raise DistilError(
                f"{self}: give at least one step, a learning rate above 0 and a weight decay of 0 or more."
            )


@dataclass(frozen=True)
class Made:
    """A model, and what it took: seconds by the clock, updates, seconds of the processor."""

    module: nn.Module
    seconds: float
    updates: int
    processor: float = 0.0


class Clock:
    """The time since it was made, by the wall and by the processor."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def made(self, module: nn.Module, updates: int) -> Made:
        """Return a model, in eval mode, with the time until now."""
        wall, processor = time.perf_counter() - self._wall, time.process_time() - self._processor
        return Made(module.eval(), wall, updates, processor)


def fresh(make: Callable[[], nn.Module], *, seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """Return a new model drawn from ``seed``; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("weights", seed))
        return make().to(device)


def descended(
    parameters: Iterable[nn.Parameter], loss: Callable[[torch.Generator], Tensor], how: Descent, *, seed: int
) -> None:
    """Minimise ``loss(generator)`` over parameters; generator and torch's own are seeded anew before every step.

    Raises:
        DistilError: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(parameters, lr=how.lr, weight_decay=how.weight_decay)
    with torch.random.fork_rng(devices=[]):
        for step in range(how.steps):
            torch.manual_seed(mix_seed("step", seed, step))
            value = loss(torch.Generator().manual_seed(mix_seed("draws", seed, step)))
            if not value.isfinite():
                raise DistilError(
                    f"the loss is {float(value.detach())} at step {step + 1}; lower the learning rate ({how.lr:g})."
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def trained(model: nn.Module, task: Task, batch: dict[str, object], how: Descent, *, seed: int) -> Made:
    """Train ``model`` in place on the labels, or the links, of a whole graph; drawn non-edges are new in every step."""
    clock = Clock()

    def loss(rng: torch.Generator) -> Tensor:
        made = task.prepare(dict(batch), rng)
        return task.loss(task.call(model, made), made).mean()

    model.train()
    descended(model.parameters(), loss, how, seed=seed)
    return clock.made(model, how.steps)


def ascended(original: nn.Module, scene: Scene, how: Descent, *, seed: int) -> Made:
    """Return a copy of the original pushed up the loss of what is deleted: the baseline called gradient ascent.

    Messages pass along all edges there were, as in GNNDelete's version of it.
    """
    clock = Clock()
    model = copy.deepcopy(original).requires_grad_(True).train()
    batch = {"inputs": scene.inputs, "edge_index": scene.before}

    def loss(_: torch.Generator) -> Tensor:
        output = scene.task.logits(scene.task.call(model, batch))
        answers = scene.forget.of(output)
        if scene.forget.kind == "pairs":
            return link_ascent(answers)
        return node_ascent(answers, scene.labels[scene.forget.index])

    descended(model.parameters(), loss, how, seed=seed)
    return clock.made(model, how.steps)


def deleted(original: nn.Module, scene: Scene, how: Descent, *, alpha: float = 0.5, seed: int) -> Made:
    """Return the original under GNNDelete's operators, each trained on its own layer's loss, by node embeddings.

    What is trained sees the edges within two hops of the deleted ones, they included; the original's embeddings on the
    edges that are left are the target, and those of pairs without an edge, drawn once, that of deleted pairs.
    """
    clock = Clock()
    if not scene.gone.shape[1]:
        raise DistilError("gnndelete works on deleted edges, and this request deletes none; use d2dgn.")
    target = copy.deepcopy(original).requires_grad_(False).eval()
    ends, before = scene.gone.unique(), scene.before
    with torch.no_grad():
        wanted = layer_outputs(target, scene.inputs, scene.after)[1]
    reach = [near(before, ends, hops=k + 1, num_nodes=scene.nodes) for k in range(len(wanted))]
    local = before[:, near(before, ends, hops=2, num_nodes=scene.nodes)[before].all(0)]
    outside = torch.ones_like(reach[0])
    outside[ends] = False
    negatives = gone_negatives(scene, seed=seed)
    model = WithDeletion(target, reach, [each.shape[1] for each in wanted]).to(scene.inputs.device)
    optimizers = [torch.optim.Adam([operator], lr=how.lr) for operator in model.operators]
    model.eval()
    with model.first_kept(scene.inputs, local):
        for _ in range(how.steps):
            losses = []
            for ours, theirs, mask in zip(model.layer_outputs(scene.inputs, local), wanted, reach):
                parts = deletion_by_embedding(ours, theirs, scene.gone, negatives, mask & outside)
                losses.append(retain_and_forget(parts.local, parts.random, alpha=1 - alpha))
            for place, operator in enumerate(model.operators):
                last = place + 1 == len(losses)
                (operator.grad,) = torch.autograd.grad(losses[place], operator, retain_graph=not last)
            for optimizer in optimizers:
                optimizer.step()
    return clock.made(model, how.steps)


@dataclass(frozen=True)
class Knowledge:
    """What a model says of the whole graph: its output, and every layer's where features are copied."""

    output: Tensor
    layers: list[Tensor]

    def of(self, elements: Elements) -> list[Tensor]:
        """Return the answers about elements, by the output and then by every layer."""
        return [elements.of(each) for each in (self.output, *self.layers)]


def known_by(scene: Scene, model: nn.Module, edges: Tensor, *, knowledge: str) -> Knowledge:
    """Pass the graph through a model as it stands (mode, gradient); layers are looked at where they are copied."""
    if knowledge != "kl":
        return Knowledge(*layer_outputs(model, scene.inputs, edges))
    batch = {"inputs": scene.inputs, "edge_index": edges}
    return Knowledge(scene.task.logits(scene.task.call(model, batch)), [])


def copying(
    elements: Elements,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    knowledge: str,
    temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Return how far a student is from what it copies: the divergence of answers, the distance of layers, or both.

    Args:
        student, teacher: what :meth:`Knowledge.of` gave for the same elements.
        knowledge: "kl" (answers), "features" (every layer's embeddings; of pairs, the scores they give) or "both".
        temperature: of the divergence.
        reduction: of the features, within a layer.
    """
    parts: list[Tensor] = []
    if knowledge != "features":
        parts.append(divergence(elements, student[0], teacher[0], temperature=temperature))
    if knowledge != "kl":
        parts.append(layer_mse(student[1:], teacher[1:], reduction=reduction))
    return torch.stack(parts).sum()


def gone_negatives(scene: Scene, *, seed: int) -> Tensor:
    """Return a pair without an edge for each deleted edge, among the nodes that the scene says (``drawn``)."""
    generator = torch.Generator().manual_seed(mix_seed("negatives", seed))
    pairs = non_edges(scene.gone.shape[1], scene.known, scene.nodes, generator, among=scene.drawn)
    return pairs.to(scene.inputs.device)


def unconnected_graph(scene: Scene, *, seed: int) -> Tensor:
    """Return as many sampled non-edges as the graph had edges, in both directions: a graph that joins the unjoined."""
    generator = torch.Generator().manual_seed(mix_seed("non-edges", seed))
    pairs = non_edges(scene.before.shape[1] // 2, scene.known, scene.nodes, generator, among=scene.among).unique(dim=1)
    return checked_edges(both_ways(pairs).to(scene.inputs.device), scene.nodes, self_loops=False)
