"""What a method knows of every training sample, by id."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError

__all__ = ["SampleTable"]


class SampleTable(nn.Module):
    """Rows of any shape by sample id, in the state dict; a fresh table takes the size of a stored one.

    >>> table = SampleTable()
    >>> table.store(torch.tensor([7, 3]), torch.tensor([[1.0], [2.0]]))
    >>> table.read(torch.tensor([3, 7, 3]))
    tensor([[2.],
            [1.],
            [2.]])
    """

    ids: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ids", torch.zeros(0, dtype=torch.long))
        self.register_buffer("rows", torch.zeros(0))

    def store(self, ids: Tensor, rows: Tensor) -> None:
        """Keep ``rows`` [N, ...] of the samples ``ids`` [N], in place of what there was.

        Of a sample that comes twice (several views of it, or ranks padded to one length) the first row is kept.
        """
        order = ids.argsort(stable=True)
        found = ids[order]
        first = torch.ones_like(found, dtype=torch.bool)
        first[1:] = found[1:] != found[:-1]
        self.ids, self.rows = found[first], rows.detach()[order][first]

    def read(self, ids: Tensor) -> Tensor:
        """Return the rows of the samples ``ids``; one that was not stored is named (on a CPU)."""
        place = torch.searchsorted(self.ids, ids).clamp(max=max(0, len(self.ids) - 1))
        if ids.device.type == "cpu":
            lost = ids if not len(self.ids) else ids[self.ids[place] != ids]
            if len(lost):
                raise DistilError(
                    f"The sample id {int(lost[0])} was not in the data given to prepare() ({len(self.ids)} samples); "
                    "prepare with all that is trained on."
                )
        return self.rows[place]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("ids", "rows"):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor):  # how many samples there are is known only once the data were read
                setattr(self, name, getattr(self, name).new_empty(stored.shape, dtype=stored.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
