"""Condensed sets: what they may be, the round trip to disk and back, and files that are torn or changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from distil.data.bundle import Bundle, DictDataset, ids_of
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.condensed_files import as_kept
from distil.errors import DistilError

CLASSES = ("cat", "dog <b>")


def pixels(count: int, seed: int = 0) -> Tensor:
    """Images whose values are whole bytes, as real ones are."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 6, 5), generator=draw).float() / 255


def plain(**changed: Any) -> CondensedSet:
    labels = torch.tensor([0, 1, 1, 0])
    return CondensedSet(**{"inputs": pixels(4), "labels": labels, "classes": CLASSES, **changed})


def compact() -> CondensedSet:
    """Two natural images, one compensator: four samples."""
    added = 0.5 * torch.randn(1, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    pairs = torch.tensor([[0, -1], [1, -1], [0, 0], [1, 0]])
    return CondensedSet(pixels(2), torch.tensor([0, 1, 0, 1]), CLASSES, compensators=added, pairs=pairs)


def replayed() -> CondensedSet:
    stored = {
        "logits": torch.randn(3, 4, 2).half(),
        "boxes": torch.rand(3, 4, 4),
    }
    return plain(replay=stored, record={"labels": "replayed", "augmentation": {"seed": 3}, "temperature": 20.0})


SETS: dict[str, Callable[[], CondensedSet]] = {
    "hard": plain,
    "static": lambda: plain(logits=torch.randn(4, 2), ids=torch.tensor([7, -1, 9, 2]), made={"method": "x"}),
    "weighted": lambda: plain(weights=torch.tensor([0.0, 1.0, 2.0, 0.5])),
    "compact": compact,
    "replayed": replayed,
    "two numbers": lambda: plain(
        replay={"distances": torch.rand(5, 4, 2).half()}, record={"labels": "two-numbers", "weight": 0.5}
    ),
    "grey": lambda: plain(inputs=pixels(4)[:, :1]),
    "vectors": lambda: plain(inputs=torch.randn(4, 7)),
    "beyond [0, 1]": lambda: plain(inputs=3 * torch.randn(4, 3, 6, 5)),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_comes_back_as_it_was_kept(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = SETS[name]()
    back = load_condensed(small.save(tmp_path / "set"))
    for field in ("inputs", "labels", "logits", "weights", "ids", "pairs"):
        ours, theirs = getattr(small, field), getattr(back, field)
        assert (ours is None) == (theirs is None), field
        assert ours is None or (torch.equal(ours, theirs) and ours.dtype == theirs.dtype), field
    assert {k: v.tolist() for k, v in small.replay.items()} == {k: v.tolist() for k, v in back.replay.items()}
    assert (back.classes, dict(back.record), dict(back.made)) == (small.classes, dict(small.record), dict(small.made))
    assert (len(back), back.kind, back.storage()) == (len(small), small.kind, small.storage())


def test_a_set_kept_exactly_is_the_same_to_the_bit(tmp_path: Path) -> None:
    small = replace(compact(), inputs=torch.rand(2, 3, 6, 5))
    back = load_condensed(small.save(tmp_path / "set", exact=True))
    assert torch.equal(back.samples(), small.samples())
    assert back.fingerprint == small.fingerprint
    assert not list((tmp_path / "set").rglob("*.png"))


def test_png_rounds_values_to_bytes_and_compensators_to_bytes_of_their_range(tmp_path: Path) -> None:
    small = replace(compact(), inputs=torch.rand(2, 3, 6, 5))
    back = load_condensed(small.save(tmp_path / "set"))
    assert small.compensators is not None
    assert back.compensators is not None
    assert 0 < float((back.inputs - small.inputs).abs().max()) <= 0.5 / 255 + 1e-6
    span = float(small.compensators.max() - small.compensators.min())
    assert 0 < float((back.compensators - small.compensators).abs().max()) <= 0.5 * span / 255 + 1e-6
    again = load_condensed(back.save(tmp_path / "again"))  # rounding a second time changes nothing
    assert torch.equal(again.inputs, back.inputs)


def test_samples_are_natural_images_plus_compensators_clipped() -> None:
    small = compact()
    assert small.compensators is not None
    expected = torch.cat([small.inputs, (small.inputs + small.compensators).clamp(0, 1)])
    assert torch.equal(small.samples(), expected)
    assert torch.equal(small.samples(torch.tensor([3, 0])), expected[[3, 0]])
    assert float(expected.max()) == 1.0
    assert float((small.inputs + small.compensators).max()) > 1


def test_bytes_are_those_of_the_compact_form() -> None:
    each = 3 * 6 * 5
    assert compact().storage() == {
        "images": 3 * each,
        "labels": 2,
        "augmentation": 0,
        "other": 0,
        "total": 3 * each + 2,
    }
    assert compact().storage(exact=True)["images"] == 12 * each
    two = SETS["two numbers"]().storage()
    assert two["labels"] == 4 + 2 * 2 * 4 * 5  # class labels; two bytes for each of two numbers, image and epoch
    held = replayed().storage()
    assert (held["labels"], held["augmentation"]) == (4 + 3 * 4 * 2 * 2, 3 * 4 * 4 * 4 + 8)
    assert SETS["vectors"]().storage()["images"] == 4 * 4 * 7
    assert SETS["static"]().storage()["labels"] == 4 + 4 * 4 * 2


def test_a_folder_holds_nothing_that_could_run(tmp_path: Path) -> None:
    folder = replayed().save(tmp_path / "set")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors", ".png"}


def test_a_set_replaces_a_set_and_nothing_else(tmp_path: Path) -> None:
    first = plain().save(tmp_path / "set")
    replace(plain(), labels=torch.tensor([1, 1, 0, 0])).save(first)
    assert load_condensed(first).labels.tolist() == [1, 1, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(DistilError, match="no condensed set; name another folder"):
        plain().save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_set_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plain().save(tmp_path / "set")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distil.data.condensed_files._write_json", full)
    with pytest.raises(DistilError, match="No space left"):
        replace(plain(), labels=torch.tensor([1, 1, 0, 0])).save(folder)
    assert load_condensed(folder).labels.tolist() == [0, 1, 1, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


def changed(folder: Path) -> None:
    facts = json.loads((folder / "set.json").read_text())
    facts["classes"] = ["dog", "cat"]
    (folder / "set.json").write_text(json.dumps(facts))


def out_of(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def linked(folder: Path) -> None:
    image = next((folder / "images").rglob("*.png"))
    outside = folder.parent / "outside.png"
    outside.write_bytes(image.read_bytes())
    image.unlink()
    image.symlink_to(outside)


def newer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))


TORN: dict[str, tuple[Callable[[Path], object], str]] = {
    "image cut": (lambda folder: cut("images/00000/00000.png")(folder), "00000.png was changed or cut off"),
    "image lost": (lambda folder: (folder / "images/00000/00000.png").unlink(), "00000.png is missing"),
    "tensors cut": (cut("tensors.safetensors"), "tensors.safetensors was changed or cut off"),
    "facts changed": (changed, "set.json was changed or cut off"),
    "manifest cut": (cut("manifest.json"), "not whole JSON"),
    "manifest lost": (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
    "leads out": (out_of, "names files that no condensed set has"),
    "a link out": (linked, "is a link out of"),
    "newer": (newer, "has version 2"),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_or_changed_set_is_named(name: str, tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "set")
    tear, sentence = TORN[name]
    tear(folder)
    with pytest.raises(DistilError, match=sentence):
        load_condensed(folder)


def test_a_file_that_is_no_part_of_the_set_is_left_alone(tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "set")
    (folder / "notes.txt").write_text("mine")
    assert len(load_condensed(folder)) == 4


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no float": ({"inputs": torch.zeros(4, 3, dtype=torch.int64)}, "expected float"),
    "not finite": ({"inputs": torch.full((4, 3), float("nan"))}, "not finite"),
    "labels of another number": ({"labels": torch.tensor([0, 1])}, "for 4 samples"),
    "a label beyond": ({"labels": torch.tensor([0, 1, 2, 0])}, "labels from 0 to 2 for 2 classes"),
    "logits of other classes": ({"logits": torch.zeros(4, 3)}, "logits of shape"),
    "infinite logits": ({"logits": torch.full((4, 2), float("inf"))}, "logits that are not finite"),
    "negative weights": ({"weights": torch.tensor([1.0, -1.0, 0.0, 0.0])}, "weights below 0"),
    "pairs alone": ({"pairs": torch.zeros(4, 2, dtype=torch.int64)}, "without compensators"),
    "pairs beyond": (
        {"pairs": torch.tensor([[9, 0]] * 4), "compensators": torch.zeros(1, 3, 6, 5)},
        "which are not there",
    ),
    "unknown labels": ({"record": {"labels": "sfot"}}, "labels of the kind 'sfot'"),
    "static without logits": ({"record": {"labels": "static"}}, "without the numbers"),
    "distances of others": (
        {"record": {"labels": "two-numbers"}, "replay": {"distances": torch.zeros(3, 2, 2)}},
        "replay\\['distances'\\]",
    ),
    "a record of objects": ({"record": {"x": object()}}, "no plain JSON"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_set_can_be_is_refused(name: str) -> None:
    given, sentence = WRONG[name]
    with pytest.raises(DistilError, match=sentence):
        plain(**given)


def test_images_beyond_their_range_are_not_squeezed_into_png(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="cannot be kept as PNG"):
        SETS["beyond [0, 1]"]().save(tmp_path / "set", exact=False)
    assert not (tmp_path / "set").exists()


def bundle(classes: tuple[str, ...] = CLASSES, shape: tuple[int, ...] = (3, 6, 5)) -> Bundle:
    parts = [DictDataset(torch.zeros(2, *shape), torch.tensor([0, 1]), torch.tensor([k, k + 1])) for k in (0, 2, 4)]
    return Bundle("real", "classification", *parts, classes, shape, "f00")


def test_a_bundle_trains_on_the_set_and_tests_on_the_real_parts() -> None:
    real = bundle()
    found = compact().as_bundle(real)
    assert len(found.train) == 4
    assert found.val is real.val
    assert found.test is real.test
    ids = [set(ids_of(part).tolist()) for part in (found.train, found.val, found.test)]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert found.fingerprint != real.fingerprint


def test_a_bundle_says_what_of_the_set_it_cannot_carry() -> None:
    assert plain().as_bundle(bundle()).notes == ()
    [note] = plain(logits=torch.zeros(4, 2), weights=torch.ones(4)).as_bundle(bundle()).notes
    assert "static labels and weights are left out" in note


def test_other_classes_or_sizes_are_refused() -> None:
    with pytest.raises(DistilError, match="has the classes"):
        plain().as_bundle(bundle(("cat", "cow")))
    with pytest.raises(DistilError, match="read the data at that size"):
        plain().as_bundle(bundle(shape=(3, 8, 8)))


def rehashed(folder: Path, name: str, *, listed: bool = True) -> None:
    """Bring the manifest in line with a changed file, as someone who made the set by hand would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if listed:
        manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    else:
        del manifest["files"][name]
    path.write_text(json.dumps(manifest))


def test_an_image_that_the_manifest_leaves_out_is_not_read(tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "set")
    picture = next(folder.rglob("*.png"))
    rehashed(folder, picture.relative_to(folder).as_posix(), listed=False)
    (tmp_path / "elsewhere.png").write_bytes(picture.read_bytes())
    picture.unlink()
    picture.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DistilError, match="not among the files of manifest"):
        load_condensed(folder)


@pytest.mark.parametrize(("size", "mode"), [((30000, 30000), "1"), ((5, 6), "RGBA"), ((5, 6), "P"), ((6, 5), "RGB")])
def test_an_image_of_another_size_or_depth_is_refused_undecoded(
    size: tuple[int, int], mode: str, tmp_path: Path
) -> None:
    folder = plain().save(tmp_path / "set")
    picture = next(folder.rglob("*.png"))
    Image.new(mode, size).save(picture)
    rehashed(folder, picture.relative_to(folder).as_posix())
    with pytest.raises(DistilError, match="no condensed set that this distil reads"):
        load_condensed(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("record", {"augmentation": 3}),
        ("record", {"temperature": "hot"}),
        ("record", {"temperature": 0}),
        ("made", {"per_class": "ten"}),
        ("made", {"nets": [1, 2]}),
        ("made", {"notes": "a note"}),
        ("made", {"source": ["photos"]}),
    ],
)
def test_facts_of_another_kind_are_refused_as_they_are_read(name: str, told: dict[str, Any], tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "set")
    facts = json.loads((folder / "set.json").read_text())
    facts[name] |= told
    (folder / "set.json").write_text(json.dumps(facts))
    rehashed(folder, "set.json")
    with pytest.raises(DistilError, match="the condensed set has"):
        load_condensed(folder)


def test_labels_of_views_are_neither_kept_nor_counted_under_another_kind() -> None:
    small = replayed()
    hard = small.with_labels("hard", logits=None)
    assert "logits" not in hard.replay
    assert hard.storage()["labels"] == len(small)
    assert "logits" in small.with_labels("replayed").replay


def test_a_set_that_was_kept_exactly_is_counted_and_kept_so_again(tmp_path: Path) -> None:
    small = replace(plain(), made={"exact": True})
    assert small.storage() == small.storage(exact=True) != small.storage(exact=False)
    again = load_condensed(load_condensed(small.save(tmp_path / "one")).save(tmp_path / "two"))
    assert torch.equal(again.inputs, small.inputs)


@pytest.mark.parametrize("name", ["plain", "compact"])
def test_what_is_labelled_as_kept_is_what_comes_back(name: str, tmp_path: Path) -> None:
    whole = plain() if name == "plain" else compact()
    small = replace(whole, inputs=torch.rand(whole.inputs.shape))
    ready = as_kept(small)
    assert not torch.equal(ready.inputs, small.inputs)
    assert torch.equal(load_condensed(small.save(tmp_path / "set")).samples(), ready.samples())
