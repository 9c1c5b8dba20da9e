"""Stored features in the place of a teacher's layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cache.worlds import TASK
from distil import Distiller
from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, DictDataset
from distil.engine.method import Method, Sum
from distil.errors import DistilError
from distil.methods import AT, KD, RKD, FitNets


def dataset() -> DictDataset:
    generator = torch.Generator().manual_seed(1)
    return DictDataset(torch.rand(60, 3, 4, 4, generator=generator), torch.arange(60) % 10, torch.arange(60) * 7 + 3)


class Net(nn.Module):
    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 2, stride=2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(x))).flatten(1))


TAPS = {"logits": "logits", "layer1": "layer1", "layer1.0": "layer1.0", "stages.0": "layer1", "stages.1": "layer2",
        "emb": "fc:in"}  # fmt: skip


def cached(out: Path, features: str = "features16") -> CachedTeacher:
    return CachedTeacher(
        TeacherCache.write(Net(6, 0).eval(), dataset(), TASK, out, codec="dense32", taps=TAPS, features=features)
    )


def trained(who: nn.Module, method: Method | Sum, taps: dict[str, object] | None = None) -> dict[str, Tensor]:
    pupil = Net(4, 5)
    example = next(Batches(dataset(), 8, seed=0, shuffle=False).iterate(0))
    distiller = Distiller(pupil, who, method, task=TASK, example=example, taps=taps)  # type: ignore[arg-type]
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.02))
    for epoch in range(3):
        for batch in Batches(dataset(), 15, seed=3, shuffle=True).iterate(epoch):
            distiller(batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.clone() for name, value in pupil.state_dict().items()}


METHODS = {
    "fitnets": lambda: FitNets(tap="layer1"),
    "fitnets-stage": lambda: FitNets(tap="stages.1"),
    "at": AT,
    "at-paths": lambda: AT(taps=["layer1"]),
    "rkd": lambda: RKD(distance=1, angle=2),
    "sum": lambda: KD() + 10 * FitNets(tap=("emb", "emb")) + AT(taps=[("layer1", "layer1.0")]),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_learn_from_stored_features_what_they_learn_from_the_teacher(tmp_path: Path, name: str) -> None:
    ours, theirs = trained(cached(tmp_path, "dense32"), METHODS[name]()), trained(Net(6, 0), METHODS[name]())
    start = Net(4, 5).state_dict()
    assert max((theirs[key] - start[key]).abs().max() for key in theirs) > 1e-4
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("features", "bound"), [("features16", 2.0**-10), ("int8", 1 / 120)])
def test_maps_come_back_in_their_own_shape(tmp_path: Path, features: str, bound: float) -> None:
    who, batch = cached(tmp_path, features), dataset().batch(torch.arange(7))
    net = Net(6, 0)
    with torch.no_grad():
        first = net.layer1[0](batch["inputs"])
        want = {"layer1.0": first, "layer1": first.relu(), "emb": net.pool(net.layer2(first.relu())).flatten(1)}
    for tap, value in want.items():
        found = who.cache.read(batch["id"], tap=tap)["values"]
        assert found.shape == value.shape
        assert (found - value).abs().max() <= bound * value.abs().max()
    size = {"features16": 2 * 96, "int8": 6 * (4 + 16)}[features]
    assert who.cache.meta.fields["layer1"].bytes == size


def test_only_what_is_tapped_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who, seen, real = cached(tmp_path), set[str](), TeacherCache.read

    def noted(self: TeacherCache, *args: object, tap: str = "logits", **options: object) -> dict[str, Tensor]:
        seen.add(tap)
        return real(self, *args, tap=tap, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TeacherCache, "read", noted)
    trained(who, KD())
    assert seen == {"logits"}
    trained(who, RKD())
    assert seen == {"logits", "emb"}


def test_a_users_path_for_a_meaning_is_looked_up_among_what_is_stored(tmp_path: Path) -> None:
    ours = trained(cached(tmp_path, "dense32"), RKD(tap="emb", distance=1, angle=0), {"emb": ("pool", "emb")})
    theirs = trained(Net(6, 0), RKD(tap="emb", distance=1, angle=0), {"emb": ("pool", "fc:in")})
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "tap"), [(lambda: FitNets(tap="layer2"), "layer2"), (lambda: AT(taps=["map"]), "map")]
)
def test_a_tap_that_is_not_stored_is_refused_at_once(tmp_path: Path, method: type, tap: str) -> None:
    with pytest.raises(DistilError, match=rf"no tap '{tap}' of the teacher: write it with `distil cache --features"):
        trained(cached(tmp_path), method())


def test_what_is_stored_is_named_with_its_place(tmp_path: Path) -> None:
    fields = cached(tmp_path).cache.meta.fields
    assert {name: field.place for name, field in fields.items() if field.place} == {
        "stages.0": "layer1", "stages.1": "layer2", "emb": "fc:in"
    }  # fmt: skip
    assert fields["layer1"].form == (6, 4, 4)
