"""The command line under a launcher: two processes, one run, one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distil.cli.together import check_verb
from distil.errors import DistilError
from engine.kills import free_port

WORDS = ["compare", "--data", "digits", "--teacher", "distil:mlp(hidden=32)", "--student", "distil:mlp(hidden=8)"]
WORDS += ["--train-teacher", "2", "--epochs", "2", "--methods", "kd", "--seeds", "1", "--set", "limit=200"]


def together(words: list[str], folder: Path) -> tuple[list[int], list[str], list[str]]:
    """Type the same words in two processes; their exit codes, and what each said."""
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), "DISTIL_CACHE": str(folder / "cache")}  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "distil", *words], env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
        )
        for r in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=100) for process in both]
    return [p.returncode for p in both], [out for out, _ in said], [err for _, err in said]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison by two processes, its report printed as JSON."""
    folder = tmp_path_factory.mktemp("together")
    codes, out, err = together([*WORDS, "--out", "made", "--json"], folder)
    assert codes == [0, 0], err
    assert out[1] == err[1] == ""
    assert json.loads(out[0])["arms"]
    return folder


def test_one_run_is_written_and_reported_once(run: Path) -> None:
    report = json.loads((run / "made" / "report.json").read_text())
    arm = report["arms"][0]
    assert arm["budget"]["batch_size"] == 2 * 64
    assert len(list((run / "made" / "students").glob("*.safetensors"))) == 2
    assert len(list((run / "cache" / "stages").iterdir())) == 1  # one teacher, made together
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]


def test_a_mistake_is_told_once(run: Path) -> None:
    codes, _, err = together([*WORDS, "--out", "made"], run)
    assert codes == [2, 2]
    told = [line for text in err for line in text.splitlines() if line.startswith("distil:")]
    assert len(told) == 1, err
    assert "already holds something" in told[0]
    assert "Traceback" not in "".join(err)


def test_what_one_process_does_is_refused_to_many(monkeypatch: pytest.MonkeyPatch) -> None:
    check_verb(["list"], {"list"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_verb(["train"], {"train"})
    with pytest.raises(DistilError, match="'distil list' runs as one process"):
        check_verb(["list"], {"list"})


def test_when_one_process_fails_the_other_does_not_wait(run: Path) -> None:
    """The second process cannot build the student, the first can: both end, and the sentence is told."""
    (run / "odd.py").write_text(
        "import os\nfrom torch import nn\n\n\ndef student():\n"
        "    if os.environ['RANK'] == '1':\n        raise ValueError('no such disk')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    words = [*WORDS[:6], "odd.py:student", *WORDS[7:], "--out", "odd"]
    codes, _, err = together(words, run)
    assert 0 not in codes
    told = [line for text in err for line in text.splitlines() if line.startswith("distil:")]
    assert len(told) == 1, err
    assert "no such disk" in told[0]
