"""Low-rank updates of frozen Linear and Conv2d layers, and their exact merge.

Hu et al., "LoRA", ICLR 2022 (arXiv 2106.09685). For convolutions the form of DSCLoRA (CVPR workshops 2025, arXiv
2504.11271): the update is the product ``B A`` of an ``[out*k, rank*k]`` and a ``[rank*k, in*k]`` matrix, read in
row-major order as ``[out, in, k, k]``. Built on torch's parametrisations: the layers stay the layers they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils import parametrize

from distil.errors import DistilError, nearest

__all__ = ["LowRank", "add_lora", "lora_parts", "merge_lora"]


class LowRank(nn.Module):
    """The map ``W → W + (alpha / rank) · view(B A)`` with trained ``A`` and ``B``; the identity at first, as B is 0.

    Args:
        weight: ``[out, in]`` or ``[out, in, kh, kw]`` (``in`` per group).
        rank: r.
        alpha: the scale is ``alpha / rank``.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape[2:] if weight.ndim == 4 else (1, 1)
        self.A = nn.Parameter(weight.new_empty(rank * rows, weight.shape[1] * columns))
        self.B = nn.Parameter(weight.new_zeros(weight.shape[0] * rows, rank * rows))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight."""
        return weight + self.scale * (self.B @ self.A).view(weight.shape)


def add_lora(
    model: nn.Module,
    rank: int,
    targets: str | Iterable[str] = ("linear", "conv"),
    *,
    alpha: float | None = None,
) -> nn.Module:
    """Return a copy of a model in which only low-rank updates of some layers are trained; its output is unchanged.

    Args:
        model: the model; it is not changed.
        rank: of the updates.
        targets: ``"linear"`` and ``"conv"`` (all of a kind), or names and patterns of layers (``"layer*.conv?"``).
        alpha: the updates are scaled by ``alpha / rank``; default ``2 * rank``, a scale of 2.

    Every other parameter, biases included, is frozen.

    >>> from distil.models import MLP
    >>> small = add_lora(MLP(8, 16, 4), 2, "layers.0")
    >>> [name for name, p in small.named_parameters() if p.requires_grad]
    ['layers.0.parametrizations.weight.0.A', 'layers.0.parametrizations.weight.0.B']
    """
    if rank < 1:
        raise DistilError(f"add_lora: rank={rank}; it must be at least 1.")
    wanted = [targets] if isinstance(targets, str) else list(targets)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    if any(parametrize.is_parametrized(layer) for layer in layers.values()):
        raise DistilError("add_lora: the model already has parametrised layers; merge them first (merge_lora).")
    chosen: list[str] = []
    for target in wanted:
        kind = {"linear": nn.Linear, "conv": nn.Conv2d}.get(target)
        found = [n for n, each in layers.items() if (isinstance(each, kind) if kind else fnmatchcase(n, target))]
        if not found and (kind is None or len(wanted) == 1):
            raise DistilError(f"add_lora: no Linear or Conv2d layer matches {target!r}; {nearest(target, layers)}")
        chosen += [name for name in found if name not in chosen]
    model = deepcopy(model).requires_grad_(False)
    for name in chosen:
        layer = model.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        update = LowRank(layer.weight, rank, 2 * rank if alpha is None else alpha)
        parametrize.register_parametrization(layer, "weight", update)
    return model


def lora_parts(model: nn.Module) -> dict[str, LowRank]:
    """Return the low-rank updates of a model by the name of their layer."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            found[name.split(".parametrizations.")[0] if ".parametrizations." in name else ""] = module
    return found


def merge_lora(model: nn.Module) -> nn.Module:
    """Return a copy of a model with its low-rank updates added into the weights: the same outputs, the plain layers.

    The weights are the very tensors that the updated layers computed with, so outputs are bit-equal. All parameters
    require gradients again.

    >>> from distil.models import MLP
    >>> plain = merge_lora(add_lora(MLP(8, 16, 4), 2))
    >>> sorted(plain.state_dict())
    ['layers.0.bias', 'layers.0.weight', 'layers.1.bias', 'layers.1.weight']
    """
    parts = lora_parts(model)
    if not parts:
        raise DistilError(f"merge_lora: {type(model).__name__} has no low-rank updates; add them with add_lora.")
    model = deepcopy(model)
    for name in parts:
        _make_plain(model.get_submodule(name))
    return model.requires_grad_(True)


def _make_plain(layer: nn.Module) -> None:
    # torch's remove_parametrizations takes the property off the generated class, which every copy of the layer shares:
    # merging a copy would break the original. So the copy alone gets its plain class and weight back.
    weight = nn.Parameter(layer.weight.detach().clone())  # type: ignore[operator]
    layer.__class__ = type(layer).__bases__[0]
    del layer._modules["parametrizations"]
    others = dict(layer._parameters)
    layer._parameters.clear()
    layer._parameters.update({"weight": weight, **others})
