"""Many processes at one folder: disjoint shares, readers meanwhile, a writer killed in the middle."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK, dataset, live, teacher
from distil.cache import TeacherCache
from distil.data import DictDataset, FullBatch, Viewed, Views
from distil.errors import DistilError
from distil.tasks import NodeTask

COUNT, SMALL = 240, 600


class Slow(nn.Sequential):
    """Takes its time over every batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(0.05)
        return super().forward(inputs)


def slow() -> nn.Module:
    return Slow(*teacher())


def write(out: Path, rank: int, world: int, who: nn.Module | None = None, views: int = 0) -> TeacherCache:
    data = Viewed(dataset(COUNT), Views(views, ("flip",))) if views else dataset(COUNT)
    options = {"batch_size": 10, "shard_bytes": SMALL, "rank": rank, "world": world}
    return TeacherCache.write(who or slow(), data, TASK, out, **options)  # type: ignore[arg-type]


def begun(out: Path, rank: int, world: int, views: int = 0) -> mp.process.BaseProcess:
    torch.set_num_threads(1)
    process = mp.get_context("fork").Process(target=write, args=(out, rank, world, None, views))
    process.start()
    return process


def whole(out: Path, views: int = 0) -> None:
    cache = TeacherCache.open(out)
    ids = dataset(COUNT).ids
    want = live(teacher(), dataset(COUNT))
    if not views:
        torch.testing.assert_close(cache.read(ids)["values"], want, rtol=1e-2, atol=2e-3)
    assert cache.has(ids, views=bool(views)).all()
    rows = sum(shard.count for shard in cache.shards)
    assert rows == COUNT * max(1, views)  # nobody did another's work


@pytest.mark.parametrize("views", [0, 2])
def test_two_processes_fill_one_cache_while_it_is_read(tmp_path: Path, views: int) -> None:
    writers = [begun(tmp_path, rank, 2, views) for rank in (0, 1)]
    seen = []
    while any(writer.is_alive() for writer in writers):
        try:
            cache = TeacherCache.open(tmp_path)
        except DistilError as error:
            assert "there is no teacher cache" in str(error)  # noqa: PT017
            continue
        for shard in cache.shards:
            shard.verify()
        seen.append(len(cache))
        time.sleep(0.02)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    assert len({n for n in seen if n < COUNT}) > 1
    whole(tmp_path, views)


def test_a_writer_that_is_killed_leaves_a_cache_that_goes_on(tmp_path: Path) -> None:
    writers = [begun(tmp_path, rank, 2) for rank in (0, 1)]
    while len(list(tmp_path.glob("*.shard"))) < 4:
        time.sleep(0.005)
    os.kill(writers[0].pid or 0, signal.SIGKILL)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [-signal.SIGKILL, 0]
    left = len(TeacherCache.open(tmp_path))
    assert COUNT // 2 < left < COUNT
    asked: list[int] = []
    model = teacher()
    model.register_forward_hook(lambda _m, args, _out: asked.append(len(args[0])))
    write(tmp_path, 0, 2, model)
    assert sum(asked) == COUNT - left + 2  # what was missing, and the two of the plan
    whole(tmp_path)


def test_impossible_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="rank=2, world=2"):
        write(tmp_path, 2, 2)


class Graph(nn.Module):
    needs_edges = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.fc(x).index_add(0, edge_index[1], self.fc(x)[edge_index[0]])


def graph(**changes: Tensor) -> FullBatch:
    generator = torch.Generator().manual_seed(0)
    x, edges = torch.randn(20, 5, generator=generator), torch.randint(20, (2, 50), generator=generator)
    batch = {"inputs": x, "edge_index": edges, "labels": torch.arange(20) % 3, "id": torch.arange(20)}
    return FullBatch({**batch, "mask": torch.arange(20) < 8, **changes})


def test_a_graphs_nodes_are_stored_under_the_whole_graph(tmp_path: Path) -> None:
    cache = TeacherCache.write(Graph(), graph(), NodeTask(), tmp_path, codec="dense32", taps=("logits", "fc:in"))
    batch = graph().batch
    with torch.no_grad():
        want = Graph()(batch["inputs"], batch["edge_index"])
    assert torch.equal(cache.read(torch.tensor([4, 0, 19]))["values"], want[[4, 0, 19]])
    cache.check_data(graph(mask=torch.arange(20) > 8))  # a mask is no content
    assert cache.check(Graph(), graph(), NodeTask()).samples == 20
    fewer, moved = batch["edge_index"][:, :-1], batch["inputs"].clone()
    moved[7, 2] += 1
    for change in ({"edge_index": fewer}, {"edge_index": batch["edge_index"].flip(0)}, {"inputs": moved}):
        with pytest.raises(DistilError, match=r"node 0 of the graph .* \(features or edges\) changed"):
            cache.check_data(graph(**change))
        with pytest.raises(DistilError, match="features or edges"):
            TeacherCache.write(
                Graph(), graph(**change), NodeTask(), tmp_path, codec="dense32", taps=("logits", "fc:in")
            )


def test_a_graph_is_run_once(tmp_path: Path) -> None:
    calls = []
    model = Graph()
    model.register_forward_hook(lambda *_: calls.append(1))
    TeacherCache.write(model, graph(), NodeTask(), tmp_path)
    assert len(calls) == 2  # the plan, and the pass
    TeacherCache.write(model, graph(), NodeTask(), tmp_path)
    assert len(calls) == 3  # the plan alone


def test_samples_of_a_dataset_do_not_mix_with_those_of_a_graph(tmp_path: Path) -> None:
    TeacherCache.write(Graph(), graph(), NodeTask(), tmp_path)
    data = DictDataset(torch.rand(20, 3, 2, 2))
    with pytest.raises(DistilError, match="another teacher"):
        TeacherCache.write(teacher(classes=3), data, TASK, tmp_path)
