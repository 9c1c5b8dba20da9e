"""Image folders, parquet files and csv tables, good and bad, made in a temporary folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from distil.data import Batches, fingerprint, load, read_images
from distil.errors import DistilError


def picture(k: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(k)
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for c, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for k in range(20):
            picture(100 * c + k).save(root / name / f"{k:02d}.png")
    return root


def everything(bundle: Any) -> dict[int, tuple[torch.Tensor, int]]:
    return {
        int(i): (x, int(y))
        for part in (bundle.train, bundle.val, bundle.test)
        for batch in Batches(part, min(7, len(part)), seed=0, shuffle=False)
        for i, x, y in zip(batch["id"], batch["inputs"], batch["labels"])
    }


def test_a_folder_of_classes_is_split_stratified_and_noted(folder: Path) -> None:
    bundle = load(folder)
    assert (bundle.name, bundle.task, bundle.classes) == ("pets", "classification", ("cat", "dog"))
    assert bundle.input_shape == (3, 6, 6)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [28, 6, 6]
    assert bundle.train.labels.bincount().tolist() == [14, 14]
    assert "70/15/15 made by seed 0" in bundle.notes[0]
    found = everything(bundle)
    assert sorted(found) == list(range(40))
    expected = torch.from_numpy(np.array(picture(103))).permute(2, 0, 1).float() / 255
    assert torch.equal(found[23][0], expected)
    assert found[23][1] == 1
    assert load(folder).fingerprint == bundle.fingerprint
    assert load(folder, seed=1).fingerprint != bundle.fingerprint


def test_given_splits_are_kept_and_missing_ones_made(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("test", 5)):
        for c in "ab":
            (tmp_path / split / c).mkdir(parents=True)
            for k in range(count):
                picture(ord(c) * 1000 + k + 500 * (split == "test"), mode="L").save(tmp_path / split / c / f"{k}.png")
    bundle = read_images(tmp_path)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [36, 4, 10]
    assert bundle.input_shape == (1, 6, 6)
    assert bundle.notes == ("no val split was given: a tenth of train was taken by seed 0 (4).",)


def test_lazy_reading_equals_memory(folder: Path) -> None:
    lazy, kept = load(folder, memory_limit=1), load(folder)
    assert "decoded when they are read" in " ".join(lazy.notes)
    assert lazy.fingerprint == kept.fingerprint
    left, right = everything(lazy), everything(kept)
    assert all(torch.equal(left[k][0], right[k][0]) and left[k][1] == right[k][1] for k in right)
    (folder / "cat" / "00.png").unlink()
    with pytest.raises(DistilError, match=r"cat/00\.png' was readable when it was loaded"):
        everything(lazy)


def test_broken_images_are_named_skipped_and_counted(folder: Path) -> None:
    whole = (folder / "cat" / "03.png").read_bytes()
    (folder / "cat" / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "04.png").write_bytes(b"no image at all")
    (folder / "dog" / "readme.txt").write_text("x")
    bundle = load(folder)
    notes = " ".join(bundle.notes)
    assert "2 images cannot be decoded and were skipped: 'cat/03.png' (" in notes
    assert "'dog/04.png' (UnidentifiedImageError" in notes
    assert "1 files that are no images were ignored" in notes
    assert sorted(everything(bundle)) == [k for k in range(40) if k not in (3, 24)]
    for file in folder.rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DistilError, match="none of the 40 images can be decoded"):
        load(folder)


def test_copies_and_leaks_are_counted(tmp_path: Path) -> None:
    for split, images in (("train", [1, 2, 3, 1]), ("val", [4, 2]), ("test", [3, 1, 9])):
        for c in "ab":
            (tmp_path / split / c).mkdir(parents=True)
            for k, seed in enumerate(images):
                picture(seed + (0 if seed == 2 else 50 * ord(c))).save(tmp_path / split / c / f"{k}.png")
    notes = " ".join(read_images(tmp_path).notes)
    # per class: one copy inside train, one leak to val, two to test; picture 2 is in both classes
    assert "9 samples are exact copies of others (2 of them with another label)" in notes
    assert "2 of val and 4 of test also stand in train" in notes


def test_mixed_sizes_and_modes_are_brought_together(folder: Path) -> None:
    for k in range(3):
        picture(k, (9, 4), "L").save(folder / "cat" / f"g{k}.png")
    deep = Image.fromarray((np.arange(36).reshape(6, 6) * 1000).astype(np.uint16))
    deep.save(folder / "dog" / "deep.png")
    bundle = load(folder)
    notes = " ".join(bundle.notes)
    assert "the images have 2 sizes: all are read as 6x6" in notes
    assert "4 grey and 40 colour images: all are read as RGB" in notes
    small = load(folder, size=(4, 5), channels=1)
    assert small.input_shape == (1, 4, 5)
    assert small.train[0]["inputs"].shape == (1, 4, 5)
    number = sorted(file.relative_to(folder) for file in folder.rglob("*.png")).index(Path("dog/deep.png"))
    assert float(everything(bundle)[number][0].max()) == pytest.approx(35000 // 256 / 255)
    with pytest.raises(DistilError, match="channels=2"):
        load(folder, channels=2)


def test_photographs_of_many_sizes_get_a_square(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / c).mkdir()
        for k in range(10):
            picture(k + ord(c), (20 + k, 30 + 2 * k)).save(tmp_path / c / f"{k}.png")
    assert read_images(tmp_path).input_shape == (3, 25, 25)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = picture(1, (4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for c in "ab":
        (tmp_path / c).mkdir()
        for k in range(10):
            image.save(tmp_path / c / f"{k}.png", exif=exif)
    bundle = read_images(tmp_path, size=(8, 4))
    turned = torch.from_numpy(np.rot90(np.asarray(image), -1).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(bundle.train[0]["inputs"], turned)


@pytest.mark.parametrize("kind", ["empty", "flat", "one class", "few", "none"])
def test_unusable_folders_are_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    expected = {
        "empty": "holds no images in class sub-folders \\(0 sub-folders",
        "flat": "holds no images in class sub-folders",
        "one class": "has one class only \\('cat', 5 images\\)",
        "few": "none may be empty",
        "none": "no data set or file called|there is no file or folder",
    }[kind]
    if kind != "none":
        root.mkdir()
    if kind == "flat":
        picture(0).save(root / "a.png")
    if kind in ("one class", "few"):
        for name, count in {"cat": 5}.items() if kind == "one class" else {"cat": 1, "dog": 1}.items():
            (root / name).mkdir()
            for k in range(count):
                picture(k + ord(name[0])).save(root / name / f"{k}.png")
    with pytest.raises(DistilError, match=expected):
        load(root)


def test_train_must_be_among_the_splits(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / "test" / c).mkdir(parents=True)
        picture(ord(c)).save(tmp_path / "test" / c / "0.png")
    with pytest.raises(DistilError, match="none called train"):
        read_images(tmp_path)


def table(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    made = pa.table(columns)
    parquet.write_table(made.replace_schema_metadata(metadata) if metadata else made, path)
    return path


@pytest.mark.parametrize("layout", ["struct", "bytes", "path"])
def test_parquet_in_its_three_layouts(tmp_path: Path, layout: str) -> None:
    images = [encoded(picture(k)) for k in range(20)]
    for k, image in enumerate(images):
        (tmp_path / f"{k}.png").write_bytes(image)
    column: list[Any] = {
        "struct": [{"bytes": image, "path": None} for image in images],
        "bytes": images,
        "path": [f"{k}.png" for k in range(20)],
    }[layout]
    path = table(tmp_path / "set.parquet", {"img": column, "label": [k % 2 for k in range(20)]})
    found = everything(load(path))
    for k in range(20):
        expected = torch.from_numpy(np.array(picture(k))).permute(2, 0, 1).float() / 255
        assert torch.equal(found[k][0], expected)
        assert found[k][1] == k % 2


def test_parquet_class_names_splits_and_columns(tmp_path: Path) -> None:
    images = [encoded(picture(k), "BMP") for k in range(12)]
    names = {"info": {"features": {"kind": {"names": ["ant", "bee", "cow"]}}}}
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    columns = {"photo": images, "kind": [0, 2] * 6, "split": splits}
    path = table(tmp_path / "set.parquet", columns, {"huggingface": json.dumps(names)})
    bundle = load(path, image="photo", label="kind")
    assert bundle.classes == ("ant", "bee", "cow")
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [8, 2, 2]
    with pytest.raises(DistilError, match=r"columns \['photo', 'kind', 'split'\] but no image column of image, img"):
        load(path)
    with pytest.raises(DistilError, match="no label column 'label'"):
        load(path, image="photo", label="label")
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(path.read_bytes()[:99])
    with pytest.raises(DistilError, match="no readable parquet file"):
        load(bad)


def test_a_folder_of_parquet_files_named_by_split(tmp_path: Path) -> None:
    for split, start in (("train-00000-of-00001", 0), ("test-00000-of-00001", 20)):
        images = [encoded(picture(k + start)) for k in range(20)]
        table(tmp_path / f"{split}.parquet", {"image": images, "label": [k % 2 for k in range(20)]})
    (tmp_path / "classes.json").write_text('["left", "right"]')
    bundle = load(tmp_path)
    assert bundle.classes == ("left", "right")
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [18, 2, 20]
    table(tmp_path / "more.parquet", {"image": [b""], "label": [0]})
    with pytest.raises(DistilError, match="names no split"):
        load(tmp_path)


def test_csv_relative_paths_integer_labels_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    rows = ["path,label"]
    for k in range(21):
        if k != 5:
            picture(k).save(tmp_path / "img" / f"{k}.png")
        rows.append(f"img/{k}.png,{[2, 10, 30][k % 3]}")
    file = tmp_path / "list.csv"
    file.write_text("\n".join(rows))
    bundle = load(file)
    assert bundle.classes == ("2", "10", "30")  # sorted as numbers
    notes = " ".join(bundle.notes)
    assert "the labels [2, 10, 30] were renumbered 0..2" in notes
    assert "1 images cannot be decoded and were skipped: 'img/5.png' (FileNotFoundError" in notes
    file.write_text("path,label\nimg/0.png,\n")
    with pytest.raises(DistilError, match="line 2 has no label"):
        load(file)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DistilError, match=r"columns 'a', 'b' but no label column"):
        load(file)
    file.write_text("path,label\n")
    with pytest.raises(DistilError, match="holds no images"):
        load(file)


def test_limit_keeps_the_shares_of_the_classes(folder: Path) -> None:
    bundle = load(folder, limit=4)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [4, 4, 4]
    assert bundle.train.labels.bincount().tolist() == [2, 2]
    assert "at most 4 samples of each split" in " ".join(bundle.notes)
    assert fingerprint(bundle.train) != fingerprint(load(folder).train)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DistilError, match=r"is no folder, \.parquet or \.csv"):
        load(tmp_path / "a.zip")
