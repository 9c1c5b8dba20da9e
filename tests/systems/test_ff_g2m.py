"""FF-G2M through its methods: the authors' totals, what the student may see, and graphs with odd corners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distil.data import FullBatch, read_graph
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.engine.method import Sum
from distil.errors import DistilError
from distil.methods import GLNN, Supervised
from distil.systems.ff_g2m import HighFrequency, LowFrequency, published
from distil.tasks import get_task

from .toys import CLASSES, Fixed, gcn, graph, graph_distiller, mlp, samples, train

GOLDEN = np.load(Path(os.environ.get("DISTIL_GOLDEN") or Path(__file__).parents[1] / "golden" / "data") / "ff-g2m.npz")
NAMES = sorted({key.partition("/")[0] for key in GOLDEN.files})


def arms(lam: float, tau: float) -> dict[str, Sum]:
    return {
        "ff_g2m": published(lam=lam, tau=tau),
        "lfd": published(lam=lam, tau=tau, high=False),
        "hfd": published(lam=lam, tau=tau, low=False),
        "ce_only": published(lam=lam, tau=tau, low=False, high=False),
        "glnn": lam * Supervised() + (1 - lam) * GLNN(),
    }


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("arm", ["ff_g2m", "lfd", "hfd", "ce_only", "glnn"])
def test_totals_and_gradients_are_the_authors(case: str, arm: str) -> None:
    def held(key: str) -> Any:
        return GOLDEN[f"{case}/{key}"]

    z, h = (torch.from_numpy(held(f"inp/z_{who}")) for who in ("student", "teacher"))
    mask = torch.zeros(len(z), dtype=torch.bool)
    mask[torch.from_numpy(held("inp/idx_train"))] = True
    batch = {
        "inputs": torch.zeros(len(z), 1),
        "edge_index": torch.from_numpy(held("inp/edge_index_no_loops")),
        "labels": torch.from_numpy(held("inp/labels")),
        "mask": mask,
        "id": torch.arange(len(z)),
    }
    method = arms(float(held("hp/lamb")), float(held("hp/tau")))[arm]
    student = Fixed(z)
    made = Distiller(student, Fixed(h), method, task="node-classification", example=batch).prepare(batch)
    step = made(batch)
    step.loss.backward()
    exact = z.dtype == torch.float64
    rtol, atol = (1e-10, 1e-12) if exact else (1e-5, 1e-7)
    pairs = ((step.loss.detach(), f"out/total_{arm}"), (student.logits.grad, f"grad/z_student_{arm}"))
    for seen, key in pairs:
        torch.testing.assert_close(seen, torch.as_tensor(held(key)), rtol=rtol, atol=atol)


def loss(batch: dict[str, Tensor], method: Sum | None = None) -> Tensor:
    options: dict[str, Any] = {"task": "node-classification", "example": batch, "epochs": 1}
    made = Distiller(mlp(8), gcn(), published() if method is None else method, **options)
    result: Tensor = made.prepare(batch).eval()(batch).loss
    return result.detach()


def test_renaming_the_nodes_changes_nothing() -> None:
    batch = graph()
    order = torch.randperm(len(batch["id"]), generator=torch.Generator().manual_seed(9))
    place = order.argsort()
    renamed = {key: value[order] for key, value in batch.items() if key not in ("edge_index", "id")}
    renamed |= {"edge_index": place[batch["edge_index"]], "id": torch.arange(len(order))}
    torch.testing.assert_close(loss(renamed), loss(batch))


def test_swapping_the_direction_of_every_edge_changes_nothing() -> None:
    batch = graph()
    torch.testing.assert_close(loss({**batch, "edge_index": batch["edge_index"].flip(0)}), loss(batch))


def test_an_isolated_node_counts_through_its_self_loop_alone() -> None:
    batch = graph()
    alone = int(batch["inputs"].shape[0]) - 1
    assert not (batch["edge_index"] == alone).any()
    made = graph_distiller(1.0 * LowFrequency() + HighFrequency())
    made(batch).loss.backward()
    nodes = len(batch["id"])
    low, high = (c.method.counts(batch) for c in made.method)
    assert low["lfd"] == batch["edge_index"].shape[1] + nodes
    assert high["hfd"] == batch["edge_index"].shape[1]
    lone = {key: value[alone:] for key, value in batch.items() if key != "edge_index"}
    lone |= {"edge_index": torch.zeros(2, 0, dtype=torch.long), "id": torch.zeros(1, dtype=torch.long)}
    torch.testing.assert_close(loss(lone, 1.0 * LowFrequency()), loss(lone, 1.0 * GLNN()))


def test_a_duplicate_edge_counts_twice_in_a_batch_and_is_removed_from_a_file(tmp_path: Path) -> None:
    batch = graph()
    doubled = {**batch, "edge_index": torch.cat([batch["edge_index"], batch["edge_index"][:, :1]], 1)}
    assert HighFrequency().counts(doubled)["hfd"] == HighFrequency().counts(batch)["hfd"] + 1
    np.savez(tmp_path / "g.npz", x=batch["inputs"], edge_index=doubled["edge_index"], y=batch["labels"])
    assert read_graph(tmp_path / "g.npz").edge_index.shape == batch["edge_index"].shape


@pytest.mark.parametrize("chunk", [1, 3, 10**6])
def test_edges_in_chunks_give_the_same_loss_and_gradient(chunk: int) -> None:
    batch, seen = graph(), []
    batch["edge_index"] = torch.cat([batch["edge_index"], batch["edge_index"][:, :1]], 1)  # a duplicate counts twice
    for parts in (None, chunk):
        options: dict[str, Any] = {"task": "node-classification", "example": batch, "epochs": 1}
        made = Distiller(mlp(8), gcn(), published(chunk=parts), **options).prepare(batch).eval()
        step = made(batch)
        step.loss.backward()
        grads = [p.grad for p in made.student.parameters() if p.grad is not None]
        seen.append([step.loss.detach(), *grads])
        assert len(grads)
    for whole, cut in zip(*seen, strict=True):
        torch.testing.assert_close(cut, whole)
    with pytest.raises(DistilError, match="chunk=0"):
        HighFrequency(chunk=0)


def test_a_graph_without_edges_trains_and_its_high_frequency_is_zero() -> None:
    bare = {**graph(), "edge_index": torch.zeros(2, 0, dtype=torch.long)}
    options: dict[str, Any] = {"task": "node-classification", "example": bare, "epochs": 1}
    made = Distiller(mlp(8), gcn(), published(), **options).prepare(bare)
    step = made(bare)
    step.loss.backward()
    assert step.terms["highfrequency"] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.student.parameters())


def test_the_student_touches_no_edge_at_inference() -> None:
    made = graph_distiller(published())
    train(made, graph())
    shipped, task = made.deployed(), get_task("node-classification")
    assert shipped is made.student
    bare = {key: value for key, value in graph().items() if key != "edge_index"}
    seen, blind = (task.predict(shipped, [batch])["logits"] for batch in (graph(), bare))
    assert torch.equal(seen, blind)
    with pytest.raises(DistilError, match="needs the edges"):
        task.predict(gcn(), [bare], role="teacher")


def test_the_teacher_is_run_once_and_never_in_a_step() -> None:
    made = graph_distiller(published())
    (teacher,) = made.teachers.values()
    calls: list[int] = []
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    train(made, graph())
    assert calls == []
    assert all(p.grad is None for p in teacher.parameters())


def test_labels_without_a_training_node_are_refused(tmp_path: Path) -> None:
    batch = graph()
    np.savez(
        tmp_path / "g.npz",
        x=batch["inputs"],
        edge_index=batch["edge_index"],
        y=batch["labels"],
        train_mask=torch.zeros(14, dtype=torch.bool),
        val_mask=batch["mask"],
        test_mask=~batch["mask"],
    )
    with pytest.raises(DistilError, match="the train mask holds no labelled node"):
        read_graph(tmp_path / "g.npz")


def test_lam_zero_reads_no_label_and_lam_one_no_teacher() -> None:
    assert published(lam=0.0).expression == "lowfrequency + highfrequency(temperature=1.5)"
    assert published(lam=1.0).expression == "supervised"
    changed = {**graph(), "labels": (graph()["labels"] + 1) % CLASSES}
    assert torch.equal(loss(graph(), published(lam=0.0)), loss(changed, published(lam=0.0)))
    assert not torch.equal(loss(graph()), loss(changed))


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(lam: float) -> None:
    with pytest.raises(DistilError, match=r"must lie in \[0, 1\]"):
        published(lam=lam)


def test_images_have_no_edges_and_this_is_said() -> None:
    with pytest.raises(DistilError, match="no 'edge_index'"):
        Distiller(mlp(4), mlp(8, 1), published(), example=samples(), epochs=1).prepare([samples()])(samples())


def test_nodes_that_prepare_never_saw_are_named() -> None:
    made = graph_distiller(published())
    larger = {**graph(), "id": graph()["id"] + 100}
    with pytest.raises(DistilError, match="Node id 113 was not in the data given to prepare"):
        made(larger)


def test_full_batch_steps_go_with_patience_and_resume(tmp_path: Path) -> None:
    def run(stop_at: int | None = None, **more: Any) -> tuple[Any, Tensor]:
        options: dict[str, Any] = {"task": "node-classification", "example": graph(), "epochs": 6}
        made = Distiller(mlp(8), gcn(), published(), **options)
        data = FullBatch(graph())

        def stop(step: int, steps: int) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        settings = {"epochs": 6, "lr": 0.01, "check_teacher": False, "device": "cpu", "progress": stop, **more}
        result = fit(made, data, data, **settings)
        return result, torch.cat([each.detach().flatten() for each in made.student.parameters()])

    still, _ = run(lr=1e-12, patience=2)  # nothing moves, so no evaluation is better than the first
    assert still.cost["updates"] == 3
    whole, weights = run(patience=6)
    assert whole.cost["updates"] == 6
    with pytest.raises(KeyboardInterrupt):
        run(3, patience=6, out=tmp_path, save_every=1)
    steps: list[int] = []
    resumed, after = run(
        patience=6, out=tmp_path, save_every=1, resume=True, progress=lambda step, _: steps.append(step)
    )
    assert min(steps) >= 3
    assert torch.equal(after, weights)
    scores = [[each["val"] for each in result.history if "val" in each] for result in (resumed, whole)]
    assert scores[0] == scores[1] != []
