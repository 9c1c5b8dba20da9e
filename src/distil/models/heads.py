"""Changing a classifier's outputs before it is trained: more outputs, more classes, a second head."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest

__all__ = [
    "SubclassSum",
    "TwoHeadOutput",
    "TwoHeads",
    "find_head",
    "grow_classes",
    "replaced",
    "with_outputs",
    "with_second_head",
    "with_subclasses",
]


def find_head(model: nn.Module, head: str | None = None) -> str:
    """Return the path of a classifier's last linear layer.

    Args:
        model: the classifier.
        head: its path, if it is not the one that timm's ``get_classifier`` names or the last ``nn.Linear`` registered.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if head is not None:
        if head not in linear:
            raise DistilError(f"{type(model).__name__} has no linear layer {head!r}; {nearest(head, linear)}")
        return head
    getter: Any = getattr(model, "get_classifier", None)
    named = getter() if callable(getter) else None
    for name in linear:
        if model.get_submodule(name) is named:
            return name
    if not linear:
        raise DistilError(f"{type(model).__name__} has no nn.Linear, so its outputs cannot be changed; give head=.")
    return linear[-1]


def replaced(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put ``new`` at ``path`` inside ``model`` and return the model (``new`` itself for an empty path)."""
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
    return model


def with_outputs(model: nn.Module, outputs: int, *, head: str | None = None, init: str = "random") -> nn.Module:
    """Return a copy of a classifier with ``outputs`` outputs; the first ones compute what they did.

    Args:
        model: the classifier; it is not changed.
        outputs: the new number of outputs, not fewer than now.
        head: the path of its last linear layer; default as in :func:`find_head`.
        init: of the new rows: ``"random"`` (as ``nn.Linear``) or ``"mean"`` (the mean of the old rows).

    >>> from distil.models import MLP
    >>> model = MLP(4, 8, 3)
    >>> x = torch.randn(2, 4)
    >>> torch.allclose(with_outputs(model, 5)(x)[:, :3], model(x), atol=1e-6)
    True
    """
    if init not in ("random", "mean"):
        raise DistilError(f"init={init!r} is unknown; {nearest(init, ['random', 'mean'])}")
    path = find_head(model, head)
    model = deepcopy(model)
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    count = old.out_features
    if outputs < count:
        raise DistilError(
            f"with_outputs: {outputs} outputs are fewer than the {count} of {path or 'the model'!r}; "
            "rows are only added."
        )
    new = nn.Linear(old.in_features, outputs, old.bias is not None, old.weight.device, old.weight.dtype)
    new.train(old.training)
    with torch.no_grad():
        for mine, theirs in ((new.weight, old.weight), (new.bias, old.bias)):
            if theirs is not None:
                mine[:count] = theirs
                if init == "mean":
                    mine[count:] = theirs.mean(0)
                mine.requires_grad_(theirs.requires_grad)
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = outputs  # type: ignore[assignment]
    return replaced(model, path, new)


def grow_classes(model: nn.Module, new: int, *, head: str | None = None, init: str = "random") -> nn.Module:
    """Return a copy of a classifier with ``new`` more classes after its own; see :func:`with_outputs`.

    >>> from distil.models import MLP
    >>> grow_classes(MLP(4, 8, 3), 2)(torch.zeros(1, 4)).shape
    torch.Size([1, 5])
    """
    if new < 1:
        raise DistilError(f"grow_classes: new={new}; at least one class is to be added.")
    path = find_head(model, head)
    layer: Any = model.get_submodule(path)
    return with_outputs(model, layer.out_features + new, head=path, init=init)


class SubclassSum(nn.Module):
    """From subclass scores ``[..., C * S]``, class by class, to class scores ``[..., C]``: the log-sum-exp of each S.

    The softmax over the class scores is the sum of the subclasses' probabilities.

    >>> SubclassSum(2)(torch.zeros(1, 4)).exp()
    tensor([[2., 2.]])
    """

    def __init__(self, subclasses: int) -> None:
        super().__init__()
        self.subclasses = subclasses

    def forward(self, scores: Tensor) -> Tensor:
        """Return the class scores."""
        return scores.unflatten(-1, (-1, self.subclasses)).logsumexp(-1)

    def extra_repr(self) -> str:
        """Say how many are summed."""
        return f"subclasses={self.subclasses}"


def with_subclasses(model: nn.Module, subclasses: int, *, head: str | None = None) -> nn.Module:
    """Return a copy of a classifier that scores S subclasses of every class, and still answers with its classes.

    The last linear layer is replaced by ``subclasses`` (Linear to C * S, class by class) and ``classes``
    (:class:`SubclassSum`, without parameters). The tap ``*subclasses`` reads the subclass scores. The first row of each
    class is the class's old one, the others are drawn as ``nn.Linear`` draws them.

    Args:
        model: the classifier; it is not changed.
        subclasses: S, at least 1; with 1 it answers as before.
        head: the path of its last linear layer; default as in :func:`find_head`.

    >>> from distil.models import MLP
    >>> model = MLP(4, 8, 3)
    >>> split = with_subclasses(model, 5)
    >>> split.layers[-1].subclasses.out_features, split(torch.zeros(2, 4)).shape
    (15, torch.Size([2, 3]))
    """
    if subclasses < 1:
        raise DistilError(f"with_subclasses: subclasses={subclasses}; each class has at least one.")
    path = find_head(model, head)
    model = deepcopy(model)
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    if path.rpartition(".")[2] == "subclasses":
        raise DistilError(f"with_subclasses: {type(model).__name__} has subclasses already; give the model without.")
    count = old.out_features * subclasses
    new = nn.Linear(old.in_features, count, old.bias is not None, old.weight.device, old.weight.dtype)
    with torch.no_grad():
        for mine, theirs in ((new.weight, old.weight), (new.bias, old.bias)):
            if theirs is not None:
                mine[::subclasses] = theirs
                mine.requires_grad_(theirs.requires_grad)
    made = nn.Sequential()
    made.add_module("subclasses", new)
    made.add_module("classes", SubclassSum(subclasses))
    return replaced(model, path, made.train(old.training))


class TwoHeadOutput(NamedTuple):
    """The logits of both heads; ``logits`` is what a task reads."""

    logits: Tensor
    second: Tensor


class _SideBySide(nn.Module):
    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.first(features), self.second(features)], dim=-1)


class TwoHeads(nn.Module):
    """A model whose last layer was doubled; made by :func:`with_second_head`."""

    def __init__(self, model: nn.Module, path: str, classes: int) -> None:
        super().__init__()
        first = model.get_submodule(path)
        assert isinstance(first, nn.Linear)
        second = nn.Linear(first.in_features, classes, first.bias is not None, first.weight.device, first.weight.dtype)
        self.sizes = [first.out_features, classes]
        self.model = replaced(model, path, _SideBySide(first, second))
        self.path = path

    @property
    def heads(self) -> tuple[nn.Linear, nn.Linear]:
        """The first and the second linear layer."""
        both: Any = self.model.get_submodule(self.path)
        return both.first, both.second

    def forward(self, *args: Any, **kwargs: Any) -> TwoHeadOutput:
        """Return both heads' logits for whatever the model takes."""
        output = self.model(*args, **kwargs)
        if not isinstance(output, Tensor) or output.shape[-1] != sum(self.sizes):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise DistilError(
                f"with_second_head: the layer {self.path!r} gives {sum(self.sizes)} outputs but the model returns "
                f"{shape}; its head must be what it returns. Name the right layer with head=."
            )
        return TwoHeadOutput(*output.split(self.sizes, dim=-1))


def with_second_head(model: nn.Module, classes: int, *, head: str | None = None) -> TwoHeads:
    """Return a copy of a classifier with a second linear head on the same features.

    Args:
        model: the classifier; it is not changed. Its head must be a linear layer whose output it returns.
        classes: the outputs of the second head.
        head: the path of its own head; default as in :func:`find_head`.

    Returns:
        a module whose output is ``(logits, second)``.

    >>> from distil.models import MLP
    >>> output = with_second_head(MLP(4, 8, 3), 5)(torch.zeros(2, 4))
    >>> output.logits.shape, output.second.shape
    (torch.Size([2, 3]), torch.Size([2, 5]))
    """
    return TwoHeads(deepcopy(model), find_head(model, head), classes)
