"""What is stored is what the teacher said; what is broken, changed or somebody else's is refused in one sentence."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import pickle
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK, dataset, live, teacher
from distil.cache import (
    CachedTeacher,
    Dense16,
    Dense32,
    Field,
    Meta,
    Sampled,
    Shard,
    TeacherCache,
    TopK,
    contents_of,
    import_topk,
    plan_cache,
    write_shard,
)
from distil.data import DictDataset
from distil.data.bundle import View
from distil.errors import DistilError
from distil.functional import topk_of


def written(out: Path, count: int = 60, **options: object) -> TeacherCache:
    return TeacherCache.write(teacher(), dataset(count), TASK, out, **{"codec": "dense32", **options})


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.shard"))


# ---- what comes back


@pytest.mark.parametrize("codec", ["dense32", "dense16", "topk4", "sampled8"])
@pytest.mark.parametrize("shard_bytes", [1 << 20, 300])
def test_the_store_gives_back_what_the_codec_keeps(tmp_path: Path, codec: str, shard_bytes: int) -> None:
    cache = written(tmp_path, codec=codec, shard_bytes=shard_bytes, batch_size=7)
    data, said = dataset(), live(teacher(), dataset())
    assert len(cache) == 60
    assert (len(cache.shards) > 3) is (shard_bytes == 300)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    coder = cache.meta.fields["logits"].coder()
    decoded = cache.read(data.ids[order])
    assert (coder.error(said[order], decoded) <= coder.bound(said[order]) + 1e-5).all()
    again = cache.read(data.ids[order][[5, 5, 0]])
    for name, value in decoded.items():
        assert torch.equal(again[name], value[[5, 5, 0]])
    seen = cache.check(teacher(), data, TASK)
    assert seen.samples == 16
    assert seen.cosine > 0.99
    assert seen.difference <= seen.bound


def test_the_size_is_known_in_advance(tmp_path: Path) -> None:
    planned = plan_cache(teacher(), dataset(), TASK, codec="dense16")
    cache = written(tmp_path, codec="dense16")
    assert planned.plain() == cache.meta.plain()
    header = struct.unpack("<Q", shards(tmp_path)[0].read_bytes()[8:16])[0]
    assert cache.bytes == 60 * planned.bytes + 20 + header


def test_features_are_stored_beside_logits(tmp_path: Path) -> None:
    cache = written(tmp_path, taps=("logits", "1"), features="int8")
    hidden = teacher()[1](dataset().inputs.flatten(1)).detach()
    found = cache.read(dataset().ids, tap="1")["values"]
    assert (found - hidden).abs().max() <= hidden.abs().max() / 254 + 1e-6
    with pytest.raises(DistilError, match="holds 1, logits and no 'emb'"):
        cache.read([3], tap="emb")
    with pytest.raises(DistilError, match="no module '9' to store"):
        written(tmp_path / "b", taps=("9",))


class PerToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4, None] * torch.arange(1.0, 7.0)


def test_a_sample_may_hold_several_rows(tmp_path: Path) -> None:
    cache = TeacherCache.write(PerToken(), dataset(), TASK, tmp_path, codec="topk3")
    found = cache.read(dataset().ids[:5])
    assert found["ids"].shape == (5, 4, 3)
    assert found["tail"].shape == (5, 4)
    want, _ = topk_of(PerToken()(dataset().inputs[:5]), 3)
    assert torch.equal(found["ids"], want)
    assert cache.check(PerToken(), dataset(), TASK).samples == 16


def test_the_teacher_is_left_as_it_was_and_runs_in_eval(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Dropout(0.9)).train()
    before = copy.deepcopy(model.state_dict())
    cache = TeacherCache.write(model, dataset(), TASK, tmp_path, codec="dense32")
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(cache.read(dataset().ids)["values"], live(model.eval(), dataset()))


def test_half_precision_is_recorded_and_near(tmp_path: Path) -> None:
    cache = written(tmp_path, precision="bf16")
    assert cache.meta.precision == "bf16"
    assert 0 < cache.check(teacher(), dataset(), TASK).difference < 0.05
    with pytest.raises(DistilError, match="precision='fp61' is unknown"):
        written(tmp_path / "b", precision="fp61")


# ---- resume, many writers, many readers


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    data, ran = dataset(), []
    model = teacher()
    model.register_forward_hook(lambda _m, args, _o: ran.append(len(args[0])))
    written(tmp_path, 40)
    TeacherCache.write(model, data, TASK, tmp_path, codec="dense32")
    assert sum(ran) == 2 + 20  # two for the plan
    again = TeacherCache.write(model, data, TASK, tmp_path, codec="dense32")
    assert sum(ran) == 2 + 20 + 2
    assert len(again) == 60


def test_a_writer_that_was_killed_leaves_whole_shards_and_goes_on(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, shard_bytes=400, batch_size=5, progress=stop)
    for age, name in ((0, ".writing-new"), (7200, ".writing-old")):
        (tmp_path / name).write_bytes(b"half a shard")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    kept = len(TeacherCache.open(tmp_path))
    assert 0 < kept <= 40
    whole = written(tmp_path, shard_bytes=400, batch_size=5)
    assert [file.name for file in tmp_path.glob(".*")] == [".writing-new"]
    torch.testing.assert_close(whole.read(dataset().ids)["values"], live(teacher(), dataset()))


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    data = dataset()
    for part in (range(0, 35), range(25, 60)):  # they overlap
        other = tmp_path / f"w{part[0]}"
        TeacherCache.write(teacher(), View(data, torch.tensor(list(part))), TASK, other, codec="dense32", batch_size=5)
        for file in shards(other):
            file.rename(tmp_path / file.name)
    cache = TeacherCache.open(tmp_path)
    assert len(cache) == 60
    torch.testing.assert_close(cache.read(data.ids)["values"], live(teacher(), data))


def _read(cache: TeacherCache, ids: Tensor, queue: multiprocessing.Queue[list[float]]) -> None:
    queue.put(cache.read(ids)["values"].sum(1).tolist())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path: Path, start: str) -> None:
    cache = written(tmp_path)
    ids = dataset().ids[:9]
    want = cache.read(ids)["values"].sum(1).tolist()  # mapped here before the fork
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=_read, args=(cache, ids, queue))
    process.start()
    assert queue.get(timeout=60) == want
    process.join()


def test_copies_and_pickles_read_the_same(tmp_path: Path) -> None:
    cache = written(tmp_path)
    ids = dataset().ids
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert torch.equal(other.read(ids)["values"], cache.read(ids)["values"])


# ---- what is broken


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    written(tmp_path, codec="topk4")
    (file,) = shards(tmp_path)
    whole = file.read_bytes()
    random.seed(0)
    for at in [*range(24), *random.sample(range(len(whole)), 150), len(whole) - 1]:
        flip(file, at)
        with pytest.raises(DistilError, match=file.name):
            TeacherCache.open(tmp_path).read(dataset().ids)
        file.write_bytes(whole)
    TeacherCache.open(tmp_path).read(dataset().ids)


def test_a_flipped_byte_is_named_with_its_block_and_other_blocks_are_read(tmp_path: Path) -> None:
    model, data = teacher(classes=5000), dataset()
    TeacherCache.write(model, data, TASK, tmp_path, codec="dense32")
    (file,) = shards(tmp_path)
    flip(file, file.stat().st_size - 1)
    cache = TeacherCache.open(tmp_path)
    torch.testing.assert_close(cache.read(data.ids[:20])["values"], live(model, data)[:20])
    with pytest.raises(DistilError, match=r"damaged in block 4 of 'tap:logits'"):
        cache.read(data.ids[[59]])
    with pytest.raises(DistilError, match="damaged in block 4"):
        Shard(file).verify()


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    (file,) = shards(tmp_path)
    whole = file.read_bytes()
    for length in (0, 5, 15, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DistilError, match=rf"{file.name}.*(cut short|damaged header)"):
            TeacherCache.open(tmp_path)
    file.write_bytes(whole + b"x")
    with pytest.raises(DistilError, match="something was added"):
        TeacherCache.open(tmp_path)


def test_another_version_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    (file,) = shards(tmp_path)
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[8:16])[0]
    header = json.loads(whole[20 : 20 + length]) | {"version": 9}
    text = json.dumps(header).encode().ljust(length)
    file.write_bytes(whole[:16] + struct.pack("<I", zlib.crc32(text)) + text + whole[20 + length :])
    with pytest.raises(DistilError, match="version 9, and this version reads 1 and 2; update distil"):
        TeacherCache.open(tmp_path)
    file.write_bytes(b"DISTILc2" + whole[8:])
    with pytest.raises(DistilError, match="reads b'c1'; update distil"):
        TeacherCache.open(tmp_path)


def test_a_full_disk_leaves_whole_shards_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 20)
    real: Callable[[int], None] = os.fsync

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistilError, match=r"No space left on device.*make room"):
        written(tmp_path)
    monkeypatch.setattr(os, "fsync", real)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(TeacherCache.open(tmp_path)) == 20


def test_an_empty_folder_and_strangers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="there is no teacher cache in"):
        TeacherCache.open(tmp_path / "none")
    (tmp_path / "x.shard").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(DistilError, match="is no shard of a teacher cache"):
        TeacherCache.open(tmp_path)


# ---- what is somebody else's


def test_another_teacher_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    cache = written(tmp_path)
    with pytest.raises(DistilError, match=rf"of the teacher {cache.meta.teacher}, and this one is [0-9a-f]{{16}}"):
        cache.check(teacher(seed=1), dataset(), TASK)
    with pytest.raises(DistilError, match="answers of another teacher"):
        TeacherCache.write(teacher(seed=1), dataset(70), TASK, tmp_path, codec="dense32")


def test_changed_data_are_refused_by_content(tmp_path: Path) -> None:
    cache = written(tmp_path)
    with pytest.raises(DistilError, match=r"sample 3 has the content [0-9a-f]{16}"):
        cache.check(teacher(), dataset(seed=2), TASK)
    with pytest.raises(DistilError, match="lacks 10 of the 70 samples"):
        cache.check(teacher(), dataset(70), TASK)
    with pytest.raises(DistilError, match="changed; write the cache anew"):
        TeacherCache.write(teacher(), dataset(seed=2), TASK, tmp_path, codec="dense32")
    with pytest.raises(DistilError, match="another codec"):
        TeacherCache.write(teacher(), dataset(70), TASK, tmp_path, codec="dense16")


def test_other_arithmetic_is_refused(tmp_path: Path) -> None:
    """The same weights, called otherwise, give other answers: the spot check sees it."""
    from distil.tasks import ClassificationTask

    cache = written(tmp_path)
    with pytest.raises(DistilError, match=r"and the live teacher differ by .* is allowed"):
        cache.check(teacher(), dataset(), ClassificationTask(normalise={"teacher": (0.5, 0.25)}))


def test_data_that_change_as_they_are_read_are_refused(tmp_path: Path) -> None:
    cache = written(tmp_path)
    noisy = View(dataset(transform=torch.neg), torch.arange(5))
    with pytest.raises(DistilError, match=r"changed as they are read \(neg\)"):
        TeacherCache.write(teacher(), noisy, TASK, tmp_path)
    with pytest.raises(DistilError, match="no record of such changes"):
        cache.check(teacher(), noisy, TASK)


def test_a_sample_stored_twice_with_other_contents_is_refused(tmp_path: Path) -> None:
    meta = Meta({"logits": Field(Dense32().spec(), (2,))}, "t", {"name": "x"})
    for content in (1, 2):
        rows = {"logits": Dense32().encode(torch.zeros(1, 2))}
        write_shard(tmp_path, meta, np.array([7]), np.array([content]), rows)
    with pytest.raises(DistilError, match="sample 7 twice with different contents"):
        TeacherCache.open(tmp_path)


def test_shards_of_two_caches_do_not_mix(tmp_path: Path) -> None:
    for codec in (Dense32(), Dense16()):
        meta = Meta({"logits": Field(codec.spec(), (2,))}, "t", {"name": "x"})
        write_shard(tmp_path, meta, np.array([7]), np.array([0]), {"logits": codec.encode(torch.zeros(1, 2))})
    with pytest.raises(DistilError, match="do not belong together: fields"):
        TeacherCache.open(tmp_path)


def test_samples_that_are_not_stored_are_named(tmp_path: Path) -> None:
    cache = written(tmp_path)
    with pytest.raises(DistilError, match=r"no answer for 1 of 2 samples \(id 4"):
        cache.read([3, 4])


def test_data_without_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="no map-style dataset"):
        TeacherCache.write(teacher(), iter([]), TASK, tmp_path)
    with pytest.raises(DistilError, match="the data are empty"):
        TeacherCache.write(teacher(), DictDataset(torch.zeros(0, 3)), TASK, tmp_path)


# ---- contents


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
def test_any_change_of_an_input_changes_its_content(dtype: torch.dtype) -> None:
    x = (torch.rand(40, 3, 5, generator=torch.Generator().manual_seed(0)) * 200).to(dtype)
    seen = contents_of(x)
    assert len(seen.unique()) == 40
    assert torch.equal(seen, contents_of(x.clone()))
    assert torch.equal(seen[[8, 2]], contents_of(x[[8, 2]]))
    assert (contents_of(x.flip(2)) != seen).all()
    assert (contents_of(x.reshape(40, 5, 3)) != seen).all()
    changed = x.clone()
    changed[:, 1, 2] += 1
    assert (contents_of(changed) != seen).all()


def test_padding_is_not_content() -> None:
    one = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.tensor([[1, 1, 1]])}
    right = {"input_ids": torch.tensor([[5, 6, 7, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}
    left = {"input_ids": torch.tensor([[9, 5, 6, 7]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
    other = {"input_ids": torch.tensor([[5, 6, 7, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1]])}
    swapped = {"input_ids": torch.tensor([[6, 5, 7]]), "attention_mask": torch.tensor([[1, 1, 1]])}
    assert contents_of(one) == contents_of(right) == contents_of(left)
    assert len({int(contents_of(x)) for x in (one, other, swapped)}) == 3


# ---- other tools' files


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
def test_another_tools_topk_is_imported(tmp_path: Path, kind: str) -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    log_p, ids = logits.log_softmax(1).topk(6, 1)  # by probability, as others sort them
    keys = torch.arange(20) + 100
    file = tmp_path / f"peer.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = {"id": keys.tolist(), "token_ids": ids.tolist(), "log_probs": log_p.tolist()}
        pq.write_table(pa.table(table), file)
    else:
        from safetensors.torch import save_file

        save_file({"id": keys, "token_ids": ids, "log_probs": log_p}, file)
    cache = import_topk(file, tmp_path / "cache", classes=50, teacher="peer")
    coder, found = TopK(6, 8), cache.read(keys)
    assert cache.meta.fields["logits"].coder() == coder
    assert (coder.error(logits, found) <= coder.bound(logits)).all()
    assert torch.equal(found["ids"], ids.sort(1).values)
    said = CachedTeacher(cache)({"inputs": torch.zeros(20, 1), "id": keys})
    assert torch.equal(said.ids, found["ids"])
    assert said.codec == "topk6x8"


def test_imports_that_are_no_log_probabilities_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file, keys, ids = tmp_path / "x.safetensors", torch.arange(2), torch.tensor([[0, 1], [2, 3]])
    for tensors, match in (
        ({"id": keys, "token_ids": ids, "log_probs": torch.ones(2, 2)}, "row 0 holds no log-probabilities"),
        ({"id": keys, "token_ids": ids * 0, "log_probs": -torch.ones(2, 2)}, "names a class twice"),
        ({"id": keys, "token_ids": ids, "log_probs": -torch.ones(2, 3)}, r"expected \[N\], \[N, k\]"),
        ({"id": keys, "token_ids": ids}, "has no 'log_probs'"),
        ({"id": keys, "token_ids": ids + 20, "log_probs": -torch.ones(2, 2)}, "within 0 … 9"),
    ):
        save_file(tensors, file)
        with pytest.raises(DistilError, match=match):
            import_topk(file, tmp_path / "out", classes=10, teacher="x")
    file.write_bytes(b"nothing")
    with pytest.raises(DistilError, match="cannot be read"):
        import_topk(file, tmp_path / "out", classes=10, teacher="x")
    assert not (tmp_path / "out").exists()


def test_sampled_targets_are_written_alike_twice(tmp_path: Path) -> None:
    one = written(tmp_path / "a", codec=Sampled(8), batch_size=7).read(dataset().ids)
    two = written(tmp_path / "b", codec=Sampled(8), batch_size=60).read(dataset().ids)
    assert torch.equal(one["ids"], two["ids"])
