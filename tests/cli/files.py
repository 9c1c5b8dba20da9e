"""A user's own things, small: images by colour, a graph by its first features, factories, weights."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

CLASSES = ("blue", "green", "red")
SIDE = 6

MODELS = '''
import time
from pathlib import Path

import torch
from torch import nn


def make(classes, input_shape, width=6):
    """A small student, started at random."""
    features = 1
    for size in input_shape:
        features *= size
    return nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, classes))


class Eye(nn.Module):
    """Knows the classes by construction: the mean of a channel, or one feature, is the class."""

    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), 20.0))

    def forward(self, inputs, edge_index=None):
        seen = inputs.mean((2, 3)).flip(1) if inputs.ndim == 4 else inputs[:, : len(self.scale)]
        return seen * self.scale


def eye(classes):
    return Eye(classes)


def blind(classes):
    made = Eye(classes)
    nn.init.zeros_(made.scale)
    return made


def five(input_shape):
    return make(5, input_shape)


class Slow(nn.Sequential):
    """Takes its time in training while a file called slow is there, and says when it is well under way."""

    calls = 0

    def forward(self, inputs):
        if self.training and Path("slow").exists():
            Slow.calls += 1
            time.sleep(0.05)
            if Slow.calls == 12:
                Path("under-way").touch()
        return super().forward(inputs)


def slow(classes, input_shape):
    return Slow(*make(classes, input_shape))


def number(classes):
    return 5
'''


def picture(label: int, draw: np.random.Generator) -> Image.Image:
    """A noisy image in the colour of its class."""
    pixels = draw.integers(0, 120, (SIDE, SIDE, 3))
    pixels[:, :, 2 - label] += 130
    return Image.fromarray(pixels.astype(np.uint8))


def write(root: Path) -> None:
    """Make everything under ``root``."""
    draw = np.random.default_rng(0)
    (root / "models.py").write_text(MODELS)
    labels = [k % 3 for k in range(72)]
    pictures = [picture(label, draw) for label in labels]
    for k, (label, image) in enumerate(zip(labels, pictures)):
        folder = root / "photos" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{k:02d}.png")
    (root / "photos" / "red" / "torn.png").write_bytes(b"\x89PNG torn off")
    _tables(root, labels, pictures)
    _odd_folders(root, pictures)
    _graphs(root, draw)
    _weights(root)


def _tables(root: Path, labels: list[int], pictures: list[Image.Image]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with (root / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([f"photos/{CLASSES[label]}/{k:02d}.png", CLASSES[label]] for k, label in enumerate(labels))
    encoded = []
    for image in pictures:
        buffer = io.BytesIO()
        image.save(buffer, "png")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    parquet.write_table(pa.table({"image": encoded, "label": labels}), root / "photos.parquet")


def _odd_folders(root: Path, pictures: list[Image.Image]) -> None:
    (root / "empty").mkdir()
    (root / "one" / "red").mkdir(parents=True)
    for k in range(6):
        pictures[k].save(root / "one" / "red" / f"{k}.png")


def _graphs(root: Path, draw: np.random.Generator) -> None:
    nodes = 60
    y = np.arange(nodes) % 3
    x = draw.normal(0, 0.2, (nodes, 5)).astype(np.float32)
    x[np.arange(nodes), y] += 1
    edges = draw.integers(0, nodes, (2, 150))
    np.savez(root / "graph.npz", x=x, edge_index=edges, y=y)
    broken = x.copy()
    broken[7, 2] = np.nan
    np.savez(root / "nan.npz", x=broken, edge_index=edges, y=y)
    np.savez(root / "labels.npz", x=x, edge_index=edges, y=np.where(np.arange(nodes) == 4, -5, y))
    np.savez(root / "edges.npz", x=x, edge_index=np.where(edges == 3, 99, edges), y=y)
    for name, change in (("graph", lambda pair: pair), ("lost", lambda pair: (pair[0], 77) if pair[0] == 1 else pair)):
        folder = root / name
        folder.mkdir()
        with (folder / "nodes.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "label", *(f"f{k}" for k in range(5))])
            rows.writerows([k, f"class {y[k]}", *x[k]] for k in range(nodes))
        with (folder / "edges.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["source", "target"])
            rows.writerows(change((int(a), int(b))) for a, b in edges.T)


def knowing() -> dict[str, Tensor]:
    """The state dict of models.py:make(width=3) that knows the classes by colour."""
    area = SIDE * SIDE
    first = torch.zeros(3, 3 * area)
    for label in range(3):
        first[label, (2 - label) * area : (3 - label) * area] = 1 / area
    return {"1.weight": first, "1.bias": torch.zeros(3), "3.weight": 20 * torch.eye(3), "3.bias": torch.zeros(3)}


class Hostile:
    """Pickled code: loading it without care would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return (os.system, ("touch was-run",))


def _weights(root: Path) -> None:
    save_file(knowing(), root / "knows.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in knowing().items()}}, root / "knows.pt")
    torch.save(Hostile(), root / "hostile.pt")
    whole = (root / "knows.safetensors").read_bytes()
    (root / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    whole = (root / "knows.pt").read_bytes()
    (root / "torn.pt").write_bytes(whole[: len(whole) // 2])
    save_file({**knowing(), "3.bias": torch.zeros(4)}, root / "other.safetensors")
    (root / "bad.yaml").write_text("training: {epochs: 1\n")
    (root / "odd.yaml").write_text("training:\n  epoch: 1\n")
