"""The condensers that optimise: matching of distributions, gradients or trajectories, kernel ridge, decoder codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distil.data.condensed import CondensedSet
from distil.data.loading import mix_seed
from distil.errors import DistilError
from distil.loops.carrier import Carrier, Real, default_net, started
from distil.loops.labelling import Labelling, relabelled
from distil.loops.matching import Distributions, Gradients, match_distributions, match_gradients
from distil.loops.order import Order, options_of
from distil.loops.ridge_sets import Ridge, match_ridge, principal_codes, prior_of
from distil.loops.training import build_model
from distil.loops.trajectories import Experts, Trajectories, match_trajectories, train_experts, without_batchnorm

__all__ = ["Latents", "Ways", "dc", "dc_kd", "dm", "krr", "latent", "refuse_tm", "tm"]


@dataclass(frozen=True)
class Ways(Trajectories):
    """Trajectory matching with experts that are trained on the way.

    Attributes:
        net, experts, expert_epochs, expert_lr, expert_batch: see :class:`~distil.loops.trajectories.Experts`.
    """

    net: str = ""
    experts: int = 4
    expert_epochs: int = 20
    expert_lr: float = 0.1
    expert_batch: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts_wanted().epochs < self.ahead:
            raise DistilError(
                f"tm: the experts are trained for expert_epochs={self.expert_epochs}, and ahead={self.ahead} looks "
                "further; lower ahead, or raise expert_epochs."
            )

    def experts_wanted(self) -> Experts:
        """Return the experts that these options name."""
        return Experts(self.net, self.experts, self.expert_epochs, self.expert_lr, self.expert_batch)


@dataclass(frozen=True)
class Latents:
    """Matching in the codes of a decoder.

    Attributes:
        match: "dm" or "dc", with its own defaults but ``iterations`` and ``lr``.
        codes: directions of the built-in decoder (principal coordinates of the data).
        beta: weight of the prior, summed over samples.
        prior: "normal" (½‖z‖²) or "nearest" (half the squared distance to the nearest real code).
        iterations, net: of the matching.
        lr: of the samples along the widest direction, by SGD.
    """

    match: str = "dm"
    codes: int = 32
    beta: float = 1e-3
    prior: str = "normal"
    iterations: int = 500
    lr: float = 1.0
    net: str = ""

    def __post_init__(self) -> None:
        if self.match not in ("dm", "dc") or self.prior not in ("normal", "nearest"):
            raise DistilError(
                f"latent: match={self.match!r} must be dm or dc, and prior={self.prior!r} normal or nearest."
            )
        if self.codes < 1 or self.beta < 0:
            raise DistilError(f"latent: codes={self.codes} must be at least 1, and beta={self.beta:g} not below 0.")


def dm(order: Order) -> CondensedSet:
    """Make a set by distribution matching; see :func:`~distil.loops.matching.match_distributions`.

    >>> from distil.data import load
    >>> len(dm(Order(load("digits"), per_class=1, options={"iterations": 2})))
    10
    """
    how: Distributions = options_of(order, Distributions)
    real, generator = Real(order), _generator(order, "dm")
    carrier = started(real, order.per_class, how.start, generator)
    return finished(real, carrier, match_distributions(real, carrier, how, generator))


def dc(order: Order) -> CondensedSet:
    """Make a set by gradient matching; see :func:`~distil.loops.matching.match_gradients`."""
    how: Gradients = options_of(order, Gradients)
    real, generator = Real(order), _generator(order, "dc")
    carrier = started(real, order.per_class, how.start, generator, soft=how.learn_labels)
    return finished(real, carrier, match_gradients(real, carrier, how, generator))


def dc_kd(order: Order) -> CondensedSet:
    """Make a set that gives the gradients of distillation: targets are the teacher's probabilities on both sides.

    The set has its teacher's logits as labels, at temperature 1; see :func:`~distil.loops.matching.match_gradients`.
    """
    how: Gradients = options_of(order, Gradients)
    if how.learn_labels:
        raise DistilError("dc-kd: the teacher labels the set, so learn_labels must be false.")
    real, generator = Real(order, soft=True), _generator(order, "dc-kd")
    carrier = started(real, order.per_class, how.start, generator)
    small = finished(real, carrier, match_gradients(real, carrier, how, generator))
    return relabelled(small, order.teachers, Labelling("static", temperature=1.0), task=order.task)


def refuse_tm(order: Order) -> None:
    """Refuse experts with batch norm before any of them is trained."""
    how: Ways = options_of(order, Ways)
    without_batchnorm(build_model(how.net or default_net(order.bundle), order.bundle, seed=0))


def tm(order: Order) -> CondensedSet:
    """Make a set by trajectory matching; see :func:`~distil.loops.trajectories.match_trajectories`."""
    how: Ways = options_of(order, Ways)
    real = Real(order)
    return followed(real, train_experts(real, how.experts_wanted()), how, how.net)


def followed(real: Real, experts: Sequence[torch.Tensor], how: Trajectories, net: str) -> CondensedSet:
    """Make a set by following experts that are there already."""
    generator = _generator(real.order, "tm")
    carrier = started(real, real.order.per_class, how.start, generator, soft=how.learn_labels)
    losses, step = match_trajectories(real, carrier, experts, how, net, generator)
    return finished(real, carrier, losses, step_size=step, steps=how.steps)


def krr(order: Order) -> CondensedSet:
    """Make a set by kernel ridge regression; see :func:`~distil.loops.ridge_sets.match_ridge`."""
    how: Ridge = options_of(order, Ridge)
    real, generator = Real(order), _generator(order, "krr")
    carrier = started(real, order.per_class, how.start, generator, soft=how.learn_labels)
    return finished(real, carrier, match_ridge(real, carrier, how, generator))


def latent(order: Order) -> CondensedSet:
    """Make a set of a decoder's outputs: its codes are matched, and held near those of real data.

    Distribution or gradient matching of dec(z), plus β Σ prior(z). With the built-in decoder the samples stay in the
    span of the data's first principal directions.
    """
    how: Latents = options_of(order, Latents)
    real, generator = Real(order), _generator(order, "latent")
    codec, bank = principal_codes(real, how.codes)
    start = started(real, order.per_class, "real", generator)
    carrier = Carrier(codec.encode(start.inputs().detach()), start.labels, order.classes, decode=codec.decode)
    penalty = prior_of(how.prior, how.beta, bank)
    widest = float(codec.spread.max())  # a code's step moves the inputs by the square of its direction's spread
    asked: dict[str, Any] = {"iterations": how.iterations, "lr": how.lr / widest**2, "net": how.net}
    if how.match == "dc":
        losses = match_gradients(real, carrier, Gradients(**asked), generator, penalty=penalty)
    else:
        losses = match_distributions(real, carrier, Distributions(**asked), generator, penalty=penalty)
    return finished(real, carrier, losses, codes=len(codec.spread))


def finished(real: Real, carrier: Carrier, losses: Sequence[float], **made: Any) -> CondensedSet:
    """Return what was learned as a set: inputs as the data hold them, learned labels as stored logits."""
    inputs = real.raw(carrier.inputs().detach()).cpu().contiguous()
    small = CondensedSet(
        inputs,
        carrier.labels.cpu(),
        real.order.bundle.classes,
        made={**made, "loss": {"first": losses[0], "last": losses[-1], "iterations": len(losses)}},
    )
    if carrier.logits is None:
        return small
    return small.with_labels("static", logits=carrier.logits.detach().cpu(), record={"temperature": 1.0})


def _generator(order: Order, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(mix_seed("condense", name, order.seed))
