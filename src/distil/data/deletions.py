"""Requests to delete edges, nodes or a class of a graph: read from JSON or csv, and checked against what is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import NO_LABEL, Bundle
from distil.data.graph_tables import _IDS, _numbered, tables_of
from distil.data.links import pairs_of
from distil.data.tables import read_table
from distil.errors import DistilError, nearest

__all__ = ["Removal", "Request", "Standing", "node_numbers", "read_requests"]

KINDS = ("edges", "nodes", "class")
_LARGEST = 64 << 20  # bytes of a request
_SHOWN = 8
_HEADS = {"node": "nodes", "nodes": "nodes", "id": "nodes", "class": "class", "label": "class"}


@dataclass(frozen=True)
class Request:
    """What someone asks for, as it was written: ``kind`` and ids; ``where`` says where it stands."""

    kind: str
    values: tuple[Any, ...]
    where: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON; for the record and for fingerprints."""
        return {self.kind: self.values[0] if self.kind == "class" else [_plain(each) for each in self.values]}


@dataclass(frozen=True)
class Removal:
    """What a request takes away: ``nodes`` [K], and ``pairs`` [2, P], the edges that go, each once."""

    request: Request
    nodes: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Standing:
    """A graph as earlier requests left it.

    Attributes:
        name: for messages.
        pairs: ``[2, P]``, the edges that are left, once each. count: the number of nodes.
        labels: of all nodes. train: the training nodes that are left. classes: their names.
        numbers: node numbers by the ids that the user's tables have; empty where ids are numbers.
        gone_nodes, gone_pairs: what earlier requests deleted.
        keeps_classes: a class may not lose its last training node (of a classifier of nodes).
    """

    name: str
    pairs: Tensor
    count: int
    labels: Tensor
    train: Tensor
    classes: tuple[str, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
    gone_nodes: frozenset[int] = frozenset()
    gone_pairs: frozenset[tuple[int, int]] = frozenset()
    keeps_classes: bool = True

    @classmethod
    def of(cls, bundle: Bundle, *, numbers: Mapping[str, int] | None = None, keeps_classes: bool = True) -> Standing:
        """Return a graph of which nothing is deleted yet."""
        whole = bundle.train.batch
        return cls(
            name=bundle.name,
            pairs=pairs_of(whole["edge_index"]),
            count=len(whole["inputs"]),
            labels=whole["labels"],
            train=whole["mask"] & (whole["labels"] != NO_LABEL),
            classes=bundle.classes,
            numbers=numbers or {},
            keeps_classes=keeps_classes,
        )

    def removal(self, request: Request) -> Removal:
        """Return what a request takes away.

        Raises:
            DistilError: ids that are unknown, doubled or already deleted, nothing asked for, or a request that leaves
                no edge or a class without training nodes.
        """
        if not request.values:
            raise DistilError(f"{request.where}: the request is empty; name what is to be deleted.")
        made = {"edges": self._edges, "nodes": self._nodes, "class": self._class}[request.kind](request)
        left = self.after(made)
        if not left.pairs.shape[1]:
            raise DistilError(
                f"{request.where}: the request deletes {_named(made.request)}, all the edges that are left; a model of "
                "no graph is none, so delete less."
            )
        if self.keeps_classes and request.kind != "class":
            self._emptied(request, made, left)
        if self.keeps_classes and len(left.labels[left.train].unique()) < 2:
            raise DistilError(
                f"{request.where}: the request leaves training nodes of fewer than two classes; nothing is left to "
                "tell apart."
            )
        return made

    def after(self, removal: Removal) -> Standing:
        """Return the graph without what is removed."""
        codes = removal.pairs[0] * self.count + removal.pairs[1]
        kept = self.pairs[:, ~torch.isin(self.pairs[0] * self.count + self.pairs[1], codes)]
        train = self.train.clone()
        train[removal.nodes] = False
        return replace(
            self,
            pairs=kept,
            train=train,
            gone_nodes=self.gone_nodes | set(removal.nodes.tolist()),
            gone_pairs=self.gone_pairs | set(map(tuple, removal.pairs.t().tolist())),
        )

    def until(self, later: Standing) -> tuple[Tensor, Tensor]:
        """Return the edges ``[2, P]`` and the nodes ``[K]`` that went between this standing and a later one."""
        codes = later.pairs[0] * self.count + later.pairs[1]
        gone = self.pairs[:, ~torch.isin(self.pairs[0] * self.count + self.pairs[1], codes)]
        return gone, torch.tensor(sorted(later.gone_nodes - self.gone_nodes), dtype=torch.long)

    def _ids(self, values: Sequence[Any]) -> list[Any]:
        """Nodes, or pairs of them, by the ids that the user's tables have."""
        if not self.numbers:
            return list(values)
        names = {number: name for name, number in self.numbers.items()}
        return [tuple(names[k] for k in each) if isinstance(each, tuple) else names[each] for each in values]

    def number(self, value: Any, where: str) -> int:
        """Return the number of a node by its id, or say which is meant."""
        known = self.numbers.get(str(value))
        if self.numbers and known is None:
            raise DistilError(f"{where}: there is no node {_short(value)}; {nearest(str(value), self.numbers)}")
        if known is not None:
            return known
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 19:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise DistilError(f"{where}: {_short(value)} is no node; nodes are numbers from 0 to {self.count - 1}.")
        if not 0 <= value < self.count:
            raise DistilError(f"{where}: there is no node {value}; nodes are numbered 0 to {self.count - 1}.")
        return value

    def _edges(self, request: Request) -> Removal:
        asked: list[tuple[int, int]] = []
        for value in request.values:
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
                raise DistilError(f"{request.where}: {_short(value)} is no edge; write two nodes, [3, 5].")
            low, high = sorted(self.number(each, request.where) for each in value)
            asked.append((low, high))
        _once(self._ids(asked), request.where, "edge", " (either direction means both)")
        left = set(map(tuple, self.pairs.t().tolist()))
        already = [pair for pair in asked if pair in self.gone_pairs]
        if already:
            raise DistilError(
                f"{request.where}: {_list(self._ids(already), 'edge')} already deleted by an earlier request."
            )
        unknown = [pair for pair in asked if pair not in left]
        if unknown:
            raise DistilError(f"{request.where}: {_list(self._ids(unknown), 'edge')} not in the graph {self.name!r}.")
        return Removal(request, torch.empty(0, dtype=torch.long), pairs_of(torch.tensor(asked).t()))

    def _nodes(self, request: Request) -> Removal:
        asked = [self.number(value, request.where) for value in request.values]
        _once(self._ids(asked), request.where, "node", "")
        already = [node for node in asked if node in self.gone_nodes]
        if already:
            raise DistilError(
                f"{request.where}: {_list(self._ids(already), 'node')} already deleted by an earlier request."
            )
        return self._with_edges(request, torch.tensor(sorted(asked)))

    def _class(self, request: Request) -> Removal:
        name = str(request.values[0])
        if name not in self.classes:
            raise DistilError(
                f"{request.where}: there is no class {_short(request.values[0])}; {nearest(name, self.classes)}"
            )
        members = (self.labels == self.classes.index(name)).nonzero().flatten().tolist()
        left = [node for node in members if node not in self.gone_nodes]
        if not left:
            raise DistilError(
                f"{request.where}: no node of the class {name!r} is left; it was deleted by an earlier request."
            )
        return self._with_edges(request, torch.tensor(left))

    def _with_edges(self, request: Request, nodes: Tensor) -> Removal:
        touched = torch.isin(self.pairs, nodes).any(0)
        return Removal(request, nodes, self.pairs[:, touched])

    def _emptied(self, request: Request, made: Removal, left: Standing) -> None:
        before, after = (set(each.labels[each.train].tolist()) for each in (self, left))
        for label in sorted(before - after):
            gone = [node for node in made.nodes.tolist() if self.train[node] and int(self.labels[node]) == label]
            raise DistilError(
                f"{request.where}: the request leaves the class {self.classes[label]!r} without a training node "
                f"(its last are {_ids(self._ids(gone))}); delete the class as a whole, or fewer nodes."
            )


def read_requests(path: str | Path, *, known: Container[str] = ()) -> list[Request]:
    """Read requests, in their order; ``known`` are the ids of nodes, by which a csv without a header is recognised.

    JSON: ``{"edges": [[3, 5], …]}``, ``{"nodes": [7, …]}``, ``{"class": "Theory"}``, or a list of these. csv (or tsv):
    two columns of nodes are edges, one called ``node`` or ``id`` is nodes, one called ``class`` or ``label`` a class.

    Raises:
        DistilError: the file is missing, malformed, or asks for nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise DistilError(f"there is no request file {str(path)!r}; correct the path.")
    if path.suffix.lower() == ".json":
        return _read_json(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return [_read_csv(path, known)]
    raise DistilError(f"the request {str(path)!r} is neither .json nor .csv; write one of these.")


def _read_json(path: Path) -> list[Request]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DistilError(f"the request {str(path)!r} holds {path.stat().st_size} bytes; split it.")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_all_of, path))
    except (ValueError, RecursionError) as error:
        raise DistilError(f"the request {str(path)!r} is not whole JSON ({str(error)[:120]}); correct it.") from None
    several = isinstance(content, list)
    found = content if several else [content]
    if not found:
        raise DistilError(f"{path.name}: the request is empty; name what is to be deleted.")
    return [_request(each, f"{path.name}, request {i + 1}" if several else path.name) for i, each in enumerate(found)]


def _all_of(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members; of two with one name JSON would drop the first, and it would not be deleted."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DistilError(
            f"the request {str(path)!r} has {_short(twice)} twice in one object; write a list of requests."
        )
    return made


def _request(content: Any, where: str) -> Request:
    if not isinstance(content, dict) or len(content) != 1:
        shown = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DistilError(f'{where}: a request is one of {{"edges": …}}, {{"nodes": …}}, {{"class": …}}; got {shown}.')
    ((kind, values),) = content.items()
    if kind not in KINDS:
        raise DistilError(f"{where}: {_short(kind)} cannot be deleted; {nearest(str(kind), KINDS)}")
    if kind == "class":
        if isinstance(values, bool) or not isinstance(values, str | int):
            raise DistilError(f"{where}: a class is one name or number; got {_short(values)}.")
        return Request("class", (values,), where)
    if not isinstance(values, list):
        raise DistilError(f"{where}: {kind} must be a list; got {_short(values)}.")
    return Request(kind, tuple(values), where)


def _read_csv(path: Path, known: Container[str]) -> Request:
    columns = read_table(path).columns
    heads = list(columns)
    if all(head.strip().isdecimal() or head.strip() in known for head in heads):
        raise DistilError(
            f"{path.name} begins with {'-'.join(heads)}, which would be taken for names of columns and not be deleted; "
            "its first line must name the columns."
        )
    if len(heads) == 2:
        return Request("edges", tuple(zip(*columns.values(), strict=True)), path.name)
    kind = _HEADS.get(heads[0].strip().lower()) if len(heads) == 1 else None
    if kind is None:
        raise DistilError(
            f"{path.name} has the columns {heads}; two columns of nodes are edges, one called node is nodes, one "
            "called class a class."
        )
    values = tuple(columns[heads[0]])
    if kind == "class" and len(values) != 1:
        raise DistilError(f"{path.name} names {len(values)} classes; a request deletes one.")
    return Request(kind, values, path.name)


def node_numbers(path: str | Path) -> dict[str, int]:
    """Return node numbers by id for a graph in tables; empty for graphs whose nodes are numbers already."""
    tables = tables_of(path)
    if tables is None:
        return {}
    table = read_table(tables[0])
    ids = next((name for name in table.columns if name.strip().lower() in _IDS), None)
    return {} if ids is None else _numbered(table, ids)


def _once(asked: Sequence[Any], where: str, what: str, how: str) -> None:
    twice = [each for each, count in Counter(asked).items() if count > 1]
    if twice:
        raise DistilError(f"{where}: {_list(twice, what)} named twice{how}; name each once.")


def _list(values: Sequence[Any], what: str) -> str:
    return f"the {what} {_ids(values)} is" if len(values) == 1 else f"the {what}s {_ids(values)} are"


def _ids(values: Sequence[Any]) -> str:
    shown = ["-".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in values[:_SHOWN]]
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(shown) + more


def _named(request: Request) -> str:
    what = {"edges": "the edges ", "nodes": "the nodes ", "class": "the class "}[request.kind]
    return what + _ids([tuple(v) if isinstance(v, list | tuple) else v for v in request.values])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
