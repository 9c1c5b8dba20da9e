"""Graphs: arrays, archives and csv tables that are torn, hostile or make no graph."""

from __future__ import annotations

import csv
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ..files import Hostile
from .row import Row, blob, code, graph, half, own

Change = Callable[[dict[str, Any]], object]


def changed(wrong: str, change: Change, sentence: str) -> Row:
    """The graph of graph.npz with something changed."""

    def make(here: Path) -> None:
        with np.load(here / "graph.npz") as file:
            arrays = {name: file[name] for name in file.files}
        change(arrays)
        np.savez(here / "odd.npz", **arrays)

    return Row(wrong, graph("odd.npz"), sentence, make)


def nodes(wrong: str, change: Callable[[list[dict[str, str]]], object], sentence: str, name: str = "nodes.csv") -> Row:
    """The graph of csv tables with rows changed."""

    def make(here: Path) -> None:
        with (here / "graph" / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        change(rows)
        with (here / "graph" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    return Row(wrong, graph("graph"), sentence, make)


def spoilt(wrong: str, name: str, content: bytes, sentence: str, data: str = "graph") -> Row:
    """A graph of csv tables with one file replaced."""
    return Row(wrong, graph(data), sentence, lambda here: (here / data / name).write_bytes(content))


def array(shape: str, dtype: str = "<f4") -> bytes:
    """A .npy file that says it has this shape and holds nothing."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def archive(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return whole.getvalue()


def put(key: str, value: Callable[[Any], Any]) -> Change:
    return lambda arrays: arrays.__setitem__(key, value(arrays))


def cell(row: int, column: str, value: str) -> Callable[[list[dict[str, str]]], object]:
    return lambda rows: rows[row].__setitem__(column, value)


def adjacency(end: int) -> Change:
    """The edges in the layout of the benchmark sets, one of them to a column that is not there."""

    def change(arrays: dict[str, Any]) -> None:
        del arrays["edge_index"]
        arrays.update(adj_data=np.ones(1), adj_indices=np.array([end]), adj_shape=np.array([60, 60]))
        arrays["adj_indptr"] = np.ones(61, int)
        arrays["adj_indptr"][0] = 0
        arrays.update(attr_matrix=arrays.pop("x"), labels=arrays.pop("y"))

    return change


def torch_file(wrong: str, change: Callable[[dict[str, Any]], object], sentence: str) -> Row:
    """The graph of graph.npz as a file of torch, with something changed."""

    def make(here: Path) -> None:
        with np.load(here / "graph.npz") as file:
            torch.save(change({name: torch.from_numpy(file[name]) for name in file.files}), here / "odd.pt")

    return Row(wrong, graph("odd.pt"), sentence, make)


def teacher(wrong: str, body: str, sentence: str) -> Row:
    """A graph network of the user's."""
    source = f"from distil.models import GCN\n\n\ndef net():\n    {body}\n"
    return Row(wrong, graph("graph.npz", "--teacher", "nets.py:net"), sentence, code(source))


def gcn_weights(here: Path) -> None:
    from distil.models import GCN

    save_file(GCN(7, 8, 3).state_dict(), here / "odd.safetensors")


ROWS = [
    Row("NaN features", graph("nan.npz"), "the features of 1 nodes hold NaN or infinity (first: node 7)"),
    Row("labels out of range", graph("labels.npz"), "node 4 has the label -5"),
    Row("edges out of range", graph("edges.npz"), "node numbers go from 0 to 59"),
    Row("edges of a csv to nowhere", graph("lost"), "names an unknown node"),
    Row("a graph of no arrays", graph("knows.safetensors"), "lacks ['x', 'edge_index', 'y']"),
    Row("a graph of code", graph("hostile.pt"), "'hostile.pt' cannot be read safely"),
    changed(
        "edges that are negative", put("edge_index", lambda a: a["edge_index"] - 1), "node numbers go from 0 to 59"
    ),
    changed(
        "edges that are fractions",
        put("edge_index", lambda a: a["edge_index"] / 2),
        "expected integers of shape [2, edges]",
    ),
    changed(
        "edges on their side", put("edge_index", lambda a: a["edge_index"].T), "expected integers of shape [2, edges]"
    ),
    changed(
        "no edges", put("edge_index", lambda a: a["edge_index"][:, :0]), "none of its 0 edges joins two different nodes"
    ),
    changed("labels of fractions", put("y", lambda a: a["y"] + 0.5), "are no class ids; give integers"),
    changed("labels for fewer nodes", put("y", lambda a: a["y"][:9]), "60 nodes but labels of shape (9,)"),
    changed("labels of one class", put("y", lambda a: a["y"] * 0), "all labelled nodes have one class"),
    changed("no labels", put("y", lambda a: a["y"] * 0 - 100), "no node has a label"),
    changed(
        "labels of a hundred thousand million",
        put("y", lambda a: a["y"] + 10**11),
        "the largest label is 100000000002, and there are 60 nodes",
    ),
    changed("labels that are words", put("y", lambda a: np.array(["a"] * 60)), "the array 'y' holds <U1, not numbers"),
    changed(
        "labels that are objects", put("y", lambda a: np.array([{}] * 60, object)), "is no readable npz of plain arrays"
    ),
    changed("features of one number", put("x", lambda a: np.float32(3)), "features of shape"),
    changed(
        "features of words", put("x", lambda a: np.array([["a"] * 5] * 60)), "the array 'x' holds <U1, not numbers"
    ),
    changed(
        "features of complex numbers", put("x", lambda a: a["x"] * 1j), "the array 'x' holds complex64, not numbers"
    ),
    changed(
        "no nodes",
        lambda a: a.update(x=a["x"][:0], y=a["y"][:0], edge_index=a["edge_index"][:, :0]),
        "features of shape (0, 5)",
    ),
    changed(
        "masks that overlap",
        lambda a: a.update({f"{k}_mask": np.ones(60, bool) for k in ("train", "val", "test")}),
        "60 nodes are in both train and val; masks must be disjoint",
    ),
    changed(
        "masks that are empty",
        lambda a: a.update({f"{k}_mask": np.zeros(60, bool) for k in ("train", "val", "test")}),
        "the train mask holds no labelled node",
    ),
    changed(
        "masks of other nodes",
        lambda a: a.update({f"{k}_mask": np.ones(9, bool) for k in ("train", "val", "test")}),
        "the train mask has shape (9,)",
    ),
    changed("a mask alone", lambda a: a.update(train_mask=np.ones(60, bool)), "the val mask holds no labelled node"),
    Row("a torn npz", graph("odd.npz"), "is no readable npz", half("graph.npz", "odd.npz")),
    Row("an empty npz", graph("odd.npz"), "is no readable npz", blob(b"", "odd.npz")),
    Row(
        "a bomb in an npz",
        graph("odd.npz"),
        "is no readable npz",
        blob(
            archive({"x.npy": array("(1000000, 1000000)"), "y.npy": array("(60,)"), "edge_index.npy": array("(2, 9)")}),
            "odd.npz",
        ),
    ),
    Row(
        "an array past all numbers",
        graph("odd.npz"),
        "is no readable npz",
        blob(archive({"x.npy": array("(99999999999999, 99999999999999)")}), "odd.npz"),
    ),
    Row(
        "an array that expands",
        graph("odd.npz"),
        "is no readable npz",
        blob(archive({"x.npy": array("(60, 5)"), "y.npy": b"\0" * 50_000_000}), "odd.npz"),
    ),
    Row(
        "code in the head of an array",
        graph("odd.npz"),
        "is no readable npz",
        blob(archive({"x.npy": array("__import__('os').system('touch was-run')")}), "odd.npz"),
    ),
    Row(
        "an archive that leads out",
        graph("odd.npz"),
        "lacks ['x', 'edge_index', 'y']; it holds []",
        blob(archive({"../../x.npy": b"x"}), "odd.npz"),
    ),
    Row(
        "a pickle called npz",
        graph("odd.npz"),
        "is no readable npz",
        blob(b"\x80\x04cposix\nsystem\n(S'touch was-run'\ntR.", "odd.npz"),
    ),
    Row(
        "a pickle called pkl",
        graph("odd.pkl"),
        "is no folder, .parquet or .csv",
        blob(b"\x80\x04cposix\nsystem\n(S'touch was-run'\ntR.", "odd.pkl"),
    ),
    Row("a torn graph of torch", graph("torn.pt"), "'torn.pt' cannot be read safely: it is damaged"),
    Row("a torn graph of safetensors", graph("torn.safetensors"), "is no readable safetensors file"),
    nodes(
        "a feature that is a word",
        cell(3, "f1", "wide"),
        "nodes.csv, line 5: the column 'f1' holds 'wide', a feature that is no number",
    ),
    nodes(
        "a feature that is NaN", cell(3, "f1", "nan"), "the features of 1 nodes hold NaN or infinity (first: node 3)"
    ),
    nodes("a feature that is missing", cell(3, "f1", ""), "the column 'f1' holds '', a feature that is no number"),
    nodes("a node twice", cell(3, "id", "2"), "names the node '2' twice"),
    nodes(
        "a split of another name",
        lambda rows: [row.update(split="maybe") for row in rows],
        "the train mask holds no labelled node",
    ),
    nodes("an edge to nowhere", cell(3, "target", "nobody"), "names an unknown node", name="edges.csv"),
    nodes("no labelled node", lambda rows: [row.update(label="-100") for row in rows], "no node has a label"),
    spoilt("nodes without labels", "nodes.csv", b"id,f0\n1,2\n", "needs a header with id and label"),
    spoilt("nodes in Latin-1", "nodes.csv", b"id,label,f0\n1,\xe9t\xe9,2\n", "line 2: the byte 0xe9 is no UTF-8"),
    spoilt("nodes in UTF-16", "nodes.csv", "id,label\n1,a\n".encode("utf-16"), "is written in UTF-16"),
    spoilt("no nodes of csv", "nodes.csv", b"", "the first line must name the columns"),
    spoilt("edges of one column", "edges.csv", b"source\n1\n", "has one column; two are needed"),
    spoilt("edges of nothing", "edges.csv", b"source,target\n", "none of its 0 edges joins two different nodes"),
    spoilt("nodes without features", "nodes.csv", b"id,label\n1,a\n", "has no column of features"),
    spoilt("a node of too few cells", "nodes.csv", b"id,label,f0\n1,a\n", "line 2: it has 2 fields and the header 3"),
    spoilt("edges without a header", "edges.csv", b"1,2\n2,3\n", "begins with an edge; its first line must name"),
    spoilt("an edge of one end", "edges.csv", b"source,target\n1\n", "line 2: it has 1 fields and the header 2"),
    Row("a graph of one table", graph("graph/nodes.csv+gone.csv"), "there is no table of edges 'gone.csv'"),
    Row(
        "a label column that is not there",
        graph("graph", "--set", "columns.label=topic"),
        "has no label column 'topic'",
    ),
    Row(
        "a column to ignore that is not there",
        graph("graph", "--set", "columns.ignore=[title]"),
        "has no ignore column 'title'",
    ),
    Row("a column of an archive", graph("graph.npz", "--set", "columns.label=y"), "is no table of nodes, so no column"),
    Row(
        "classes that do not name a label",
        graph("graph", "--set", "classes=[class 0,class 1]"),
        "has the label 'class 2', which the setting 'classes' does not name",
    ),
    Row(
        "fewer classes than labels",
        graph("graph.npz", "--set", "classes=[a,b]"),
        "node 2 has the label 2, outside 0..1",
    ),
    changed(
        "fewer classes than the file says", put("num_classes", lambda a: 2), "node 2 has the label 2, outside 0..1"
    ),
    changed("features of no columns", put("x", lambda a: a["x"][:, :0]), "features of shape (60, 0)"),
    changed("a matrix that is none", adjacency(99), "the arrays adj_* make no matrix in compressed rows"),
    torch_file(
        "a graph of PyG with code in it", lambda data: {"x": data["x"], "code": Hostile()}, "cannot be read safely"
    ),
    torch_file(
        "a graph of PyG with NaN", lambda data: {**data, "x": data["x"] * float("nan")}, "features of 60 nodes hold"
    ),
    torch_file("a list of graphs", lambda data: [1, data], "holds int; expected a PyG Data or a dict of tensors"),
    teacher("a teacher of more features", "return GCN(7, 8, 3)", "mat1 and mat2…make it for 5 features"),
    teacher("a teacher of more classes", "return GCN(5, 8, 4)", "the student gives (60, 3) and the teacher (60, 4)"),
    Row(
        "weights of a teacher of more features",
        graph("graph.npz", "--teacher", "distil:gcn(hidden=8)", "--teacher-weights", "odd.safetensors"),
        "layers.0.lin.weight (8, 5) in the model, (8, 7) in the file",
        gcn_weights,
    ),
    Row(
        "a number of neighbours that is none",
        graph("graph.npz", "--set", "graph.fanout=[3,0]", "--train-teacher", "1"),
        "graph.fanout=[3, 0], graph.nodes=0; give for each hop",
    ),
    Row(
        "neighbours for a teacher that is not trained",
        graph("graph.npz", "--set", "graph.fanout=[3,3]"),
        "add --train-teacher EPOCHS",
    ),
    Row("parts of no graph", own("--set", "graph.nodes=9"), "are of graphs, and photos is none"),
    Row(
        "a graph without nodes",
        graph("odd"),
        "has no nodes.csv",
        lambda here: [(here / "odd").mkdir(), (here / "odd" / "edges.csv").write_text("a,b\n")],
    ),
    Row(
        "an image net for a graph",
        ["train", "--data", "graph.npz", "--teacher", "models.py:eye", "--student", "distil:cnn", "--method", "kd"],
        "The student distil:cnn cannot take the samples of graph",
    ),
]
