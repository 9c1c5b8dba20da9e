"""The head of self-distillation without labels: an MLP, an L2 bottleneck, and very many outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.functional.bottleneck import unit_scores

__all__ = ["Headed", "L2Head", "UnitLinear"]

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class UnitLinear(nn.Linear):
    """A linear layer without bias that scores unit vectors by unit rows; see ``functional.unit_scores``.

    Args:
        in_features, out_features: as of a linear layer.
        normalise_features: divide inputs by their length.
        normalise_weights: divide each row of the weight by its length, anew in every pass.
    """

    def __init__(
        self, in_features: int, out_features: int, *, normalise_features: bool = True, normalise_weights: bool = True
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.normalise_features, self.normalise_weights = normalise_features, normalise_weights

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores ``[..., out_features]`` in float32 at least; cosines where both norms are divided out."""
        return unit_scores(
            inputs, self.weight, normalise_features=self.normalise_features, normalise_weights=self.normalise_weights
        )

    def extra_repr(self) -> str:
        """Say what is normalised, too."""
        norms = f"normalise_features={self.normalise_features}, normalise_weights={self.normalise_weights}"
        return f"in_features={self.in_features}, out_features={self.out_features}, {norms}"


class L2Head(nn.Module):
    """MLP, then a linear layer to the bottleneck u, then ``z = V̂ û`` with both sides at length 1: z in [−1, 1].

    Linear weights are drawn from a normal of deviation 0.02, truncated at ±2, biases are 0.

    Args:
        in_features: the width of the encoder's embedding.
        outputs: m; the paper's 65,536.
        hidden: widths of the MLP, an activation after each.
        bottleneck: the width of u; 0 leaves it out, and the outputs score the MLP's last layer.
        normalise_features: û instead of u.
        normalise_weights: V̂ instead of V.
        activation: "gelu", or "relu" as the authors' stand-alone script has it.

    >>> import torch
    >>> z = L2Head(8, 12, hidden=(16,), bottleneck=4)(torch.randn(3, 8))
    >>> tuple(z.shape), bool(z.abs().max() <= 1)
    ((3, 12), True)

    Paper: Sarnthein, Bachmann, Anagnostidis, Hofmann, *Random Teachers are Good Teachers*, ICML 2023, arXiv 2302.12091.
    """

    def __init__(
        self, in_features: int, outputs: int = 65536, *, hidden: Sequence[int] = (2048, 2048), bottleneck: int = 256,
        normalise_features: bool = True, normalise_weights: bool = True, activation: str = "gelu",
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in ACTIVATIONS:
            raise DistilError(f"L2Head(activation={activation!r}) is unknown; {nearest(activation, ACTIVATIONS)}")
        if min(in_features, outputs, *hidden) < 1 or bottleneck < 0:
            raise DistilError(
                f"L2Head: in_features={in_features}, outputs={outputs}, hidden={tuple(hidden)} must be at least 1, and "
                f"bottleneck={bottleneck} at least 0."
            )
        layers: list[nn.Module] = []
        width = in_features
        for following in hidden:
            layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
            width = following
        self.mlp = nn.Sequential(*layers)
        self.bottleneck = nn.Linear(width, bottleneck) if bottleneck else nn.Identity()
        norms = {"normalise_features": normalise_features, "normalise_weights": normalise_weights}
        self.last = UnitLinear(bottleneck or width, outputs, **norms)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return z ``[..., outputs]`` of embeddings ``[..., in_features]``."""
        return self.last(self.bottleneck(self.mlp(inputs)))


class Headed(nn.Module):
    """An encoder with a head for its training; what ships is the encoder.

    >>> from distil.models import VGG
    >>> encoder = VGG(3, 0, widths=((8,), (8,)), size=8)
    >>> sum(p.numel() for p in Headed(encoder, L2Head(encoder.features, 12, hidden=(4,), bottleneck=2)).parameters())
    974
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the head makes of the encoder's embedding."""
        return self.head(self.encoder(inputs))
