"""Copies of a frozen model that compute the same for less: BatchNorm folded, channels-last, bfloat16, int8."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Unfit", "fold_batchnorm", "to_bf16", "to_channels_last", "to_int8"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


class Unfit(Exception):
    """An option does not fit a model; the message says why."""


class _Uses(TorchDispatchMode):
    """Counts the operations that read each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return func(*args, **(kwargs or {}))


def fold_batchnorm(model: nn.Module, call: Callable[[], Any], tapped: Collection[str] = ()) -> None:
    """Fold, in place, every BatchNorm into the convolution whose output it alone reads.

    Which convolution feeds which norm is seen in one pass, not read off names. A pair is left as it is where one of the
    two is tapped (its output would then mean something else), carries a hook or a parametrisation, is held under two
    names or runs twice; a subclass may do more than its base, so it is left as well.

    Args:
        model: in eval mode; changed in place.
        call: runs ``model`` on real inputs.
        tapped: paths of modules whose input or output is read.

    Raises:
        Unfit: there is no such pair.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    >>> fold_batchnorm(net, lambda: net(torch.zeros(1, 1, 4, 4)))
    >>> [type(layer).__name__ for layer in net]
    ['Conv2d', 'Identity']
    """
    pairs = [pair for pair in _pairs(model, call) if not set(pair) & set(tapped)]
    if not pairs:
        raise Unfit("no BatchNorm alone reads the output of a convolution that no method taps")
    for conv, norm in pairs:
        layers: Any = (model.get_submodule(conv), model.get_submodule(norm))
        model.set_submodule(conv, fuse_conv_bn_eval(*layers))
        model.set_submodule(norm, nn.Identity())


def _pairs(model: nn.Module, call: Callable[[], Any]) -> list[tuple[str, str]]:
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no other gets their identity
    found: list[tuple[str, str, int]] = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[path] += 1
            if type(module) in CONVOLUTIONS and isinstance(output, Tensor):
                made[id(output)] = (path, output)
            elif args and id(args[0]) in made:
                found.append((made[id(args[0])][0], path, id(args[0])))

        return hook

    able = [
        (path, module)
        for path, module in model.named_modules()
        if type(module) in CONVOLUTIONS + NORMS and path and names[id(module)] == 1 and _bare(module)
    ]
    hooks = [module.register_forward_hook(note(path)) for path, module in able]
    try:
        with _Uses() as uses, torch.no_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm, key in found if uses.counts[key] == 1 and calls[conv] == calls[norm] == 1]


def _bare(module: nn.Module) -> bool:
    """Whether a layer is what its class says, and a norm has statistics to fold."""
    plain = not any(getattr(module, name) for name in HOOKS) and next(module.children(), None) is None
    return plain and (type(module) in CONVOLUTIONS or getattr(module, "running_mean", None) is not None)


def to_channels_last(model: nn.Module) -> None:
    """Lay the weights of convolutions out channels-last; their outputs follow.

    Raises:
        Unfit: there is no convolution over two dimensions.
    """
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise Unfit("it has no convolution over two dimensions")
    model.to(memory_format=torch.channels_last)


def to_bf16(model: nn.Module) -> None:
    """Cast the weights of linear layers and convolutions; autocast does the rest, and keeps what needs float32.

    Raises:
        Unfit: there is nothing to cast.
    """
    layers = [module for module in model.modules() if type(module) in (nn.Linear, *CONVOLUTIONS)]
    if not layers:
        raise Unfit("it has no linear layer and no convolution")
    for layer in layers:
        layer.to(torch.bfloat16)


def to_int8(model: nn.Module) -> None:
    """Store the weights of linear layers in 8 bits, one scale for each output (torchao, weight only).

    Raises:
        Unfit: there is no linear layer.
    """
    if not any(type(module) is nn.Linear for module in model.modules()):
        raise Unfit("it has no linear layer")
    logging.getLogger("torchao").setLevel(logging.ERROR)  # kernels it was built without are no news here
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
