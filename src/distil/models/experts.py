"""A dense block split into experts with a router: the same parameters, fewer of them used per input.

The layer of Dense2MoE (ICCV 2025, arXiv 2510.09094) in this project's reading: no official code is public, so the
gates, the sizes and the router's start are chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from distil.errors import DistilError
from distil.models.heads import replaced

__all__ = ["Experts", "to_experts"]


class Experts(nn.Module):
    """A shared expert that is always on, and N equal experts of which a router picks the best k for each input row.

    ``y = E_shared(x) + Σ_{i in top k} g_i E_i(x) + b2`` with ``p = softmax(W_r x)`` over the experts and gates
    ``g_i = k p_i / Σ_{top k} p`` (1 on average), so all experts under an even router give the dense block exactly.

    Args:
        first, activation, second: the dense block ``second(activation(first(x)))``.
        experts: N.
        active: k.
        shared: hidden units of the shared expert, the first ones in ``order``.
        order: the hidden units in the order in which they are dealt, for example by importance: first the shared ones,
            the rest to the experts in turn.

    The forward pass computes each expert for the rows that chose it, so the saving is real; ``router`` is a module of
    its own, whose output ``[..., N]`` can be tapped for a balance loss.
    """

    def __init__(
        self,
        first: nn.Linear,
        activation: nn.Module,
        second: nn.Linear,
        *,
        experts: int,
        active: int,
        shared: int = 0,
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        hidden = first.out_features
        if second.in_features != hidden:
            raise DistilError(
                f"to_experts: the first layer gives {hidden} units, the second takes {second.in_features}."
            )
        if experts < 1 or not 1 <= active <= experts or not 0 <= shared <= hidden or (hidden - shared) % experts:
            raise DistilError(
                f"to_experts: {hidden} hidden units cannot be split into {shared} shared and {experts} equal experts "
                f"of which {active} are active; (hidden - shared) must divide by experts, and active be 1..experts."
            )
        order = torch.arange(hidden) if order is None else order.long().cpu()
        if not torch.equal(order.sort().values, torch.arange(hidden)):
            raise DistilError(f"to_experts: order must hold each of the {hidden} hidden units once.")
        self.active = active
        self.activation = activation
        self.width = second.out_features
        # Dealt in turn, so that units ranked by importance are spread evenly: expert i gets every N-th unit.
        groups = [order[shared + i :: experts] for i in range(experts)]
        self.sizes = [shared, *(len(group) for group in groups)]
        self.shared = shared > 0
        if self.shared:
            groups.append(order[:shared])  # the last one, so that expert i is number i
        self.inner = nn.ModuleList(_rows(first, group) for group in groups)
        self.outer = nn.ModuleList(_columns(second, group) for group in groups)
        self.bias = None if second.bias is None else nn.Parameter(second.bias.detach().clone())
        weight = first.weight
        self.router = nn.Linear(first.in_features, experts, bias=False, device=weight.device, dtype=weight.dtype)
        nn.init.normal_(self.router.weight, std=1e-2)

    @property
    def share(self) -> float:
        """The share of the hidden units that is used for one input."""
        return (self.sizes[0] + self.active * self.sizes[1]) / sum(self.sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[..., out]`` for ``[..., in]``; every row of the leading dimensions is routed by itself."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        chances = self.router(rows).float().softmax(-1)
        best, chosen = chances.topk(self.active, dim=-1)
        gates = (self.active * best / best.sum(-1, keepdim=True)).to(rows.dtype)
        if self.shared:
            output = self.outer[-1](self.activation(self.inner[-1](rows)))
        else:
            output = rows.new_zeros(len(rows), self.width)
        for i in range(self.router.out_features):
            picked, place = (chosen == i).nonzero(as_tuple=True)
            if len(picked):
                part = self.outer[i](self.activation(self.inner[i](rows[picked])))
                output = output.index_add(0, picked, part * gates[picked, place, None])
        if self.bias is not None:
            output = output + self.bias
        return output.reshape(*inputs.shape[:-1], -1)


def _empty(like: nn.Linear, below: int, above: int, bias: bool) -> nn.Linear:
    # Not initialised, as it is filled at once.
    weight = like.weight
    return nn.utils.skip_init(nn.Linear, below, above, bias=bias, device=weight.device, dtype=weight.dtype)


def _rows(layer: nn.Linear, units: Tensor) -> nn.Linear:
    part = _empty(layer, layer.in_features, len(units), layer.bias is not None)
    with torch.no_grad():
        part.weight.copy_(layer.weight[units])
        if layer.bias is not None:
            part.bias.copy_(layer.bias[units])
    return part


def _columns(layer: nn.Linear, units: Tensor) -> nn.Linear:
    part = _empty(layer, len(units), layer.out_features, False)
    with torch.no_grad():
        part.weight.copy_(layer.weight[:, units])
    return part


def to_experts(
    model: nn.Module,
    path: str | Sequence[str] = "",
    *,
    experts: int,
    active: int,
    shared: int = 0,
    order: Tensor | None = None,
) -> nn.Module:
    """Return a copy of a model with a dense block turned into experts.

    Args:
        model: the model; it is not changed.
        path: an ``nn.Sequential(Linear, activation, Linear)`` inside it ("" for the model itself).
        experts, active, shared, order: see :class:`Experts`.

    >>> block = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    >>> to_experts(block, experts=3, active=1, shared=2).share
    0.5
    """
    name = path if isinstance(path, str) else ".".join(path)
    model = deepcopy(model)
    block = model.get_submodule(name)
    parts = list(block.children()) if isinstance(block, nn.Sequential) else []
    if len(parts) != 3 or not isinstance(parts[0], nn.Linear) or not isinstance(parts[2], nn.Linear):
        raise DistilError(
            f"to_experts: {name or 'the model'!r} is {type(block).__name__} of "
            f"{[type(part).__name__ for part in block.children()]}; expected nn.Sequential(Linear, activation, Linear)."
        )
    split = Experts(parts[0], parts[1], parts[2], experts=experts, active=active, shared=shared, order=order)
    return replaced(model, name, split.train(block.training))
