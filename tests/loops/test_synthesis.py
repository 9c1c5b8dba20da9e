"""Pixels by descent through frozen networks: against a plain loop in float64, and what must stay as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distil.errors import DistilError
from distil.loops.synthesis import Observed, Pixels, Synthesis, agreeing, synthesis_loss, synthesise
from distil.models import SmallCNN

LABELS = torch.arange(4)


def network(*, norm: bool = True, seed: int = 0) -> SmallCNN:
    """A small net whose batch norms have seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SmallCNN(3, 4, widths=(5, 6), norm=norm)
        for _ in range(3):
            net(torch.randn(16, 3, 8, 8) * 0.7 + 0.2)
    return net.eval()


def images(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def by_hand(net: nn.Module, x: Tensor, u: Tensor, how: Synthesis, rolls: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """The published loop, written with hooks, autograd and Adam's formula; returns u, u one step before, the losses."""
    first, second, losses, before = torch.zeros_like(u), torch.zeros_like(u), [], u
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for t in range(how.steps):
        leaf = u.clone().requires_grad_()
        terms: list[Tensor] = []
        hooks = [
            m.register_forward_hook(
                lambda m, a, _, terms=terms: terms.append(
                    (m.running_var - a[0].transpose(0, 1).flatten(1).var(1, correction=0)).norm()
                    + (m.running_mean - a[0].mean((0, 2, 3))).norm()
                )
            )
            for m in norms
        ]
        logits = net(torch.roll(x + leaf, tuple(rolls[t].tolist()), (2, 3)))
        for hook in hooks:
            hook.remove()
        loss = F.cross_entropy(logits, LABELS)
        loss = loss + how.statistics * (how.first * terms[0] + sum(terms[1:]))
        (g,) = torch.autograd.grad(loss, leaf)
        losses.append(float(loss.detach()))
        first = how.betas[0] * first + (1 - how.betas[0]) * g
        second = how.betas[1] * second + (1 - how.betas[1]) * g * g
        rate = how.rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * t / how.steps, dtype=u.dtype)))
        top, bottom = first / (1 - how.betas[0] ** (t + 1)), (second / (1 - how.betas[1] ** (t + 1))).sqrt()
        before, u = u, u - rate * top / (bottom + 1e-8)
    return u, before, losses


def test_the_whole_loop_in_float64() -> None:
    net, x, how = network().double(), images().double(), Synthesis(steps=7, statistics=0.3, first=4.0, jitter=3)
    rolls = torch.randint(4, (7, 2), generator=torch.Generator().manual_seed(5))
    start = 0.1 * images(2)[:1].double()
    u, before, losses = by_hand(deepcopy(net), x, start, how, rolls)
    found = synthesise(Observed(net), start, LABELS, how, around=x, rolls=rolls)
    torch.testing.assert_close(found.pixels, u, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.before, before, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.losses, torch.tensor(losses, dtype=torch.float64), rtol=1e-10, atol=0)


def state(net: nn.Module) -> dict[str, Any]:
    return {
        "training": [m.training for m in net.modules()],
        "grad": [(p.requires_grad, p.grad) for p in net.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        "strides": [p.stride() for p in net.parameters()],
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_stays_as_it_was_and_keeps_no_hook(precision: str) -> None:
    net = network().train()
    weights, seen = {k: v.clone() for k, v in net.state_dict().items()}, state(net)
    synthesise(Observed(net, precision=precision), images(), LABELS, Synthesis(steps=2))
    assert state(net) == seen
    for name, value in net.state_dict().items():
        assert torch.equal(value, weights[name])
        assert value.dtype == weights[name].dtype


def test_no_steps_leave_the_start() -> None:
    start = images()
    found = synthesise(Observed(network()), start, LABELS, Synthesis(steps=0))
    assert torch.equal(found.pixels, start)
    assert torch.equal(found.before, start)
    assert len(found.losses) == 0


def test_one_shape_for_all_classes() -> None:
    x = images()
    found = synthesise(Observed(network()), torch.zeros_like(x[:1]), LABELS, Synthesis(steps=3), around=x)
    assert found.pixels.shape == (1, 3, 8, 8)
    assert found.pixels.any()


def test_the_statistics_term_is_switched_by_its_weight() -> None:
    net, x = network(), images()
    with_it, without = (synthesis_loss(Observed(net), x, LABELS, Synthesis(statistics=w)) for w in (2.0, 0.0))
    torch.testing.assert_close(without.total, F.cross_entropy(net(x), LABELS))
    assert not len(without.statistics)
    torch.testing.assert_close(with_it.total, with_it.cross_entropy + 2 * with_it.statistics.sum())


def test_regularisers() -> None:
    x, net = images(), Observed(network())
    base = synthesis_loss(net, x, LABELS, Synthesis()).total
    long = synthesis_loss(net, x, LABELS, Synthesis(size=0.5)).total
    rough = synthesis_loss(net, x, LABELS, Synthesis(smooth=0.5)).total
    torch.testing.assert_close(long - base, 0.5 * x.flatten(1).norm(dim=1).mean(), rtol=1e-4, atol=1e-5)
    assert rough > base


def test_a_network_without_batch_norm_is_refused_unless_statistics_weigh_nothing() -> None:
    net = Observed(network(norm=False))
    with pytest.raises(DistilError, match=r"SmallCNN has no BatchNorm2d.*statistics=0"):
        synthesise(net, images(), LABELS, Synthesis(steps=1))
    assert synthesise(net, images(), LABELS, Synthesis(steps=1, statistics=0.0)).losses.isfinite().all()


def test_the_loss_falls() -> None:
    how = Synthesis(steps=40, rate=0.1, statistics=0.1, jitter=2)
    losses = synthesise(Observed(network()), images(), LABELS, how, generator=torch.Generator().manual_seed(0)).losses
    assert losses[-10:].mean() < 0.7 * losses[:5].mean()


def test_draws_are_their_generators_and_no_others() -> None:
    how, net = Synthesis(steps=4, crops=True), Observed(network())

    def run(seed: int, torch_seed: int) -> Tensor:
        torch.manual_seed(torch_seed)
        before = torch.get_rng_state()
        found = synthesise(net, images(), LABELS, how, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return found.pixels

    assert torch.equal(run(0, 1), run(0, 2))
    assert not torch.equal(run(0, 1), run(1, 1))


def test_pixels_stay_where_a_pixel_can_lie_and_under_a_mask() -> None:
    space, seen = Pixels(torch.full((3,), 0.5), torch.full((3,), 0.25)), []
    x, how = images(), Synthesis(steps=4, rate=1.0)

    def mask(step: int, pixels: Tensor) -> Tensor:
        seen.append((step, pixels.clone()))
        return torch.cat([torch.zeros(4, 1, 8, 4), torch.ones(4, 1, 8, 4)], 3)

    x[0, 0, 0, 0] = 9.0  # out of range, and left alone by the mask
    found = synthesise(Observed(network()), x, LABELS, how, low=space.low, high=space.high, mask=mask)
    assert torch.equal(found.pixels[..., :4], x[..., :4])
    for step, pixels in seen[1:]:
        assert step > 0
        assert (pixels[..., 4:].abs() <= 2).all()
    assert (found.pixels[..., 4:].abs() == 2).any()
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    plain = synthesise(Observed(network()), images(), LABELS, how, low=space.low, high=space.high)
    assert (plain.pixels.abs() <= 2).all()


def test_a_step_scales_with_the_mask() -> None:
    """Adam would undo a mask on gradients; here a pixel of half the mask makes half the step."""
    whole = synthesise(Observed(network()), images(), LABELS, Synthesis(steps=1, jitter=0), mask=torch.ones(4, 1, 8, 8))
    half = synthesise(
        Observed(network()), images(), LABELS, Synthesis(steps=1, jitter=0), mask=torch.full((4, 1, 8, 8), 0.5)
    )
    torch.testing.assert_close(half.pixels - images(), (whole.pixels - images()) / 2, rtol=1e-4, atol=1e-6)


def test_plain_descent_moves_against_the_gradient() -> None:
    x, how = images().double(), Synthesis(steps=1, rate=0.3, jitter=0, optimizer="sgd")
    net = network().double()
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(synthesis_loss(Observed(net), leaf, LABELS, how).total, leaf)
    torch.testing.assert_close(synthesise(Observed(net), x, LABELS, how).pixels, x - 0.3 * slope)


def test_images_of_a_space_reach_the_network_as_they_are() -> None:
    space, raw, net = (
        Pixels(torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])),
        images().sigmoid(),
        network(),
    )
    seen = Observed(net, pixels=space)(space.normalised(raw))
    torch.testing.assert_close(seen.logits, net(raw), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(space.raw(space.normalised(raw)), raw)
    torch.testing.assert_close(space.raw(space.low.expand(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2), rtol=0, atol=1e-7)
    torch.testing.assert_close(space.raw(space.high.expand(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))


def test_a_quick_form_that_is_another_network_is_not_taken() -> None:
    net, said = network(), list[str]()
    assert agreeing(Observed(net), images(), LABELS, Synthesis(), say=said.append).channels_last
    assert not said
    wrong = Observed(net)
    with torch.no_grad():
        wrong._network.fc.weight.mul_(1.5)
    taken = agreeing(wrong, images(), LABELS, Synthesis(), say=said.append)
    assert not taken.channels_last
    assert "plain form" in said[0]
    torch.testing.assert_close(taken(images()).logits, net(images()))


def test_bf16_agrees_roughly_and_reads_statistics_in_full() -> None:
    net = network()
    quick, slow = Observed(net, precision="bf16"), Observed(net)
    ours, theirs = (synthesis_loss(each, images(), LABELS, Synthesis()) for each in (quick, slow))
    torch.testing.assert_close(ours.total, theirs.total, rtol=0.05, atol=0)
    assert ours.total.dtype == torch.float32
    assert torch.equal(quick(images()).layers[0].mean, net.layer1[1].running_mean)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Synthesis(steps=-1), "steps=-1"),
        (lambda: Synthesis(rate=0.0), "rate=0"),
        (lambda: Synthesis(optimizer="adamm"), "adam"),
        (lambda: Observed(network(), precision="fp8"), "fp8"),
        (
            lambda: synthesise(Observed(network()), images(), LABELS, Synthesis(steps=2), rolls=torch.zeros(3, 2)),
            "3 shi",
        ),
        (lambda: synthesise(Observed(network()), images(), LABELS, Synthesis(steps=1), low=0.0), "both low and high"),
        (
            lambda: synthesise(Observed(network()), images() * torch.inf, LABELS, Synthesis(steps=1)),
            "step 0 is not finite",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()
