"""distil unlearn: GNNDelete and what it ships, originals trained here, held-out links, tables of other columns."""

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
from distil.data.fingerprint import fingerprint
from distil.data.links import split_links
from distil.functional import near
from distil.loops.links import LinkTask, link_bundle
from distil.loops.unlearning import Descent, fresh, gone_negatives, trained
from distil.models import load_model
from distil.models.deletion import under_operators
from distil.report import load

from .forgetting import LINKS, NET, QUICK, Screen, ask, audit_of, prepare, refused, with_net, words
from .terminal import distil


@pytest.fixture
def there(here: Path) -> Path:
    """A user's folder with a graph network of their own, its weights alone, and requests."""
    return prepare(here)


def opened(step: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The network under its operators as it was saved, and the plain one with the weights that it carries."""
    state = load_file(step / "model.safetensors")
    plain = load_model(NET, classes=3, input_shape=(5,))
    plain.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    made = under_operators(load_model(NET, classes=3, input_shape=(5,)), state)
    made.load_state_dict(state)
    return made.eval(), plain.eval()


def test_gnndelete_ships_its_operators_with_the_weights_as_they_were(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *with_net("--method", "gnndelete", "--out", "gone", request="edges.json"))
    assert said.code == 0, said
    step = there / "gone" / "step-1"
    made, plain = opened(step)
    weights = load_file(there / "gnn.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    batch = load_data("graph.npz").train.batch
    gone = torch.tensor(audit_of(step)[0]["deleted"]["edges"]).t()
    near_by = [near(batch["edge_index"], gone.unique(), hops=k, num_nodes=60) for k in (1, 2)]
    assert [torch.equal(made.get_buffer(f"mask{k}"), near_by[k]) for k in (0, 1)] == [True, True]
    codes = batch["edge_index"].sort(0).values
    left = batch["edge_index"][:, ~torch.isin(codes[0] * 60 + codes[1], gone[0] * 60 + gone[1])]
    with torch.no_grad():
        ours, theirs = (each(batch["inputs"], left) for each in (made, plain))
    assert not torch.equal(ours, theirs)
    far = ~near(left, near_by[1].nonzero().flatten(), hops=1, num_nodes=60)
    torch.testing.assert_close(ours[far], theirs[far])
    side = json.loads((step / "model.json").read_text())
    assert (side["deployed"], side["plain"], side["model"]) == ("WithDeletion", False, NET)
    report = load(there / "gone")
    assert any("Whoever has the file has the model before" in text for text in report["warnings"])
    before, after = report["arms"]
    assert after["parameters"] == before["parameters"] + 8 * 8 + 3 * 3


def test_a_step_is_exported_and_answers_for_a_graph(there: Path, capsys: Screen) -> None:
    """What unlearn leaves is taken by export: the folder of a step, or its model; of what cannot be it says why."""
    assert distil(capsys, *with_net("--no-attack", "--out", "gone")).code == 0
    refused(there, capsys, "gone holds step-1, models of distil unlearn", "export", "gone", "--out", "e")
    step = Path("gone", "step-1")
    for name, source, form in (("e", step, "all"), ("f", step / "model.safetensors", "safetensors")):
        said = distil(capsys, "export", str(source), "--format", form, "--out", name)
        assert said.code == 0, said
        assert "chosen on validation" not in said.out
    batch = load_data("graph.npz").train.batch
    torch.save({"x": batch["inputs"], "edge_index": batch["edge_index"]}, there / "plain.pt")
    model = load_model(NET, classes=3, input_shape=(5,), weights=step / "model.safetensors").eval()
    with torch.no_grad():
        wanted = model(batch["inputs"], batch["edge_index"]).argmax(1)
    for name in ("e", "f"):
        answers = distil(capsys, "predict", name, "plain.pt", "--json").json["answers"]
        assert [int(each["label"]) for each in answers] == wanted.tolist()
    assert not Path("f", "model.onnx").exists()
    some = {"x": batch["inputs"][:7], "edge_index": batch["edge_index"][:, (batch["edge_index"] < 7).all(0)]}
    torch.save(some, there / "part.pt")
    with torch.no_grad():
        wanted = model(*some.values()).argmax(1)
    answers = distil(capsys, "predict", "e", "part.pt", "--json").json["answers"]
    assert [int(each["label"]) for each in answers] == wanted.tolist()
    refused(there, capsys, "no gnn.json lies beside it", "export", "gnn.safetensors", "--out", "g")
    how = ("--method", "gnndelete", "--no-attack", "--out", "under")
    assert distil(capsys, *with_net(*how, request="edges.json")).code == 0
    under = Path("under", "step-1")
    refused(there, capsys, "under GNNDelete's operators, whose masks", "export", str(under), "--out", "g")
    weights = str(under / "model.safetensors")
    typed = ["train", "--data", "graph.npz", "--teacher", NET, "--teacher-weights", weights, "--device", "cpu"]
    refused(there, capsys, "are under GNNDelete's operators", *typed, "--student", "distil:mlp")
    assert distil(capsys, *train("--request", "nodes.json", "--no-attack", "--out", "links")).code == 0
    refused(there, capsys, "is a model of links: it gives embeddings", "export", "links/step-1", "--out", "g")


def test_gnndelete_meets_a_later_request_as_if_it_were_one_with_the_first(there: Path, capsys: Screen) -> None:
    """Met one after another, in one run or two, both requests leave what one request of all their edges leaves."""
    edges = json.loads((there / "edges.json").read_text())["edges"]
    ask(there, "first.json", {"edges": edges[:2]})
    ask(there, "then.json", {"edges": edges[2:]})
    how = ("--method", "gnndelete", "--no-attack")
    assert distil(capsys, *with_net(*how, "--out", "joint", request="edges.json")).code == 0
    assert distil(capsys, *with_net(*how, "--request", "then.json", "--out", "both", request="first.json")).code == 0
    first = there / "both" / "step-1"
    assert audit_of(first)[-1]["method"] == "gnndelete(steps=20)"
    again = distil(capsys, *words(*how, "--out", "later", model=f"{first}/model.safetensors", request="then.json"))
    assert again.code == 0, again
    states = [load_file(there / name / "model.safetensors") for name in ("joint/step-1", "both/step-2", "later/step-1")]
    assert all(torch.equal(value, other[name]) for other in states[1:] for name, value in states[0].items())
    assert not torch.equal(states[0]["operators.1"], load_file(first / "model.safetensors")["operators.1"])


def test_gnndeletes_pairs_name_no_node_that_was_deleted(
    there: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def noting(*given: Any, **named: Any) -> torch.Tensor:
        seen.append(gone_negatives(*given, **named))
        return seen[-1]

    monkeypatch.setattr("distil.loops.unlearning.gone_negatives", noting)
    for k in (11, 20):
        ask(there, f"{k}.json", {"nodes": [k, k + 1, k + 2, k + 3]})
    how = ("--method", "gnndelete", "--no-attack")
    assert distil(capsys, *with_net("--no-attack", "--out", "gone")).code == 0  # nodes 3 and 7, by d2dgn
    typed = words(
        *how, "--request", "20.json", "--out", "more", model="gone/step-1/model.safetensors", request="11.json"
    )
    assert distil(capsys, *typed).code == 0
    assert len(seen) == 2
    assert not torch.isin(seen[0], torch.tensor([3, 7, 11, 12, 13, 14])).any()
    assert not torch.isin(seen[1], torch.tensor([3, 7, 11, 12, 13, 14, 20, 21, 22, 23])).any()


def test_gnndelete_of_links_starts_from_the_weights_that_another_method_left(there: Path, capsys: Screen) -> None:
    learned = held_out()[1]
    ask(there, "first.json", {"edges": learned[:1]})
    ask(there, "then.json", {"edges": learned[1:]})
    assert distil(capsys, *train("--request", "nodes.json", "--no-attack", "--out", "gone")).code == 0
    how = ("--method", "gnndelete", "--no-attack", "--request", "then.json")
    typed = words(*how, "--out", "more", model="gone/step-1/model.safetensors", request="first.json")
    said = distil(capsys, *typed)
    assert said.code == 0, said
    weights, state = (load_file(there / step / "model.safetensors") for step in ("gone/step-1", "more/step-2"))
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in weights.items())
    side = json.loads((there / "more" / "step-2" / "model.json").read_text())
    assert (side["kind"], side["deployed"], side["split_seed"]) == ("distil-link-model", "WithDeletion", 0)
    # What the d2dgn run left of the training links is the graph that the operators know.
    gone = {tuple(pair) for pair in audit_of(there / "gone" / "step-1")[0]["deleted"]["edges"]}
    links = split_links(load_data("graph.npz").train.batch["edge_index"], 60, 0)
    left = torch.tensor([pair for pair in links.train.t().tolist() if tuple(pair) not in gone]).t()
    ends = torch.tensor(learned).unique()
    for hops in (1, 2):
        assert torch.equal(state[f"mask{hops - 1}"], near(left, ends, hops=hops, num_nodes=60))
    ask(there, "last.json", {"nodes": [11]})
    last = distil(
        capsys, *words("--no-attack", "--dry-run", model="more/step-2/model.safetensors", request="last.json")
    )
    assert last.code == 0, last


def test_over_operators_a_plain_network_can_be_made_but_not_trained_on(there: Path, capsys: Screen) -> None:
    how = ("--method", "gnndelete", "--no-attack", "--out", "gone")
    assert distil(capsys, *with_net(*how, request="edges.json")).code == 0
    typed = words("--no-attack", "--out", "more", model="gone/step-1/model.safetensors")
    for more in (("--method", "gradient-ascent"), ("--set", "d2dgn.init=original"), ("--set", "d2dgn.knowledge=both")):
        refused(there, capsys, "is a network under GNNDelete's operators", *typed, *more)
    said = distil(capsys, *typed)
    assert said.code == 0, said
    assert not any("operators" in name for name in load_file(there / "more" / "step-1" / "model.safetensors"))
    audit = there / "gone" / "step-1" / "audit.json"
    whole = audit.read_text()
    audit.write_text(whole.replace('"gnndelete(steps=20)"', '"d2dgn"'))
    refused(there, capsys, "do not agree on whether GNNDelete was used last", *typed, "--overwrite")
    audit.unlink()
    refused(there, capsys, "is missing, so what they deleted is not known", *typed, "--overwrite")
    refused(there, capsys, "is missing, so what they deleted is not known", *typed, "--overwrite", "--net", NET)
    audit.write_text(whole)
    state = load_file(there / "gone" / "step-1" / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "mask1"}, there / "gone" / "step-1" / "model.safetensors")
    refused(there, capsys, "operator 1 of 2 has no mask of nodes", *typed, "--overwrite")


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        (lambda: {"nodes": [lonely()]}, (), "works on deleted edges, and this request deletes none"),
        ({"nodes": [3]}, ("--set", "gnndelete.steps=0"), "at least one step"),
        ({"nodes": [3]}, ("--set", "gnndelete.alpha=1.5"), "gnndelete(alpha=1.5) is the share of the deleted pairs"),
        ({"nodes": [3]}, ("--set", "gnndelete.weight_decay=0"), "The setting 'gnndelete.weight_decay' does not exist"),
    ],
)
def test_what_gnndelete_cannot_do(content: Any, more: tuple[str, ...], says: str, there: Path, capsys: Screen) -> None:
    with np.load(there / "graph.npz") as file:
        arrays = {name: file[name] for name in file.files}
    alone = (arrays["edge_index"] != lonely()).all(0)
    np.savez(there / "graph.npz", **(arrays | {"edge_index": arrays["edge_index"][:, alone]}))
    ask(there, "odd.json", content() if callable(content) else content)
    refused(there, capsys, says, *with_net("--method", "gnndelete", *more, request="odd.json"))


def lonely() -> int:
    return 7


def test_gnndelete_needs_layers_that_pass_messages(there: Path, capsys: Screen) -> None:
    one = "distil:gcn(hidden=8, layers=1)"
    save_file(load_model(one, classes=3, input_shape=(5,)).state_dict(), there / "one.safetensors")
    typed = words("--net", one, "--method", "gnndelete", model="one.safetensors", request="edges.json")
    refused(there, capsys, "has 1 layers that pass messages", *typed)


def held_out(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Edges of the graph that are held out from a model of links, and edges that train it."""
    links = split_links(load_data("graph.npz").train.batch["edge_index"], 60, seed)
    return torch.cat([links.val[:, :1], links.test[:, :1]], 1).t().tolist(), links.train[:, :2].t().tolist()


def train(*more: str, task: str = "links", net: str = LINKS) -> list[str]:
    return ["unlearn", "--train-original", "--task", task, "--net", net, "--data", "graph.npz", *QUICK, *more]


def test_an_original_is_trained_without_its_held_out_links_and_found_again(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *train("--split-seed", "3", "--out", "first"))
    assert said.code == 0, said
    assert str(there / "first" / "original" / "model.safetensors") in said.out
    bundle, links = link_bundle(load_data("graph.npz", seed=3), 3)
    expected = trained(
        fresh(lambda: load_model(LINKS, input_shape=(5,)), seed=0),
        LinkTask(),
        dict(bundle.train.batch),
        Descent(steps=20),
        seed=0,
    ).module
    state = load_file(there / "first" / "original" / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())
    side = json.loads((there / "first" / "original" / "model.json").read_text())
    assert (side["split_seed"], side["arm"]) == (3, "original")
    (arm,) = load(there / "first")["arms"]
    assert arm["metrics"]["auc"]["last"] == [LinkTask().evaluate(expected, bundle.test)["auc"]]
    # A later request needs no more than the model: network, task and split are beside it.
    ask(there, "later.json", {"edges": links.train[:, :2].t().tolist()})
    typed = words("--no-attack", model="first/original/model.safetensors", request="later.json")
    refused(there, capsys, "held out by seed 3, so by --split-seed 4", *typed, "--split-seed", "4")
    more = distil(capsys, *typed, "--out", "later")
    assert more.code == 0, more
    assert "by seed 3; as the model was trained" in load(there / "later")["setting"]["Held-out links"]
    assert json.loads((there / "later" / "step-1" / "model.json").read_text())["arm"] == "unlearned"
    with np.load(there / "graph.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(there / "graph.npz", **(arrays | {"x": arrays["x"] + 1}))
    refused(there, capsys, "was trained on other data", *typed, "--out", "odd")


@pytest.mark.parametrize("task", ["nodes", "links"])
def test_an_original_is_trained_and_forgets_in_one_run(task: str, there: Path, capsys: Screen) -> None:
    net = NET if task == "nodes" else LINKS
    said = distil(capsys, *train("--request", "nodes.json", "--no-attack", "--out", "gone", task=task, net=net))
    assert said.code == 0, said
    (record,) = audit_of(there / "gone" / "step-1")
    module = load_model(net, classes=3 if task == "nodes" else None, input_shape=(5,))
    module.load_state_dict(load_file(there / "gone" / "original" / "model.safetensors"))
    assert record["model"]["before"] == fingerprint(module)
    assert "trained here: 20 full-batch steps" in load(there / "gone")["setting"]["Original"]
    more = words("--dry-run", model="gone/original/model.safetensors", request="edges.json")
    assert distil(capsys, *more).code == 0


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("--model", "gnn.safetensors"), "--train-original makes the model, and --model names one"),
        (("--net", "distil:gcn(hidden=8)"), "distil:gcn needs classes"),
        (("--net", "distil:mlp(hidden=8, classes=4)"), "cannot take the graph"),
        (("--task", "link"), "--task 'link' is unknown"),
        (("--set", "training.steps=0"), "at least one step"),
        (("--data", "graph.pt"), "there is no"),
    ],
)
def test_an_original_that_cannot_be_trained(typed: tuple[str, ...], says: str, there: Path, capsys: Screen) -> None:
    refused(there, capsys, says, *train("--out", "gone", *typed))


def test_an_original_needs_a_network(there: Path, capsys: Screen) -> None:
    refused(there, capsys, "--train-original needs --net", "unlearn", "--train-original", "--data", "graph.npz")


def test_held_out_edges_go_with_the_others_and_are_counted(there: Path, capsys: Screen) -> None:
    held, learned = held_out()
    ask(there, "mixed.json", {"edges": [*held, *learned]})
    ask(there, "held.json", {"edges": held})
    dry = distil(capsys, *train("--request", "mixed.json", "--dry-run"))
    assert "0 nodes and 4 edges go; 2 of the edges are held out and were never learned." in dry.out
    said = distil(capsys, *train("--request", "mixed.json", "--no-attack", "--out", "gone"))
    assert said.code == 0, said
    (record,) = audit_of(there / "gone" / "step-1")
    assert record["held_out"] == 2
    assert sorted(record["deleted"]["edges"]) == sorted([*held, *learned])
    report = load(there / "gone")
    assert any("2 of its edges were held out: the model never learned them" in text for text in report["warnings"])
    assert report["tables"][0]["rows"][0][1] == "4 edges (2 held out)"
    step = f"{there}/gone/step-1/model.safetensors"
    refused(there, capsys, "are already deleted by an earlier request", *words(model=step, request="held.json"))
    typed = words(model="gone/original/model.safetensors", request="held.json")
    refused(there, capsys, "Every edge of the request (2) is held out", *typed)


def renamed(there: Path) -> None:
    """Tables whose label has an unusual name, beside a column that is no feature."""
    path = there / "graph" / "nodes.csv"
    rows = list(csv.reader(path.open(newline="")))
    rows[0][rows[0].index("label")] = "venue"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "title"], *([*row, "a paper"] for row in rows[1:])])


COLUMNS = ("--set", "columns.label=venue", "--set", "columns.ignore=[title]")


def test_tables_with_columns_of_other_names_and_classes_in_the_models_order(there: Path, capsys: Screen) -> None:
    renamed(there)
    ask(there, "class.csv", "class\nclass 1\n")
    order = ("--set", "classes=[class 2, class 1, class 0]")
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
    said = distil(capsys, *chosen, *COLUMNS, *order, "--no-attack", "--out", "gone")
    assert said.code == 0, said
    assert json.loads((there / "gone" / "step-1" / "model.json").read_text())["classes"] == [
        f"class {k}" for k in (2, 1, 0)
    ]
    (record,) = audit_of(there / "gone" / "step-1")
    with (there / "graph" / "nodes.csv").open(newline="") as file:
        members = {k for k, row in enumerate(csv.DictReader(file)) if row["venue"] == "class 1"}
    assert set(record["deleted"]["nodes"]) == members


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "needs a header with id and label"),
        (("--set", "columns.label=venues"), "did you mean 'venue'"),
        (COLUMNS[:2], "--set columns.ignore=[title]"),
        ((*COLUMNS, "--set", "classes=[class 0, class 1]"), "which the setting 'classes' does not name"),
        ((*COLUMNS, "--set", "columns.text=title"), "means nothing for 'graph'"),
        (("--data", "graph.npz", *COLUMNS[:2]), "is no table of nodes"),
    ],
)
def test_columns_that_cannot_be_meant(more: tuple[str, ...], says: str, there: Path, capsys: Screen) -> None:
    renamed(there)
    refused(there, capsys, says, *with_net("--data", "graph", *more))


def test_a_model_whose_units_died_is_named(there: Path, capsys: Screen) -> None:
    dead = {name: torch.full_like(value, -1.0 if "bias" in name else 0.0) for name, value in
            load_file(there / "gnn.safetensors").items()}  # fmt: skip
    save_file(dead, there / "gnn.safetensors")
    said = distil(capsys, *with_net("--out", "gone", "--retrain", "--set", "d2dgn.init=original", "--json"))
    assert said.code == 0, said
    silent = [text for text in said.json["warnings"] if "same answer whatever it is asked" in text]
    assert [text.partition(" gives")[0] for text in silent] == [
        "Request 1: the model before", "Request 1: the model that forgot"
    ]  # fmt: skip
