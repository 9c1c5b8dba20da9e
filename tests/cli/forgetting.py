"""What the tests of ``distil unlearn`` share: how it is called on a user's folder, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distil.data import load as load_data
from distil.data.links import pairs_of
from distil.models import load_model

from .terminal import contents, distil

Screen = pytest.CaptureFixture[str]
NET, LINKS = "distil:gcn(hidden=8)", "distil:gcn(hidden=8, classes=4)"
QUICK = ("--device", "cpu", "--set", "d2dgn.steps=20", "--set", "training.steps=20", "--set", "gnndelete.steps=20")


def prepare(folder: Path) -> Path:
    """Put a graph network of the user's own, its weights alone, and requests into a folder."""
    torch.manual_seed(0)
    save_file(load_model(NET, classes=3, input_shape=(5,)).state_dict(), folder / "gnn.safetensors")
    edges = [pair.tolist() for pair in pairs_of(load_data("graph.npz").train.batch["edge_index"]).t()]
    ask(folder, "edges.json", {"edges": [edges[0], edges[5][::-1], edges[9]]})
    ask(folder, "nodes.json", {"nodes": [3, 7]})
    return folder


def ask(folder: Path, name: str, content: Any) -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def words(*more: str, model: str = "gnn.safetensors", request: str = "nodes.json") -> list[str]:
    return ["unlearn", "--model", model, "--data", "graph.npz", "--request", request, *QUICK, *more]


def with_net(*more: str, request: str = "nodes.json") -> list[str]:
    return words("--net", NET, *more, request=request)


def refused(there: Path, capsys: Screen, says: str, *typed: str) -> None:
    before = contents(there)
    said = distil(capsys, *typed)
    assert said.code == 2, said
    assert "Traceback" not in said.err
    (complaint,) = said.complaints
    assert says in complaint, complaint
    assert contents(there) == before


def audit_of(step: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((step / "audit.json").read_text())["records"]
    return found
