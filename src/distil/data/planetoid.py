"""The raw Planetoid files (Cora, CiteSeer, PubMed), the one place where pickles are read: by an unpickler that can make
numpy arrays, sparse rows, lists and default dicts, and nothing else.

Data set: Yang, Cohen, Salakhutdinov, "Revisiting Semi-Supervised Learning with Graph Embeddings", ICML 2016
(arXiv 1603.08861).
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distil.data.bundle import NO_LABEL
from distil.data.graphs import GraphData, make_graph
from distil.errors import DistilError

__all__ = ["PLANETOID_PARTS", "read_planetoid", "restricted_load"]

PLANETOID_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")


class _Rows:
    """Stands in for scipy's csr_matrix: it only receives the state, so no code of scipy's runs on untrusted input."""

    data: Any
    indices: Any
    indptr: Any
    _shape: Any

    def dense(self) -> np.ndarray[Any, Any]:
        from scipy.sparse import csr_matrix

        return csr_matrix((self.data, self.indices, self.indptr), self._shape).toarray().astype(np.float32)


def _array(kind: Any, shape: Any, code: Any) -> np.ndarray[Any, Any]:
    """Stand in for numpy's ``_reconstruct``, for plain arrays only."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array of an unknown kind")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


_ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(module, "csr_matrix"): _Rows for module in ("scipy.sparse.csr", "scipy.sparse._csr")},
    ("collections", "defaultdict"): defaultdict,
    **{(module, "list"): list for module in ("__builtin__", "builtins")},
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def restricted_load(path: Path) -> Any:
    """Read one pickled Planetoid part; anything but arrays, sparse rows, lists and default dicts is refused."""
    try:
        with path.open("rb") as file:
            return _Restricted(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DistilError(
            f"{str(path)!r} is not read: {error}. A Planetoid part holds numpy arrays, sparse rows, lists and default "
            "dicts only; download the file again from its source."
        ) from error


def read_planetoid(folder: Path, name: str, *, normalise: bool = True) -> GraphData:
    """Read ``ind.NAME.*`` with the public split: 20 training nodes per class, 500 validation, 1000 test.

    Args:
        folder: where the eight files are.
        name: "cora", "citeseer" or "pubmed".
        normalise: divide each row of the features by its sum, as is usual for these sets.

    CiteSeer lacks 15 nodes inside its range of test ids: they get features of 0 and no label.
    """
    parts = {part: restricted_load(folder / f"ind.{name}.{part}") for part in PLANETOID_PARTS[:-1]}
    test = np.loadtxt(folder / f"ind.{name}.test.index", dtype=np.int64)
    allx, tx = parts["allx"].dense(), parts["tx"].dense()
    known, labelled = len(allx), len(parts["y"])
    if len(test) != len(tx) or int(test.min()) != known:
        raise DistilError(
            f"the Planetoid files of {name!r} in {str(folder)!r} do not fit together: {len(tx)} test rows for "
            f"{len(test)} ids that start at {int(test.min())}, after {known} other nodes; download them again."
        )
    nodes = int(test.max()) + 1
    x = np.zeros((nodes, allx.shape[1]), np.float32)
    y = np.full(nodes, NO_LABEL, np.int64)
    x[:known], y[:known] = allx, parts["ally"].argmax(1)
    x[test], y[test] = tx, parts["ty"].argmax(1)  # row k of tx belongs to line k of the index
    pairs = [(source, target) for source, targets in parts["graph"].items() for target in targets]
    masks = {split: torch.zeros(nodes, dtype=torch.bool) for split in ("train", "val", "test")}
    masks["train"][:labelled] = True
    masks["val"][labelled : labelled + 500] = True
    masks["test"][torch.from_numpy(test)] = True
    absent = nodes - known - len(test)
    return make_graph(
        name,
        torch.from_numpy(x),
        torch.tensor(pairs).t(),
        torch.from_numpy(y),
        masks=masks,
        classes=tuple(map(str, range(parts["ally"].shape[1]))),
        normalise=normalise,
        notes=(f"{absent} nodes are missing from the files: no features, no label.",) if absent else (),
    )
