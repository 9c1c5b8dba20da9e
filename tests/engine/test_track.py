"""Trackers: what a run writes for them, read back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from distil.engine import Distiller, Result, Tracking, fit
from distil.engine import track as module
from distil.errors import DistilError
from distil.loops.lab import Arm, Lab
from distil.methods import KD, Supervised
from engine import toys
from loops.fakes import outcome


def run(**options: Any) -> Result:
    ours, theirs = toys.pair(toys.mlp)
    train = toys.vectors(40)
    distiller = Distiller(ours, theirs, 0.5 * KD() + Supervised(), example=toys.batch(train, 4))
    given = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "device": "cpu", "check_teacher": False}
    return fit(distiller, train, toys.vectors(30, seed=5), test=toys.vectors(20, seed=6), **(given | options))


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_holds_what_the_history_holds(tmp_path: Path) -> None:
    result = run(trackers=["tensorboard"], out=tmp_path)
    folder = tmp_path / "trackers" / "run"
    assert result.artifacts["trackers"] == str(folder)
    seen = events(folder)

    def line(name: str) -> list[tuple[int, float]]:
        return [(event.step, pytest.approx(event.value, rel=1e-5)) for event in seen.Scalars(name)]

    first, *epochs = result.history
    assert [(r["step"], r["loss"]) for r in epochs] == line("loss")
    assert [(r["step"], r["val"]["accuracy"]) for r in epochs] == line("val/accuracy")
    for term in ("kd", "supervised"):
        assert [(r["step"], r["terms"][term]) for r in (first, *epochs)] == line(f"term/{term}")
        assert [(r["step"], r["shares"][term]) for r in (first, *epochs)] == line(f"share/{term}")
    assert [(6, result.test["best"]["accuracy"])] == line("test/best/accuracy")
    assert line("cost/updates") == [(6, 6.0)]
    config = seen.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| method | 0.5*kd + supervised |" in config
    assert "| lr | 0.01 |" in config


def test_wandb_writes_an_offline_run_unless_the_user_chose_a_mode(tmp_path: Path) -> None:
    tracking = Tracking(("wandb",), tmp_path / "trackers", "kd-seed0")
    code = (
        "from pathlib import Path\n"
        "from accelerate import PartialState\n"
        "from distil.engine.track import Tracking, Tracks\n"
        "PartialState(cpu=True)\n"
        f"with Tracks(Tracking(('wandb',), Path({str(tracking.folder)!r}), 'kd-seed0'), {{'lr': 0.1}}) as tracks:\n"
        "    tracks.epoch({'epoch': 1, 'step': 3, 'loss': 0.5, 'terms': {'kd': 0.25}, 'val': {'accuracy': 80.0}})\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (made,) = (tracking.place / "wandb").glob("offline-run-*")
    (log,) = made.glob("run-*.wandb")
    written = log.read_bytes()
    for part in (b"kd-seed0", b"term/kd", b"val/accuracy", b"lr"):
        assert part in written
    off = subprocess.run([sys.executable, "-c", code], env=kept | {"WANDB_MODE": "disabled"}, timeout=120)
    assert off.returncode == 0
    assert len(list((tracking.place / "wandb").glob("offline-run-*"))) == 1


def test_a_tracker_of_ones_own_is_used_as_it_is_and_closed_when_the_run_fails(tmp_path: Path) -> None:
    class Mine(GeneralTracker):
        name, requires_logging_directory = "mine", False

        def __init__(self) -> None:
            super().__init__()
            self.config: dict[str, Any] = {}
            self.steps: list[int] = []
            self.closed = 0

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.config = values

        def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
            self.steps.append(step or 0)

        def finish(self) -> None:
            self.closed += 1

    whole, broken = Mine(), Mine()
    run(trackers=[whole], out=tmp_path / "a")
    assert whole.config["seed"] == 0
    assert (whole.steps, whole.closed) == ([1, 3, 6, 6], 1)

    def stop(step: int, steps: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run(trackers=[broken], out=tmp_path / "b", progress=stop)
    assert broken.closed == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trackers": ["wandbb"]}, "The tracker 'wandbb' is unknown; did you mean 'wandb'"),
        ({"trackers": ["tensorboard"]}, "give out="),
        ({"trackers": "wandb"}, r"give a list of names: trackers=\['wandb'\]"),
    ],
)
def test_what_cannot_be_tracked_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DistilError, match=says):
        run(**options)


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DistilError, match=r"'wandb' needs a library that is not installed; run: pip install wandb"):
        Lab(tmp_path, trackers=["wandb"])


def test_a_tracker_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: Any) -> None:
        raise ValueError("api key not configured")

    monkeypatch.setattr(module.WandBTracker, "start", fail)
    with pytest.raises(DistilError, match="The tracker 'wandb' could not start: api key not configured"):
        run(trackers=["wandb"], out=tmp_path)


def test_the_lab_tracks_arms_but_no_tuning(tmp_path: Path) -> None:
    lab = Lab(tmp_path, trackers=["tensorboard"], device="cpu")
    lab.run("kd", Arm("method", lambda seed: outcome(50, val=(40, 45)), expression="kd"), 3)
    lab.tune("kd", lambda point: lambda seed: outcome(50, val=(40,)), {"t": [1]}, trials=1, seed=9, metric="accuracy")
    assert [each.name for each in (tmp_path / "trackers").iterdir()] == ["kd-seed3"]
    assert [e.value for e in events(tmp_path / "trackers" / "kd-seed3").Scalars("val/accuracy")] == [40, 45]
    assert lab.tracking() is None
