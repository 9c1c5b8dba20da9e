"""A user's own graph, from its files to an MLP that answers without the edges."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distil.data import load
from distil.report.check import validate

from .terminal import distil

Screen = pytest.CaptureFixture[str]
MLP = ["--student", "distil:mlp(hidden=8)", "--method", "ff-g2m"]
GCN = ["--teacher", "distil:gcn(hidden=16)", "--train-teacher", "60", "--lr", "0.05", "--epochs", "40"]


def labels_of(answers: list[dict[str, str]]) -> list[str]:
    return [each["label"] for each in answers]


def test_a_graph_of_pyg_ends_in_an_mlp_of_features_alone(here: Path, capsys: Screen) -> None:
    geometric = pytest.importorskip("torch_geometric.data")
    with np.load("graph.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    torch.save(geometric.Data(**arrays), "graph.pt")
    said = distil(capsys, "train", "--data", "graph.pt", *GCN, *MLP, "--out", "run", "--json")
    assert said.code == 0, said.err
    report = said.json
    validate(report)
    assert report["data"]["fingerprint"] == load("graph.npz").fingerprint
    assert any("150 edges stored (directed, made undirected)" in note for note in report["data"]["notes"])
    assert any("no split was given" in note for note in report["data"]["notes"])
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "150 edges stored (directed, made undirected)" in page
    (table,) = report["tables"]
    assert table["title"] == "Serving: ff-g2m, seed 0"
    assert [row[0] for row in table["rows"]] == ["MLP without edges", "graph network with neighbour fetching"]
    assert table["rows"][1][-1].endswith("in 3 hops")  # two layers, and the degrees of the outermost
    assert "graph network with neighbour fetching" in page
    scores = [report["arms"][1]["metrics"]["accuracy"]["best"][0], report["teacher"]["metrics"]["accuracy"]]
    assert [row[1] for row in table["rows"]] == pytest.approx(scores, abs=0.01)

    assert distil(capsys, "export", "run", "--out", "out").code == 0
    import onnxruntime

    session = onnxruntime.InferenceSession("out/model.onnx")
    (given,) = session.get_inputs()
    assert given.name == "inputs"
    assert isinstance(given.shape[0], str)  # any number of nodes
    assert given.shape[1] == 5
    features = arrays["x"].numpy()
    whole = session.run(None, {"inputs": features})[0]
    one_by_one = [session.run(None, {"inputs": features[k : k + 1]})[0][0] for k in range(9)]
    np.testing.assert_allclose(one_by_one, whole[:9], rtol=1e-4, atol=1e-5)
    names = [f"{k}" for k in range(3)]
    nodes = distil(capsys, "predict", "out", "graph/nodes.csv", "--json").json["answers"]
    assert labels_of(nodes) == [names[k] for k in whole.argmax(1)]


def test_two_tables_of_ones_own_names_are_taught_and_asked_by_name(here: Path, capsys: Screen) -> None:
    with open("graph/nodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open("papers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["f4", "id", "title", "area", *(f"f{k}" for k in range(4))])
        for row in rows:
            own = [row["f4"], f"p{row['id']}", "some words", row["label"].removeprefix("class ")]
            writer.writerow([*own, *(row[f"f{k}"] for k in range(4))])
    with open("graph/edges.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    with open("cites.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "target"])
        writer.writerows([f"p{pair['source']}", f"p{pair['target']}"] for pair in pairs)
    words = ["--set", "columns.label=area", "--set", "columns.ignore=[title]", "--set", "classes=[2,1,0]"]
    said = distil(capsys, "train", "--data", "papers.csv+cites.csv", *GCN, *MLP, *words, "--out", "run", "--json")
    assert said.code == 0, said.err
    assert said.json["data"]["name"] == "papers"
    assert said.json["data"]["classes"] == ["2", "1", "0"]
    assert distil(capsys, "export", "run", "--out", "out").code == 0
    stored = json.loads((here / "out" / "preprocessing.json").read_text())
    assert stored["columns"] == ["f4", "f0", "f1", "f2", "f3"]

    answers = distil(capsys, "predict", "out", "papers.csv", "--json").json["answers"]
    assert [each["name"] for each in answers] == [f"papers.csv:p{k}" for k in range(60)]
    # Columns are found by their names, in whatever order, in a table without labels and edges.
    with open("new.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"f{k}" for k in range(5))])
        writer.writerows([row[f"f{k}"] for k in range(5)] for row in rows)
    found = distil(capsys, "predict", "out", "new.csv", "graph", "--json").json
    assert found["skipped"] == []  # of the folder only the nodes are read
    assert labels_of(found["answers"][:60]) == labels_of(found["answers"][60:]) == labels_of(answers)
    script = [sys.executable, "out/predict.py", "new.csv"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == labels_of(answers)
    with open("few.csv", "w") as file:
        file.write("f0,f1\n1,2\n")
    assert "'f4' is expected among them" in distil(capsys, "predict", "out", "few.csv", "--json").complaints[0]


def test_a_large_graph_is_read_in_parts_and_ends_where_the_whole_does(here: Path, capsys: Screen) -> None:
    whole = ["--data", "graph.npz", *GCN]
    large = ["--set", "graph.nodes=7", "--set", "graph.fanout=[3,3,3]", "--batch-size", "16"]
    said = distil(capsys, "train", *whole, *MLP, *large, "--no-baseline", "--out", "run", "--json")
    assert said.code == 0, said.err
    report = said.json
    assert report["teacher"]["metrics"]["accuracy"] > 60
    assert report["arms"][0]["metrics"]["accuracy"]["best"][0] > 60

    cached = ["cache", "--data", "graph.npz", "--teacher", "models.py:eye"]
    for name, more in (("all", []), ("parts", ["--set", "graph.nodes=7"])):
        assert distil(capsys, *cached, *more, "--out", name, "--json").code == 0
    scores = []
    for name in ("all", "parts"):
        words = ["--data", "graph.npz", "--teacher", f"cache:{name}", *MLP, "--epochs", "3", "--out", f"{name}-run"]
        said = distil(capsys, "train", *words, "--json")
        assert said.code == 0, said.err
        scores.append(said.json["arms"][1]["metrics"])
        assert "tables" not in said.json  # a cache fetches no neighbours
    assert scores[0] == scores[1]
