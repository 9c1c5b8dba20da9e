"""A graph network's layers as they are passed: what each gives, and GNNDelete's operators put after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError
from distil.functional.gnndelete import DELETION_START, deletion_operator

__all__ = ["WithDeletion", "layer_outputs", "message_layers", "under_operators", "without_operators"]

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]


def message_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a graph network that pass messages, in their order; those inside another are part of it.

    Raises:
        DistilError: there are none, as where a network projects first and then averages.

    >>> from distil.models import GCN
    >>> len(message_layers(GCN(3, 8, 2)))
    2
    """
    from torch_geometric.nn import MessagePassing

    found = {name: part for name, part in model.named_modules() if isinstance(part, MessagePassing)}
    outer = [part for name, part in found.items() if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) < 2:
        raise DistilError(
            f"{type(model).__name__} has {len(outer)} layers that pass messages; embeddings of every layer are asked "
            "for, so use a network of two or more of torch-geometric's convolutions (gcn, gat, gin)."
        )
    return outer


def layer_outputs(model: nn.Module, inputs: Tensor, edges: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return a network's output, and what each of its message-passing layers gives before the next activation.

    Raises:
        DistilError: if a layer does not run exactly once.
    """
    layers = message_layers(model)
    seen: list[Tensor | None] = [None] * len(layers)

    def keep(place: int) -> Hook:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if seen[place] is not None:
                raise DistilError(
                    f"layer {place} of {type(model).__name__} runs twice in a pass; give it one of its own."
                )
            seen[place] = output

        return hook

    output = _hooked(model, layers, keep, inputs, edges)
    missing = [place for place, each in enumerate(seen) if each is None]
    if missing:
        raise DistilError(f"layer {missing[0]} of {type(model).__name__} never runs; take it out of the network.")
    return output, [each for each in seen if each is not None]


def _hooked(
    model: nn.Module, layers: Sequence[nn.Module], hook: Callable[[int], Hook], inputs: Tensor, edges: Tensor
) -> Tensor:
    with ExitStack() as stack:
        for place, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(hook(place)).remove)
        output: Tensor = model(inputs, edges)
    return output


class WithDeletion(nn.Module):
    """GNNDelete's network: a frozen graph network with a deletion operator after each message-passing layer.

    Args:
        model: the trained network; it is frozen here, and shared, not copied.
        masks: bool (N,) for each layer: the rows that its operator changes.
        widths: of the layers' outputs.

    Paper: Cheng et al., GNNDelete, ICLR 2023, arXiv 2302.13406. It needs these masks and matrices whenever it is used.
    """

    needs_edges = True

    def __init__(self, model: nn.Module, masks: Sequence[Tensor], widths: Sequence[int]) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.operators = nn.ParameterList(torch.full((width, width), DELETION_START) for width in widths)
        for place, mask in enumerate(masks):
            self.register_buffer(f"mask{place}", mask)
        self.layers = len(masks)

    def _operate(self, place: int) -> Hook:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            return deletion_operator(output, self.operators[place], self.get_buffer(f"mask{place}"))

        return hook

    def forward(self, inputs: Tensor, edge_index: Tensor) -> Tensor:
        """Return the network's output with the operators at work."""
        return _hooked(self.model, message_layers(self.model), self._operate, inputs, edge_index)

    @contextmanager
    def first_kept(self, inputs: Tensor, edge_index: Tensor) -> Iterator[None]:
        """Compute the frozen first layer once for as long as these inputs and edges do not change; the same values."""
        layer: Any = message_layers(self.model)[0]
        caught: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, __, output: caught.append(output.detach()))
        with torch.no_grad():
            self.model(inputs, edge_index)
        handle.remove()
        layer.forward = lambda *_, **__: caught[0]
        try:
            yield
        finally:
            del layer.forward

    def layer_outputs(self, inputs: Tensor, edge_index: Tensor) -> list[Tensor]:
        """Return what each layer gives after its operator."""
        layers, seen = message_layers(self.model), [torch.empty(0)] * self.layers

        def keep(place: int) -> Hook:
            operate = self._operate(place)

            def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
                changed = operate(module, arguments, output)
                assert changed is not None
                seen[place] = changed
                return changed

            return hook

        _hooked(self.model, layers, keep, inputs, edge_index)
        return seen


def under_operators(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return ``model`` under the operators that a state dict holds, empty of their values; itself where it holds none.

    Args:
        model: a network of the kind that GNNDelete was used on; it is frozen then.
        state: names and tensors of what was saved: ``model.…``, ``operators.K`` (D, D) and ``maskK`` bool (N,).

    Raises:
        DistilError: an operator without its mask, a mask without its operator, or one that is not square.

    >>> from distil.models import GCN
    >>> state = WithDeletion(GCN(3, 8, 2), [torch.ones(4, dtype=torch.bool)] * 2, [8, 2]).state_dict()
    >>> under_operators(GCN(3, 8, 2), state).load_state_dict(state)
    <All keys matched successfully>
    """
    if not {"mask0", "operators.0"} <= set(state):
        return model
    count = sum(name.startswith("operators.") for name in state)
    masks, operators = ([state.get(f"{name}{k}") for k in range(count)] for name in ("mask", "operators."))
    for place, (mask, operator) in enumerate(zip(masks, operators)):
        if mask is None or operator is None or mask.ndim != 1 or operator.ndim != 2 or len(set(operator.shape)) > 1:
            raise DistilError(
                f"operator {place} of {count} has no mask of nodes, is missing, or is not square; the weights of "
                "GNNDelete's network were changed, so restore them."
            )
    bools = [torch.zeros(len(mask), dtype=torch.bool) for mask in masks if mask is not None]
    return WithDeletion(model, bools, [len(operator) for operator in operators if operator is not None])


def without_operators(model: nn.Module) -> nn.Module:
    """Return the network under GNNDelete's operators, whose weights they leave as they are; itself without any."""
    return model.model if isinstance(model, WithDeletion) else model
