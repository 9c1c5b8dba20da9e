"""NRR-DD's maths by brute force: activation maps against autograd, masks and steps bit by bit, two numbers by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import distil.functional as D
from distil.errors import DistilError
from distil.functional.two_numbers import DISTANCES, SCE_TARGETS

THRESHOLDS = (-0.1, 0.0, 0.3, 0.5, 1.0, 1.2)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- activation maps


class Pooled(nn.Module):
    """A map, its average over positions, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(inputs).relu()
        return features, self.head(features.mean((2, 3)))


def pooled(seed: int = 0) -> Pooled:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pooled().double()


def test_an_activation_map_is_grad_cam_up_to_a_positive_factor() -> None:
    net, labels = pooled(), torch.tensor([0, 3, 1, 1, 2])
    features, logits = net(drawn(5, 3, 6, 7))
    (slopes,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)
    found = D.activation_map(features, net.head.weight, labels)
    assert not found.requires_grad
    for i in range(5):
        alphas = [float(slopes[i, k].mean()) for k in range(5)]  # Grad-CAM's weight of each channel
        raw = sum(alpha * features[i, k].detach() for k, alpha in enumerate(alphas)).clamp(min=0)
        assert float(raw.max()) > float(raw.min())
        torch.testing.assert_close(found[i], (raw - raw.min()) / (raw.max() - raw.min()))
        plain = sum(float(net.head.weight[labels[i], k].detach()) * features[i, k].detach() for k in range(5)).clamp(
            min=0
        )
        torch.testing.assert_close(plain, raw * 6 * 7)  # the factor is the number of positions


def test_no_gradient_is_needed_and_none_is_made() -> None:
    net = pooled()
    with torch.no_grad():
        features, _ = net(drawn(2, 3, 6, 6))
    found = D.activation_map(features, net.head.weight, torch.tensor([0, 1]), size=(12, 9))
    assert found.shape == (2, 12, 9)
    assert not found.requires_grad
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)


def test_the_map_peaks_on_a_planted_object() -> None:
    """One channel fires on a bright square, and the head reads it for class 1."""
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 4:8, 10:14] = 1.0
    features = nn.functional.avg_pool2d(torch.cat([image, 1 - image], 1), 2)
    weight = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = D.activation_map(features, weight, torch.tensor([1]), size=(16, 16))[0]
    row, column = divmod(int(found.argmax()), 16)
    assert 4 <= row < 8
    assert 10 <= column < 14
    assert float(found[4:8, 10:14].mean()) > 10 * float(found[:, :6].mean())


def test_a_constant_map_is_zeros_and_a_refusal_is_a_sentence() -> None:
    features, weight = torch.ones(2, 3, 4, 4), torch.ones(5, 3)
    for scale in (1.0, -1.0, 0.0):  # after ReLU the last two are zero everywhere
        found = D.activation_map(scale * features, weight, torch.tensor([0, 4]), size=(8, 8))
        assert torch.equal(found, torch.zeros(2, 8, 8))
        for region in D.activation.REGIONS:
            assert bool(D.soft_mask(found, region=region).isfinite().all())
    with pytest.raises(DistilError, match="label 5 is outside the 5 classes"):
        D.activation_map(features, weight, torch.tensor([0, 5]))
    with pytest.raises(DistilError, match="without a label"):
        D.activation_map(features, weight, torch.tensor([0, -100]))
    with pytest.raises(DistilError, match="name the map that the classifier pools"):
        D.activation_map(features, torch.ones(5, 4), torch.tensor([0, 1]))


def test_maps_in_half_precision_are_made_in_float32() -> None:
    features, weight = drawn(2, 3, 4, 4).half(), drawn(5, 3, seed=1).half()
    found = D.activation_map(features, weight, torch.tensor([0, 1]))
    assert torch.equal(found, D.activation_map(features.float(), weight.float(), torch.tensor([0, 1])))


@pytest.mark.parametrize("score", ["mean", "share"])
def test_the_score_of_a_crop_by_its_pixels(score: str) -> None:
    """Boxes that lie on pixels and keep their size are slices."""
    maps = unit(3, 8, 8)
    places = [[(0, 0), (4, 4), (2, 3)], [(1, 0), (0, 4), (3, 3)], [(4, 0), (2, 2), (4, 4)]]  # top, left of 4x4 pixels
    boxes = torch.tensor([[[left / 8, top / 8, 0.5, 0.5] for top, left in row] for row in places]).double()
    found = D.crop_activation(maps, boxes, side=4, score=score, threshold=0.4)
    for i, row in enumerate(places):
        for j, (top, left) in enumerate(row):
            cells = [float(maps[i, top + a, left + b]) for a, b in product(range(4), range(4))]
            expected = [float(c >= 0.4) for c in cells] if score == "share" else cells
            assert float(found[i, j]) == pytest.approx(sum(expected) / 16)
    with pytest.raises(DistilError, match="score='median' is unknown"):
        D.crop_activation(maps, boxes, side=4, score="median")


# ---- masks and masked steps


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_mask_by_hand(threshold: float) -> None:
    maps = unit(2, 3, 4).requires_grad_()
    mask = D.soft_mask(maps, threshold=threshold)
    assert mask.shape == (2, 1, 3, 4)
    assert not mask.requires_grad
    for place in product(range(2), range(3), range(4)):
        expected = max(0.0, threshold - maps[place].item())
        assert float(mask[place[0], 0, place[1], place[2]]) == pytest.approx(expected, abs=1e-15)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= max(0.0, threshold)


def test_the_masks_of_the_ablations() -> None:
    maps = unit(2, 3, 4)
    assert torch.equal(D.soft_mask(maps, region="all-pixels"), torch.ones(2, 1, 3, 4).double())
    critical = D.soft_mask(maps, threshold=0.5, region="critical-only")
    torch.testing.assert_close(critical[:, 0], (maps - 0.5).clamp(min=0))
    assert not bool(((critical > 0) & (D.soft_mask(maps) > 0)).any())
    with pytest.raises(DistilError, match=r"region='critical' is unknown; did you mean"):
        D.soft_mask(maps, region="critical")


def test_masked_pixels_come_back_bit_for_bit_even_out_of_range() -> None:
    before, after = 4 * drawn(2, 3, 5, 5), 4 * drawn(2, 3, 5, 5, seed=1)
    before[0, 0, 0, 0] = -0.0
    mask = D.soft_mask(unit(2, 5, 5), threshold=0.5)
    moved = D.masked_step(before, after, mask)
    still = (mask == 0).expand_as(before)
    assert bool(still.any())
    assert before[still].numpy().tobytes() == moved[still].numpy().tobytes()
    for place in product(range(2), range(3), range(5), range(5)):
        b, n, c, r = place
        m = float(mask[b, 0, c, r])
        if m:
            expected = min(max(float(before[place]) + m * (float(after[place]) - float(before[place])), 0.0), 1.0)
            assert float(moved[b, n, c, r]) == pytest.approx(expected)


def test_the_range_may_differ_by_channel() -> None:
    low, high = torch.tensor([-1.0, -2.0]).view(2, 1, 1), torch.tensor([1.0, 3.0]).view(2, 1, 1)
    after = torch.tensor([-9.0, 9.0]).expand(1, 2, 1, 2)
    moved = D.masked_step(torch.zeros(1, 2, 1, 2), after, torch.ones(1, 1, 1, 2), low=low, high=high)
    assert moved.flatten().tolist() == [-1.0, 1.0, -2.0, 3.0]


def test_the_step_of_an_adaptive_optimizer_scales_with_the_mask_and_a_masked_gradient_would_not() -> None:
    start, slope = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[1.0, 1.0]]]])
    mask = torch.tensor([[[[0.4, 0.1]]]])

    def stepped(gradient: Tensor) -> Tensor:
        leaf = start.clone().requires_grad_()
        leaf.grad = gradient
        torch.optim.Adam([leaf], lr=0.1).step()
        return leaf.detach()

    moved = D.masked_step(start, stepped(slope), mask) - start
    assert float(moved[..., 0] / moved[..., 1]) == pytest.approx(4, rel=1e-4)
    naive = stepped(mask * slope) - start
    assert float(naive[..., 0] / naive[..., 1]) == pytest.approx(1, rel=1e-4)


# ---- two numbers


def by_hand(logits: Tensor, label: int) -> float:
    top = float(logits.max())
    return math.log(sum(math.exp(float(z) - top) for z in logits)) - (float(logits[label]) - top)


LABELS, PARTNERS = torch.tensor([0, 3, 1, 2]), torch.tensor([2, 3, -100, 0])  # two, the same, nothing mixed, two


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_on_two_numbers_by_hand(distance: str) -> None:
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    theirs = D.label_distances(teacher, LABELS, PARTNERS)
    found = D.two_distances(student, theirs, LABELS, PARTNERS, distance=distance, reduction="none")
    measure = {"l1": abs, "mse": lambda x: x * x, "smooth-l1": lambda x: x * x / 2 if abs(x) < 1 else abs(x) - 0.5}
    for i in range(4):
        pair = (int(LABELS[i]), int(PARTNERS[i]) if int(PARTNERS[i]) >= 0 else int(LABELS[i]))
        gaps = [by_hand(student[i], y) - by_hand(teacher[i], y) for y in pair]
        assert float(theirs[i, 0]) == pytest.approx(by_hand(teacher[i], pair[0]))
        assert float(found[i]) == pytest.approx(sum(measure[distance](gap) for gap in gaps))
    assert float(D.two_distances(student, theirs, LABELS, PARTNERS, distance=distance)) == pytest.approx(
        float(found.mean())
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_student_that_equals_the_teacher_is_at_rest(distance: str) -> None:
    logits = drawn(4, 5).requires_grad_()
    theirs = D.label_distances(logits.detach(), LABELS, PARTNERS)
    loss = D.two_distances(logits, theirs, LABELS, PARTNERS, distance=distance)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert bool((slope == 0).all())


def test_only_the_two_logits_against_all_of_them_count() -> None:
    """Classes that are neither label may trade their mass: the loss knows their sum alone."""
    logits, theirs = drawn(4, 5), unit(4, 2, seed=2)
    moved = logits + drawn(4, 1, seed=3)
    swapped = logits.clone()
    swapped[0, [1, 3]] = logits[0, [3, 1]]  # the labels of the first image are 0 and 2
    values = [
        D.two_distances(z, theirs, LABELS, PARTNERS, reduction="none") for z in (logits, moved, swapped)
    ]  # fmt: skip
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0][0], values[2][0])


def test_a_batch_of_one_the_same_class_and_nothing_mixed() -> None:
    logits = drawn(1, 4)
    same = D.label_distances(logits, torch.tensor([2]), torch.tensor([2]))
    assert torch.equal(same[:, 0], same[:, 1])
    assert torch.equal(same, D.label_distances(logits, torch.tensor([2]), torch.tensor([-100])))
    assert D.two_distances(drawn(1, 4, seed=1), same, torch.tensor([2]), torch.tensor([2])).isfinite()


def test_images_without_a_label_do_not_count() -> None:
    student, labels = drawn(4, 5), torch.tensor([0, -100, 1, 2])
    theirs, kept = unit(4, 2), torch.tensor([0, 2, 3])
    whole = D.two_distances(student, theirs, labels, PARTNERS)
    assert float(whole) == pytest.approx(
        float(D.two_distances(student[kept], theirs[kept], labels[kept], PARTNERS[kept]))
    )
    assert D.label_distances(student, labels, PARTNERS)[1].tolist() == [0, 0]
    assert D.rebuilt_labels(theirs, labels, PARTNERS, classes=5)[1].tolist() == [0] * 5


def test_saturated_logits_give_finite_distances_that_fit_half_precision() -> None:
    logits = torch.tensor([[1e5, 0.0, -1e5], [90.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = D.label_distances(logits, torch.tensor([2, 1, 0]), torch.tensor([0, 0, 1]))
    assert bool((found >= 0).all())
    assert found[0].tolist() == [2e5, 0.0]
    assert found[1].tolist() == [90.0, 0.0]
    stored = D.half_distances(found)
    assert stored.dtype == torch.float16
    assert float(stored.max()) == 65504
    assert bool(stored.isfinite().all())
    loss = D.two_distances(logits.clone().requires_grad_(), stored, torch.tensor([2, 1, 0]), torch.tensor([0, 0, 1]))
    assert loss.isfinite()
    with pytest.raises(DistilError, match="not a number"):
        D.half_distances(torch.tensor([float("nan")]))


def test_half_precision_costs_a_thousandth() -> None:
    found = D.label_distances(5 * drawn(50, 8), torch.arange(50) % 8, (torch.arange(50) + 3) % 8)
    torch.testing.assert_close(D.half_distances(found).double(), found, rtol=1e-3, atol=1e-6)


def test_the_label_that_two_numbers_leave_by_hand() -> None:
    teacher = drawn(4, 5)
    theirs = D.label_distances(teacher, LABELS, PARTNERS)
    found = D.rebuilt_labels(theirs, LABELS, PARTNERS, classes=5)
    p = teacher.softmax(1)
    for i in range(4):
        named = {int(LABELS[i])} | ({int(PARTNERS[i])} - {-100})
        rest = (1 - sum(float(p[i, c]) for c in named)) / (5 - len(named))
        expected = [float(p[i, c]) if c in named else rest for c in range(5)]
        assert found[i].tolist() == pytest.approx(expected)


def test_two_classes_leave_nothing_over_and_rounding_no_more_than_one() -> None:
    labels, partners = torch.tensor([0, 1]), torch.tensor([1, 1])
    found = D.rebuilt_labels(torch.tensor([[0.1, 0.2], [0.5, 0.5]]), labels, partners, classes=2)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert found[0, 0] > found[0, 1]
    only = D.rebuilt_labels(torch.tensor([[0.3, 0.3]]), torch.tensor([0]), torch.tensor([0]), classes=1)
    assert only.tolist() == [[1.0]]


def test_the_mixed_label_loss_is_cross_entropy_with_the_mixed_label() -> None:
    student, share = drawn(4, 5), unit(4)
    found = D.mixed_cross_entropy(student, LABELS, PARTNERS, share, reduction="none")
    for i in range(4):
        partner = int(PARTNERS[i]) if int(PARTNERS[i]) >= 0 else int(LABELS[i])
        expected = float(share[i]) * by_hand(student[i], int(LABELS[i]))
        expected += (1 - float(share[i])) * by_hand(student[i], partner)
        assert float(found[i]) == pytest.approx(expected)
    assert "mix" in SCE_TARGETS


def test_the_gradients_are_slopes() -> None:
    student, theirs, share = drawn(4, 5).requires_grad_(), unit(4, 2, seed=4), unit(4)
    for distance in DISTANCES:
        assert torch.autograd.gradcheck(
            lambda z, d=distance: D.two_distances(z, theirs, LABELS, PARTNERS, distance=d), student
        )
    assert torch.autograd.gradcheck(lambda z: D.mixed_cross_entropy(z, LABELS, PARTNERS, share), student)


def test_what_does_not_fit_is_refused() -> None:
    student = drawn(4, 5)
    with pytest.raises(DistilError, match=r"the teacher's distances is \(4, 5\) but \(4, 2\)"):
        D.two_distances(student, drawn(4, 5), LABELS, PARTNERS)
    with pytest.raises(DistilError, match="distance='l2' is unknown"):
        D.two_distances(student, unit(4, 2), LABELS, PARTNERS, distance="l2")
    with pytest.raises(DistilError, match="label 7 is outside the 5 classes"):
        D.label_distances(student, LABELS, torch.tensor([7, 0, 0, 0]))
    with pytest.raises(DistilError, match="kind='fp16' is unknown"):
        D.label_bytes("fp16", images=1, epochs=1, classes=1)


@pytest.mark.parametrize(("images", "epochs", "classes"), [(200_000, 300, 1000), (100, 7, 10), (1, 1, 2)])
def test_the_bytes_of_labels(images: int, epochs: int, classes: int) -> None:
    size = {
        kind: D.label_bytes(kind, images=images, epochs=epochs, classes=classes)
        for kind in ("two-numbers", "soft", "onehot")
    }
    assert size["two-numbers"] == 2 * 2 * images * epochs
    assert size["soft"] / size["two-numbers"] == classes / 2
    assert size["onehot"] == 0
    stored = D.half_distances(torch.zeros(3, 2))
    assert stored.numel() * stored.element_size() == D.label_bytes("two-numbers", images=3, epochs=1, classes=classes)
