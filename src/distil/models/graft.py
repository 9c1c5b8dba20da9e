"""A model with some of its modules exchanged, that shares all the rest with the first."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from distil.errors import DistilError, nearest

__all__ = ["grafted", "with_class_maps"]


def grafted(model: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """Return ``model`` with other modules at the named paths; the model given is not changed, nor is anything copied.

    Modules on the way to an exchanged one are made anew and share their own parameters and buffers; all others are
    the same objects. So what is trained afterwards through one is trained in both.

    Args:
        model: any module.
        parts: ``{path: module}``; a module that stands at several places is exchanged at each.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    >>> other = grafted(net, {"1": nn.Identity()})
    >>> other[0] is net[0], other(torch.zeros(1, 2)).shape, net(torch.zeros(1, 2)).shape
    (True, torch.Size([1, 3]), torch.Size([1, 4]))
    """
    known = dict(model.named_modules())
    for path in parts:
        if path not in known:
            raise DistilError(f"{type(model).__name__} has no module {path!r}; {nearest(path, [*filter(None, known)])}")
    return _exchanged(model, {known[path]: new for path, new in parts.items()})


def _exchanged(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in made:
        old = module._modules
        children = {name: None if child is None else _exchanged(child, made) for name, child in old.items()}
        if all(children[name] is child for name, child in old.items()):
            made[module] = module
        else:
            # A shallow copy by hand: copy.copy would share the table of children with the first.
            twin = type(module).__new__(type(module))
            twin.__dict__.update(module.__dict__, _modules=children)
            made[module] = twin
    return made[module]


def with_class_maps(model: nn.Module, *, pooled: str, head: str | None = None) -> nn.Module:
    """Return a copy of a classifier whose last map holds one map for each class, and whose logits are their averages.

    The linear layer behind the global average pool moves before it, as a 1x1 convolution of the same weight without
    bias; at its old place nothing is left. The answers are those of the model without its head's bias.

    Args:
        model: the classifier; it is not changed. It must average the map over positions and read that with its head.
        pooled: the path of the module whose output is pooled, for example ``layer4``.
        head: the path of its last linear layer; default as in :func:`distil.models.heads.find_head`.

    >>> import torch
    >>> from distil.models import SmallCNN
    >>> net = with_class_maps(SmallCNN(1, 5, widths=(4, 8)), pooled="layer2")
    >>> x = torch.zeros(2, 1, 8, 8)
    >>> net.layer2(net.layer1(x)).shape, net(x).shape
    (torch.Size([2, 5, 4, 4]), torch.Size([2, 5]))

    The structure of Guo et al., *Class Attention Transfer Based Knowledge Distillation*, CVPR 2023, arXiv 2304.12777.
    """
    from copy import deepcopy

    from distil.models.heads import find_head

    model = deepcopy(model)
    path = find_head(model, head)
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    weight = old.weight
    maps = nn.Conv2d(old.in_features, old.out_features, 1, bias=False, device=weight.device, dtype=weight.dtype)
    maps.weight.data.copy_(weight.data[:, :, None, None])
    known = dict(model.named_modules())
    if not known.keys() & {pooled}:
        raise DistilError(f"{type(model).__name__} has no module {pooled!r}; {nearest(pooled, [*filter(None, known)])}")
    body = nn.Sequential()
    body.add_module("body", known[pooled])
    body.add_module("maps", maps)
    return grafted(model, {pooled: body, path: nn.Identity()}).train(model.training)
