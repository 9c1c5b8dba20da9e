"""Graphs with labelled nodes: cleaned edges, checked features and labels, disjoint masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL, Bundle, integer_labels
from distil.data.fingerprint import fingerprint
from distil.data.loading import FullBatch
from distil.data.select import per_class_positions, split_positions
from distil.errors import DistilError, nearest

__all__ = ["GraphData", "make_graph", "planetoid_split", "row_normalised"]


@dataclass(frozen=True)
class GraphData:
    """One graph whose nodes have features and labels.

    Args:
        name: what it is called.
        x: features ``[N, F]``, float32, finite.
        edge_index: ``[2, E]`` int64, both directions of every edge, sorted, without self loops and duplicates.
        y: labels ``[N]`` int64; -100 where there is none.
        train, val, test: bool masks ``[N]``, disjoint, over labelled nodes.
        classes: the class names.
        notes: what cleaning found.
        columns: the names of the features, where a table gave them.
        normalised: whether each row of the features was divided by its sum.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor
    train: Tensor
    val: Tensor
    test: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    normalised: bool = False

    def batch(self, split: str) -> dict[str, Tensor]:
        """Return the whole graph as one batch with the mask of ``split`` ("train", "val" or "test")."""
        if split not in ("train", "val", "test"):
            raise DistilError(
                f"the graph {self.name!r} has no split {split!r}; {nearest(split, ['train', 'val', 'test'])}"
            )
        return {
            "inputs": self.x,
            "edge_index": self.edge_index,
            "labels": self.y,
            "mask": getattr(self, split),
            "id": torch.arange(len(self.x)),
        }

    def bundle(self) -> Bundle:
        """Return the graph as a bundle whose three parts are the full batch under three masks."""
        made = {"columns": list(self.columns)} if self.columns else {}
        content = {name: getattr(self, name) for name in ("x", "edge_index", "y", "train", "val", "test")}
        return Bundle(
            name=self.name,
            task="node-classification",
            train=FullBatch(self.batch("train")),
            val=FullBatch(self.batch("val")),
            test=FullBatch(self.batch("test")),
            classes=self.classes,
            input_shape=(self.x.shape[1],),
            fingerprint=fingerprint(content),
            notes=self.notes,
            preprocessing={**made, **({"row_sums": True} if self.normalised else {})} or None,
        )


def make_graph(
    name: str,
    x: Tensor,
    edge_index: Tensor,
    y: Tensor,
    *,
    masks: Mapping[str, Tensor] | None = None,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
    normalise: bool = False,
    notes: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
) -> GraphData:
    """Check and clean a graph.

    Args:
        name: for messages.
        x: ``[N, F]`` numbers.
        edge_index: ``[2, E]`` node numbers, directed or not, with or without self loops and duplicates.
        y: ``[N]`` or ``[N, 1]`` integer labels, -100 for none.
        masks: ``train``, ``val`` and ``test``, bool ``[N]`` or several splits ``[N, K]`` (number ``seed`` modulo K is
            taken). ``None`` makes them by ``seed``: 20 per class / 500 / 1000 where the graph is large enough, else
            70/15/15.
        classes: the class names; default the numbers.
        normalise: divide each row of ``x`` by its sum.
        notes: of the reader.
        columns: the names of the features.

    Raises:
        DistilError: for features that are not finite, labels or edges out of range, or an empty training mask.
    """
    found = list(notes)
    x = x if x.layout == torch.strided else x.to_dense()
    if x.ndim != 2 or not x.numel() or x.is_complex():
        raise DistilError(
            f"graph {name!r}: features of shape {tuple(x.shape)} and dtype {x.dtype}; expected numbers [nodes, "
            "features]."
        )
    x, nodes = x.float(), len(x)
    broken = (~x.isfinite()).any(1).nonzero().flatten()
    if len(broken):
        raise DistilError(
            f"graph {name!r}: the features of {len(broken)} nodes hold NaN or infinity (first: node {int(broken[0])}); "
            "mend them before training."
        )
    named = classes is not None
    y, classes = _checked_labels(name, y, nodes, classes)
    edge_index = clean_edges(name, edge_index, nodes, found)
    counts = y[y != NO_LABEL].bincount(minlength=len(classes)).tolist()
    empty = [each for each, count in zip(classes, counts, strict=True) if not count]
    if empty:
        why = "" if named else f" (the classes are 0 to the largest label, {classes[-1]}; is that a slip?)"
        more = f" and {len(empty) - 6} more" if len(empty) > 6 else ""
        found.append(f"{len(empty)} of {len(classes)} classes have no node: {', '.join(empty[:6])}{more}{why}.")
    chosen = _masks(name, masks, y, seed, found)
    if normalise:
        x = row_normalised(x)
        found.append("features are row-normalised (each row sums to 1).")
    return GraphData(
        name, x, edge_index, y, *chosen, classes=classes, notes=tuple(found), columns=columns, normalised=normalise
    )


def row_normalised(x: Tensor) -> Tensor:
    """Return ``x`` with each row divided by its sum; rows that sum to 0 stay as they are.

    >>> row_normalised(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    tensor([[0.2500, 0.7500],
            [0.0000, 0.0000]])
    """
    total = x.sum(1, keepdim=True)
    return x / torch.where(total == 0, torch.ones_like(total), total)


def planetoid_split(
    y: Tensor, seed: int, *, per_class: int = 20, val: int = 500, test: int = 1000
) -> dict[str, Tensor]:
    """Return masks with ``per_class`` training nodes of every class, then ``val`` and ``test`` nodes of the rest."""
    train = per_class_positions(y, per_class, seed)
    free = y != NO_LABEL
    free[train] = False
    rest = free.nonzero().flatten()
    if len(rest) < val + test:
        raise DistilError(
            f"{len(rest)} nodes are left after training nodes, but {val} + {test} are wanted; ask for fewer."
        )
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    parts = {"train": train, "val": rest[order[:val]], "test": rest[order[val : val + test]]}
    return {split: _as_mask(part, len(y)) for split, part in parts.items()}


def _checked_labels(
    name: str, y: Tensor, nodes: int, classes: tuple[str, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    y = integer_labels(y.squeeze(1) if y.ndim == 2 and y.shape[1] == 1 else y)
    if y.shape != (nodes,):
        raise DistilError(f"graph {name!r}: {nodes} nodes but labels of shape {tuple(y.shape)}; expected one per node.")
    labelled = y != NO_LABEL
    if not labelled.any():
        raise DistilError(f"graph {name!r}: no node has a label; give some.")
    top = len(classes) if classes is not None else int(y.max()) + 1
    if classes is None and top > max(nodes, 1000):
        raise DistilError(
            f"graph {name!r}: the largest label is {top - 1}, and there are {nodes} nodes; number the classes 0..C-1."
        )
    wrong = (labelled & ((y < 0) | (y >= top))).nonzero().flatten()
    if len(wrong):
        raise DistilError(
            f"graph {name!r}: node {int(wrong[0])} has the label {int(y[wrong[0]])}, outside 0..{top - 1}; use -100 "
            "for 'no label'."
        )
    if len(y[labelled].unique()) < 2:
        raise DistilError(f"graph {name!r}: all labelled nodes have one class; at least two are needed.")
    return y, classes or tuple(map(str, range(top)))


def clean_edges(name: str, edges: Tensor, nodes: int, notes: list[str]) -> Tensor:
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise DistilError(
            f"graph {name!r}: edge_index has shape {tuple(edges.shape)} and dtype {edges.dtype}; expected integers of "
            "shape [2, edges]."
        )
    edges = edges.long()
    outside = ((edges < 0) | (edges >= nodes)).any(0).nonzero().flatten()
    if len(outside):
        source, target = edges[:, outside[0]].tolist()
        raise DistilError(
            f"graph {name!r}: edge {int(outside[0])} joins nodes {source} and {target}, but node numbers go from 0 to "
            f"{nodes - 1}; renumber them."
        )
    loops = edges[0] == edges[1]
    kept = edges[:, ~loops]
    forward = (kept[0] * nodes + kept[1]).unique()
    both = torch.cat([forward, forward % nodes * nodes + forward // nodes]).unique()
    directed = len(both) != len(forward)
    cleaned = torch.stack([both // nodes, both % nodes])
    isolated = nodes - len(cleaned[0].unique())
    notes.append(
        f"{edges.shape[1]} edges stored ({'directed, made undirected' if directed else 'undirected'}), "
        f"{int(loops.sum())} self loops and {kept.shape[1] - len(forward)} duplicates removed, {isolated} isolated "
        f"nodes; {cleaned.shape[1]} directed edges are used."
    )
    return cleaned


def _masks(
    name: str, masks: Mapping[str, Tensor] | None, y: Tensor, seed: int, notes: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    if masks is None:
        masks = _made_masks(y, seed, notes)
    chosen = {}
    for split in ("train", "val", "test"):
        mask = masks.get(split, torch.zeros(len(y), dtype=torch.bool)).bool()
        if mask.ndim == 2:
            notes.append(f"split {seed % mask.shape[1]} of {mask.shape[1]} is used for {split}.")
            mask = mask[:, seed % mask.shape[1]]
        if mask.shape != y.shape:
            raise DistilError(f"graph {name!r}: the {split} mask has shape {tuple(mask.shape)}; expected ({len(y)},).")
        chosen[split] = mask & (y != NO_LABEL)
        if not chosen[split].any():
            raise DistilError(f"graph {name!r}: the {split} mask holds no labelled node; give a mask with some.")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = int((chosen[first] & chosen[second]).sum())
        if shared:
            raise DistilError(
                f"graph {name!r}: {shared} nodes are in both {first} and {second}; masks must be disjoint."
            )
    return chosen["train"], chosen["val"], chosen["test"]


def _made_masks(y: Tensor, seed: int, notes: list[str]) -> dict[str, Tensor]:
    counts = y[y != NO_LABEL].bincount()
    if int(counts[counts > 0].min()) > 20 and int(counts.sum()) >= 20 * len(counts) + 1500:
        notes.append(f"no split was given: 20 per class / 500 / 1000 made by seed {seed}.")
        return planetoid_split(y, seed)
    labelled = (y != NO_LABEL).nonzero().flatten()
    parts = [labelled[part] for part in split_positions(y[labelled], [0.7, 0.15, 0.15], seed)]
    notes.append(f"no split was given: 70/15/15 made by seed {seed}, stratified ({[len(part) for part in parts]}).")
    return {split: _as_mask(part, len(y)) for split, part in zip(("train", "val", "test"), parts)}


def _as_mask(positions: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[positions] = True
    return mask
