"""Readers of graph files: npz, safetensors, PyG's .pt, and pairs of csv tables. No pickle is ever run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distil.data.classes import checked_names
from distil.data.graph_tables import read_graph_tables, tables_of
from distil.data.graphs import GraphData, clean_edges, make_graph
from distil.errors import DistilError

__all__ = ["packed", "read_graph", "read_nodes"]

_NAMES = ("x", "edge_index", "y", "num_classes", "labels")
_PACKED = ("adj_", "attr_", "x_", "num_features")


def read_graph(
    path: str | Path,
    *,
    name: str | None = None,
    seed: int = 0,
    normalise: bool = False,
    split: bool | str = True,
    label: str | None = None,
    ignore: Sequence[str] = (),
    classes: Sequence[str | int] = (),
) -> GraphData:
    """Read a graph with labelled nodes.

    Args:
        path: one of
            ``.npz`` (arrays ``x``, ``edge_index``, ``y`` and optionally ``train_mask``, ``val_mask``, ``test_mask``,
            ``num_classes``; ``x`` may be in compressed rows ``x_indptr``, ``x_indices``, [``x_data``],
            ``num_features``; or the layout ``adj_*``, ``attr_*``, ``labels`` of the gnn-benchmark sets);
            ``.safetensors`` with the same names; ``.pt`` with a PyG ``Data`` or a dict of tensors (read with
            ``weights_only=True``); a folder with ``nodes.csv`` (``id, label, [split], features…``) and ``edges.csv``
            (two columns of ids); or two such tables of other names joined by a plus sign, ``papers.csv+cites.csv``.
        name: what to call the graph; default the file's name.
        seed: decides the masks if the file has none.
        normalise: divide each row of the features by its sum.
        split: use the file's masks where it has them; ``False`` makes new ones by ``seed``. Of tables also the name of
            the column that says the split.
        label, ignore: of tables, the column of labels where it has an unusual name, and columns that are no features.
        classes: the class names in the order of a model's outputs; labels are refused that are none of them.

    Raises:
        DistilError: what cannot be read, and what makes no graph (see :func:`distil.data.graphs.make_graph`).
    """
    path, tables = Path(path).expanduser(), tables_of(path)
    readers = _readers()
    if tables is not None:
        column = split if isinstance(split, str) else None
        values = read_graph_tables(*tables, label=label, split=column, ignore=ignore, classes=classes)
        name = name or (path.name if path.is_dir() else tables[0].stem)
    elif label is not None or ignore or isinstance(split, str):
        raise DistilError(f"{str(path)!r} is no table of nodes, so no column of it can be named.")
    elif not path.exists():
        raise DistilError(f"there is no graph file {str(path)!r}; correct the path.")
    elif path.suffix.lower() in readers:
        values = readers[path.suffix.lower()](path)
        values["classes"] = _named(values, path, classes)
    else:
        raise DistilError(f"{str(path)!r} is no graph file; give .npz, .safetensors, .pt, or a folder of csv files.")
    missing = [key for key in ("x", "edge_index", "y") if values.get(key) is None]
    if missing:
        held = sorted(key for key, value in values.items() if value is not None)
        raise DistilError(f"{str(path)!r} lacks {missing}; it holds {held}, expected x, edge_index and y.")
    masks = {key.removesuffix("_mask"): value for key, value in values.items() if key.endswith("_mask")}
    made = make_graph(
        name or path.stem,
        values["x"],
        values["edge_index"],
        values["y"],
        masks=masks if split and masks else None,
        classes=values["classes"],
        seed=seed,
        normalise=normalise,
        columns=values.get("columns", ()),
    )
    if not made.edge_index.shape[1]:
        count = values["edge_index"].shape[1]
        raise DistilError(f"{str(path)!r}: none of its {count} edges joins two different nodes; a graph needs some.")
    return made


def read_nodes(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """Return a graph file's features, and its edges cleaned as :func:`read_graph` cleans them; labels play no part.

    Raises:
        DistilError: the file is unreadable, holds no features, or edges that join no nodes.
    """
    path = Path(path)
    values = _readers()[path.suffix.lower()](path)
    x, edges = values.get("x"), values.get("edge_index")
    if x is None:
        raise DistilError(f"it holds {sorted(values)}; the features are expected under 'x'.")
    x = x if x.layout == torch.strided else x.to_dense()
    return x, None if edges is None else clean_edges(path.stem, edges, len(x), [])


def packed(path: str | Path) -> bool:
    """Say whether an npz holds its graph in compressed rows, as the gnn-benchmark sets do."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return not {"adj_indptr", "x_indptr"}.isdisjoint(file.files)
    except Exception:  # whoever reads it says what is wrong with it
        return False


def _readers() -> dict[str, Callable[[Path], dict[str, Any]]]:
    return {".npz": _read_npz, ".safetensors": _read_safetensors, ".pt": _read_pt}


def _named(values: dict[str, Any], path: Path, classes: Sequence[str | int]) -> tuple[str, ...] | None:
    """Return the class names: given, or numbers where the file says how many; else ``None``."""
    count = values.pop("num_classes", None)
    if classes:
        return checked_names(classes, "the setting 'classes'")
    try:
        return None if count is None else tuple(map(str, range(int(count))))
    except (TypeError, ValueError):
        raise DistilError(f"{str(path)!r}: num_classes is {count}, no number of classes; correct it.") from None


def _read_npz(path: Path) -> dict[str, Any]:
    # Only what is used is looked at: the benchmark sets hold names as objects besides, which are never read.
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                if key in _NAMES or key.endswith("_mask") or key.startswith(_PACKED):
                    arrays[key] = file[key]
    except Exception as error:
        raise DistilError(f"{str(path)!r} is no readable npz of plain arrays: {str(error).splitlines()[0]}.") from error
    for key, value in arrays.items():
        if value.dtype.kind not in "fiub":
            raise DistilError(f"{str(path)!r}: the array {key!r} holds {value.dtype}, not numbers; save it as numbers.")
    values: dict[str, Any] = {key: value for key, value in arrays.items() if not key.startswith(_PACKED)}
    if "adj_indptr" in arrays:
        values["edge_index"] = np.stack(_rows(path, arrays, "adj").nonzero())
        values["x"] = _rows(path, arrays, "attr").toarray() if "attr_indptr" in arrays else arrays.get("attr_matrix")
        values["y"] = values.pop("labels", None)
    elif "x_indptr" in arrays:
        values["x"] = _rows(path, arrays, "x", (len(arrays["x_indptr"]) - 1, arrays.get("num_features"))).toarray()
    # Copied into torch's own types: narrow integers would overflow where node numbers are multiplied.
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in values.items() if value is not None}


def _rows(path: Path, arrays: Mapping[str, Any], what: str, shape: Any = None) -> Any:
    """Return a matrix in compressed rows."""
    from scipy.sparse import csr_matrix

    try:
        indices = arrays[f"{what}_indices"]
        data = arrays.get(f"{what}_data", np.ones(len(indices), np.float32))
        size = tuple(map(int, arrays[f"{what}_shape"] if shape is None else shape))
        found = csr_matrix((data, indices, arrays[f"{what}_indptr"]), size)
        found.check_format()
    except (KeyError, TypeError, ValueError) as error:
        raise DistilError(
            f"{str(path)!r}: the arrays {what}_* make no matrix in compressed rows ({str(error).splitlines()[0]})."
        ) from error
    return found


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DistilError(f"{str(path)!r} is no readable safetensors file ({error}); is it complete?") from error


def _read_pt(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_pyg_classes()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how long a check of sparse tensors takes
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        needs = "" if _pyg_classes() else " (reading a PyG Data needs torch-geometric: pip install 'distil[graph]')"
        raise DistilError(
            f"{str(path)!r} cannot be read safely: it is damaged, or holds more than tensors and PyG's Data{needs}; "
            "save a dict of tensors, or the graph as .npz."
        ) from error
    if isinstance(loaded, tuple | list) and loaded:  # PyG's processed files hold (data, slices, …)
        loaded = loaded[0]
    if hasattr(loaded, "to_dict"):
        loaded = loaded.to_dict()
    if not isinstance(loaded, Mapping):
        raise DistilError(f"{str(path)!r} holds {type(loaded).__name__}; expected a PyG Data or a dict of tensors.")
    kept = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    count = loaded.get("num_classes")
    return kept | ({"num_classes": count} if isinstance(count, int) else {})


def _pyg_classes() -> list[Any]:
    try:
        from torch_geometric.data import Data
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import GlobalStorage
    except ImportError:
        return []
    return [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]
