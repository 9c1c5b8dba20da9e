"""GLNN: what it asks of a batch, and training in two turns as its code does, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from distil.data import Bundle, FullBatch, LabelsThenTeacher
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.loops.nodes import NodeAnswers
from distil.methods import GLNN, Supervised
from distil.models import GCN, MLP
from distil.systems.ff_g2m import HighFrequency, LowFrequency

NODES, CLASSES = 30, 3
GRAPH: dict[str, torch.Tensor] = {
    "inputs": torch.randn(NODES, 5, generator=torch.Generator().manual_seed(0)),
    "edge_index": torch.stack([torch.arange(NODES), (torch.arange(NODES) + 1) % NODES]),
    "labels": torch.arange(NODES) % CLASSES,
    "mask": torch.arange(NODES) < 9,
    "id": torch.arange(NODES),
}
GRAPH["edge_index"] = torch.cat([GRAPH["edge_index"], GRAPH["edge_index"].flip(0)], 1)
WHOLE = FullBatch(GRAPH)
BUNDLE = Bundle("ring", "node-classification", WHOLE, WHOLE, WHOLE, ("a", "b", "c"), (5,), "ring")


def models() -> tuple[MLP, GCN]:
    torch.manual_seed(0)
    return MLP(5, 8, CLASSES), GCN(5, 8, CLASSES).eval()


def answers(teacher: GCN) -> NodeAnswers:
    return NodeAnswers(teacher, BUNDLE)


@pytest.mark.parametrize("method", [GLNN, LowFrequency, HighFrequency])
def test_batches_without_ids_are_refused_in_a_sentence(method: Any) -> None:
    student, teacher = models()
    bare = {name: value for name, value in GRAPH.items() if name != "id"}
    made = Distiller(student, teacher, 1.0 * method(), task="node-classification", example=bare)
    with pytest.raises(DistilError, match=f"{method.__name__.lower()} remembers every sample by its id"):
        made.prepare([bare])


def test_labels_alone_ask_no_teacher() -> None:
    assert (1.0 * Supervised() + 0.0 * GLNN()).expression == "supervised"
    student, teacher = models()
    options: dict[str, Any] = {"task": "node-classification", "example": GRAPH}
    said = [
        Distiller(student, one, 1.0 * Supervised() + 0.0 * GLNN(), **options).prepare([GRAPH]).eval()(GRAPH).loss
        for one in (teacher, GCN(5, 4, CLASSES).eval())
    ]
    assert torch.equal(*said)


def test_the_turns_of_an_epoch() -> None:
    turns = LabelsThenTeacher(GRAPH, size=8, seed=1)
    turns.set_epoch(4)
    first, again = list(turns), list(turns)
    assert len(first) == len(turns) == 4  # 9 labelled nodes give one batch of 8, 30 nodes give three
    assert [len(b["id"]) for b in first] == [8] * 4
    assert [bool(b["taught"].all()) for b in first] == [False, True, True, True]
    assert not first[0]["taught"].any()
    assert torch.equal(first[0]["labels"], GRAPH["labels"][first[0]["id"]])
    assert set(first[0]["id"].tolist()) <= set(range(9))
    assert all((b["labels"] == -100).all() for b in first[1:])
    assert len({int(i) for b in first[1:] for i in b["id"]}) == 24
    assert all(torch.equal(a["id"], b["id"]) for a, b in zip(first, again))
    turns.set_epoch(5)
    assert any(not torch.equal(a["id"], b["id"]) for a, b in zip(first, turns))
    few = LabelsThenTeacher(GRAPH, size=64, seed=1)
    assert [len(b["id"]) for b in few] == [9, 30]
    assert turns.labels.tolist() == GRAPH["labels"][:9].tolist()


def test_impossible_turns_are_refused() -> None:
    with pytest.raises(DistilError, match="size=0 must be at least 1"):
        LabelsThenTeacher(GRAPH, size=0)
    with pytest.raises(DistilError, match="no node in the mask has a label"):
        LabelsThenTeacher(GRAPH | {"mask": torch.zeros(NODES, dtype=torch.bool)})


def test_training_in_turns_is_the_authors_loop() -> None:
    lam, epochs = 0.3, 3
    student, teacher = models()
    by_hand, _ = models()
    method = lam * Supervised() + (1 - lam) * GLNN()
    turns = LabelsThenTeacher(GRAPH, size=8, seed=1)
    made = Distiller(student, answers(teacher), method, task="node-classification", example=GRAPH, epochs=epochs)
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 5e-4, "optimizer": "adam", "schedule": "constant"}
    fit(made, turns, epochs=epochs, check_teacher=False, **options)
    with torch.no_grad():
        known = teacher(GRAPH["inputs"], GRAPH["edge_index"]).log_softmax(1)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01, weight_decay=5e-4)
    for epoch in range(epochs):
        turns.set_epoch(epoch)
        for k, batch in enumerate(turns):
            out = by_hand(batch["inputs"]).log_softmax(1)
            if k == 0:
                loss = lam * F.nll_loss(out, batch["labels"])
            else:
                loss = (1 - lam) * F.kl_div(out, known[batch["id"]], reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for left, right in zip(student.parameters(), by_hand.parameters()):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    start, _ = models()
    assert not torch.allclose(start.layers[0].weight, student.layers[0].weight, atol=1e-3)
