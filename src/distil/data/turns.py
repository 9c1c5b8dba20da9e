"""An epoch in two turns, as GLNN's code trains: batches of labelled nodes, then batches of all nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL
from distil.data.loading import mix_seed
from distil.errors import DistilError

__all__ = ["LabelsThenTeacher"]


class LabelsThenTeacher:
    """Batches of a graph's nodes without edges: first those in ``mask`` with their labels, then all without labels.

    ``taught`` (bool ``[B]``) says which nodes of a batch the teacher teaches: none in the first turn, all in the other.
    Each turn has a fresh order in every epoch; its incomplete last batch is left out, unless it is the only one.

    Args:
        batch: a graph's full batch: ``inputs`` ``[N, F]``, ``labels``, ``mask``, ``id``.
        size: nodes in a batch.
        seed: of the orders.

    Paper: Zhang et al., *Graph-less Neural Networks*, ICLR 2022, arXiv 2110.08727; the order is its code's.

    >>> graph = {"inputs": torch.eye(4), "labels": torch.arange(4), "id": torch.arange(4)}
    >>> turns = LabelsThenTeacher(graph | {"mask": torch.tensor([True, False, False, False])}, size=2, seed=0)
    >>> [(len(batch["id"]), int(batch["taught"].sum())) for batch in turns]
    [(1, 0), (2, 2), (2, 2)]
    """

    def __init__(self, batch: Mapping[str, Any], *, size: int = 512, seed: int = 0) -> None:
        if size < 1:
            raise DistilError(f"LabelsThenTeacher: size={size} must be at least 1.")
        self.rows = {name: batch[name] for name in ("inputs", "labels", "id")}
        mask = batch["mask"] & (batch["labels"] != NO_LABEL)
        self.labelled = mask.nonzero().flatten()
        if not len(self.labelled):
            raise DistilError("LabelsThenTeacher: no node in the mask has a label; give a training mask with some.")
        self.size, self.seed, self.epoch = size, seed, 0

    @property
    def labels(self) -> Tensor:
        """The labels that are read in an epoch."""
        found: Tensor = self.rows["labels"][self.labelled]
        return found

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(max(1, count // self.size) for count in (len(self.labelled), len(self.rows["id"])))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for turn, nodes in enumerate((self.labelled, torch.arange(len(self.rows["id"])))):
            draw = torch.Generator().manual_seed(mix_seed("turns", self.seed, self.epoch, turn))
            order = nodes[torch.randperm(len(nodes), generator=draw)]
            batches = max(1, len(order) // self.size)
            for chosen in order[: batches * self.size].split(self.size):
                batch = {name: rows[chosen] for name, rows in self.rows.items()}
                if turn:
                    batch["labels"] = torch.full_like(batch["labels"], NO_LABEL)
                yield batch | {"taught": torch.full((len(chosen),), bool(turn))}
