"""Small sets that others made: folders of images by class, tensors, and everything that can be wrong with them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distil.data.bundle import Bundle, DictDataset
from distil.data.condensed import CondensedSet
from distil.data.foreign_sets import find_condensed, read_set
from distil.errors import DistilError

CLASSES = ("cat", "cow", "dog")


def real(shape: tuple[int, ...] = (3, 8, 8)) -> Bundle:
    parts = [DictDataset(torch.zeros(3, *shape), torch.arange(3), torch.arange(3) + 3 * k) for k in range(3)]
    return Bundle("real", "classification", *parts, CLASSES, shape, "f00")


def picture(value: int, side: int = 8) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


def folders(root: Path, pattern: str, extension: str = "png", side: int = 8) -> Path:
    """Two images of each class, whose grey value is 10 times the class."""
    for label in range(3):
        place = root / pattern.format(label, CLASSES[label])
        place.mkdir(parents=True)
        for k in range(2):
            picture(10 * label, side).save(place / f"class{label:03d}_id{k:03d}.{extension}")
    return root


@pytest.mark.parametrize("pattern", ["new{0:03d}", "{0:05d}", "{1}"], ids=["SRe2L", "RDED", "by class"])
def test_class_folders_of_images_are_read(pattern: str, tmp_path: Path) -> None:
    small = read_set(folders(tmp_path / "made", pattern), real())
    assert small.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert small.inputs.amax((1, 2, 3)).tolist() == pytest.approx([0, 0, 10 / 255, 10 / 255, 20 / 255, 20 / 255])
    assert (small.kind, small.made["per_class"]) == ("hard", 2)


def test_images_of_another_size_are_brought_to_that_of_the_data(tmp_path: Path) -> None:
    assert read_set(folders(tmp_path / "made", "{1}", "jpg", side=12), real()).inputs.shape == (6, 3, 8, 8)


def images(scale: float = 1.0) -> Tensor:
    return scale * torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([2, 2, 0, 0, 1, 1])


def test_tensors_of_dc_and_dm_are_read_the_last_run_of_them(tmp_path: Path) -> None:
    torch.save({"data": [[images() / 2, LABELS], [images(), LABELS]], "accs": {"a": [0.1]}}, tmp_path / "res.pt")
    small = read_set(tmp_path / "res.pt", real())
    assert torch.equal(small.inputs, images())
    assert torch.equal(small.labels, LABELS)


@pytest.mark.parametrize("named", ["images_best.pt", "."], ids=["file", "folder"])
def test_tensors_of_mtt_are_read_with_the_labels_beside_them(named: str, tmp_path: Path) -> None:
    torch.save(images(), tmp_path / "images_best.pt")
    torch.save(LABELS, tmp_path / "labels_best.pt")
    assert torch.equal(read_set(tmp_path / named, real()).labels, LABELS)


def test_a_normalisation_is_undone_and_must_be_told(tmp_path: Path) -> None:
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    shifted = (images() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.save({"images": shifted, "labels": LABELS}, tmp_path / "made.pt")
    with pytest.raises(DistilError, match="so they were normalised; say how: --set mean="):
        read_set(tmp_path / "made.pt", real())
    torch.testing.assert_close(read_set(tmp_path / "made.pt", real(), mean=mean, std=std).inputs, images())
    with pytest.raises(DistilError, match="give both"):
        read_set(tmp_path / "made.pt", real(), mean=mean)
    with pytest.raises(DistilError, match="need 3 numbers each"):
        read_set(tmp_path / "made.pt", real(), mean=[0.5], std=[0.2])


def test_soft_labels_are_logits_or_probabilities(tmp_path: Path) -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    for name, rows in (("logits", logits), ("shares", logits.softmax(1))):
        torch.save({"images": images(), "labels": rows}, tmp_path / f"{name}.pt")
        small = read_set(tmp_path / f"{name}.pt", real())
        assert small.logits is not None
        torch.testing.assert_close(small.logits.softmax(1), logits.softmax(1))
        assert small.kind == "static"
        assert torch.equal(small.labels, logits.argmax(1))


def test_images_without_labels_are_in_class_order_which_is_said(tmp_path: Path) -> None:
    torch.save(images(), tmp_path / "made.pt")
    small = read_set(tmp_path / "made.pt", real())
    assert small.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "in class order" in small.made["notes"][0]


def test_vectors_are_read_too(tmp_path: Path) -> None:
    torch.save({"inputs": torch.randn(6, 5), "labels": LABELS}, tmp_path / "made.pt")
    assert read_set(tmp_path / "made.pt", real((5,))).inputs.shape == (6, 5)


def test_a_set_of_our_own_is_found_in_its_folder_and_in_that_of_the_run(tmp_path: Path) -> None:
    CondensedSet(images(), LABELS, CLASSES).save(tmp_path / "run" / "set")
    assert find_condensed(tmp_path / "run") == find_condensed(tmp_path / "run" / "set") == tmp_path / "run" / "set"
    assert find_condensed(folders(tmp_path / "other", "{1}")) is None
    assert read_set(tmp_path / "run", real()).labels.tolist() == LABELS.tolist()


class Hostile:
    """Pickled code: loading it without care would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return (os.system, ("touch was-run",))


def saved(content: Any) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        torch.save(content, root / "made.pt")
        return root / "made.pt"

    return make


def torn(root: Path) -> Path:
    whole = saved(images())(root).read_bytes()
    (root / "made.pt").write_bytes(whole[: len(whole) // 2])
    return root / "made.pt"


def written(content: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / "made.pt").write_bytes(content)
        return root / "made.pt"

    return make


def zipped(root: Path) -> Path:
    with zipfile.ZipFile(root / "made.pt", "w") as archive:
        archive.writestr("anything/else.txt", "no tensors")
    return root / "made.pt"


def numpy_arrays(root: Path) -> Path:
    with (root / "made.pt").open("wb") as file:
        np.savez(file, images=images().numpy())
    return root / "made.pt"


def scripted(root: Path) -> Path:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(root / "made.pt"))
    return root / "made.pt"


def no_file(root: Path) -> Path:
    (root / "images_best.pt").mkdir()
    return root


def itself() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def unreadable(root: Path) -> Path:
    made = folders(root / "made", "{1}")
    (made / "dog" / "class002_id001.png").write_bytes(b"\x89PNG torn off")
    return made


def lacking(root: Path) -> Path:
    made = folders(root / "made", "{1}")
    for file in (made / "cow").iterdir():
        file.unlink()
    return made


def many(root: Path) -> Path:
    for name in ("images_1.pt", "images_2.pt"):
        torch.save(images(), root / name)
    return root


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda root: root / "lost", "there is no small set"),
    "an empty folder": (lambda root: root, "is no small set: neither"),
    "pickled code": (saved(Hostile()), "cannot be read as tensors alone"),
    "a torn file": (torn, "cannot be read as tensors alone"),
    "an empty file": (written(b""), "cannot be read as tensors alone"),
    "a text": (written(b"hello, these are no tensors"), "cannot be read as tensors alone"),
    "a plain pickle": (written(pickle.dumps({"images": [1.0]})), "cannot be read as tensors alone"),
    "a pickle of numpy": (written(pickle.dumps(np.zeros(3))), "cannot be read as tensors alone"),
    "bytes of nothing": (written(bytes(range(256)) * 4), "cannot be read as tensors alone"),
    "a zip of others": (zipped, "cannot be read as tensors alone"),
    "arrays of numpy": (numpy_arrays, "cannot be read as tensors alone"),
    "a program": (scripted, "cannot be read as tensors alone"),
    "a whole net": (saved(torch.nn.Linear(2, 2)), "cannot be read as tensors alone"),
    "a folder of that name": (no_file, "cannot be read as tensors alone"),
    "a list that holds itself": (saved(itself()), "expected images"),
    "sparse images": (saved({"images": images().to_sparse(), "labels": LABELS}), "expected images"),
    "images without pixels": (saved({"images": images()[:, :, :0], "labels": LABELS}), "expected images"),
    "images of whole numbers": (saved({"images": (images() * 255).byte(), "labels": LABELS}), "uint8; expected images"),
    "sparse labels": (saved({"images": images(), "labels": LABELS.to_sparse()}), "no tensor of 6 rows"),
    "complex labels": (saved({"images": images(), "labels": LABELS + 0j}), "no tensor of 6 rows"),
    "images that are not finite": (saved({"images": images() / 0, "labels": LABELS}), "are not finite"),
    "an image torn": (unreadable, "class002_id001.png.*cannot be decoded"),
    "a class lacking": (lacking, "do not cover the 3 classes.*'cow' is missing"),
    "an unknown class": (lambda root: folders(root / "made", "x{1}"), "'xcat', which is no class.*'cat'"),
    "a number beyond": (lambda root: folders(root / "made", "7{0}"), "which is no class of real"),
    "two candidates": (many, "holds 2 files of tensors"),
    "another size": (saved({"images": torch.rand(6, 3, 4, 4), "labels": LABELS}), "read the data at that size"),
    "labels of others": (saved({"images": images(), "labels": LABELS[:4]}), "no tensor of 6 rows"),
    "soft labels of others": (saved({"images": images(), "labels": torch.rand(6, 5)}), "have 5 classes"),
    "labels beyond": (saved({"images": images(), "labels": LABELS + 1}), "labels from 1 to 3"),
    "labels below": (saved({"images": images(), "labels": LABELS - 1}), "labels from -1 to 1"),
    "labels between": (saved({"images": images(), "labels": LABELS + 0.5}), "whole numbers 0 … 2 are expected"),
    "one number as labels": (saved({"images": images(), "labels": torch.tensor(1)}), "no tensor of 6 rows"),
    "no image at all": (saved({"images": images()[:0], "labels": LABELS[:0]}), "expected images"),
    "uneven without labels": (saved(images()[:5]), "cannot share evenly"),
    "no images": (saved({"a": 1}), "expected images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_set_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, sentence = WRONG[name]
    with pytest.raises(DistilError, match=sentence):
        read_set(make(tmp_path), real())
    assert not (tmp_path / "was-run").exists()


def test_a_file_damaged_anywhere_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Cut short at many places, and with a byte changed at many: whatever the reader makes of it, it is said."""
    file = tmp_path / "made.pt"
    saved({"images": images()[:, :, :2, :2].repeat(1, 1, 4, 4), "labels": LABELS})(tmp_path)
    whole, read = file.read_bytes(), read_set(file, real())
    draw, refused = np.random.default_rng(0), 0
    for k in range(160):
        at = int(draw.integers(len(whole)))
        changed = bytes([whole[at] ^ int(draw.integers(1, 256))])
        file.write_bytes(whole[:at] if k % 2 else whole[:at] + changed + whole[at + 1 :])
        try:
            again = read_set(file, real())
        except DistilError:
            refused += 1
        else:  # a byte that nothing reads, or that only says another number
            assert again.inputs.shape == read.inputs.shape
    assert refused >= 80


@pytest.mark.parametrize("error", [AttributeError, TypeError, AssertionError, IndexError, RecursionError, MemoryError])
def test_whatever_the_reader_raises_is_the_files_fault(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **options: Any) -> None:
        assert options["weights_only"] is True
        raise error("deep inside")

    path = saved(images())(tmp_path)
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(DistilError, match=rf"made.pt cannot be read as tensors alone \({error.__name__}\); save"):
        read_set(path, real())
