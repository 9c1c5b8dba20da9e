"""distil unlearn on a user's own files: the run, what it leaves, requests one after another, and every mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distil.data import load as load_data
from distil.data.links import pairs_of
from distil.models import load_model
from distil.report import load
from distil.systems.d2dgn import own

from .forgetting import NET, QUICK, Screen, ask, prepare, refused, with_net, words
from .terminal import contents, distil


@pytest.fixture
def there(here: Path) -> Path:
    """A user's folder with a graph network of their own, its weights alone, and requests."""
    return prepare(here)


def test_a_users_model_forgets_nodes_and_the_run_leaves_model_record_and_report(there: Path, capsys: Screen) -> None:
    before = (there / "gnn.safetensors").read_bytes()
    said = distil(capsys, *with_net("--out", "gone", "--retrain"))
    assert said.code == 0, said
    assert (there / "gnn.safetensors").read_bytes() == before
    old, new = load_file(there / "gnn.safetensors"), load_file(there / "gone" / "step-1" / "model.safetensors")
    assert {k: v.shape for k, v in old.items()} == {k: v.shape for k, v in new.items()}
    assert any(not torch.equal(old[name], new[name]) for name in old)
    report = load(there / "gone")
    assert [arm["name"] for arm in report["arms"]] == ["before", "after", "retrained"]
    table = report["tables"][0]
    assert all(None not in row for row in table["rows"] if row[2] != "before")
    (record,) = json.loads((there / "gone" / "step-1" / "audit.json").read_text())["records"]
    assert record["request"] == {"nodes": [3, 7]}
    assert record["deleted"]["nodes"] == [3, 7]
    touching = [pair for pair in record["deleted"]["edges"] if {3, 7} & set(pair)]
    assert touching == record["deleted"]["edges"]
    assert record["model"]["before"] != record["model"]["after"]
    assert record["data"]["fingerprint"] == load_data("graph.npz").fingerprint
    assert "What the columns mean" in (there / "gone" / "report.html").read_text(encoding="utf-8")


def test_without_a_retrained_model_its_columns_are_open_and_it_is_said(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *with_net("--out", "gone", "--no-attack", "--json"))
    assert said.code == 0, said
    report = said.json
    table = report["tables"][0]
    column = {name: k for k, name in enumerate(table["head"])}
    after = next(row for row in table["rows"] if row[2] == "after")
    assert after[column["distance to retrained"]] is None
    assert after[column["membership ratio"]] is None
    assert any("No model was retrained: its columns are left open" in text for text in report["warnings"])


def test_requests_go_on_from_the_last_model_and_the_record_grows(there: Path, capsys: Screen) -> None:
    first = distil(capsys, *with_net("--request", "edges.json", "--out", "gone", "--no-attack"))
    assert first.code == 0, first
    records = json.loads((there / "gone" / "step-2" / "audit.json").read_text())["records"]
    assert [list(each["request"]) for each in records] == [["nodes"], ["edges"]]
    assert records[0]["model"]["after"] == records[1]["model"]["before"]
    ask(there, "third.csv", "node\n11\n")
    more = words("--out", "more", "--no-attack", model="gone/step-2/model.safetensors", request="third.csv")
    again = distil(capsys, *more)
    assert again.code == 0, again
    third = json.loads((there / "more" / "step-1" / "audit.json").read_text())["records"]
    assert third[:2] == records
    assert third[2]["model"]["before"] == records[1]["model"]["after"]
    repeated = distil(capsys, *words(model="more/step-1/model.safetensors", request="nodes.json"))
    assert repeated.code == 2
    assert "the nodes 3, 7 are already deleted by an earlier request" in repeated.complaints[0]


def test_a_link_predictor_forgets_edges_in_either_direction(there: Path, capsys: Screen) -> None:
    links = "distil:gin(hidden=8, classes=4)"
    save_file(load_model(links, input_shape=(5,)).state_dict(), there / "links.safetensors")
    more = ("--net", links, "--task", "links", "--out", "gone", "--method", "gradient-ascent", "--retrain")
    said = distil(capsys, *words(*more, model="links.safetensors", request="edges.json"))
    assert said.code == 0, said
    assert load(there / "gone")["metric"]["name"] == "auc"
    step = there / "gone" / "step-1"
    assert json.loads((step / "model.json").read_text())["kind"] == "distil-link-model"
    ask(there, "one.json", {"class": "1"})
    again = distil(
        capsys, *words("--out", "more", "--no-attack", model=f"{step}/model.safetensors", request="one.json")
    )
    assert again.code == 0, again


def test_a_class_goes_with_all_its_nodes_and_edges(there: Path, capsys: Screen) -> None:
    ask(there, "class.csv", "class\nclass 1\n")
    chosen = [
        "unlearn",
        "--model",
        "gnn.safetensors",
        "--net",
        NET,
        "--data",
        "graph",
        "--request",
        "class.csv",
        *QUICK,
    ]
    said = distil(capsys, *chosen, "--no-attack", "--out", "gone")
    assert said.code == 0, said
    (record,) = json.loads((there / "gone" / "step-1" / "audit.json").read_text())["records"]
    with (there / "graph" / "nodes.csv").open(newline="") as file:
        members = {k for k, row in enumerate(csv.DictReader(file)) if row["label"] == "class 1"}
    assert set(record["deleted"]["nodes"]) == members
    assert all(set(pair) & members for pair in record["deleted"]["edges"])


def test_a_dry_run_writes_nothing_and_counts_what_goes(there: Path, capsys: Screen) -> None:
    before = contents(there)
    said = distil(capsys, *with_net("--dry-run", request="edges.json"))
    assert said.code == 0, said
    assert "Request 1: 0 nodes and 3 edges go." in said.out
    assert contents(there) == before


def test_a_stopped_run_goes_on_to_the_same_models(there: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("--request", "edges.json", "--no-attack")
    assert distil(capsys, *with_net(*both, "--out", "whole")).code == 0
    met, count = own._met, {"calls": 0}

    def stopping(*arguments: Any) -> Any:
        count["calls"] += 1
        if count["calls"] == 2:
            raise KeyboardInterrupt
        return met(*arguments)

    monkeypatch.setattr(own, "_met", stopping)
    stopped = distil(capsys, *with_net(*both, "--out", "torn"))
    assert stopped.code == 130
    assert "--resume" in stopped.err
    again = distil(capsys, "unlearn", "--out", "torn", "--resume", "--device", "cpu")
    assert again.code == 0, again
    assert count["calls"] == 3  # the first request was not met again
    one, two = (load_file(there / name / "step-2" / "model.safetensors") for name in ("whole", "torn"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("way", [("--out", "gone"), ("--dry-run",)], ids=" ".join)
def test_a_destroyer_that_a_later_request_does_not_allow_is_found_before_the_first(
    way: tuple[str, ...], there: Path, capsys: Screen
) -> None:
    both = ("--request", "nodes.json", "--set", "d2dgn.destroyer=nonedge-prediction")
    typed = with_net(*both, *way, request="edges.json")
    refused(there, capsys, "nodes.json: d2dgn(destroyer=nonedge-prediction) gives deleted pairs", *typed)


def test_a_model_of_nan_is_named_before_anything_is_trained(there: Path, capsys: Screen) -> None:
    state = load_file(there / "gnn.safetensors")
    name = next(iter(state))
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, there / "gnn.safetensors")
    refused(there, capsys, f"1 of its tensors hold NaN or infinity (first: {name})", *with_net("--out", "gone"))


def test_a_run_is_not_gone_on_with_by_fewer_requests(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *with_net("--request", "edges.json", "--no-attack", "--out", "gone"))
    assert said.code == 0, said
    assert f"{Path('gone', 'step-2', 'model.safetensors')}" in said.out
    typed = ("unlearn", "--out", "gone", "--resume", "--device", "cpu")
    refused(there, capsys, "holds step-2, and this run has 1 request, so", *typed, "--request", "nodes.json")
    again = distil(capsys, *typed)
    assert again.code == 0, again
    assert f"{Path('gone', 'step-2', 'model.safetensors')}" in again.out


def edge(place: int) -> list[int]:
    pairs = pairs_of(load_data("graph.npz").train.batch["edge_index"])
    found: list[int] = pairs[:, place].tolist()
    return found


MISTAKES: list[tuple[str, Any, str]] = [
    ("an unknown node", {"nodes": [61]}, "there is no node 61; nodes are numbered 0 to 59"),
    ("a node that is a word", {"nodes": ["anna"]}, "'anna' is no node"),
    ("a node that is half a number", {"nodes": [1.5]}, "1.5 is no node"),
    ("a node twice", {"nodes": [4, 5, 4]}, "the node 4 is named twice"),
    (
        "an edge twice, the other way round",
        lambda: {"edges": [edge(0), edge(0)[::-1]]},
        "(either direction means both)",
    ),
    ("an edge that is none", {"edges": [[1, 1]]}, "the edge 1-1 is not in the graph 'graph'"),
    ("an edge of three", {"edges": [[1, 2, 3]]}, "[1, 2, 3] is no edge"),
    ("an unknown class", {"class": "purple"}, "there is no class 'purple'"),
    ("no edges", {"edges": []}, "the request is empty"),
    ("no requests", [], "the request is empty"),
    ("another kind", {"node": [1]}, "did you mean 'nodes'"),
    ("two kinds at once", {"nodes": [1], "edges": []}, "a request is one of"),
    ("a list for a class", {"class": ["0"]}, "a class is one name or number"),
    ("nodes that are no list", {"nodes": 3}, "nodes must be a list"),
    ("half of JSON", '{"nodes": [1,', "is not whole JSON"),
    ("numbers", "[1, 2]", "a request is one of"),
    ("a kind twice", '{"nodes": [1], "nodes": [2]}', "has 'nodes' twice in one object"),
    ("every test node", lambda: {"nodes": nodes_of("test")}, "leaves no test node, so nothing could be scored"),
    ("every validation node", lambda: {"nodes": nodes_of("val")}, "leaves no val node"),
    ("every edge", lambda: {"edges": [edge(k) for k in range(count())]}, "all the edges that are left"),
]


def nodes_of(part: str) -> list[int]:
    found: list[int] = getattr(load_data("graph.npz"), part).batch["mask"].nonzero().flatten().tolist()
    return found


def count() -> int:
    return pairs_of(load_data("graph.npz").train.batch["edge_index"]).shape[1]


@pytest.mark.parametrize(("content", "says"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_written(
    content: Any, says: str, there: Path, capsys: Screen
) -> None:
    ask(there, "odd.json", content() if callable(content) else content)
    refused(there, capsys, says, *with_net("--out", "gone", request="odd.json"))


def test_a_request_that_empties_a_class_names_its_last_nodes(there: Path, capsys: Screen) -> None:
    batch = load_data("graph.npz").train.batch
    last = (batch["mask"] & (batch["labels"] == 2)).nonzero().flatten().tolist()
    ask(there, "odd.json", {"nodes": last})
    says = f"leaves the class '2' without a training node (its last are {', '.join(map(str, last[:8]))}"
    refused(there, capsys, says, *with_net(request="odd.json"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b,c\n1,2,3\n", "has the columns ['a', 'b', 'c']"),
        ("colour\nred\n", "has the columns ['colour']"),
        ("node\n", "the request is empty"),
        ("class\n0\n1\n", "names 2 classes; a request deletes one"),
        ("3,7\n1,2\n", "begins with 3-7, which would be taken for names of columns and not be deleted"),
        ("source,target\n1\n", "line 2"),
        ("source,target\n1,nobody\n", "'nobody' is no node"),
    ],
)
def test_a_csv_that_cannot_be_meant(content: str, says: str, there: Path, capsys: Screen) -> None:
    ask(there, "odd.csv", content)
    refused(there, capsys, says, *with_net(request="odd.csv"))


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("--model", "none.safetensors"), "there is no model 'none.safetensors'"),
        (("--request", "none.json"), "there is no request file 'none.json'"),
        (("--request", "models.py"), "is neither .json nor .csv"),
        (("--net", "distil:gcn(hidden=9)"), "do not fit GCN"),
        (("--net", "distil:mlp(hidden=8)"), "do not fit MLP"),
        (("--net", "distil:gnc(hidden=8)"), "or 'gcn'"),
        (("--task", "graphs"), "--task 'graphs' is unknown"),
        (("--task", "links"), "distil:gcn needs classes"),
        (("--method", "d2dg"), "did you mean 'd2dgn'"),
        (("--data", "photos"), "distil unlearn takes a graph"),
        (("--data", "torn.pt"), "cannot be read safely"),
        (("--set", "d2dgn.destroyer=negative"), "did you mean 'negatives'"),
        (("--set", "d2dgn.alpha=2"), "must lie in [0, 1]"),
        (("--set", "d2dgn.temperature=0"), "must be above 0"),
        (("--set", "d2dgn.steps=0"), "at least one step"),
        (("--set", "d2dgn.knowledges=kl"), "did you mean 'knowledge'"),
        (("--set", "training.lr=0"), "a learning rate above 0"),
        (("--set", "d2dgn.destroyer=nonedge-prediction"), "use untrained or negatives"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    typed: tuple[str, ...], says: str, there: Path, capsys: Screen
) -> None:
    refused(there, capsys, says, *with_net("--out", "gone", *typed))


def test_weights_alone_need_the_network_and_a_record_its_model(there: Path, capsys: Screen) -> None:
    refused(there, capsys, "give --net, such as", *words())
    assert distil(capsys, *with_net("--out", "gone", "--no-attack")).code == 0
    step = there / "gone" / "step-1"
    torch.manual_seed(1)
    save_file(load_model(NET, classes=3, input_shape=(5,)).state_dict(), step / "model.safetensors")
    refused(there, capsys, "records another model", *words(model=f"{step}/model.safetensors", request="edges.json"))
    (step / "audit.json").write_text('{"kind": "distil-unlearning", "version": 1, "records": [{}]}')
    refused(there, capsys, "is no whole audit record", *words(model=f"{step}/model.safetensors", request="edges.json"))


def test_a_record_of_other_data_is_refused(there: Path, capsys: Screen) -> None:
    assert distil(capsys, *with_net("--out", "gone", "--no-attack")).code == 0
    with np.load(there / "graph.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(there / "graph.npz", **(arrays | {"x": arrays["x"] + 1}))
    typed = words(model="gone/step-1/model.safetensors", request="edges.json")
    refused(there, capsys, "records deletions from other data", *typed)


def test_a_record_that_was_changed_or_taken_away_is_missed(there: Path, capsys: Screen) -> None:
    first = distil(capsys, *with_net("--request", "edges.json", "--out", "gone", "--no-attack"))
    assert first.code == 0, first
    step = there / "gone" / "step-2"
    ask(there, "third.json", {"nodes": [11]})
    typed = words("--dry-run", model=f"{step}/model.safetensors", request="third.json")
    assert distil(capsys, *typed).code == 0
    whole = (step / "audit.json").read_text()

    def changed(place: int, *path: str, to: Any) -> None:
        content = json.loads(whole)
        inner = content["records"][place]
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to
        (step / "audit.json").write_text(json.dumps(content))

    edges = json.loads(whole)["records"][0]["deleted"]["edges"]
    for place, path, to, says in (
        (0, ("deleted", "edges"), edges[1:], "record 1: without what it says was deleted"),
        (0, ("deleted", "nodes"), [3, 10_000], "record 1: without what it says was deleted"),
        (0, ("model", "after"), "0" * 16, "its records do not follow from one another"),
        (1, ("request",), {"edges": []}, "its records do not follow from one another"),
    ):
        changed(place, *path, to=to)
        refused(there, capsys, says, *typed)
    (step / "audit.json").unlink()
    refused(there, capsys, "is missing, so what they deleted is not known and would come back", *typed)


def test_a_model_of_other_masks_or_another_graph_is_refused(there: Path, capsys: Screen) -> None:
    assert distil(capsys, *with_net("--out", "gone", "--no-attack")).code == 0
    side = there / "gone" / "step-1" / "model.json"
    for file in ("model.safetensors", "model.json"):  # as distil train leaves a student: a sidecar, and no record
        (there / file).write_bytes((side.parent / file).read_bytes())
    content = json.loads(side.read_text()) | {"arm": "kd"}
    (there / "model.json").write_text(json.dumps(content))
    typed = words("--dry-run", model="model.safetensors", request="edges.json")
    assert distil(capsys, *typed).code == 0
    content["data"]["fingerprint"] = "0" * 16
    (there / "model.json").write_text(json.dumps(content))
    refused(there, capsys, "model.safetensors was trained on other data", *typed)
