"""What recipes on graphs share, and a whole run of FF-G2M against the authors' loop written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from distil.data import LabelsThenTeacher, hide_nodes
from distil.data.bundle import Bundle
from distil.data.graphs import GraphData, make_graph
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.loops.nodes import (
    NodeAnswers,
    NodeTraining,
    featured,
    frequency_diagnostics,
    noisy,
    rows_of,
    without_edges,
)
from distil.methods import GLNN, Supervised
from distil.models import GCN, MLP
from distil.systems.ff_g2m import published
from distil.tasks import NodeTask

NODES, FEATURES, CLASSES = 48, 6, 3


def graph() -> GraphData:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(NODES) % CLASSES
    x = torch.rand(NODES, FEATURES, generator=draw) + F.one_hot(y, FEATURES) * 0.3
    edges = torch.randint(NODES, (2, 120), generator=draw)
    masks = {name: torch.arange(NODES) // 3 % 3 == k for k, name in enumerate(("train", "val", "test"))}
    return make_graph("toy", x, edges, y, masks=masks)


def models(dropout: float = 0.0) -> tuple[GCN, MLP]:
    torch.manual_seed(0)
    return GCN(FEATURES, 8, CLASSES).eval(), MLP(FEATURES, 8, CLASSES, layers=3, dropout=dropout)


def distiller(bundle: Bundle, method: Any) -> Distiller:
    teacher, student = models()
    known, example = NodeAnswers(teacher, bundle), bundle.train.batch
    return Distiller(student, known, method, task="node-classification", example=example, epochs=60)


def test_answers_are_those_of_the_graph_that_a_node_was_learned_on() -> None:
    teacher, _ = models()
    hidden = hide_nodes(graph(), share=0.5)
    known = NodeAnswers(teacher, hidden.bundle())
    with torch.no_grad():
        whole = teacher(hidden.whole.x, hidden.whole.edge_index)
        observed = teacher(hidden.observed.x, hidden.observed.edge_index)
    torch.testing.assert_close(known({"id": hidden.nodes}), observed)
    unseen = hidden.whole.test.nonzero().flatten()
    torch.testing.assert_close(known({"id": unseen}), whole[unseen])
    assert not torch.allclose(observed, whole[hidden.nodes])  # hiding edges changes what neighbours say
    with pytest.raises(DistilError, match="kept by node"):
        known({"inputs": hidden.whole.x})


def test_rows_score_as_the_masked_graph_does() -> None:
    _, student = models()
    bundle = graph().bundle()
    plain = without_edges(bundle)
    assert NodeTask().evaluate(student, bundle.val) == pytest.approx(NodeTask().evaluate(student, plain.val))
    assert plain.train is bundle.train
    assert plain.test is bundle.test
    assert set(rows_of(bundle.train).batch) == {"inputs", "labels", "id"}


@pytest.mark.parametrize("ties", ["last", "first"])
def test_a_run_is_the_authors_loop(ties: str) -> None:
    lam, tau, epochs, patience = 0.4, 1.5, 60, 15
    bundle = graph().bundle()
    made = distiller(bundle, published(lam=lam, tau=tau))
    (teacher,) = made.teachers.values()
    training = NodeTraining(
        epochs=epochs, lr=0.01, weight_decay=5e-4, schedule="constant", patience=patience, ties=ties
    )
    plain = without_edges(bundle)
    result = fit(made, plain.train, plain.val, test=plain.test, check_teacher=False, **training.options())

    _, mlp = models()
    batch = bundle.train.batch
    x, y = batch["inputs"], batch["labels"]
    loops = torch.cat([batch["edge_index"], torch.arange(NODES).expand(2, -1)], 1)
    (a, b), (i, j) = loops, batch["edge_index"]
    known = teacher(batch)
    target = (known[i] - known[j]).abs().div(tau).log_softmax(1)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=0.01, weight_decay=5e-4)
    best, stale, scored, at = -1.0, 0, 0.0, 0
    for epoch in range(1, epochs + 1):
        z = mlp.train()(x)
        out = z.log_softmax(1)
        kl: dict[str, Any] = {"reduction": "batchmean", "log_target": True}
        low = F.kl_div(out[a], known.log_softmax(1)[b], **kl)
        high = F.kl_div((z[i] - z[j]).abs().div(tau).log_softmax(1), target, **kl)
        loss = lam * F.nll_loss(out[batch["mask"]], y[batch["mask"]]) + (1 - lam) * (low + high)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            right = mlp.eval()(x).argmax(1) == y
        val = float(right[bundle.val.batch["mask"]].float().mean())
        if val > best or (val == best and ties == "last"):
            best, stale, at, scored = val, 0, epoch, float(right[bundle.test.batch["mask"]].float().mean())
            state = {name: value.clone() for name, value in mlp.state_dict().items()}
        else:
            stale += 1
        if stale == patience:
            break
    assert result.best["epoch"] == at
    assert result.history[-1]["epoch"] == epoch
    assert result.test["best"]["accuracy"] == pytest.approx(100 * scored, abs=1e-3)
    for name, value in result.model.state_dict().items():  # the best weights are the ones that ship
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-4)


def test_features_are_changed_for_each_graph_once_and_the_data_are_other_data() -> None:
    hidden = hide_nodes(graph(), share=0.5).bundle()
    made = featured(hidden, lambda x, edges: x * edges.shape[1])
    count = hidden.train.batch["edge_index"].shape[1]
    torch.testing.assert_close(made.val.batch["inputs"], hidden.val.batch["inputs"] * count)
    assert made.train.batch["inputs"] is made.val.batch["inputs"]
    assert made.fingerprint != hidden.fingerprint
    noised = noisy(graph().bundle(), 0.5)
    assert torch.equal(noised.train.batch["inputs"], noised.test.batch["inputs"])
    assert torch.equal(noised.train.batch["inputs"], noisy(graph().bundle(), 0.5).train.batch["inputs"])
    assert "0.5 of every feature is noise" in noised.notes[-1]


def test_diagnostics_say_how_far_the_two_agree_and_leave_the_run_alone() -> None:
    bundle = graph().bundle()
    made = distiller(bundle, published()).prepare(bundle.train).train()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    found = frequency_diagnostics(bundle)(made)
    shares = [value for name, value in found.items() if name.startswith("share of ")]
    assert sum(shares) == pytest.approx(100, abs=1e-3)
    assert len(shares) == 3
    assert -1 <= found["cosine"] <= 1
    assert found["distances"] > 0
    assert made.training
    assert all(p.grad is None for p in made.student.parameters())
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    alone = frequency_diagnostics(bundle)(distiller(bundle, 1.0 * Supervised()))
    assert set(alone) == {"cosine", "distances"}
    turns = distiller(bundle, 0.5 * Supervised() + 0.5 * GLNN())
    fit(turns, LabelsThenTeacher(bundle.train.batch, size=NODES - 1), epochs=1, check_teacher=False)
    found = frequency_diagnostics(bundle)(turns)  # one node was in no batch
    assert found["share of supervised"] + found["share of glnn"] == pytest.approx(100, abs=1e-3)


def test_settings_keep_their_optimizer_and_measure_no_shares() -> None:
    plain = NodeTraining(optimizer="sgd", lr=0.1).options()
    assert (plain["optimizer"], plain["lr"], plain["diagnose"]) == ("sgd", 0.1, False)
    factory = NodeTraining().options()["optimizer"]
    assert factory([torch.nn.Parameter(torch.zeros(1))]).defaults["fused"] is True
    assert replace(NodeTraining(), epochs=3).epochs == 3
