"""Images with a label for every pixel: mirroring, the CamVid reader, and label maps in the shared parts."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from distil.data import Batches, DictDataset, View, fingerprint, hide_labels, labels_of, load, split, take_per_class
from distil.data.dense import Mirrored, read_masks
from distil.errors import DistilError


def has_camvid() -> bool:
    root = os.environ.get("DISTIL_DATA")
    return bool(root) and all(Path(root, "camvid", f"{part}.parquet").is_file() for part in ("train", "val", "test"))


needs_camvid = pytest.mark.skipif(not has_camvid(), reason="DISTIL_DATA holds no camvid/{train,val,test}.parquet")


def scenes(count: int = 16) -> DictDataset:
    """Images whose one channel is the label map itself, so that any disagreement shows."""
    labels = torch.randint(0, 5, (count, 4, 6), generator=torch.Generator().manual_seed(0))
    return DictDataset(labels[:, None].float(), labels, torch.arange(count) + 50)


def test_mirroring_turns_image_and_labels_together_and_half_of_the_items() -> None:
    plain = scenes(64)
    data = Mirrored(plain)
    turned = 0
    for batch in Batches(data, 8, seed=0, shuffle=True).iterate(0):
        assert torch.equal(batch["inputs"][:, 0].long(), batch["labels"])
        rows = plain.labels[batch["id"] - 50]
        same = (batch["labels"] == rows).flatten(1).all(1)
        assert (same | (batch["labels"] == rows.flip(-1)).flatten(1).all(1)).all()
        turned += int((~same).sum())
    assert 16 < turned < 48


def test_which_items_are_mirrored_depends_on_seed_and_epoch_alone() -> None:
    def labels(seed: int, epoch: int, **options: int) -> torch.Tensor:
        source = Batches(Mirrored(scenes()), 16, seed=seed, shuffle=False, **options)
        return next(iter(source.iterate(epoch)))["labels"]

    torch.rand(3)  # what was drawn before does not matter
    assert torch.equal(labels(0, 1), labels(0, 1))
    assert torch.equal(labels(0, 1), labels(0, 1, workers=1))
    assert not torch.equal(labels(0, 1), labels(0, 2))
    assert not torch.equal(labels(0, 1), labels(1, 1))


def test_the_fingerprint_tells_mirrored_data_from_plain() -> None:
    assert fingerprint(Mirrored(scenes())) == fingerprint(Mirrored(scenes()))
    assert fingerprint(Mirrored(scenes())) != fingerprint(scenes())


def test_label_maps_pass_through_the_shared_parts() -> None:
    data = scenes(10)
    assert labels_of([data[k] for k in range(3)]).shape == (3, 4, 6)
    parts = split(data, [4, 6], seed=1)
    assert [len(part) for part in parts] == [4, 6]
    assert sorted(torch.cat([part.ids for part in parts]).tolist()) == list(range(50, 60))
    hidden = hide_labels(data, [52, 55])
    assert torch.equal((hidden.labels != -100).flatten(1).any(1).nonzero().flatten(), torch.tensor([2, 5]))
    assert torch.equal(hidden[2]["labels"], data.labels[2])
    assert torch.equal(View(data, torch.tensor([3])).batch(torch.tensor([0]))["labels"], data.labels[3:4])
    with pytest.raises(DistilError, match=r"the labels are maps of shape \(4, 6\)"):
        take_per_class(data, 1)


# ---- tables of pictures and masks


def png(values: np.ndarray) -> dict[str, object]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "x.png"}


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def row(mask: np.ndarray | None = None) -> dict[str, object]:
    mask = np.array([[0, 0, 1, 1], [2, 2, 9, 9]]).repeat(2, 0) if mask is None else mask
    return {"image": png(np.full((4, 4, 3), 80)), "mask": png(mask)}


def test_masks_keep_their_classes_and_void_becomes_no_label(tmp_path: Path) -> None:
    files = {part: table(tmp_path / f"{part}.parquet", [row()] * count) for part, count in
             (("train", 3), ("val", 2), ("test", 1))}  # fmt: skip
    bundle = read_masks("toy", files, classes=("a", "b", "c"), void=9, size=(8, 8))
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (3, 2, 1)
    assert bundle.task == "segmentation"
    assert bundle.input_shape == (3, 8, 8)
    labels = bundle.val[0]["labels"]
    assert labels.dtype == torch.int64
    assert torch.equal(labels.unique(), torch.tensor([-100, 0, 1, 2]))  # nearest: no value in between
    assert (labels[4:, 4:] == -100).all()
    assert bundle.val[0]["inputs"].unique().item() == pytest.approx(80 / 255)
    ids = torch.cat([part.ids for part in (bundle.train, bundle.val, bundle.test)])
    assert len(ids.unique()) == 6
    plain = read_masks("toy", files, classes=("a", "b", "c"), void=9, size=(8, 8), mirror=False)
    assert plain.fingerprint != bundle.fingerprint
    assert not isinstance(plain.train, Mirrored)
    few = read_masks("toy", files, classes=("a", "b", "c"), void=9, size=8, limit=1)
    assert (len(few.train), len(few.val)) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(np.full((4, 4), 7))], r"holds the value 7; expected classes 0\.\.2 or 9"),
        ([{"image": {"bytes": b"no picture", "path": "x"}, "mask": png(np.zeros((4, 4)))}], "row 0 of .* cannot be"),
        ([{"picture": 1}], "no readable parquet file with the columns image and mask"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, rows: list[dict[str, object]], says: str) -> None:
    file = table(tmp_path / "train.parquet", rows)
    with pytest.raises(DistilError, match=says):
        read_masks("toy", {"train": file}, classes=("a", "b", "c"), void=9)


def test_camvid_says_which_files_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"lacks camvid/train\.parquet.*SegNet|SegNet.*lacks camvid/train\.parquet"):
        load("camvid", root=tmp_path)


@pytest.mark.data
@needs_camvid
def test_camvid_is_read_in_its_own_split() -> None:
    bundle = load("camvid")
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (367, 101, 233)
    assert len(bundle.classes) == 11
    assert bundle.input_shape == (3, 96, 128)
    assert torch.equal(bundle.test.labels.unique(), torch.tensor([-100, *range(11)]))
    few = load("camvid", limit=4, size=(24, 32))
    batch = next(iter(Batches(few.train, 4, seed=0, shuffle=True)))
    assert batch["inputs"].shape == (4, 3, 24, 32)
    assert batch["labels"].shape == (4, 24, 32)
