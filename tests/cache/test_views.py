"""Stored views: what is replayed is what the teacher saw, whoever reads it, in any order and batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK, dataset
from distil import Distiller
from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, DictDataset, View, Viewed, Views
from distil.errors import DistilError
from distil.methods import KD, Supervised

KINDS = [("crop", "flip"), ("crop", "flip", "colour"), ("flip", "mixup"), ("crop", "colour", "mixup", "cutmix")]
SIDE = 8


def images(count: int = 30, seed: int = 1) -> DictDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return DictDataset(pixels, torch.arange(count) % 10, torch.arange(count) * 7 + 3)


def teacher(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * (SIDE - 2) ** 2, 10))


def written(out: Path, kinds: tuple[str, ...] = KINDS[1], count: int = 5, **options: object) -> TeacherCache:
    data = Viewed(images(), Views(count, kinds))
    return TeacherCache.write(teacher(), data, TASK, out, **{"batch_size": 40, **options})  # type: ignore[arg-type]


def live(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs)


@pytest.mark.parametrize("kinds", KINDS, ids=",".join)
def test_stored_answers_are_the_live_teachers_on_the_replayed_views(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    cache, model = written(tmp_path, kinds), teacher()
    assert (len(cache), cache.meta.views is not None) == (30, True)
    for batch_size, per_image, workers in ((7, 1, 0), (12, 3, 0), (10, 5, 2), (1, 1, 0)):
        data = cache.viewed(images(), per_image=per_image)
        seen = 0
        for batch in Batches(data, batch_size, seed=9, shuffle=True, workers=workers).iterate(epoch=2):
            stored = cache.read(batch["id"], views=batch["view"])["values"]
            torch.testing.assert_close(stored, live(model, batch["inputs"]), rtol=2e-3, atol=2e-3)
            assert torch.equal(CachedTeacher(cache)(batch), stored)
            seen += len(batch["id"])
        assert seen == 30 * per_image


def test_views_differ_from_each_other_and_from_the_image() -> None:
    data = Viewed(images(), Views(6, ("crop", "flip", "colour"))).every()
    batch = next(Batches(data, 12, seed=0, shuffle=False).iterate(0))
    assert batch["view"].tolist() == [*range(6)] * 2
    plain = images()[0]["inputs"]
    pictures = [plain, *batch["inputs"][:6]]
    for k, one in enumerate(pictures):
        assert all((one - two).abs().max() > 0.01 for two in pictures[k + 1 :])


def test_which_view_is_seen_depends_on_seed_epoch_and_id_alone() -> None:
    data = Viewed(images(), Views(6, ("crop", "mixup")), per_image=2)

    def read(workers: int, batch_size: int, epoch: int, subset: bool = False) -> dict[int, tuple[list[int], Tensor]]:
        source = View(data, torch.tensor([4, 2, 9, 11])) if subset else data
        found: dict[int, tuple[list[int], Tensor]] = {}
        for batch in Batches(source, batch_size, seed=3, shuffle=True, workers=workers).iterate(epoch):
            for sample in batch["id"].unique().tolist():
                mine = batch["id"] == sample
                found[sample] = batch["view"][mine].tolist(), batch["inputs"][mine]
        return found

    first, other = read(0, 60, 1), read(2, 8, 1)
    some, next_epoch = read(0, 4, 1, subset=True), read(0, 60, 2)
    for sample, (views, pixels) in first.items():
        assert len(set(views)) == 2
        assert other[sample][0] == views
        assert torch.equal(other[sample][1], pixels)
    assert len(some) == 4
    assert all(some[sample][0] == first[sample][0] for sample in some)
    assert any(next_epoch[sample][0] != first[sample][0] for sample in first)


def test_a_record_takes_the_bytes_it_says(tmp_path: Path) -> None:
    sizes = {("crop",): 8, ("crop", "flip"): 9, KINDS[1]: 15, ("flip", "mixup"): 13, KINDS[3]: 34}
    assert {kinds: Views(1, kinds).bytes for kinds in sizes} == sizes
    cache = written(tmp_path)
    assert cache.meta.bytes == 24 + 24 + 15
    assert cache.bytes - 30 * 5 * cache.meta.bytes < 2000 * len(cache.shards)


def test_training_from_stored_views_is_training_from_the_live_teacher(tmp_path: Path) -> None:
    cache = written(tmp_path, KINDS[3], codec="dense32")

    def trained(who: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(3)
        pupil = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 10))
        data = cache.viewed(images(), per_image=2)
        example = next(Batches(data, 8, seed=0, shuffle=False).iterate(0))
        distiller = Distiller(pupil, who, 0.5 * KD() + 0.5 * Supervised(), task=TASK, example=example)
        optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.05))
        for epoch in range(2):
            for batch in Batches(data, 16, seed=3, shuffle=True).iterate(epoch):
                distiller(batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return pupil.state_dict()

    ours, theirs = trained(CachedTeacher(cache)), trained(teacher())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)


def test_the_label_loss_of_a_mixture_weighs_both_labels() -> None:
    data = Viewed(images(), Views(3, ("mixup",)))
    batch = TASK.unpack(next(Batches(data, 16, seed=0, shuffle=False).iterate(0)))
    assert ((batch["share"] >= 0.5) & (batch["share"] <= 1)).all()
    assert (batch["labels"] != batch["partner_labels"]).any()
    logits = torch.randn(16, 10)
    log_p, share = logits.log_softmax(1), batch["share"].float()
    want = -share * log_p[range(16), batch["labels"]] - (1 - share) * log_p[range(16), batch["partner_labels"]]
    torch.testing.assert_close(TASK.loss(logits, batch).values, want)
    alone = {**batch, "partner_labels": torch.full((16,), -100)}
    torch.testing.assert_close(TASK.loss(logits, alone).values, -log_p[range(16), batch["labels"]])


def test_mixed_pixels_are_shared_as_the_record_says() -> None:
    data = Viewed(images(), Views(8, ("mixup", "cutmix")))
    seen = {"blend": 0, "paste": 0}
    plain = {int(i): images()[k]["inputs"] for k, i in enumerate(images().ids)}
    for batch in Batches(data.every(), 40, seed=0, shuffle=False).iterate(0):
        for k in range(len(batch["id"])):
            record = batch["augment"][k].numpy().view(data.views.layout)[0]
            own, other = plain[int(batch["id"][k])], plain[int(record["partner"])]
            pasted = int(record["patch"][2]) * int(record["patch"][3])
            if pasted:
                changed = (batch["inputs"][k] != own).any(0)
                assert int(changed.sum()) <= pasted
                assert float(record["share"]) == pytest.approx(1 - pasted / SIDE**2)
            else:
                blend = own * float(record["share"]) + other * (1 - float(record["share"]))
                torch.testing.assert_close(batch["inputs"][k], blend)
            seen["paste" if pasted else "blend"] += 1
    assert min(seen.values()) > 40


def test_plain_samples_stand_beside_views(tmp_path: Path) -> None:
    cache = written(tmp_path)
    other = DictDataset(torch.rand(6, 3, SIDE, SIDE), ids=torch.arange(1000, 1006))
    with pytest.raises(DistilError, match="another views"):
        TeacherCache.write(teacher(), other, TASK, tmp_path)
    cache = TeacherCache.write(teacher(), other, TASK, tmp_path, views=cache.views)
    batch = other.batch(torch.arange(6))
    torch.testing.assert_close(CachedTeacher(cache)(batch), live(teacher(), batch["inputs"]), rtol=2e-3, atol=2e-3)
    assert cache.has(other.ids).all()
    assert not cache.has(other.ids, views=True).any()
    assert not cache.has(images().ids).any()
    with pytest.raises(DistilError, match=r"as it is, …\).*train on cache.viewed\(data\)"):
        CachedTeacher(cache)(images().batch(torch.arange(4)))


def test_other_records_are_named(tmp_path: Path) -> None:
    cache = written(tmp_path / "a")
    others = Viewed(images(), Views(5, KINDS[1], seed=1))
    with pytest.raises(
        DistilError, match=r"view \d of sample 3 was cached with box \[.*flip .*and is now made with box"
    ):
        cache.check_data(others)
    batch = next(Batches(others, 4, seed=0, shuffle=False).iterate(0))
    with pytest.raises(DistilError, match="replays what was stored"):
        CachedTeacher(cache)(batch)
    with pytest.raises(DistilError, match="is now made with records of another size"):
        cache.check_data(Viewed(images(), Views(5, ("flip",))))
    with pytest.raises(DistilError, match="another views"):
        TeacherCache.write(teacher(), others, TASK, tmp_path / "a")
    more = next(Batches(Viewed(images(), Views(9, KINDS[1])), 30, seed=0, shuffle=False).iterate(0))
    with pytest.raises(DistilError, match=r"holds 5 views of each sample, and view [5-8] was asked for"):
        CachedTeacher(cache)(more)
    plain = TeacherCache.write(teacher(), images(), TASK, tmp_path / "b")
    with pytest.raises(DistilError, match="holds samples as they are: write it with views"):
        plain.check_data(others)
    with pytest.raises(DistilError, match="holds no views"):
        plain.viewed(images())


def test_changed_images_under_the_same_records_are_named(tmp_path: Path) -> None:
    cache = written(tmp_path)
    changed = images()
    changed.inputs[4] = 255 - changed.inputs[4]
    with pytest.raises(DistilError, match="sample 31 has the content"):
        cache.check_data(View(cache.viewed(changed), torch.tensor([4])))
    batch = next(Batches(View(cache.viewed(changed), torch.tensor([4])), 1, seed=0, shuffle=False).iterate(0))
    with pytest.raises(DistilError, match="not those that the cache"):
        CachedTeacher(cache)(batch)


def test_a_writer_that_stops_goes_on_with_whole_samples(tmp_path: Path) -> None:
    whole = written(tmp_path / "a", shard_bytes=2000)
    assert len(whole.shards) > 3
    written(tmp_path / "b", shard_bytes=2000)
    for shard in sorted((tmp_path / "b").glob("*.shard"))[::2]:
        shard.unlink()
    again = written(tmp_path / "b", shard_bytes=2000)
    assert len(again) == 30
    ids, views = images().ids.repeat_interleave(5), torch.arange(5).repeat(30)
    assert torch.equal(again.read(ids, views=views)["values"], whole.read(ids, views=views)["values"])
    assert again.check(teacher(), again.viewed(images()), TASK).samples == 16


def test_an_older_format_is_written_where_nothing_new_is_needed(tmp_path: Path) -> None:
    plain = TeacherCache.write(teacher(), images(), TASK, tmp_path)
    assert (plain.meta.version, "views" in plain.meta.plain()) == (1, False)
    assert written(tmp_path / "v").meta.version == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Views(2, ("cropp",)), "did you mean 'crop'"),
        (lambda: Views(-1), "views.count=-1"),
        (lambda: Views(2, ()), "change nothing"),
        (lambda: Views(2, scale=(0.5,)), "two rising numbers"),
        (lambda: Views(2, jitter=1.5), "jitter=1.5"),
        (lambda: Viewed(images(), Views(2), per_image=3), "3 views of an image"),
        (lambda: Viewed(dataset(5), Views(2, ("colour",)))[0], None),
        (lambda: Viewed(DictDataset(torch.randn(3, 5)), Views(2))[0], r"images \[C, H, W\]"),
        (lambda: Viewed(DictDataset(torch.randn(3, 3, 4, 4) * 3), Views(2, ("colour",)))[0], r"images in \[0, 1\]"),
        (lambda: Viewed(DictDataset(torch.rand(3, 5, 4, 4)), Views(2, ("colour",)))[0], "these have 5 channels"),
    ],
)
def test_what_cannot_be_is_refused(make: object, says: str | None) -> None:
    if says is None:
        make()  # type: ignore[operator]
        return
    with pytest.raises(DistilError, match=says):
        make()  # type: ignore[operator]


def test_a_mixture_with_a_sample_that_is_not_there_is_refused(tmp_path: Path) -> None:
    cache = written(tmp_path, ("mixup",))
    with pytest.raises(DistilError, match="is mixed into a view and is not among the 2 samples"):
        list(Batches(cache.viewed(View(images(), torch.tensor([0, 1])), per_image=5), 10, seed=0, shuffle=False))


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(DistilError, match=r"pip install 'distil\[vision\]'"):
        Viewed(images(), Views(3, ("crop",)))[0]


def test_the_student_is_the_one_that_is_compared(tmp_path: Path) -> None:
    """A student's own pass on a view differs from the stored answer, so that the tests above compare something."""
    cache = written(tmp_path)
    batch = next(Batches(cache.viewed(images()), 8, seed=0, shuffle=False).iterate(0))
    other = live(teacher(7), batch["inputs"])
    assert (cache.read(batch["id"], views=batch["view"])["values"] - other).abs().max() > 0.1
