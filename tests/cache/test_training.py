"""A Distiller that is given a cache learns what it would have learned from the live teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK, dataset, student, teacher
from distil import Distiller, fit
from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, DictDataset
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.methods import AT, DIST, DKD, KD, Supervised
from distil.systems.pld import PLD


def trained(who: nn.Module, method: Method | Sum, data: DictDataset | None = None) -> dict[str, Tensor]:
    """The student's weights after 20 steps."""
    data = data or dataset()
    pupil = student()
    distiller = Distiller(pupil, who, method, task=TASK, example=next(iter(Batches(data, 8, seed=0, shuffle=False))))
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9))
    batches = Batches(data, 15, seed=3, shuffle=True)
    for epoch in range(5):
        for batch in batches.iterate(epoch):
            distiller(batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.clone() for name, value in pupil.state_dict().items()}


def cached(out: Path, codec: str = "dense32") -> CachedTeacher:
    return CachedTeacher(TeacherCache.write(teacher(), dataset(), TASK, out, codec=codec))


@pytest.mark.parametrize("codec", ["dense32", "dense16"])
@pytest.mark.parametrize(
    "method", [lambda: KD(temperature=4), DKD, DIST, PLD, lambda: 0.9 * KD() + 0.1 * Supervised()],
    ids=["kd", "dkd", "dist", "pld", "sum"],
)  # fmt: skip
def test_twenty_steps_from_the_cache_give_the_live_teachers_weights(tmp_path: Path, codec: str, method: type) -> None:
    ours, theirs = trained(cached(tmp_path, codec), method()), trained(teacher(), method())
    start = student().state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5 if codec == "dense32" else 2e-3)
        assert (value - start[name]).abs().max() > 0.02


def resumable(out: Path, who: nn.Module) -> dict[str, Tensor]:
    """The weights after 16 steps with a checkpoint after every third."""
    example = next(iter(Batches(dataset(), 8, seed=0, shuffle=False)))
    distiller = Distiller(student(), who, KD(), task=TASK, example=example, epochs=4)
    options = {"batch_size": 15, "save_every": 3, "resume": True, "check_teacher": False, "device": "cpu"}
    result = fit(distiller, dataset(), dataset(), epochs=4, lr=0.01, keep="last", out=out, **options)
    return {name: value.clone() for name, value in result.model.state_dict().items()}


def test_a_stopped_run_from_the_cache_goes_on_exactly_and_only_with_that_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = cached(tmp_path / "cache")
    whole = resumable(tmp_path / "whole", who)
    real, calls = TeacherCache.read, iter(range(1000))

    def stops(self: TeacherCache, *args: object, **options: object) -> dict[str, Tensor]:
        if next(calls) == 11:
            raise KeyboardInterrupt
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TeacherCache, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "run", who)
    monkeypatch.setattr(TeacherCache, "read", real)
    with pytest.raises(DistilError, match="teacher"):
        resumable(tmp_path / "run", cached(tmp_path / "other", "dense16"))
    again = resumable(tmp_path / "run", CachedTeacher(TeacherCache.open(tmp_path / "cache")))
    assert all(torch.equal(whole[name], value) for name, value in again.items())


def test_the_task_predicts_with_it_as_with_a_model(tmp_path: Path) -> None:
    said = TASK.predict(cached(tmp_path), dataset(), role="teacher")["logits"]
    torch.testing.assert_close(said, TASK.predict(teacher(), dataset(), role="teacher")["logits"])


def test_augmented_inputs_stop_the_run(tmp_path: Path) -> None:
    who = cached(tmp_path)
    with pytest.raises(DistilError, match="augments, mixes or resizes them"):
        trained(who, KD(), dataset(transform=lambda x: x + 0.1))


def test_other_samples_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="no answer for"):
        trained(cached(tmp_path), KD(), dataset(80))


def test_a_method_that_taps_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match="teacher"):
        trained(cached(tmp_path), AT(taps=["1"]))


def test_batches_without_ids_are_refused(tmp_path: Path) -> None:
    who = cached(tmp_path)
    batch = {"inputs": dataset().inputs[:4], "labels": dataset().labels[:4]}
    with pytest.raises(DistilError, match="knows samples by 'id'"):
        Distiller(student(), who, KD(), task=TASK, example=batch)


def test_it_has_nothing_to_train_and_says_what_it_is(tmp_path: Path) -> None:
    who = cached(tmp_path)
    assert list(who.parameters()) == []
    assert "60 samples" in repr(who)
