"""What ``distil unlearn`` is told, and what that means for the user's graph, network and requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distil.data.bundle import Bundle
from distil.data.deletions import Removal, Standing, node_numbers, read_requests
from distil.data.links import Links, split_links
from distil.engine.host import find_accelerator
from distil.errors import DistilError, nearest
from distil.loops.compare import check_seeds
from distil.loops.lab import Lab
from distil.loops.own_run import Columns
from distil.loops.scene import Scene, link_scene, node_scene
from distil.loops.unlearning import Descent
from distil.models.deletion import WithDeletion, layer_outputs, without_operators
from distil.systems.d2dgn.files import Loaded, beside, fits, load_graph, load_trained, new_model, read_audit, replayed
from distil.systems.d2dgn.procedure import D2DGN, check_scene
from distil.tasks.base import evaluating

__all__ = ["METHODS", "GNNDelete", "Prepared", "UnlearnRun", "deletion_scene", "prepared", "scene_of"]

METHODS = ("d2dgn", "retrain", "gradient-ascent", "gnndelete")


@dataclass(frozen=True)
class GNNDelete:
    """How GNNDelete's operators are trained: each on its own layer, with its authors' steps and rate.

    Args:
        alpha: the share of the deleted pairs' loss, 0 … 1; the rest is that of the nodes around them.
        steps, lr: of Adam; every step sees the whole neighbourhood.

    >>> GNNDelete(steps=100).expression
    'gnndelete(steps=100)'
    """

    alpha: float = 0.5
    steps: int = 1500
    lr: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise DistilError(
                f"gnndelete(alpha={self.alpha}) is the share of the deleted pairs; it must lie in [0, 1]."
            )
        self.descent()

    @property
    def expression(self) -> str:
        """The settings that differ from the default; ``--set gnndelete.KEY=VALUE`` sets them."""
        plain = GNNDelete()
        said = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(plain, k)]
        return "gnndelete" + (f"({', '.join(said)})" if said else "")

    def descent(self) -> Descent:
        """Return how the operators are trained."""
        return Descent(steps=self.steps, lr=self.lr, weight_decay=0.0)


@dataclass(frozen=True)
class UnlearnRun:
    """The settings of ``distil unlearn``.

    Attributes:
        model: a safetensors file (or a state dict); a sidecar beside it says what it is.
        data: the graph it was trained on, deletions included.
        requests: files, taken one after another, each from the last model.
        train_original: there is no model yet: train one on the graph (without its held-out links), then go on.
        method: "d2dgn", "retrain", "gradient-ascent" or "gnndelete".
        net, task: the network (``distil:gcn(hidden=64)``, ``file.py:function``) and "nodes" or "links", where no
            sidecar says it.
        retrain: also train a new model on what is left, to compare with.
        attack: also train a shadow model and attack with it.
        d2dgn, gnndelete: how each forgets. ascent: steps and rate of gradient ascent.
        training: how the original was trained: by it retraining and the shadow model are.
        columns, classes: of a graph in tables: its columns where they have unusual names, and the order of classes.
        split_seed: decides which links are held out (and the masks of a graph that brings none).
        seed: of all other draws.
    """

    model: str = ""
    data: str = ""
    requests: tuple[str, ...] = ()
    train_original: bool = False
    method: str = "d2dgn"
    net: str | None = None
    task: str | None = None
    retrain: bool = False
    attack: bool = True
    d2dgn: D2DGN = field(default_factory=D2DGN)
    gnndelete: GNNDelete = field(default_factory=GNNDelete)
    ascent: Descent = field(default_factory=lambda: Descent(steps=10, lr=0.001, weight_decay=0.0))
    training: Descent = field(default_factory=Descent)
    columns: Columns = field(default_factory=Columns)
    classes: tuple[str | int, ...] = ()
    split_seed: int | None = None
    seed: int = 0

    @property
    def expression(self) -> str:
        """The method with the settings that differ from its default, as a record names it."""
        how = {"d2dgn": self.d2dgn.expression, "gnndelete": self.gnndelete.expression}
        return how.get(self.method, self.method)


@dataclass(frozen=True)
class Prepared:
    """A run that fits: the graph, the model, what was deleted before, and what each request takes away.

    ``base`` is the graph that the weights under GNNDelete's operators were trained on; ``split``, whether the model's
    sidecar or this run says by which seed its links were held out.
    """

    bundle: Bundle
    loaded: Loaded
    records: list[dict[str, Any]]
    base: Standing
    standings: list[Standing]
    removals: list[Removal]
    links: Links | None
    split_seed: int
    split: bool
    device: torch.device


def prepared(run: UnlearnRun, lab: Lab) -> Prepared:
    """Load everything and check every request, so that whatever does not fit is found before anything is trained.

    Raises:
        DistilError: missing files, a model that does not fit the graph, requests that cannot be met.
    """
    _check_settings(run)
    device = find_accelerator(precision="fp32", device=lab.device).device
    known = {} if run.train_original else beside(Path(run.model), net=run.net)
    bundle, split_seed = _graph(run, known)
    if run.train_original:
        assert run.net is not None
        loaded, records = fits(new_model(run.net, run.task, bundle, split_seed=split_seed), bundle), []
    else:
        loaded = load_trained(Path(run.model), bundle, known, net=run.net, task=run.task)
        records = read_audit(Path(run.model), loaded, bundle)
    links = None
    if loaded.task == "links":
        whole = bundle.train.batch
        links = split_links(whole["edge_index"], len(whole["inputs"]), split_seed)
    numbers = node_numbers(run.data)
    first = Standing.of(bundle, numbers=numbers, keeps_classes=loaded.task == "nodes")
    plain = _plain_until(records)
    if isinstance(loaded.module, WithDeletion) != (plain < len(records)):
        raise DistilError(
            f"{run.model} and the record beside it do not agree on whether GNNDelete was used last; it was changed, so "
            "restore it."
        )
    base = replayed(first, records[:plain])
    standings, removals = [replayed(first, records)], []
    for request in [each for file in run.requests for each in read_requests(file, known=numbers)]:
        removals.append(standings[-1].removal(request))
        standings.append(standings[-1].after(removals[-1]))
    split = run.train_original or loaded.split_seed is not None
    made = Prepared(bundle, loaded, records, base, standings, removals, links, split_seed, split, device)
    scenes = [scene_of(made, place) for place in range(len(removals))]
    _check_operators(run, made, scenes)
    if run.method == "d2dgn":
        _check_d2dgn(run, made, scenes)
    return made


def _check_settings(run: UnlearnRun) -> None:
    if run.train_original and run.model:
        raise DistilError("--train-original makes the model, and --model names one; leave one of them out.")
    if run.train_original and run.net is None:
        raise DistilError("--train-original needs --net, the network to train, such as 'distil:gcn(hidden=64)'.")
    needed = (
        {"data": "--data"} if run.train_original else {"model": "--model", "data": "--data", "requests": "--request"}
    )
    for name, option in needed.items():
        if not getattr(run, name):
            raise DistilError(f"{option} is missing; see `distil unlearn --help`.")
    if run.method not in METHODS:
        raise DistilError(f"--method '{run.method}' is unknown; {nearest(run.method, METHODS)}")
    check_seeds([run.seed])


def _graph(run: UnlearnRun, known: dict[str, Any]) -> tuple[Bundle, int]:
    """Return the graph, and the seed that holds its links out (and draws the masks of one that brings none)."""
    told = known.get("split_seed")
    if told is not None and run.split_seed not in (None, told):
        raise DistilError(
            f"{run.model} was trained with the links held out by seed {told}, so by --split-seed {run.split_seed} it "
            "has seen links that it would be scored on; leave --split-seed out."
        )
    split_seed = next((each for each in (run.split_seed, told) if each is not None), 0)
    named = {**run.columns.named(), **({"classes": run.classes} if run.classes else {})}
    return load_graph(run.data, seed=split_seed, **named), split_seed


def _plain_until(records: list[dict[str, Any]]) -> int:
    """Return how many records lie before those by which GNNDelete put operators over the weights."""
    place = len(records)
    while place and str(records[place - 1].get("method")).startswith("gnndelete"):
        place -= 1
    return place


def _check_d2dgn(run: UnlearnRun, made: Prepared, scenes: list[Scene]) -> None:
    """Refuse a request that D2DGN's settings cannot meet, and a network whose layers cannot be copied."""
    for removal, scene in zip(made.removals, scenes):
        try:
            check_scene(scene, run.d2dgn)
        except DistilError as error:
            raise DistilError(f"{removal.request.where}: {error}") from None
    if run.d2dgn.knowledge != "kl":
        batch = made.bundle.train.batch
        with evaluating(made.loaded.module), torch.no_grad():
            layer_outputs(made.loaded.module, batch["inputs"], batch["edge_index"])


def _check_operators(run: UnlearnRun, made: Prepared, scenes: list[Scene]) -> None:
    """Refuse what GNNDelete, or another method over its operators, could not do.

    Raises:
        DistilError: layers without embeddings, requests of no edge, or a method that is not defined over operators.
    """
    module, copies = made.loaded.module, run.d2dgn.init == "original" or run.d2dgn.knowledge != "kl"
    if isinstance(module, WithDeletion) and (run.method == "gradient-ascent" or (run.method == "d2dgn" and copies)):
        raise DistilError(
            f"{run.model} is a network under GNNDelete's operators, which {run.expression} would train, or copy the "
            "layers of, as if they were its own; use d2dgn with its defaults, retrain, or gnndelete."
        )
    if run.method != "gnndelete":
        return
    batch = made.bundle.train.batch
    plain = without_operators(module)
    with evaluating(plain), torch.no_grad():
        layers = layer_outputs(plain, batch["inputs"], batch["edge_index"])[1]
    shapes: list[list[int]] = [list(getattr(each, "shape", [])) for each in layers]
    odd = next((each for each in shapes if len(each) != 2 or each[0] != len(batch["inputs"])), None)
    if odd is not None:
        raise DistilError(
            f"gnndelete puts a matrix after each layer, and one of {made.loaded.net} gives {odd}, not one row for each "
            "node; use d2dgn."
        )
    for removal, scene in zip(made.removals, scenes):
        if not scene.gone.shape[1]:
            raise DistilError(
                f"{removal.request.where}: gnndelete works on deleted edges, and this request deletes none; use d2dgn."
            )


def scene_of(made: Prepared, place: int) -> Scene:
    """Return the scene of one request: the graph as earlier ones left it, and what this one takes away."""
    standing, removal = made.standings[place], made.removals[place]
    earlier = _gone_nodes(standing)
    if made.links is None:
        return node_scene(made.bundle, standing.pairs, removal.pairs, removal.nodes, earlier=earlier)
    gone = torch.cat([earlier, removal.nodes])
    return link_scene(made.bundle, made.links, removal.pairs, left=standing.pairs, gone_nodes=gone)


def _gone_nodes(standing: Standing) -> torch.Tensor:
    return torch.tensor(sorted(standing.gone_nodes), dtype=torch.long)


def deletion_scene(made: Prepared, place: int) -> Scene:
    """Return what GNNDelete deletes for one request: all that went since its weights were trained.

    Its operators were made for their own deletions, and a second set over them is not defined; so those of a later
    request are trained anew on the same weights, for all of the edges.
    """
    later = made.standings[place + 1]
    pairs, nodes = made.base.until(later)
    if made.links is not None:
        return link_scene(made.bundle, made.links, pairs, left=made.base.pairs, gone_nodes=_gone_nodes(later))
    return node_scene(made.bundle, made.base.pairs, pairs, nodes, earlier=_gone_nodes(made.base))
