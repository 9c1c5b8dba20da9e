"""What contrastive methods remember of every training sample: a row for each network, found by the sample's id."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distil.data.bundle import NO_LABEL
from distil.engine.window import world_size
from distil.errors import DistilError
from distil.functional.contrastive import bank_logits, bank_rows, log_normaliser
from distil.methods.draws import STEPS, below, distinct, mixed

__all__ = ["ContrastBank"]

PENDING = tuple[Tensor, Tensor, Tensor, Tensor]
READ_EVERY = 50
"""Batches between two looks at which ids were unknown, on a device that is not waited for."""


@final
class ContrastBank(nn.Module):
    """Two banks of N rows, whose rows they are, and CRD's two constants; all of it in the checkpoint.

    Rows are ordered by label, so that the samples of other classes are all but one run of rows.

    Args:
        dim: the width of a row.

    >>> bank = ContrastBank(4)
    >>> bank.fill(torch.tensor([7, 3, 9]), torch.tensor([1, 0, 1]), torch.float32)
    >>> bank.find(torch.tensor([3, 9])), bank.draw(torch.tensor([0]), 2, keys=torch.tensor([1])).sort().values
    (tensor([0, 2]), tensor([[0, 1, 2]]))
    """

    student: Tensor
    teacher: Tensor
    ids: Tensor
    places: Tensor
    labels: Tensor
    log_z: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        for name in ("student", "teacher"):
            self.register_buffer(name, torch.zeros(0, dim))
        for name in ("ids", "places", "labels"):  # ids ascending, the row of each, and the label of each row
            self.register_buffer(name, torch.zeros(0, dtype=torch.long))
        self.register_buffer("log_z", torch.full((2,), torch.nan))  # of the student's and of the teacher's scores
        self._known = False  # whether log_z is; asking the buffer would wait for its device in every step
        self._strangers: list[Tensor] = []  # of each batch on a device: whether an id is unknown, and which

    def fill(self, ids: Tensor, labels: Tensor, dtype: torch.dtype) -> None:
        """Begin with random rows for the samples ``ids``; those without a label are left out."""
        ids, labels = ids[labels != NO_LABEL].cpu(), labels[labels != NO_LABEL].cpu()
        self.ids, which = ids.unique(return_inverse=True)
        self.labels, order = labels.new_zeros(len(self.ids)).scatter(0, which, labels).sort(stable=True)
        self.places = order.argsort()
        classes = len(self.labels.unique())
        if classes < 2:
            raise DistilError(
                f"crd: the {len(self.ids)} labelled samples are of {classes} class, and negatives are of others; "
                "give data with two classes at least."
            )
        if len(self.ids) > STEPS:
            raise DistilError(f"crd remembers at most {STEPS} samples, and there are {len(self.ids)}; give fewer.")
        spread = (3 / self.dim) ** 0.5  # rows of length 1 on average
        self.student, self.teacher = (
            (2 * torch.rand(len(self.ids), self.dim, dtype=dtype) - 1) * spread for _ in range(2)
        )
        self.log_z = torch.full((2,), torch.nan, dtype=dtype)
        self._known = False

    def find(self, ids: Tensor) -> Tensor:
        """Return the rows of the samples ``ids``; refuses one that was not there when the bank was made.

        Only on a CPU at once: a device is not waited for, an unknown id has a neighbour's row there, and
        :meth:`check` refuses it after ``READ_EVERY`` batches at the latest.
        """
        found = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        if len(ids):
            self._note(self.ids[found] != ids, ids)
        if ids.device.type == "cpu" or len(self._strangers) >= READ_EVERY:
            self.check()
        return self.places[found]

    def _note(self, lost: Tensor, ids: Tensor) -> None:
        first = ids.gather(0, lost.long().argmax(0, keepdim=True))
        self._strangers.append(torch.cat([lost.any()[None].long(), first.long()]))

    def check(self) -> None:
        """Refuse the first unknown id that was asked for since the last look; waits for the device."""
        noted, self._strangers = self._strangers, []
        for lost, which in torch.stack(noted).tolist() if noted else ():
            if lost:
                raise DistilError(
                    f"crd remembers {len(self.ids)} labelled samples, and id {which} is not among them: prepare() must "
                    "see the data that are trained on, under the same ids."
                )

    def draw(self, rows: Tensor, count: int, *, keys: Tensor, relaxed: bool = False) -> Tensor:
        """Return ``[B, 1 + count]`` rows: the sample itself, then others of other classes, none twice.

        Where there are fewer others, each comes as often as every other, give or take one. What is drawn depends on a
        sample's key alone, so that it does not matter who shares its batch; nothing waits for the device.

        Args:
            rows: (B,), of labelled samples.
            count: negatives of each.
            keys: (B,), one for each sample; see ``methods/draws.py``.
            relaxed: draw the positive from the sample's class instead.
        """
        labels = self.labels[rows]
        start, stop = (torch.searchsorted(self.labels, labels, right=right) for right in (False, True))
        own = stop - start
        # The others follow on the last row of the class, round in a circle.
        negatives = distinct(keys, len(self.ids) - own, count).add_(stop[:, None]).remainder_(len(self.ids))
        positive = start + below(mixed(keys, 3), own) if relaxed else rows
        return torch.cat([positive[:, None], negatives], 1)

    def constants(self, logits: list[Tensor], index: Tensor, *, temperature: float, keep: bool) -> Tensor:
        """Return the two constants: those kept; else those of ``logits`` over all ranks, kept from now on if ``keep``.

        A loss that is measured before there are any takes them from the banks alone, as if these had been embedded.
        """
        if not self._known:
            self._known = bool(self.log_z.isfinite().all())
        if self._known:
            return self.log_z
        if not keep:
            pairs = ((self.student, self.teacher), (self.teacher, self.student))
            logits = [bank_logits(a[index[:, 0]], b, index, temperature=temperature) for a, b in pairs]
        fresh = torch.stack([log_normaliser(scores, len(self.ids)) for scores in logits]).to(self.log_z)
        if not keep:
            return fresh
        if world_size() > 1:
            mean = fresh.exp()
            dist.all_reduce(mean)
            fresh = (mean / world_size()).log()
        self.log_z.copy_(fresh)
        self._known = True
        return fresh

    @torch.no_grad()
    def remember(self, pending: list[PENDING], momentum: float) -> None:
        """Move the rows of samples towards their new embeddings; on every rank those of all ranks, in one order.

        A sample seen twice in a step is moved once, by the last it was seen as.

        Args:
            pending: (rows, which of them count, student's embeddings, teacher's) of each micro-batch.
            momentum: see ``functional.bank_rows``.
        """
        rows, kept, ours, theirs = (_of_all_ranks(torch.cat(parts)) for parts in zip(*pending, strict=True))
        # Every entry writes what the last one of its row gives, so that the order of writing does not matter.
        order = torch.where(kept.bool(), torch.arange(len(rows), device=rows.device), -1)
        last = order.new_full((len(self.ids),), -1).scatter_reduce(0, rows, order, "amax")[rows]
        seen = (last >= 0)[:, None]
        for bank, emb in ((self.student, ours), (self.teacher, theirs)):
            moved = bank_rows(bank[rows], emb[last.clamp(min=0)].to(bank), momentum=momentum)
            bank[rows] = torch.where(seen, moved, bank[rows])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("student", "teacher", "ids", "places", "labels"):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor):  # how many samples there are is known only once the data were read
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        self._known = False
        super()._load_from_state_dict(state_dict, prefix, *args)


def _of_all_ranks(values: Tensor) -> Tensor:
    """Return the rows of every rank, one rank after the other."""
    if world_size() < 2:
        return values
    sizes = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(values)], device=values.device))
    longest = int(max(size.item() for size in sizes))
    padded = values.new_zeros(longest, *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes)])
