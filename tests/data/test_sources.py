"""Named data sets: the embedded one, the errors when files are missing, and the real ones where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from distil.data import Batches, load
from distil.data.sources import SOURCES, read_idx
from distil.errors import DistilError

real = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root"),
]


def test_digits_need_nothing_and_are_complete() -> None:
    from sklearn.datasets import load_digits

    bundle = load("digits")
    assert bundle.classes == tuple("0123456789")
    parts = (bundle.train, bundle.val, bundle.test)
    wholes = [part.batch(torch.arange(len(part))) for part in parts]
    found = {int(i): x for whole in wholes for i, x in zip(whole["id"], whole["inputs"])}
    assert sorted(found) == list(range(1797))
    expected = torch.from_numpy(load_digits().images).float() / 16
    assert max(float((found[k][0] - expected[k]).abs().max()) for k in range(0, 1797, 50)) < 0.002
    assert load("digits").fingerprint == bundle.fingerprint


def test_digits_size_channels_and_limit() -> None:
    bundle = load("digits", size=12, channels=3, limit=50)
    assert bundle.input_shape == (3, 12, 12)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [50, 50, 50]
    batch = next(iter(Batches(bundle.train, 50, seed=0, shuffle=True)))
    assert batch["inputs"].shape == (50, 3, 12, 12)
    assert float(batch["inputs"].max()) <= 1


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if SOURCES[name].files))
def test_missing_files_are_listed_with_their_source(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTIL_DATA", raising=False)
    with pytest.raises(DistilError) as caught:
        load(name)
    text = str(caught.value)
    assert all(file in text for file in SOURCES[name].files)
    assert "usually from" in text
    assert "set DISTIL_DATA" in text
    monkeypatch.setenv("DISTIL_DATA", str(tmp_path))
    with pytest.raises(DistilError, match=f"lacks .*{SOURCES[name].files[-1]}"):
        load(name)


def test_unknown_names_and_options_list_the_nearest() -> None:
    with pytest.raises(DistilError, match="'fashion_mnist'; did you mean 'fashion-mnist'"):
        load("fashion_mnist")
    with pytest.raises(DistilError, match="correct the path"):
        load("photos/holiday")
    with pytest.raises(DistilError, match="normalize=True means nothing for 'digits'"):
        load("digits", normalize=True)


def test_a_graph_takes_no_limit(tmp_path: Path) -> None:
    (tmp_path / "amazon_photo").mkdir()
    (tmp_path / "amazon_photo" / "amazon_photo.npz").write_bytes(b"")
    with pytest.raises(DistilError, match="limit=5 means nothing for 'amazon-photo'"):
        load("amazon-photo", root=tmp_path, limit=5)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 100), ("t10k", 20)):
        write_idx(raw / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count) % 10)
    bundle = load("fashion-mnist", root=tmp_path)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [90, 10, 20]
    assert bundle.classes[9] == "Ankle boot"
    path = raw / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DistilError, match=r"15675 values but announces \[20, 28, 28\]; it is truncated"):
        load("fashion-mnist", root=tmp_path)
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(DistilError, match="no idx file"):
        read_idx(path)


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        pytest.param("fashion-mnist", (54000, 6000, 10000), (1, 28, 28), 10, marks=real),
        pytest.param("mnist10k", (7000, 1500, 1500), (1, 28, 28), 10, marks=real),
        pytest.param("cifar10", (45000, 5000, 10000), (3, 32, 32), 10, marks=real),
        pytest.param("cora", (140, 500, 1000), (1433,), 7, marks=real),
        pytest.param("citeseer", (120, 500, 1000), (3703,), 6, marks=real),
        pytest.param("amazon-photo", (160, 500, 1000), (745,), 8, marks=real),
    ],
)
def test_real_sets_have_their_published_counts(
    name: str, sizes: tuple[int, ...], shape: tuple[int, ...], classes: int
) -> None:
    bundle = load(name)
    assert tuple(len(part.labels) for part in (bundle.train, bundle.val, bundle.test)) == sizes
    assert bundle.input_shape == shape
    assert len(bundle.classes) == classes
    assert len(bundle.train.labels.unique()) == classes


@pytest.mark.parametrize(
    ("name", "nodes", "edges"),
    [
        pytest.param("cora", 2708, 10556, marks=real),
        pytest.param("citeseer", 3327, 9104, marks=real),
        pytest.param("amazon-photo", 7650, 238162, marks=real),
    ],
)
def test_real_graphs(name: str, nodes: int, edges: int) -> None:
    batch = next(iter(load(name).train))
    assert batch["inputs"].shape[0] == nodes
    assert batch["edge_index"].shape[1] == edges


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
def test_amazon_photo_is_split_by_seed_and_cora_is_not() -> None:
    for name, differs in (("amazon-photo", True), ("cora", False)):
        masks = [next(iter(load(name, seed=seed).train))["mask"] for seed in (0, 1)]
        assert torch.equal(*masks) is not differs


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")
def test_a_small_gcn_learns_cora() -> None:
    from distil.models import GCN
    from distil.tasks import NodeTask

    bundle, task = load("cora"), NodeTask()
    torch.manual_seed(0)
    model = GCN(1433, 16, 7, dropout=0.5, sparse_inputs=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    batch = next(iter(bundle.train))
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(task.call(model.train(), batch), batch).mean().backward()
        optimizer.step()
    assert task.evaluate(model, bundle.test)["accuracy"] > 77
