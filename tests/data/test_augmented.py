"""Views of a small set: known by a seed, and exactly what they say they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distil.data.augmented import Augmentation, AugmentedBatch, augmented, epoch_batches
from distil.data.condensed import CondensedSet
from distil.errors import DistilError


def small(count: int = 10, inputs: Tensor | None = None) -> CondensedSet:
    inputs = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) if inputs is None else inputs
    return CondensedSet(inputs, torch.arange(len(inputs)) % 2, ("a", "b"))


STILL = Augmentation(crop="none", flip=False, mix="none", batch=4)


def batches(how: Augmentation, epoch: int = 0, held: CondensedSet | None = None) -> list[AugmentedBatch]:
    return list(augmented(held or small(), how, epoch))


@pytest.mark.parametrize("how", [Augmentation(batch=4), Augmentation(crop="resized", mix="cutmix", shuffle=2, batch=4)])
def test_views_are_known_by_seed_and_epoch_alone(how: Augmentation) -> None:
    torch.manual_seed(1)
    first = batches(how, 2)
    torch.manual_seed(2)
    again = batches(how, 2)
    assert all(torch.equal(a.inputs, b.inputs) and a.share == b.share for a, b in zip(first, again, strict=True))
    other = batches(how, 3)
    assert not torch.equal(first[0].inputs, other[0].inputs)
    assert not torch.equal(first[0].inputs, batches(Augmentation(**{**vars(how), "seed": 1}), 2)[0].inputs)


def test_drawing_views_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    batches(Augmentation(crop="resized", mix="cutmix"))
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_shows_every_sample_once_and_says_where_its_rows_lie() -> None:
    found = batches(STILL)
    positions = torch.cat([batch.positions for batch in found])
    assert sorted(positions.tolist()) == list(range(10))
    for batch in found:
        assert torch.equal(positions[batch.rows], batch.positions)
        assert torch.equal(batch.inputs, small().inputs[batch.positions])
        assert torch.equal(batch.partners, batch.positions)
        assert batch.share == 1


def test_no_batch_of_one_is_left_behind() -> None:
    assert [len(batch) for batch in epoch_batches(9, STILL, 0)] == [4, 5]
    assert [len(batch) for batch in epoch_batches(1, STILL, 0)] == [1]


def test_mixup_is_the_weighted_sum_of_two_samples() -> None:
    held = small()
    for batch in batches(Augmentation(crop="none", flip=False, mix="mixup", batch=4)):
        assert 0 <= batch.share <= 1
        expected = batch.share * held.inputs[batch.positions] + (1 - batch.share) * held.inputs[batch.partners]
        torch.testing.assert_close(batch.inputs, expected)


def test_cutmix_pastes_as_much_as_it_says() -> None:
    held = small(inputs=torch.arange(10.0)[:, None, None, None].expand(10, 3, 8, 8).clone() / 10)
    seen = set()
    for epoch in range(12):
        for batch in batches(Augmentation(crop="none", flip=False, mix="cutmix", alpha=1.0, batch=5), epoch, held):
            for k, image in enumerate(batch.inputs):
                own, other = (held.inputs[where[k], 0, 0, 0] for where in (batch.positions, batch.partners))
                if own != other:
                    assert float((image == own).float().mean()) == pytest.approx(batch.share)
                    assert bool(((image == own) | (image == other)).all())
                    seen.add(round(batch.share, 3))
    assert len(seen) > 3


def test_a_padded_crop_is_the_image_shifted_and_black_beyond() -> None:
    how = Augmentation(crop="pad", pad=2, flip=False, mix="none", batch=10)
    held, shifts = small(), set()
    for batch in batches(how, 0, held):
        for image, place in zip(batch.inputs, batch.positions.tolist(), strict=True):
            wide = torch.nn.functional.pad(held.inputs[place], [2] * 4)
            where = [(i, j) for i in range(5) for j in range(5) if torch.equal(wide[:, i : i + 8, j : j + 8], image)]
            assert len(where) == 1
            shifts.add(where[0])
    assert len(shifts) > 4


def test_the_pad_follows_the_size_where_nothing_is_said() -> None:
    still = {"flip": False, "mix": "none", "batch": 10}
    assert torch.equal(batches(Augmentation(**still))[0].inputs, batches(Augmentation(pad=1, **still))[0].inputs)


def test_half_of_the_images_are_mirrored() -> None:
    held, mirrored = small(), 0
    for epoch in range(20):
        for batch in batches(Augmentation(crop="none", mix="none", batch=10), epoch, held):
            for image, place in zip(batch.inputs, batch.positions.tolist(), strict=True):
                own = held.inputs[place]
                assert torch.equal(image, own) or torch.equal(image, own.flip(2))
                mirrored += int(torch.equal(image, own.flip(2)))
    assert 60 < mirrored < 140


def test_resized_crops_are_of_the_images_size_and_of_its_values() -> None:
    flat = small(inputs=torch.full((6, 3, 8, 4), 0.25))
    for batch in batches(Augmentation(crop="resized", mix="none", batch=6), 0, flat):
        assert batch.inputs.shape == (6, 3, 8, 4)
        torch.testing.assert_close(batch.inputs, torch.full_like(batch.inputs, 0.25))


def test_shuffled_strips_keep_every_pixel_row_and_column() -> None:
    grid = torch.arange(49.0).view(1, 1, 7, 7).expand(6, 1, 7, 7) / 49  # 7 = 2 + 2 + 3: a last strip is longer
    found = batches(Augmentation(crop="none", flip=False, mix="none", shuffle=3, batch=6), 0, small(inputs=grid))[0]
    assert any(not torch.equal(image, grid[0]) for image in found.inputs)
    for image in found.inputs:
        assert sorted(image.flatten().tolist()) == sorted(grid[0].flatten().tolist())
        columns = {tuple(sorted(column)) for column in image[0].T.tolist()}
        assert columns == {tuple(sorted(column)) for column in grid[0, 0].T.tolist()}


def test_vectors_are_at_most_mixed_up() -> None:
    held = small(inputs=torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    [batch] = batches(Augmentation(mix="cutmix", batch=6), 0, held)
    expected = batch.share * held.inputs[batch.positions] + (1 - batch.share) * held.inputs[batch.partners]
    torch.testing.assert_close(batch.inputs, expected)


@pytest.mark.parametrize(
    "wrong", [{"crop": "squeeze"}, {"mix": "mixpu"}, {"share": (0.0, 1.0)}, {"share": (0.9, 0.1)}, {"alpha": 0.0}]
)
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DistilError, match=r"unknown|cannot be"):
        Augmentation(**wrong)  # type: ignore[arg-type]


def test_a_record_with_an_unknown_entry_is_refused() -> None:
    with pytest.raises(DistilError, match="'flipp'; did you mean 'flip'"):
        Augmentation.of({"flipp": True})
