"""Checkpoints: a killed run goes on to the bit, and what is not this run's checkpoint is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.data import DictDataset
from distil.engine import Distiller, during, fit
from distil.engine.serial import load_tree, save_tree
from distil.errors import DistilError
from distil.methods import KD, FitNets, Supervised
from engine import resumable, toys


def spawn(folder: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    """Run ``resumable`` in a process of its own."""
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "engine.resumable", str(folder), *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def plain(value: Any) -> Any:
    """Tensors as lists, so that whole trees compare."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run came to."""
    folder = tmp_path_factory.mktemp("whole")
    resumable.run(folder)
    return plain(load_tree(folder / "end"))


# Right after a checkpoint and right before one, within an epoch and at its end (six steps), early and late.
@pytest.mark.parametrize("steps", [(1,), (3, 6), (8,), (11,)], ids=str)
def test_kill_9_and_resume_is_exact(whole: dict[str, Any], tmp_path: Path, steps: tuple[int, ...]) -> None:
    for step in steps:
        assert spawn(tmp_path, step).returncode == -signal.SIGKILL
    resumable.run(tmp_path)
    assert plain(load_tree(tmp_path / "end")) == whole


def test_ctrl_c_leaves_a_run_that_goes_on(whole: dict[str, Any], tmp_path: Path) -> None:
    done = spawn(tmp_path, 5, signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert (tmp_path / "step-000000005").is_dir()
    resumable.run(tmp_path)
    assert plain(load_tree(tmp_path / "end")) == whole


def test_a_finished_run_resumes_to_its_result(whole: dict[str, Any], tmp_path: Path) -> None:
    resumable.run(tmp_path)
    shutil.rmtree(tmp_path / "end")
    resumable.run(tmp_path)
    assert plain(load_tree(tmp_path / "end")) == whole


def test_two_checkpoints_are_kept_and_litter_is_swept(tmp_path: Path) -> None:
    litter = tmp_path / ".step-000000002.deadbeef"
    litter.mkdir()
    resumable.run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["end", "step-000000010", "step-000000012"]


# --- checkpoints that are not this run's ------------------------------------------------------------------------------

TRAIN, VAL = toys.vectors(40), toys.vectors(16, seed=2)


def small(folder: Path, method: Any = None, *, train: Any = TRAIN, teacher: Any = None, **options: Any) -> Distiller:
    """A short resumable run; ``steps=4``, a checkpoint after every second."""
    ours, theirs = toys.pair()
    chosen = KD(temperature=4) + Supervised() if method is None else method
    distiller = Distiller(ours, theirs if teacher is None else teacher, chosen, example=toys.batch(TRAIN, 4))
    given = {"steps": 4, "batch_size": 16, "resume": True, "save_every": 2, "check_teacher": False, "device": "cpu"}
    fit(distiller, train, VAL, out=folder, **{**given, **options})
    return distiller


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_of_two_stages_resumes_around_their_border(stop: int, tmp_path: Path) -> None:
    """Three steps an epoch: at 3 the second stage is due, at 4 its optimizer must not begin anew again."""

    def interrupted(step: int, total: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    def go(name: str, **more: Any) -> Distiller:
        method = during(end=1) * KD(temperature=4) + during(start=1) * Supervised()
        return small(tmp_path / name, method, steps=9, save_every=1, **more)

    whole = go("whole")
    with pytest.raises(KeyboardInterrupt):
        go("cut", progress=interrupted)
    assert toys.same(go("cut").student.state_dict(), whole.student.state_dict())


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    small(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": KD(temperature=2) + Supervised()}, r"method = kd\(temperature=4\) \+ supervised; this one has"),
        ({"lr": 0.5}, "lr = 0.001; this one has 0.5"),
        ({"seed": 9}, "seed = 0; this one has 9"),
        ({"batch_size": 8}, "batch_size = 16"),
        ({"steps": 9}, "steps = 4"),
        ({"accumulate": 2}, "accumulate = 1"),
        ({"optimizer": "sgd"}, "optimizer = adamw"),
        ({"schedule": lambda done: 1.0}, "schedule = cosine"),
        ({"ema": 0.9}, "ema = None"),
        ({"precision": "bf16"}, "precision = fp32"),
        ({"teacher": toys.seeded(toys.mlp, 77)}, "teachers = "),
        ({"train": toys.vectors(40, seed=9)}, "data = "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_runs_checkpoint_is_refused_before_anything_moves(
    ran: Path, change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distiller, "load_state_dict", lambda *_: pytest.fail("the student was touched"))
    with pytest.raises(DistilError, match=f"step-000000004 belongs to a run with {says}"):
        small(ran, **change)


def test_another_student_is_refused(ran: Path) -> None:
    distiller = Distiller(toys.mlp(9), toys.pair()[1], KD(temperature=4) + Supervised(), example=toys.batch(TRAIN, 4))
    with pytest.raises(DistilError, match=r"belongs to another student or method: size mismatch for student.hidden"):
        fit(distiller, TRAIN, VAL, out=ran, steps=4, batch_size=16, resume=True, check_teacher=False, device="cpu")


def test_a_folder_with_checkpoints_is_not_written_over(ran: Path) -> None:
    with pytest.raises(DistilError, match=r"holds the checkpoints of another run \(step-000000004\).*resume=True"):
        small(ran, resume=False)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def number(file: Path) -> None:
    """One digit of the step, still valid JSON."""
    text = file.read_text()
    assert '["step", 4]' in text
    file.write_text(text.replace('["step", 4]', '["step", 5]'))


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("tensors.safetensors", flip, "truncated or was changed"),
        ("tensors.safetensors", cut, "truncated or was changed"),
        ("tensors.safetensors", Path.unlink, "is no complete checkpoint"),
        ("tree.json", cut, "is truncated or no checkpoint of distil"),
        ("tree.json", number, "truncated or was changed"),
        ("tree.json", lambda f: f.write_text("[]"), "is truncated or no checkpoint"),
        ("tree.json", lambda f: f.write_text('{"format": "other", "version": 1}'), "written by another version"),
        ("tree.json", lambda f: f.write_text(json.dumps({"weights": [1]})), "no checkpoint of distil"),
    ],
)
def test_a_damaged_checkpoint_is_named(ran: Path, file: str, damage: Callable[[Path], Any], says: str) -> None:
    damage(ran / "step-000000004" / file)
    with pytest.raises(DistilError, match=rf"step-000000004.*{says}"):
        small(ran)
    shutil.rmtree(ran / "step-000000004")
    assert small(ran).ctx.step == 4  # from the one before


def test_plain_iterables_resume_at_the_start_of_an_epoch(tmp_path: Path) -> None:
    parts = [toys.batch(TRAIN, 10, start) for start in (0, 10, 20, 30)]
    whole = small(tmp_path / "whole", train=parts, steps=8, save_every=3)
    assert [p.name for p in sorted((tmp_path / "whole").glob("step-*"))] == ["step-000000004", "step-000000008"]
    ticks: list[int] = []

    def stop(step: int, steps: int) -> None:
        ticks.append(step)
        if ticks == [1, 2, 3, 4, 5]:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="entered only at the start of an epoch"), pytest.raises(KeyboardInterrupt):
        small(tmp_path / "cut", train=parts, steps=8, save_every=3, progress=stop)
    again = small(tmp_path / "cut", train=parts, steps=8, save_every=3, progress=stop)
    assert ticks == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert toys.same(whole.state_dict(), again.state_dict())


# --- trees ------------------------------------------------------------------------------------------------------------


def test_a_tree_reads_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.randn(3)
    tree = {
        "a": [1, 2.5, None, True, "ü"], 7: (shared, shared), "nan": float("inf"),
        "half": torch.zeros(2, dtype=torch.bfloat16), "empty": torch.zeros(0, 4), "nested": {"t": torch.arange(3)},
    }  # fmt: skip
    save_tree(tree, tmp_path / "x")
    read = load_tree(tmp_path / "x")
    assert list(read) == list(tree)
    assert read["a"] == tree["a"]
    assert read["nan"] == tree["nan"]
    assert isinstance(read[7], tuple)
    assert torch.equal(read[7][0], shared)
    assert read["half"].dtype == torch.bfloat16
    assert read["empty"].shape == (0, 4)
    with pytest.raises(DistilError, match="A set cannot be stored"):
        save_tree({"x": {1}}, tmp_path / "y")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_adapters_of_another_tap_are_refused(tmp_path: Path) -> None:
    data = toys.images(24)

    def go(tap: Any) -> None:
        distiller = Distiller(*toys.pair(toys.CNN), FitNets(tap=tap), example=toys.batch(data, 4))
        fit(distiller, DictDataset(data.inputs), steps=2, batch_size=12, out=tmp_path, resume=True, device="cpu")

    go("one")
    with pytest.raises(DistilError, match=r"method = fitnets\(tap=one\); this one has fitnets\(tap=two\)"):
        go("two")
