"""Graphs: cleaning, checks, and every file format, with hostile files refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix

from distil.data import load, read_graph
from distil.data.graphs import make_graph, planetoid_split
from distil.data.planetoid import read_planetoid, restricted_load
from distil.errors import DistilError

N = 40


@pytest.fixture
def parts() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(N - 2), torch.arange(1, N - 1)])  # the last node is isolated
    x = torch.rand(N, 5) * (torch.rand(N, 5) > 0.4)
    return {"x": x, "edge_index": ring, "y": torch.arange(N) % 3}


def test_edges_become_symmetric_sorted_and_clean(parts: dict[str, torch.Tensor]) -> None:
    extra = torch.tensor([[0, 0, 3, 5], [1, 1, 3, 4]])  # twice a duplicate, a self loop, a reversed edge
    graph = make_graph("g", parts["x"], torch.cat([parts["edge_index"], extra], 1), parts["y"])
    edges = {tuple(pair) for pair in graph.edge_index.t().tolist()}
    ring = {tuple(pair) for pair in parts["edge_index"].t().tolist()}
    assert edges == ring | {(b, a) for a, b in ring}
    assert graph.edge_index.shape[1] == len(edges)
    assert graph.edge_index.t().tolist() == sorted(graph.edge_index.t().tolist())
    assert graph.notes[0] == (
        "42 edges stored (directed, made undirected), 1 self loops and 2 duplicates removed, 1 isolated nodes; "
        "76 directed edges are used."
    )
    both = torch.cat([parts["edge_index"], parts["edge_index"].flip(0)], 1)
    assert "76 edges stored (undirected), 0 self loops and 0" in make_graph("g", parts["x"], both, parts["y"]).notes[0]


def test_bundle_is_one_batch_under_three_masks(parts: dict[str, torch.Tensor]) -> None:
    bundle = make_graph("g", **parts).bundle()
    assert bundle.task == "node-classification"
    batches = [next(iter(part)) for part in (bundle.train, bundle.val, bundle.test)]
    assert all(batch["inputs"] is batches[0]["inputs"] for batch in batches)
    assert sum(int(batch["mask"].sum()) for batch in batches) == N
    assert [len(part.labels) for part in (bundle.train, bundle.val, bundle.test)] == [28, 6, 6]
    assert batches[0]["id"].tolist() == list(range(N))
    assert bundle.fingerprint == make_graph("g", **parts).bundle().fingerprint
    assert bundle.fingerprint != make_graph("g", **parts, seed=1).bundle().fingerprint
    with pytest.raises(DistilError, match="'train'"):
        make_graph("g", **parts).batch("trian")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "nan"}, r"features of 1 nodes hold NaN or infinity \(first: node 7\)"),
        ({"y": torch.full((N,), -1)}, "node 0 has the label -1, outside"),
        ({"y": torch.zeros(N, dtype=torch.long)}, "one class"),
        ({"y": torch.full((N,), -100)}, "no node has a label"),
        ({"y": torch.zeros(N - 1, dtype=torch.long)}, "40 nodes but labels of shape"),
        ({"y": torch.rand(N)}, "no class ids"),
        ({"edge_index": torch.tensor([[0], [N]])}, "edge 0 joins nodes 0 and 40, but node numbers go from 0 to 39"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, "expected integers of shape"),
        ({"masks": {"train": torch.zeros(N)}}, "train mask holds no labelled node"),
        ({"masks": {k: torch.ones(N) for k in ("train", "val", "test")}}, "40 nodes are in both train and val"),
        ({"x": torch.zeros(N, 0)}, r"features of shape \(40, 0\)"),
        ({"x": torch.zeros(N, 2, dtype=torch.complex64)}, "dtype torch.complex64"),
        ({"masks": {"train": torch.ones(3)}}, r"train mask has shape \(3,\)"),
    ],
)
def test_unusable_graphs_are_refused(parts: dict[str, Any], change: dict[str, Any], message: str) -> None:
    if change.get("x") == "nan":
        change = {"x": parts["x"].clone()}
        change["x"][7, 2] = float("nan")
    with pytest.raises(DistilError, match=message):
        make_graph("g", **(parts | change))


def test_a_stray_label_is_told_by_the_classes_that_it_leaves_empty(parts: dict[str, torch.Tensor]) -> None:
    assert not any("no node" in note for note in make_graph("toy", **parts).notes)
    y = parts["y"].clone()
    y[0] = 7
    stray = make_graph("toy", **{**parts, "y": y})
    first = int(parts["y"].max()) + 1
    names = ", ".join(map(str, range(first, 7)))
    [note] = [each for each in stray.notes if "no node" in each]
    assert note.startswith(
        f"{7 - first} of 8 classes have no node: {names} (the classes are 0 to the largest label, 7;"
    )
    [note] = [n for n in make_graph("toy", **parts, classes=(*"abcdef",)).notes if "no node" in n]
    assert note.endswith("e, f.")


def test_features_can_be_row_normalised(parts: dict[str, torch.Tensor]) -> None:
    graph = make_graph("g", **parts, normalise=True)
    sums = graph.x.sum(1)
    assert bool((((sums - 1).abs() < 1e-6) | (sums == 0)).all())


def test_planetoid_split_counts() -> None:
    y = torch.arange(3000) % 4
    masks = planetoid_split(y, 3)
    assert [int(masks[split].sum()) for split in ("train", "val", "test")] == [80, 500, 1000]
    assert y[masks["train"]].bincount().tolist() == [20] * 4
    assert not (masks["train"] & masks["val"] | masks["val"] & masks["test"]).any()
    made = make_graph("g", torch.rand(3000, 2), torch.zeros(2, 0, dtype=torch.long), y, seed=3)
    assert torch.equal(made.test, masks["test"])


def masks() -> dict[str, torch.Tensor]:
    order = torch.arange(N)
    return {"train_mask": order < 20, "val_mask": (order >= 20) & (order < 30), "test_mask": order >= 30}


def same(path: Path, parts: dict[str, torch.Tensor]) -> None:
    graph, expected = read_graph(path), make_graph("g", **parts)
    assert torch.equal(graph.x, expected.x)
    assert torch.equal(graph.edge_index, expected.edge_index)
    assert torch.equal(graph.y, expected.y)
    assert int(graph.train.sum()) == 20
    assert torch.equal(read_graph(path, split=False).train, expected.train)
    assert load(path).task == "node-classification"


@pytest.mark.parametrize("layout", ["plain", "compressed", "benchmark"])
def test_npz_in_its_three_layouts(tmp_path: Path, parts: dict[str, torch.Tensor], layout: str) -> None:
    arrays = {name: value.numpy() for name, value in (parts | masks()).items()}
    if layout != "plain":
        rows = csr_matrix(arrays.pop("x"))
        if layout == "compressed":
            arrays |= {"x_indptr": rows.indptr, "x_indices": rows.indices.astype(np.int16), "x_data": rows.data}
            arrays["num_features"] = np.array(5)
        else:
            ends = arrays.pop("edge_index")
            adjacency = csr_matrix((np.ones(len(ends[0])), ends), (N, N))
            for key, matrix in (("adj", adjacency), ("attr", rows)):
                arrays |= {f"{key}_{part}": getattr(matrix, part) for part in ("data", "indices", "indptr", "shape")}
            arrays["labels"] = arrays.pop("y")
            arrays = {key: value for key, value in arrays.items() if not key.endswith("_mask")}
    np.savez(tmp_path / "g.npz", **arrays)
    if layout == "benchmark":
        graph = read_graph(tmp_path / "g.npz")
        assert torch.equal(graph.x, parts["x"])
        assert torch.equal(graph.edge_index, make_graph("g", **parts).edge_index)
    else:
        same(tmp_path / "g.npz", parts)


def test_safetensors_and_pt(tmp_path: Path, parts: dict[str, torch.Tensor]) -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    save_file({**parts, **masks()}, tmp_path / "g.safetensors")
    same(tmp_path / "g.safetensors", parts)
    torch.save(geometric.Data(**parts, **masks()), tmp_path / "g.pt")
    same(tmp_path / "g.pt", parts)
    torch.save({**parts, **masks()}, tmp_path / "d.pt")
    same(tmp_path / "d.pt", parts)
    several = {name: mask[:, None].expand(-1, 3).clone() for name, mask in masks().items()}
    torch.save({**parts, **several}, tmp_path / "s.pt")
    assert "split 2 of 3 is used for train." in read_graph(tmp_path / "s.pt", seed=5).notes


def test_csv_pair(tmp_path: Path, parts: dict[str, torch.Tensor]) -> None:
    split = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    rows = ["id,label,split,a,b"]
    rows += [f"n{k},{'zebra' if k % 2 else 'ape'},{split[k]},{k / 8},{k % 3}" for k in range(N)]
    (tmp_path / "nodes.csv").write_text("\n".join(rows))
    (tmp_path / "edges.csv").write_text("source,target\nn0,n1\nn1,n2\n")
    graph = read_graph(tmp_path)
    assert graph.classes == ("ape", "zebra")
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.x[3].tolist() == [0.375, 0.0]
    assert int(graph.val.sum()) == 10
    assert load(tmp_path).classes == ("ape", "zebra")
    (tmp_path / "edges.csv").write_text("source,target\nn0,n99\n")
    with pytest.raises(DistilError, match=r"edges\.csv, line 2 names an unknown node 'n99'; nodes\.csv has no such id"):
        read_graph(tmp_path)
    (tmp_path / "edges.csv").unlink()
    with pytest.raises(DistilError, match=r"has no edges\.csv"):
        read_graph(tmp_path)


def tables(folder: Path, nodes: str, edges: str = "source,target\na,b\nb,c\nc,d\n") -> Path:
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    return folder


NODES = "id,label,f\na,x,1\nb,y,2\nc,x,3\nd,y,4\ne,x,5\nf,y,6\ng,x,7\nh,y,8\n"


def test_two_tables_of_other_names_and_columns_make_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = ["train", "train", "train", "train", "val", "val", "test", "test"]
    rows = [f"p{k},{'ml' if k % 2 else 'db'},{part},title {k},{k / 4}" for k, part in enumerate(parts)]
    Path("papers.csv").write_text("\n".join(["node,area,part,title,f", *rows]))
    Path("cites.csv").write_text("year,to,from\n1999,p1,p0\n2001,p2,p1\n")
    options: dict[str, Any] = {"label": "area", "split": "part", "ignore": ["title"], "classes": ["ml", "db"]}
    bundle = load("papers.csv+cites.csv", **options)
    graph = read_graph("papers.csv+cites.csv", **options)
    assert bundle.name == graph.name == "papers"
    assert graph.classes == ("ml", "db")
    assert graph.y.tolist() == [1, 0] * 4
    assert graph.x.flatten().tolist() == [k / 4 for k in range(8)]
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.train.tolist() == [part == "train" for part in parts]
    with pytest.raises(DistilError, match=r"there is no table of edges 'gone\.csv'"):
        load("papers.csv+gone.csv")
    with pytest.raises(DistilError, match=r"papers\.csv, line 2 has the label 'db', which the setting 'classes' does"):
        load("papers.csv+cites.csv", **options | {"classes": ["ml", "dbs"]})


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (
            NODES.replace("b,y,2", "b,y,wide"),
            "s,t\na,b\n",
            r"nodes\.csv, line 3: the column 'f' holds 'wide', a feature",
        ),
        (NODES.replace("b,y,2", "b,y,"), "s,t\na,b\n", r"line 3: the column 'f' holds '', a feature that is no number"),
        (NODES.replace("b,y,2", "b,y"), "s,t\na,b\n", "line 3: it has 2 fields and the header 3"),
        ("id,label\na,x\nb,y\n", "s,t\na,b\n", "has no column of features"),
        (NODES.replace("id,", "name,"), "s,t\na,b\n", "needs a header with id and label"),
        (NODES, "a,b\nb,c\n", "begins with an edge; its first line must name the columns"),
        (NODES, "s,t\na\n", "line 2: it has 1 fields and the header 2"),
        (NODES, "s\na\n", "has one column; two are needed"),
    ],
)
def test_tables_that_make_no_graph_are_refused(tmp_path: Path, nodes: str, edges: str, message: str) -> None:
    with pytest.raises(DistilError, match=message):
        read_graph(tables(tmp_path, nodes, edges))


def test_how_many_classes_there_are_may_stand_in_the_file(tmp_path: Path, parts: dict[str, torch.Tensor]) -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    torch.save(geometric.Data(**parts, num_classes=5), tmp_path / "g.pt")
    assert read_graph(tmp_path / "g.pt").classes == ("0", "1", "2", "3", "4")
    assert read_graph(tmp_path / "g.pt", classes=["a", "b", "c"]).classes == ("a", "b", "c")
    torch.save(geometric.Data(**parts, num_classes=2), tmp_path / "g.pt")
    with pytest.raises(DistilError, match=r"node 2 has the label 2, outside 0\.\.1"):
        read_graph(tmp_path / "g.pt")
    with pytest.raises(DistilError, match=r"node 2 has the label 2, outside 0\.\.1"):
        read_graph(tmp_path / "g.pt", classes=["a", "b"])
    np.savez(tmp_path / "g.npz", **{k: v.numpy() for k, v in parts.items()}, num_classes=[1, 2])
    with pytest.raises(DistilError, match=r"num_classes is .*, no number of classes"):
        read_graph(tmp_path / "g.npz")


def test_pyg_processed_files_and_sparse_features_are_read(tmp_path: Path, parts: dict[str, torch.Tensor]) -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    data = geometric.Data(**parts, name="ring", edge_attr=torch.ones(N - 2))
    torch.save((data.to_dict(), None, geometric.Data), tmp_path / "processed.pt")
    assert torch.equal(read_graph(tmp_path / "processed.pt").x, parts["x"])
    torch.save({**parts, "x": parts["x"].to_sparse()}, tmp_path / "sparse.pt")
    assert torch.equal(read_graph(tmp_path / "sparse.pt").x, parts["x"])
    torch.save(geometric.HeteroData(), tmp_path / "hetero.pt")
    with pytest.raises(DistilError, match=r"hetero\.pt' cannot be read safely"):
        read_graph(tmp_path / "hetero.pt")


def test_names_stored_as_objects_beside_a_benchmark_graph_are_not_read(
    tmp_path: Path, parts: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adjacency = csr_matrix((np.ones(N - 2), parts["edge_index"].numpy()), (N, N))
    arrays = {f"adj_{part}": getattr(adjacency, part) for part in ("data", "indices", "indptr", "shape")}
    arrays |= {"attr_matrix": parts["x"].numpy(), "labels": parts["y"].numpy()}
    np.savez("g.npz", **arrays, idx_to_class=np.array([Hostile()], dtype=object))
    assert torch.equal(read_graph("g.npz").x, parts["x"])
    np.savez("torn.npz", **arrays | {"adj_indices": arrays["adj_indices"] + N})
    with pytest.raises(DistilError, match=r"the arrays adj_\* make no matrix in compressed rows"):
        read_graph("torn.npz")
    assert not Path("executed").exists()


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_hostile_and_broken_files_are_refused(
    tmp_path: Path, parts: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**parts, "evil": Hostile()}, "g.pt")
    with pytest.raises(DistilError, match=r"g\.pt' cannot be read safely"):
        read_graph("g.pt")
    np.savez("o.npz", x=np.array([Hostile()], dtype=object))
    with pytest.raises(DistilError, match="no readable npz of plain arrays"):
        read_graph("o.npz")
    Path("g.safetensors").write_bytes(b"\x05\x00")
    with pytest.raises(DistilError, match="no readable safetensors"):
        read_graph("g.safetensors")
    np.savez("m.npz", x=np.zeros((2, 2)))
    with pytest.raises(DistilError, match=r"lacks \['edge_index', 'y'\]; it holds \['x'\]"):
        read_graph("m.npz")
    with pytest.raises(DistilError, match="there is no graph file"):
        read_graph("none.npz")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(Hostile()),
        pickle.dumps(Hostile(), protocol=0),
        b"cos\nsystem\n(S'touch executed'\ntR.",
        b'c__builtin__\neval\n(S\'open("executed", "w")\'\ntR.',
        b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\nlist\n(I0\ntS'b'\ntR.",
        b"cnumpy\nload\n(S'executed'\ntR.",
        b"not a pickle",
        b"",
    ],
)
def test_the_planetoid_unpickler_makes_arrays_and_lists_only(
    tmp_path: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ind.cora.graph").write_bytes(payload)
    with pytest.raises(DistilError, match=r"ind\.cora\.graph' is not read"):
        restricted_load(Path("ind.cora.graph"))
    assert not Path("executed").exists()


def test_planetoid_files_are_put_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known, test = 515, [517, 515, 519]  # 516 and 518 are missing
    allx = csr_matrix((rng.random((known, 4)) > 0.5).astype(np.float32))
    tx = csr_matrix(np.arange(1, 13, dtype=np.float32).reshape(3, 4))
    one_hot = np.eye(3, dtype=np.int32)
    ally, ty = one_hot[np.arange(known) % 3], one_hot[[2, 1, 0]]
    files = {"x": allx[:15], "y": ally[:15], "tx": tx, "ty": ty, "allx": allx, "ally": ally}
    files["graph"] = {0: [1, 1, 517], 515: [515, 0]}
    for part, value in files.items():
        # As old Python and numpy wrote it: the same objects under the names of those days.
        text = pickle.dumps(value, protocol=3).replace(b"numpy._core.", b"numpy.core.")
        (tmp_path / f"ind.tiny.{part}").write_bytes(text.replace(b"scipy.sparse._csr", b"scipy.sparse.csr"))
    (tmp_path / "ind.tiny.test.index").write_text("\n".join(map(str, test)))
    graph = read_planetoid(tmp_path, "tiny", normalise=False)
    assert graph.x[517].tolist() == [1, 2, 3, 4]
    assert graph.x[515].tolist() == [5, 6, 7, 8]
    assert graph.x[[516, 518]].abs().sum() == 0
    assert graph.y[[515, 516, 517, 518, 519]].tolist() == [1, -100, 2, -100, 0]
    assert [int(mask.sum()) for mask in (graph.train, graph.val, graph.test)] == [15, 500, 3]
    assert graph.edge_index.tolist() == [[0, 0, 0, 1, 515, 517], [1, 515, 517, 0, 0, 0]]
    assert graph.notes[0] == "2 nodes are missing from the files: no features, no label."
    (tmp_path / "ind.tiny.test.index").write_text("515\n516\n")
    with pytest.raises(DistilError, match="do not fit together: 3 test rows for 2 ids"):
        read_planetoid(tmp_path, "tiny")
