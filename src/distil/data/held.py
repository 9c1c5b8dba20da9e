"""Samples of the training data that a method keeps for itself: who they are, and the samples in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL, View, ids_of, labels_of
from distil.data.loading import mix_seed
from distil.errors import DistilError

__all__ = ["HeldOut", "held_out_ids", "held_part", "inside", "listed", "outside", "places_of", "rows_of"]


def held_out_ids(ids: Tensor, labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Return the sorted ids of a share of each class, at least one of every class that has two samples.

    Who is drawn depends on ids, labels and seed alone, not on their order. Unlabelled samples are never drawn.

    Args:
        ids: [N] integers; of equal ones (views of one sample) the first counts.
        labels: [N] class ids, -100 for "no label".
        share: between 0 and 1/2.
        seed: decides who goes where.

    Raises:
        DistilError: fewer than two classes can give a sample.

    >>> held_out_ids(torch.arange(20), torch.arange(20) % 2, 0.1).tolist()
    [9, 10]
    """
    known, first = np.unique(ids.cpu().numpy(), return_index=True)
    values = labels.cpu().numpy()[first]
    rng = np.random.default_rng(mix_seed("held out", seed))
    drawn = []
    for label in np.unique(values[values != NO_LABEL]):
        members = rng.permutation(known[values == label])
        if len(members) > 1:
            drawn.append(members[: max(1, round(share * len(members)))])
    if len(drawn) < 2:
        raise DistilError(
            f"A validation split too small for the controller: {len(known)} samples, of which {len(drawn)} classes "
            "have two or more, one to learn from and one to hold out; at least two such classes are needed. Give more "
            "labelled data."
        )
    return torch.from_numpy(np.sort(np.concatenate(drawn))).long()


def held_part(dataset: Any, share: float, seed: int = 0) -> View:
    """Return the samples of a dataset that :func:`held_out_ids` would hold out of it, as a view.

    >>> from distil.data import DictDataset
    >>> held_part(DictDataset(torch.zeros(20, 1), torch.arange(20) % 2), 0.1).ids.tolist()
    [9, 10]
    """
    ids = ids_of(dataset)
    held = held_out_ids(ids, labels_of(dataset), share, seed)
    return View(dataset, torch.isin(ids, held).nonzero().flatten())


def listed(batches: Iterable[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """Return the ids and labels of all samples, [N] each, on the CPU.

    >>> listed([{"id": torch.tensor([4]), "labels": torch.tensor([1])}])
    (tensor([4]), tensor([1]))
    """
    pairs = [(_ids(batch), batch["labels"]) for batch in batches]
    ids, labels = (torch.cat([part.cpu() for part in parts]) for parts in zip(*pairs, strict=True))
    return ids, labels


def outside(batch: Mapping[str, Any], held: Tensor) -> Tensor:
    """Return which samples of a batch have a label and are not among the held ids, [B] of bool.

    >>> outside({"labels": torch.tensor([0, 1, -100]), "id": torch.tensor([5, 6, 7])}, torch.tensor([6]))
    tensor([ True, False, False])
    """
    labelled: Tensor = batch["labels"] != NO_LABEL
    if not len(held):
        return labelled
    return labelled & ~_among(batch, held)


def inside(batch: Mapping[str, Any], held: Tensor) -> list[dict[str, Any]]:
    """Return a batch of the samples that are among the held ids, in a list that is empty where there are none.

    >>> inside({"labels": torch.tensor([0, 1]), "id": torch.tensor([5, 6])}, torch.tensor([6]))
    [{'labels': tensor([1]), 'id': tensor([6])}]
    """
    if not len(held):
        return []
    chosen = _among(batch, held).nonzero().flatten()
    return [rows_of(batch, chosen, len(batch["labels"]))] if len(chosen) else []


def _among(batch: Mapping[str, Any], held: Tensor) -> Tensor:
    ids = _ids(batch)
    return torch.isin(ids, held.to(ids.device))


def _ids(batch: Mapping[str, Any]) -> Tensor:
    if "id" not in batch:
        raise DistilError(
            "The batch has no 'id', by which samples are held out: wrap the data with distil.indexed(dataset), or give "
            "validation data as a stream of their own."
        )
    ids: Tensor = batch["id"]
    return ids


def places_of(ids: Tensor, known: Tensor) -> Tensor | None:
    """Return where each of ``ids`` stands in the sorted ``known``; None where one does not.

    >>> places_of(torch.tensor([9, 2]), torch.tensor([2, 4, 9])), places_of(torch.tensor([3]), torch.tensor([2]))
    (tensor([2, 0]), None)
    """
    if not len(known):
        return None
    places = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
    return places if torch.equal(known[places], ids) else None


def rows_of(batch: Any, chosen: Tensor, count: int) -> Any:
    """Return the chosen rows of a batch of ``count`` samples, through nested dicts; what has no rows stays as it is.

    >>> rows_of({"inputs": {"x": torch.arange(3)}, "labels": torch.arange(3)}, torch.tensor([2]), 3)
    {'inputs': {'x': tensor([2])}, 'labels': tensor([2])}
    """
    if isinstance(batch, Mapping):
        return {name: rows_of(part, chosen, count) for name, part in batch.items()}
    if isinstance(batch, Tensor) and batch.ndim and len(batch) == count:
        return batch[chosen.to(batch.device)]
    if isinstance(batch, (list, tuple)) and len(batch) == count:
        return [batch[k] for k in chosen.tolist()]
    return batch


class HeldOut:
    """Held samples in memory, and small batches drawn from them.

    Args:
        parts: batches of any size; they become one where shapes allow, else each stays a pool of its own (texts padded
            to other lengths).

    >>> held = HeldOut([{"inputs": torch.arange(2.0), "labels": torch.arange(2)}] * 3)
    >>> len(held), len(held.draw(4, torch.Generator().manual_seed(0))["labels"])
    (6, 4)
    """

    def __init__(self, parts: Iterable[Mapping[str, Any]]) -> None:
        kept = list(parts)
        self.pools: list[Any] = [_joined(kept)] if len({_shape(part) for part in kept}) == 1 else kept

    def __len__(self) -> int:
        return sum(len(pool["labels"]) for pool in self.pools)

    def draw(self, size: int, rng: torch.Generator) -> dict[str, Any]:
        """Return at most ``size`` samples without replacement, from one pool."""
        sizes = torch.tensor([float(len(pool["labels"])) for pool in self.pools])
        pool = self.pools[int(torch.multinomial(sizes, 1, generator=rng)) if len(sizes) > 1 else 0]
        count = len(pool["labels"])
        if count <= size:
            return dict(pool)
        found: dict[str, Any] = rows_of(pool, torch.randperm(count, generator=rng)[:size], count)
        return found


def _shape(part: Any) -> Any:
    """What must agree for two batches to be joined: names, and shapes but for the number of samples."""
    if isinstance(part, Mapping):
        return tuple((name, _shape(value)) for name, value in sorted(part.items()))
    return tuple(part.shape[1:]) if isinstance(part, Tensor) and part.ndim else type(part).__name__


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, Tensor) and first.ndim:
        return torch.cat(list(parts))
    return [each for part in parts for each in part] if isinstance(first, (list, tuple)) else first
