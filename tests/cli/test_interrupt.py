"""Ctrl-C in a real process: it says how to go on, and going on gives what an uninterrupted run gives."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distil.report import load as load_report

from .files import write
from .terminal import contents, distil

Screen = pytest.CaptureFixture[str]
WORDS = ["train", "--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:slow", "--method", "kd"]
WORDS += ["--epochs", "15", "--batch-size", "30", "--lr", "0.01"]


def started(words: list[str], *, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distil", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell hands on an ignored one
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 90
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run in it that was interrupted in the middle of its first arm."""
    place = tmp_path_factory.mktemp("stopped")
    write(place)
    (place / "slow").touch()
    process = started([*WORDS, "--out", "run"], cwd=place)
    wait_for(place / "under-way", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    (place / "slow").unlink()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("distil: interrupted.\n")
    (typed,) = re.findall(r"go on with:\n  (distil .*)\n", err)
    assert shlex.split(typed) == ["distil", "train", "--out", "run", "--resume"]
    return place


@pytest.fixture
def interrupted(_stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of that run, in a copy of its own, and the process beside it."""
    shutil.copytree(_stopped, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "run"


def test_an_interrupted_run_goes_on_in_the_middle_to_the_same_figures(interrupted: Path, capsys: Screen) -> None:
    (saved,) = interrupted.glob("checkpoints/alone-seed0/step-*")
    steps = int(saved.name.removeprefix("step-"))
    assert 0 < steps < 30
    assert not (interrupted / "stages").exists()
    resumed = distil(capsys, "train", "--out", "run", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    whole = distil(capsys, *WORDS, "--out", "whole", "--json").json
    for one, two in zip(resumed.json["arms"], whole["arms"], strict=True):
        for key in ("metrics", "curves", "terms", "agreement", "reliability", "budget"):
            assert one[key] == two[key], key
    students = {name: (interrupted / "students" / name).read_bytes() for name in ("alone-seed0.safetensors",)}
    assert students == {name: (Path("whole") / "students" / name).read_bytes() for name in students}
    assert load_report(interrupted)["arms"] == resumed.json["arms"]


def test_an_interrupted_run_with_a_torn_checkpoint_says_which(interrupted: Path, capsys: Screen) -> None:
    (saved,) = interrupted.glob("checkpoints/alone-seed0/step-*")
    (saved / "tree.json").write_text((saved / "tree.json").read_text()[:-200])
    kept = contents(interrupted)
    said = distil(capsys, "train", "--out", "run", "--resume")
    assert said.code == 2
    (complaint,) = said.complaints
    assert str(saved.relative_to(Path.cwd())) in complaint
    assert "truncated" in complaint
    assert contents(interrupted) == kept


def test_an_interrupted_demo_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["run", "--set", "teacher_training.epochs=1", "--set", "training.epochs=5000", "--device", "cpu"]
    process = started([*words, "--out", "my run"], cwd=tmp_path)
    wait_for(tmp_path / "my run" / "settings.yaml", process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "go on with:\n  distil run --device cpu --out 'my run' --resume\n" in err
    assert "Traceback" not in err
    assert "epochs: 5000" in (tmp_path / "my run" / "settings.yaml").read_text()


def test_an_interrupt_within_code_given_as_text_ends_with_the_same_code(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text('exec("raise KeyboardInterrupt")\n')
    words = ["train", "--data", "digits", "--teacher", "models.py:eye", "--student", "mlp(64,32,10)", "--method", "kd"]
    process = started([*words, "--out", "run"], cwd=tmp_path)
    _, err = process.communicate(timeout=90)
    assert err.endswith("distil: interrupted.\n")
    assert "Traceback" not in err
    assert process.returncode == 130
