"""Readers of graph files: npz, safetensors, PyG's .pt, and pairs of csv tables. No pickle is ever run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL
from distil.data.graphs import GraphData, make_graph
from distil.data.records import split_name
from distil.data.tables import read_table
from distil.errors import DistilError

__all__ = ["read_graph"]


def read_graph(
    path: str | Path, *, name: str | None = None, seed: int = 0, normalise: bool = False, split: bool = True
) -> GraphData:
    """Read a graph with labelled nodes.

    Args:
        path: one of
            ``.npz`` (arrays ``x``, ``edge_index``, ``y`` and optionally ``train_mask``, ``val_mask``, ``test_mask``;
            ``x`` may be in compressed rows ``x_indptr``, ``x_indices``, [``x_data``], ``num_features``; or the layout
            ``adj_*``, ``attr_*``, ``labels`` of the gnn-benchmark sets);
            ``.safetensors`` with the same names; ``.pt`` with a PyG ``Data`` or a dict of tensors (read with
            ``weights_only=True``); or a folder with ``nodes.csv`` (``id, label, [split], features…``) and
            ``edges.csv`` (two columns of ids).
        name: what to call the graph; default the file's name.
        seed: decides the masks if the file has none.
        normalise: divide each row of the features by its sum.
        split: use the file's masks where it has them; ``False`` makes new ones by ``seed``.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pt": _read_pt,
    }
    if not path.exists():
        raise DistilError(f"there is no graph file {str(path)!r}; correct the path.")
    if path.is_dir():
        values = _read_csv_pair(path)
    elif path.suffix.lower() in readers:
        values = readers[path.suffix.lower()](path)
    else:
        raise DistilError(f"{str(path)!r} is no graph file; give .npz, .safetensors, .pt, or a folder of csv files.")
    missing = [key for key in ("x", "edge_index", "y") if values.get(key) is None]
    if missing:
        raise DistilError(f"{str(path)!r} lacks {missing}; it holds {sorted(values)}, expected x, edge_index and y.")
    masks = {key.removesuffix("_mask"): value for key, value in values.items() if key.endswith("_mask")}
    made = make_graph(
        name or path.stem,
        values["x"],
        values["edge_index"],
        values["y"],
        masks=masks if split and masks else None,
        classes=values.get("classes"),
        seed=seed,
        normalise=normalise,
    )
    if not made.edge_index.shape[1]:
        count = values["edge_index"].shape[1]
        raise DistilError(f"{str(path)!r}: none of its {count} edges joins two different nodes; a graph needs some.")
    return made


def _read_npz(path: Path) -> dict[str, Any]:
    from scipy.sparse import csr_matrix

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:
        raise DistilError(f"{str(path)!r} is no readable npz of plain arrays: {str(error).splitlines()[0]}.") from error
    values: dict[str, Any] = {}
    if "adj_indptr" in arrays:
        adjacency = csr_matrix((arrays["adj_data"], arrays["adj_indices"], arrays["adj_indptr"]), arrays["adj_shape"])
        pairs = adjacency.tocoo()
        values["edge_index"] = np.stack([pairs.row, pairs.col])
        if "attr_indptr" in arrays:
            rows = csr_matrix(
                (arrays["attr_data"], arrays["attr_indices"], arrays["attr_indptr"]), arrays["attr_shape"]
            )
            values["x"] = rows.toarray()
        else:
            values["x"] = arrays.get("attr_matrix")
        values["y"] = arrays.get("labels")
    else:
        values = {key: value for key, value in arrays.items() if not key.startswith(("x_", "num_"))}
        if "x_indptr" in arrays:
            ones = np.ones(len(arrays["x_indices"]), np.float32)
            shape = (len(arrays["x_indptr"]) - 1, int(arrays["num_features"]))
            rows = csr_matrix((arrays.get("x_data", ones), arrays["x_indices"], arrays["x_indptr"]), shape)
            values["x"] = rows.toarray()
    for key, value in values.items():
        if value is not None and np.asarray(value).dtype.kind not in "fiub":
            kind = np.asarray(value).dtype
            raise DistilError(f"{str(path)!r}: the array {key!r} holds {kind}, not numbers; save it as numbers.")
    # Copied into torch's own types: narrow integers would overflow where node numbers are multiplied.
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in values.items() if value is not None}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DistilError(f"{str(path)!r} is no readable safetensors file ({error}); is it complete?") from error


def _read_pt(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_pyg_classes()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DistilError(
            f"{str(path)!r} cannot be read safely: it is damaged, or holds more than tensors and PyG's Data; save a "
            "dict of tensors, or the graph as .npz."
        ) from error
    if isinstance(loaded, tuple | list) and loaded:  # PyG's processed files hold (data, slices, …)
        loaded = loaded[0]
    if hasattr(loaded, "to_dict"):
        loaded = loaded.to_dict()
    if not isinstance(loaded, Mapping):
        raise DistilError(f"{str(path)!r} holds {type(loaded).__name__}; expected a PyG Data or a dict of tensors.")
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _pyg_classes() -> list[Any]:
    try:
        from torch_geometric.data import Data
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import GlobalStorage
    except ImportError:
        return []
    return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]


def _read_csv_pair(folder: Path) -> dict[str, Any]:
    tables = {}
    for name in ("nodes.csv", "edges.csv"):
        if not (folder / name).exists():
            raise DistilError(f"the folder {str(folder)!r} has no {name}; a graph needs nodes.csv and edges.csv.")
        held = read_table(folder / name).columns
        tables[name] = [dict(zip(held, row, strict=True)) for row in zip(*held.values(), strict=True)]
    nodes, edges = tables["nodes.csv"], tables["edges.csv"]
    if not nodes or not {"id", "label"} <= nodes[0].keys():
        raise DistilError(f"{str(folder / 'nodes.csv')!r} needs a header with id and label, and a row for every node.")
    number = {row["id"]: k for k, row in enumerate(nodes)}
    if len(number) < len(nodes):
        twice = next(row["id"] for k, row in enumerate(nodes) if number[row["id"]] != k)
        raise DistilError(f"{str(folder / 'nodes.csv')!r} names the node {twice!r} twice; give every node its own id.")
    if edges and len(edges[0]) < 2:
        raise DistilError(f"{str(folder / 'edges.csv')!r} has one column; two are needed, the ids of both nodes.")
    columns = [key for key in nodes[0] if key not in ("id", "label", "split")]
    try:
        features = torch.tensor([[float(row[key]) for key in columns] for row in nodes])
        pairs = [[number[value] for value in list(row.values())[:2]] for row in edges]
    except (KeyError, ValueError, TypeError) as error:
        raise DistilError(
            f"the graph in {str(folder)!r} names an unknown node or a feature that is no number: {error}."
        ) from error
    for row in nodes:
        row["label"] = "" if row["label"].strip() == str(NO_LABEL) else row["label"].strip()
    labels = sorted({row["label"] for row in nodes if row["label"]})
    if all(label.isdecimal() for label in labels):
        labels = sorted(labels, key=int)
    index = {name: k for k, name in enumerate(labels)}
    values: dict[str, Any] = {
        "x": features,
        "edge_index": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t(),
        "y": torch.tensor([index.get(row["label"], NO_LABEL) for row in nodes]),
        "classes": tuple(labels),
    }
    if "split" in nodes[0]:
        for split in ("train", "val", "test"):
            values[f"{split}_mask"] = torch.tensor([split_name(row["split"] or "") == split for row in nodes])
    return values
