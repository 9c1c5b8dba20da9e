"""Splits: made by seed, stored, found again by content, and refused where the data changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distil.data import load
from distil.data.bundle import Bundle
from distil.data.splits import SPLITS_FILE, content_of, read_splits, write_splits
from distil.errors import DistilError


def parts(bundle: Bundle) -> list[list[int]]:
    return [part.ids.tolist() for part in (bundle.train, bundle.val, bundle.test)]


def reviews(folder: Path, numbers: list[int]) -> Path:
    file = folder / "reviews.csv"
    file.write_text("text,label\n" + "".join(f"text number {k},{k % 2}\n" for k in numbers))
    return file


def photos(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for k in range(30):
        place = folder / "photos" / ("cat", "dog")[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (5, 5, 3), dtype=np.uint8)).save(place / f"{k:02d}.png")
    return folder / "photos"


@pytest.mark.parametrize("kind", ["texts", "images", "digits"])
def test_stored_splits_are_used_whatever_the_seed(tmp_path: Path, kind: str) -> None:
    made = {"texts": lambda: reviews(tmp_path, list(range(40))), "images": lambda: photos(tmp_path)}
    source = made[kind]() if kind in made else kind
    first, file = load(source, seed=0), tmp_path / SPLITS_FILE
    write_splits(file, first)
    assert file.read_text().startswith("id,part,content\n")
    assert parts(load(source, seed=5)) != parts(first)
    again = load(source, seed=5, splits=file)
    assert parts(again) == parts(first)
    assert f"the splits are those stored in {SPLITS_FILE}" in " ".join(again.notes)
    if kind == "images":
        assert parts(load(source, splits=file, size=3, channels=1)) == parts(first)  # they name files, not pixels


def test_samples_are_found_by_content_where_rows_moved(tmp_path: Path) -> None:
    first = load(reviews(tmp_path, list(range(40))))
    write_splits(tmp_path / SPLITS_FILE, first)
    moved = load(reviews(tmp_path, [99, *reversed(range(40))]), splits=tmp_path / SPLITS_FILE)
    for one, other in ((first.train, moved.train), (first.test, moved.test)):
        assert {one[k]["inputs"] for k in range(len(one))} == {other[k]["inputs"] for k in range(len(other))}
    assert "1 samples belong to no split" in " ".join(moved.notes)
    with pytest.raises(DistilError, match=r"name 2 samples that the data do not hold \(the first has id "):
        load(reviews(tmp_path, list(range(38))), splits=tmp_path / SPLITS_FILE)


def test_a_limit_is_part_of_what_is_stored(tmp_path: Path) -> None:
    file = reviews(tmp_path, list(range(40)))
    first = load(file, limit=6)
    write_splits(tmp_path / SPLITS_FILE, first)
    assert parts(load(file, limit=6, splits=tmp_path / SPLITS_FILE)) == parts(first)


def test_copies_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    a, b = content_of("a"), content_of("b")
    (tmp_path / SPLITS_FILE).write_text(f"id,part,content\n1,test,{a}\n0,train,{a}\n7,val,{b}\n")
    assert read_splits(tmp_path / SPLITS_FILE, [a, a, b], []) == ["train", "test", "val"]


def test_damaged_splits_are_refused(tmp_path: Path) -> None:
    file = tmp_path / SPLITS_FILE
    for content, said in (
        ("id,part\n", "holds no splits; expected a table with the columns id, part, content"),
        ("id,part,content\n1,trian,ab\n", "line 2 of the splits .* is '1,trian,ab'"),
        ("id,part,content\nx,train,ab\n", "line 2 of the splits"),
    ):
        file.write_text(content)
        with pytest.raises(DistilError, match=said):
            read_splits(file, ["ab"], [])
    with pytest.raises(DistilError, match="cannot be read"):
        read_splits(tmp_path / "none.csv", ["ab"], [])


def test_classes_and_leaks_of_images(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    bundle = load(folder, classes=["dog", "cat"])
    assert bundle.classes == ("dog", "cat")
    assert torch.equal(load(folder).train.dataset.labels, 1 - bundle.train.dataset.labels)
    (folder / "classes.txt").write_text("dog\ncat\n")
    assert load(folder).classes == ("dog", "cat")
    with pytest.raises(DistilError, match=r"the image 'dog/01.png' has the label 'dog', and the setting 'classes' has"):
        load(folder, classes=["cat", "dogs"])
    copies = tmp_path / "copies"
    for split, numbers in (("train", range(10)), ("val", (10, 11)), ("test", (0, 1, 12, 13))):
        for k in numbers:
            place = copies / split / ("cat", "dog")[k % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{k}.png").write_bytes((folder / ("cat", "dog")[k % 2] / f"{k:02d}.png").read_bytes())
    assert "LEAK: 0 of val and 2 of test also stand in train" in " ".join(load(copies).notes)
    cleaned = load(copies, drop_leaks=True)
    assert [len(part) for part in (cleaned.train, cleaned.val, cleaned.test)] == [8, 2, 4]
