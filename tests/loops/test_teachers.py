"""A teacher is trained once: recipes, runs of one's own and further seeds find it by everything it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distil.loops.lab import Lab
from distil.loops.own import OwnRun, run_own
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.training import Training, train_teacher

IMAGES = (
    "pair.data=digits", "pair.train=60", "pair.teacher_train=100", "pair.val=40",
    "pair.teacher='distil:mlp(hidden=24)'", "pair.student='distil:mlp(hidden=4)'",
    "pair.teacher_training.epochs=5", "pair.teacher_training.lr=0.01",
    "training.epochs=1", "seeds=[0]",
)  # fmt: skip
OWN = OwnRun(
    data="digits", student="distil:mlp(hidden=4)", teacher="distil:mlp(hidden=24)", train_teacher=6, limit=150,
    training=Training(epochs=1, lr=0.01),
)  # fmt: skip


class Told:
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, name: str, total: int | None = None) -> None:
        """Keep nothing."""

    def step(self, done: int, total: int) -> None:
        """Keep nothing."""

    def say(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "shared"))
    return tmp_path / "shared" / "stages"


def lab_of(out: Path) -> tuple[Lab, Told]:
    told = Told()
    return Lab(out, progress=told, device="cpu"), told


def stored(shared: Path) -> list[str]:
    return sorted(path.name for path in shared.glob("*"))


def test_two_recipes_of_equal_settings_share_one_teacher(tmp_path: Path, shared: Path) -> None:
    fingerprints, said = [], []
    for slug in ("pld", "nd"):
        recipe = load_recipe(slug)
        lab, told = lab_of(tmp_path / slug)
        setup = prepare_setup(recipe, assignments=IMAGES)
        report = run_recipe(recipe, setup, tmp_path / slug, lab, command="", system=slug)
        fingerprints.append(report["teacher"]["fingerprint"])
        said += [line.partition(" (")[0] for line in told.said if line.startswith("teacher")]
    assert said == ["teacher: trained", "teacher: reused"]
    assert len(stored(shared)) == 1
    assert fingerprints[0] == fingerprints[1]


def test_runs_of_ones_own_share_the_teacher_that_a_recipe_trained(tmp_path: Path, shared: Path) -> None:
    """A recipe makes the module itself, a run of one's own has made it already: the weights are the same."""
    from distil import load

    bundle = load("digits", limit=150)
    lab, told = lab_of(tmp_path / "recipe")
    longer = Training(epochs=6, lr=0.01)
    teacher = train_teacher(lab, OWN.teacher, bundle, longer, seed=0, name="smooth")
    assert told.said[0].startswith("smooth: trained")
    for k, methods in enumerate((("kd",), ("dkd", "supervised + rkd"))):
        lab, told = lab_of(tmp_path / f"own{k}")
        report = run_own(OwnRun(**{**vars(OWN), "methods": methods}), lab, command="", title="t")
        assert [line.partition(" (")[0] for line in told.said if line.startswith("teacher")] == ["teacher: reused"]
        assert report["teacher"]["fingerprint"] == teacher.fingerprint
    assert len(stored(shared)) == 1


def test_what_a_teacher_depends_on_makes_another(tmp_path: Path, shared: Path) -> None:
    from distil import load

    bundle = load("digits", limit=150)
    lab, _ = lab_of(tmp_path)
    usual = {"spec": OWN.teacher, "bundle": bundle, "training": Training(epochs=1), "seed": 0}
    start = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    others = [
        {"spec": "distil:mlp(hidden=25)"},
        {"training": Training(epochs=2)},
        {"seed": 1},
        {"bundle": load("digits", limit=140)},
        {"method": "2*supervised"},
        {"start": start},
    ]
    for count, change in enumerate([{}, *others], start=1):
        train_teacher(lab, **{**usual, **change})
        assert len(stored(shared)) == count, change
