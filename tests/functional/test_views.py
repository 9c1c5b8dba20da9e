"""Losses over pairs of views, the L2 bottleneck, and crops, against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError

from .oracles import normal

S, T = normal(4, 3, 6, seed=1), normal(2, 3, 6, seed=2)
CENTRE = normal(6, seed=3)


def by_loop(loss: str, pairs: list[tuple[int, int]], warm: float, cool: float, centre: Tensor | None) -> list[float]:
    """The loss of each sample, number by number."""
    found = []
    for b in range(S.shape[1]):
        total = 0.0
        for i, j in pairs:
            s = [x / cool for x in S[i, b].tolist()]
            t = [(x - (0.0 if centre is None else centre[c].item())) / warm for c, x in enumerate(T[j, b].tolist())]
            q, p = ([math.exp(x) / sum(map(math.exp, each)) for x in each] for each in (s, t))
            total += {
                "ce": -sum(a * math.log(b) for a, b in zip(p, q)),
                "kl": sum(a * math.log(a / b) for a, b in zip(p, q)),
                "mse": sum((a - b) ** 2 for a, b in zip(s, t)) / len(s),
            }[loss]
        found.append(total / len(pairs))
    return found


@pytest.mark.parametrize("loss", ["ce", "kl", "mse"])
@pytest.mark.parametrize("pairing", ["all", "same", "opposite"])
@pytest.mark.parametrize("centred", [False, True])
def test_pairs_of_views_against_a_loop(loss: str, pairing: str, centred: bool) -> None:
    pairs = [(i, j) for i in range(4) for j in range(2) if pairing == "all" or (i == j) == (pairing == "same")]
    centre = CENTRE if centred else None
    given = D.paired_views(
        S, T, loss=loss, pairing=pairing, teacher_temperature=0.4, student_temperature=0.7, centre=centre,
        reduction="none",
    )  # fmt: skip
    torch.testing.assert_close(given, torch.tensor(by_loop(loss, pairs, 0.4, 0.7, centre), dtype=torch.float64))


def test_the_entropy_is_the_students_over_all_of_its_views() -> None:
    expected = D.entropy(S, temperature=0.5).mean(0)
    given = D.paired_views(S, T, loss="entropy", pairing="same", student_temperature=0.5, reduction="none")
    torch.testing.assert_close(given, expected)
    p = torch.distributions.Categorical(logits=S)
    torch.testing.assert_close(D.entropy(S), p.entropy())
    assert D.entropy(torch.tensor([[0.0, -torch.inf]])).item() == 0.0


def test_cross_entropy_less_kl_is_the_teachers_entropy() -> None:
    ce, kl = (D.paired_views(S[:1], T[:1], loss=loss, reduction="none") for loss in ("ce", "kl"))
    torch.testing.assert_close(ce - kl, D.entropy(T[0]))


def test_the_squared_difference_is_symmetric() -> None:
    assert D.paired_views(S[:2], T, loss="mse") == D.paired_views(T, S[:2], loss="mse")


def test_named_views_decide_the_pairs() -> None:
    assert D.view_pairs([1, 0], [0, 1], pairing="same") == [(0, 1), (1, 0)]
    same = D.paired_views(S[:2], T, pairing="same", student_views=[1, 0])
    torch.testing.assert_close(same, D.paired_views(S[:2].flip(0), T, pairing="same"))


def test_one_output_costs_nothing_and_one_sample_is_enough() -> None:
    assert D.paired_views(S[:, :1, :1], T[:, :1, :1]).item() == 0.0
    assert D.paired_views(S[:, :1], T[:, :1]).isfinite()


def test_weights_leave_samples_out() -> None:
    values = D.paired_views(S, T, reduction="none")
    torch.testing.assert_close(D.paired_views(S, T, weight=torch.tensor([1.0, 0.0, 1.0])), values[[0, 2]].mean())


def test_many_outputs_in_half_precision_are_compared_in_single() -> None:
    s, t = (normal(1, 2, 65536, seed=k).clamp(-1, 1).bfloat16() for k in (1, 2))
    given = D.paired_views(s, t)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, D.paired_views(s.float(), t.float()))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: D.paired_views(S[0], T), "stack the views"),
        (lambda: D.paired_views(S, T[..., :5]), "the teacher's logits"),
        (lambda: D.paired_views(S, T, loss="ckl"), "loss='ckl'"),
        (lambda: D.paired_views(S[:1], T[:1], pairing="opposite"), "leaves no pair"),
        (lambda: D.paired_views(S, T, student_temperature=0.0), "student_temperature=0.0"),
        (lambda: D.paired_views(S, T, centre=CENTRE[:5]), "one number for each output"),
    ],
)
def test_views_that_do_not_fit_are_refused(call: object, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        call()


# ---- unit scores

U, V = normal(5, 3, seed=4), normal(7, 3, seed=5)


def test_unit_scores_are_cosines_with_the_gradient_through_both_norms() -> None:
    cosine = torch.nn.functional.cosine_similarity(U[:, None], V[None], dim=-1)
    torch.testing.assert_close(D.unit_scores(U, V), cosine)
    assert float(D.unit_scores(U, V).abs().max()) <= 1
    assert torch.autograd.gradcheck(D.unit_scores, (U.clone().requires_grad_(), V.clone().requires_grad_()))


def test_scaling_a_feature_or_a_row_changes_nothing() -> None:
    factors = torch.rand(7, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(D.unit_scores(3.0 * U, factors * V), D.unit_scores(U, V))
    plain = D.unit_scores(U, V, normalise_features=False, normalise_weights=False)
    torch.testing.assert_close(plain, U @ V.mT)
    torch.testing.assert_close(D.unit_scores(U, V, normalise_weights=False), plain / U.norm(dim=1, keepdim=True))


def test_a_feature_of_length_zero_scores_zero() -> None:
    zero = torch.zeros(1, 3, requires_grad=True)
    D.unit_scores(zero, V.float()).sum().backward()
    assert not D.unit_scores(zero, V.float()).any()
    assert zero.grad.isfinite().all()


def test_scores_stay_single_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        given = D.unit_scores(U.float(), V.float())
    torch.testing.assert_close(given, D.unit_scores(U.float(), V.float()))


# ---- crops


def test_a_whole_crop_is_the_image_and_a_mirrored_one_its_mirror() -> None:
    images = normal(2, 3, 8, 8, seed=6)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, -1.0, 1.0]], dtype=torch.float64)
    given = D.cropped(images, whole, side=8)
    torch.testing.assert_close(given[0], images[0])
    torch.testing.assert_close(given[1], images[1].flip(-1))


def test_a_quarter_at_its_own_size_is_a_slice() -> None:
    images = normal(1, 1, 8, 8, seed=7)
    corner = torch.tensor([[0.5, 0.25, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(D.cropped(images, corner, side=4), images[:, :, 2:6, 4:])


def test_boxes_lie_within_the_image_and_have_the_area_asked_for() -> None:
    boxes = D.crop_boxes(2000, share=(0.2, 0.4), generator=torch.Generator().manual_seed(0))
    left, top, width, height = boxes.unbind(1)
    low, high = torch.minimum(left, left + width), torch.maximum(left, left + width)
    assert float(low.min()) >= -1e-6
    assert float(high.max()) <= 1 + 1e-6
    assert float((top + height).max()) <= 1 + 1e-6
    area = (width * height).abs()
    assert 0.2 - 1e-6 <= float(area.min()) <= float(area.max()) <= 0.4 + 1e-6
    assert 0.45 < float((width < 0).float().mean()) < 0.55
    again = D.crop_boxes(2000, share=(0.2, 0.4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes, again)


def test_noise_has_nothing_of_the_batch_in_it() -> None:
    draw = [torch.Generator().manual_seed(1) for _ in range(2)]
    one, other = (D.noise_like(batch, scale=2.0, generator=g) for batch, g in zip((U, U + 5), draw))
    assert torch.equal(one, other)
    many = D.noise_like(torch.zeros(20000), scale=2.0, generator=draw[0])
    assert abs(float(many.std()) - 2) < 0.05


def test_channels_are_standardised_and_a_constant_one_is_left_at_zero() -> None:
    images = torch.cat([normal(9, 2, 4, 4, seed=8) * 3 + 1, torch.full((9, 1, 4, 4), 7.0, dtype=torch.float64)], 1)
    ready = D.standardised_channels(images, *D.channel_moments(images))
    torch.testing.assert_close(ready.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(ready[:, :2].std((0, 2, 3), correction=0), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: D.crop_boxes(2, share=(0.0, 1.0)),
        lambda: D.crop_boxes(2, share=(0.5, 0.4)),
        lambda: D.cropped(U, torch.zeros(5, 4), side=2),
        lambda: D.cropped(normal(2, 1, 4, 4), torch.zeros(3, 4), side=2),
        lambda: D.noise_like(U, scale=0.0),
        lambda: D.unit_scores(U, V[:, :2]),
    ],
)
def test_bad_crops_noise_and_rows_are_refused(call: object) -> None:
    with pytest.raises(DistilError):
        call()
