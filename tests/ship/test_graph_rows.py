"""Rows of a graph's nodes for a model of features: found by name, divided by their sums where training rows were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from torch import nn

from distil.data.graphs import make_graph
from distil.errors import DistilError
from distil.ship.inputs import Batch, Skipped, batches
from distil.ship.preprocessing import checked_preprocessing
from distil.ship.student import _preprocessing
from distil.tasks import get_task

MADE: dict[str, Any] = {"kind": "features", "shape": [3], "columns": ["a", "b", "c"], "row_sums": True}


def read(path: Path, made: dict[str, Any]) -> list[Batch | Skipped]:
    return list(batches([path], checked_preprocessing(made)))


def test_a_normalised_graph_tells_its_student_how_rows_are_made() -> None:
    ring = torch.stack([torch.arange(30), (torch.arange(30) + 1) % 30])
    parts = (torch.rand(30, 3), ring, torch.arange(30) % 2)
    task, mlp = get_task("node-classification"), nn.Linear(3, 2)
    plain = {"kind": "features", "shape": [3], "edges": False}
    assert _preprocessing(task, mlp, make_graph("g", *parts).bundle()) == plain
    graph = make_graph("g", *parts, normalise=True, columns=("a", "b", "c"))
    found = _preprocessing(task, mlp, graph.bundle())
    assert found == plain | {"columns": ["a", "b", "c"], "row_sums": True}
    assert checked_preprocessing(found) == found


def test_rows_are_divided_by_their_sums_and_empty_ones_stay(tmp_path: Path) -> None:
    rows = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    np.savez(tmp_path / "g.npz", x=rows)
    (tmp_path / "nodes.csv").write_text("c,id,word,b,a\n1,n7,some,2,1\n0,n8,text,0,0\n")
    for name, called in (("g.npz", ["g.npz:1", "g.npz:2"]), ("nodes.csv", ["nodes.csv:n7", "nodes.csv:n8"])):
        (batch,) = read(tmp_path / name, MADE)
        assert isinstance(batch, Batch)
        assert batch.arrays["inputs"].tolist() == [[0.25, 0.5, 0.25], [0, 0, 0]]
        assert batch.arrays["inputs"].dtype == np.float32
        assert [Path(one).name for one in batch.names] == called
    (batch,) = read(tmp_path / "nodes.csv", MADE | {"row_sums": False})
    assert isinstance(batch, Batch)
    assert batch.arrays["inputs"].tolist() == rows.tolist()


def test_graphs_are_read_in_every_form_with_their_edges_as_in_training(tmp_path: Path) -> None:
    x, one_way = torch.rand(4, 3), torch.tensor([[0, 2, 2, 1], [1, 1, 2, 3]])  # one direction, and a self loop
    clean = make_graph("g", x, one_way, torch.arange(4) % 2, masks=masks()).edge_index
    torch.save({"x": x, "edge_index": one_way}, tmp_path / "g.pt")  # no labels: they are what is asked for
    save_file({"x": x, "edge_index": one_way}, tmp_path / "g.safetensors")
    np.savez(tmp_path / "g.npz", x=x.numpy(), edge_index=one_way.numpy())
    dense = np.zeros((4, 4), np.float32)
    dense[tuple(one_way.numpy())] = 1
    np.savez(tmp_path / "packed.npz", **compressed("adj", dense), **compressed("attr", x.numpy()))
    for name in ("g.pt", "g.safetensors", "g.npz", "packed.npz"):
        (batch,) = read(tmp_path / name, {"kind": "features", "shape": [3], "edges": True})
        assert isinstance(batch, Batch), batch
        np.testing.assert_array_equal(batch.arrays["edge_index"], clean.numpy())
        np.testing.assert_array_equal(batch.arrays["inputs"], x.numpy())
        (rows,) = read(tmp_path / name, {"kind": "features", "shape": [3], "edges": False})
        assert isinstance(rows, Batch), rows
        assert set(rows.arrays) == {"inputs"}
    torch.save({"x": x}, tmp_path / "g.pt")
    (skipped,) = read(tmp_path / "g.pt", {"kind": "features", "shape": [3], "edges": True})
    assert isinstance(skipped, Skipped)
    assert "needs the edges of a graph" in skipped.reason
    (tmp_path / "g.pt").write_bytes(b"torn")
    (skipped,) = read(tmp_path / "g.pt", {"kind": "features", "shape": [3], "edges": False})
    assert isinstance(skipped, Skipped)
    assert "cannot be read safely" in skipped.reason


def masks() -> dict[str, torch.Tensor]:
    return {name: torch.arange(4) == k for k, name in enumerate(("train", "val", "test"))}


def compressed(name: str, dense: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    rows = csr_matrix(dense)
    parts = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr, "shape": np.array(rows.shape)}
    return {f"{name}_{part}": value for part, value in parts.items()}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "'c' is expected among them"),
        ("a,b,c\n1,2,wide\n", "its line 2 is not 3 numbers"),
        ("a,b,c\n1,2,nan\n", "1 of its rows hold NaN or infinity"),
        ("a,b,c\n", "it holds no samples"),
    ],
)
def test_tables_that_do_not_fit_are_skipped_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "nodes.csv").write_text(text)
    (skipped,) = read(tmp_path / "nodes.csv", MADE)
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason


@pytest.mark.parametrize("wrong", [{"columns": ["a"]}, {"columns": [1, 2, 3]}, {"row_sums": "yes"}])
def test_preprocessing_that_was_tampered_with_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DistilError, match=f"preprocessing: '{next(iter(wrong))}' is"):
        checked_preprocessing(MADE | wrong)
