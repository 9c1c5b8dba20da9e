"""The files of ``distil unlearn``: a model with its sidecar and its audit record, read and written."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distil.data.bundle import Bundle
from distil.data.deletions import Removal, Request, Standing
from distil.data.fingerprint import fingerprint
from distil.data.loading import FullBatch
from distil.data.sources import load
from distil.errors import DistilError, nearest
from distil.loops.scene import Scene
from distil.models import load_model
from distil.models.deletion import WithDeletion, under_operators, without_operators
from distil.models.load import load_weights, read_state
from distil.report import environment
from distil.ship.manifest import read_json, write_json
from distil.ship.student import read_student, save_state, write_student
from distil.tasks import Task
from distil.tasks.base import evaluating

__all__ = ["AUDIT", "Loaded", "beside", "fits", "left_of", "load_graph", "load_trained", "new_model", "read_audit"]
__all__ += ["record_of", "replayed", "write_model", "write_step"]

AUDIT = "audit.json"
KIND, LINKS, VERSION = "distil-unlearning", "distil-link-model", 1
TASKS, ORIGINAL, UNLEARNED = ("nodes", "links"), "original", "unlearned"


@dataclass(frozen=True)
class Loaded:
    """A trained graph network: the module, what makes a new plain one, its specification and what it is for.

    ``split_seed`` and ``trained_on``, the fingerprint of the data, are what its sidecar names; ``unlearned``: it met
    requests before.
    """

    module: nn.Module
    make: Callable[[], nn.Module]
    net: str
    task: str
    split_seed: int | None = None
    trained_on: str | None = None
    unlearned: bool = False


def beside(path: Path, *, net: str | None = None) -> dict[str, Any]:
    """Return what the sidecar of a model says, as :class:`Loaded` has it; nothing where there is none or ``net`` does.

    Raises:
        DistilError: there is no such model, or its sidecar is of a module that is no graph network.
    """
    if not path.is_file():
        raise DistilError(f"there is no model {str(path)!r}; correct --model.")
    side = path.with_suffix(".json")
    if net is not None or not side.is_file():
        return {}
    kind = read_json(side)
    if isinstance(kind, dict) and kind.get("kind") == LINKS:
        known = read_json(side, kind=LINKS)
        seed, data = known.get("split_seed"), known.get("data")
        return {
            "net": known.get("model"),
            "task": "links",
            "split_seed": seed if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 else None,
            "trained_on": data.get("fingerprint") if isinstance(data, dict) else None,
            "unlearned": known.get("arm") != ORIGINAL,
        }
    student = read_student(side)
    if not student.plain and student.deployed != WithDeletion.__qualname__:
        raise DistilError(f"{side}: what shipped is a {student.deployed}, not the network itself; name another.")
    return {
        "net": student.model,
        "task": "nodes",
        "trained_on": student.data.get("fingerprint"),
        "unlearned": student.arm == UNLEARNED,
    }


def load_trained(path: Path, bundle: Bundle, known: Mapping[str, Any], *, net: str | None, task: str | None) -> Loaded:
    """Load a model, with GNNDelete's operators where its file holds them; its sidecar says what it is, or ``net`` does.

    Raises:
        DistilError: nothing says what the network is, or it does not fit the weights or the graph.
    """
    spec = net or known.get("net")
    if not isinstance(spec, str):
        raise DistilError(
            f"nothing says what network {str(path)!r} holds, since no {path.stem}.json lies beside it; give --net, "
            "such as 'distil:gcn(hidden=64)'."
        )
    new = new_model(spec, task or known.get("task"), bundle, split_seed=known.get("split_seed"))
    module = load_weights(under_operators(new.module, read_state(path)), path).eval()
    broken = [n for n, v in module.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise DistilError(
            f"{path}: {len(broken)} of its tensors hold NaN or infinity (first: {broken[0]}), so its training went "
            "wrong; give the weights of a model that answers with numbers."
        )
    unlearned = bool(known.get("unlearned")) or isinstance(module, WithDeletion)
    return fits(replace(new, module=module, trained_on=known.get("trained_on"), unlearned=unlearned), bundle)


def new_model(net: str, task: str | None, bundle: Bundle, *, split_seed: int | None) -> Loaded:
    """Return a network that is not trained yet, for the classes of nodes or for links."""
    task = task or "nodes"
    if task not in TASKS:
        raise DistilError(f"--task '{task}' is unknown; {nearest(task, TASKS)}")
    classes = len(bundle.classes) if task == "nodes" else None
    make = partial(load_model, net, classes=classes, input_shape=bundle.input_shape)
    module = make().eval()
    return Loaded(module, make, net, task, split_seed)


def fits(loaded: Loaded, bundle: Bundle) -> Loaded:
    """Return a network that takes the graph and answers for each of its nodes; refuse any other."""
    module, spec, batch = loaded.module, loaded.net, bundle.train.batch
    classes = len(bundle.classes) if loaded.task == "nodes" else None
    try:
        with evaluating(module), torch.no_grad():
            output = module(batch["inputs"], batch["edge_index"])
    except DistilError:
        raise
    except Exception as error:
        raise DistilError(
            f"{spec} cannot take the graph {bundle.name!r} of {bundle.input_shape[0]} features "
            f"({type(error).__name__}: {str(error).splitlines()[0][:120]}); it must take (features, edges)."
        ) from error
    wanted = (len(batch["inputs"]), classes or "any width")
    if not hasattr(output, "shape") or output.ndim != 2 or (classes and tuple(output.shape) != wanted):
        raise DistilError(
            f"{spec} gives {list(getattr(output, 'shape', []))} for the graph {bundle.name!r}; {list(wanted)} is "
            "expected, one row for each node."
        )
    return loaded


def digest(content: Any) -> str:
    """Return 16 hex digits that name plain JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def record_of(
    removal: Removal,
    *,
    before: nn.Module,
    after: nn.Module,
    data: Mapping[str, str],
    method: str,
    seed: int,
    scores: Any,
    held_out: int,
) -> dict[str, Any]:
    """Return the audit record of one request; ``held_out`` of the deleted edges the model was never trained on."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request": removal.request.plain(),
        "request_fingerprint": digest(removal.request.plain()),
        "deleted": {"nodes": removal.nodes.tolist(), "edges": removal.pairs.t().tolist()},
        "held_out": held_out,
        "data": dict(data),
        "model": {"before": fingerprint(before), "after": fingerprint(after)},
        "method": method,
        "seed": seed,
        "scores": scores,
        "distil": environment()[0].get("distil", "unknown"),
    }


def read_audit(model: Path, loaded: Loaded, bundle: Bundle) -> list[dict[str, Any]]:
    """Return the records that lie beside a model, checked against model and data; none where there is no file.

    Raises:
        DistilError: the record is of another model or of other data, its links do not join, or it is missing beside a
            model that met requests; or the graph is not the one that the model's sidecar names.
    """
    path = model.parent / AUDIT
    if not path.is_file():
        if loaded.unlearned:
            raise DistilError(
                f"{model} met requests before, and {path} is missing, so what they deleted is not known and would come "
                "back; put the record beside its model."
            )
        if loaded.trained_on not in (None, bundle.fingerprint):
            raise DistilError(
                f"{model} was trained on other data (its sidecar names {loaded.trained_on}, the graph "
                f"{bundle.name!r} is {bundle.fingerprint}); give that graph, and --split-seed where its masks were "
                "drawn by another seed than 0; or say by --net that the weights go with this graph."
            )
        return []
    content = read_json(path, kind=KIND, version=VERSION)
    records: list[dict[str, Any]] = content.get("records") or []
    try:
        after, seen = records[-1]["model"]["after"], records[0]["data"]["fingerprint"]
        joined = all(one["model"]["after"] == next_["model"]["before"] for one, next_ in pairwise(records))
        for each in records:
            joined &= each["request_fingerprint"] == digest(each["request"]) and isinstance(each["data"]["left"], str)
            nodes, edges = each["deleted"]["nodes"], each["deleted"]["edges"]
            torch.tensor(nodes, dtype=torch.long), torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise DistilError(f"{path} is no whole audit record; it was changed, so move it away or restore it.") from None
    if not joined:
        raise DistilError(f"{path}: its records do not follow from one another; it was changed, so restore it.")
    if after != fingerprint(loaded.module):
        raise DistilError(
            f"{path} records another model (its fingerprint is {after}); keep each record beside its model."
        )
    if seen != bundle.fingerprint:
        raise DistilError(
            f"{path} records deletions from other data (fingerprint {seen}, not {bundle.fingerprint}); give the graph "
            "that the model was first trained on, before any deletion."
        )
    return records


def replayed(standing: Standing, records: list[dict[str, Any]]) -> Standing:
    """Return the graph as the recorded requests left it, held against what each of them says was left."""
    for place, record in enumerate(records, 1):
        nodes = torch.tensor(record["deleted"]["nodes"], dtype=torch.long)
        pairs = torch.tensor(record["deleted"]["edges"], dtype=torch.long).reshape(-1, 2).t()
        inside = all(
            not len(each) or 0 <= int(each.min()) <= int(each.max()) < standing.count for each in (nodes, *pairs)
        )
        if inside:
            standing = standing.after(Removal(Request("edges", (), "the audit record"), nodes, pairs))
        if not inside or left_of(standing) != record["data"]["left"]:
            raise DistilError(
                f"{AUDIT}, record {place}: without what it says was deleted the graph is not the one that it says was "
                "left; it was changed, so restore it."
            )
    return standing


def left_of(standing: Standing) -> str:
    """Return the fingerprint of a graph as requests left it: its edges and training nodes."""
    return fingerprint({"edges": standing.pairs, "train": standing.train})


def write_step(
    folder: Path, module: nn.Module, loaded: Loaded, scene: Scene, bundle: Bundle, *, scores: Mapping[str, Any],
    records: list[dict[str, Any]], method: str, seed: int, split_seed: int,
) -> Path:  # fmt: skip
    """Write a model, its sidecar and the audit record of all requests so far into a folder; return the model's path."""
    left = replace(bundle, val=FullBatch(_on_cpu(scene.val)), test=FullBatch(_on_cpu(scene.test)))
    path = write_model(
        folder, module, loaded, scene.task, left, scores=scores, method=method, seed=seed,
        split_seed=split_seed, arm=UNLEARNED,
    )  # fmt: skip
    write_json(folder / AUDIT, {"kind": KIND, "version": VERSION, "records": records})
    return path


def write_model(
    folder: Path, module: nn.Module, loaded: Loaded, task: Task, bundle: Bundle, *, scores: Mapping[str, Any],
    method: str, seed: int, split_seed: int, arm: str = ORIGINAL,
) -> Path:  # fmt: skip
    """Write a model and the sidecar by which :func:`load_trained` finds it again; return its path."""
    path, module = folder / "model.safetensors", module.cpu()
    test = {name: value for name, value in scores.items() if value is not None}
    if loaded.task == "nodes":
        write_student(
            path, module, built=without_operators(module), task=task, bundle=bundle, model=loaded.net, test=test,
            validation=task.evaluate(module, bundle.val), method=method, teacher="", seed=seed, arm=arm,
            role="method" if arm == UNLEARNED else "reference",
        )  # fmt: skip
        return path
    save_state(module, path)
    side = {"kind": LINKS, "version": VERSION, "model": loaded.net, "deployed": type(module).__qualname__}
    side |= {"split_seed": split_seed, "data": {"name": bundle.name, "fingerprint": bundle.fingerprint}, "arm": arm}
    side |= {"test": test, "fingerprint": fingerprint(module), "method": method, "seed": seed}
    write_json(path.with_suffix(".json"), side)
    return path


def _on_cpu(part: Mapping[str, Any]) -> dict[str, Any]:
    moved = {key: value.cpu() if hasattr(value, "cpu") else value for key, value in part.items()}
    return moved | {"id": torch.arange(len(moved["inputs"]))}


def load_graph(path: str, *, seed: int, **named: Any) -> Bundle:
    """Return a graph with labelled nodes, or say that the data are none; ``named`` are columns and classes."""
    bundle = load(path, seed=seed, **named)
    if bundle.task != "node-classification":
        raise DistilError(
            f"--data {path} is for {bundle.task}; distil unlearn takes a graph (.pt, .npz, nodes.csv + edges.csv)."
        )
    return bundle
