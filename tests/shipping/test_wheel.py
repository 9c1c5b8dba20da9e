"""The wheel: built from this checkout, installed into a fresh environment, and used from another folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import distil
from distil import catalog

ROOT = Path(__file__).resolve().parents[2]
NO_BACKEND = (
    "No matching distribution found for hatchling",
    "Could not find a version that satisfies",
    "ConnectionError",
)

TEN_LINES = """
import torch
from torch import nn
import distil
from distil.methods import KD, PLD, Supervised
student, teacher = nn.Linear(20, 5), nn.Linear(20, 5)
batch = torch.randn(8, 20), torch.randint(5, (8,))
distiller = distil.Distiller(student, teacher, 0.9 * KD(temperature=4) + 0.1 * Supervised(), example=batch)
optimizer = distiller.watch(torch.optim.AdamW(distiller.parameters()))
step = distiller(batch)
step.loss.backward(); optimizer.step(); optimizer.zero_grad()
assert distiller.deployed() is student and distiller.ctx.step == 1
print(distil.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without hatchling here, pip fetches it from the registry into an environment of the build's own.
    local = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", *local]
    done = subprocess.run([*pip, "-w", str(folder), str(ROOT)], capture_output=True, text=True, timeout=600)
    if done.returncode and not local and any(sign in done.stderr + done.stdout for sign in NO_BACKEND):
        pytest.skip(f"the build backend hatchling cannot be had: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("distil-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel, and this one's libraries but not its distil."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=300)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, timeout=300)
    (site,) = home.glob("lib/python*/site-packages")
    # A path in a .pth file is added as it is: the editable install that lies there is not followed.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def said(words: list[str | Path], here: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["DISTIL_CACHE"] = str(here / "cache")
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=300, cwd=here, env=environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_travels_with_it(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "distil"
    wanted = {
        f"distil/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    wanted |= {f"distil/_proof/evidence/{file.name}" for file in (ROOT / "evidence").glob("*.json")}
    assert wanted | {"distil/_proof/planned.toml"} <= held
    assert any(name.endswith("/card.toml") for name in wanted)
    assert not [name for name in held if name.startswith("tests") or "__pycache__" in name]


def test_the_catalogue_is_that_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    rows = json.loads(said([installed / "distil", "list", "--json"], tmp_path))
    assert {row["slug"]: (row["state"], row["stale"]) for row in rows} == {
        slug: (catalog.state(slug).name, catalog.state(slug).stale) for slug in catalog.systems()
    }
    assert "Plackett-Luce" in said([installed / "distil", "show", "pld"], tmp_path)
    assert json.loads(said([installed / "distil", "show", "pld", "--json"], tmp_path))["evidence"]["runs"]
    assert said([installed / "distil", "--version"], tmp_path) == f"distil {distil.__version__}\n"


def test_ten_lines_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    home = Path(said([installed / "python", "-c", TEN_LINES], tmp_path).strip())
    assert home.is_relative_to(installed.parent)


def test_it_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    words = ["train", "--data", "digits", "--teacher", "distil:mlp(hidden=32)", "--student", "distil:mlp(hidden=8)"]
    out = said(
        [installed / "distil", *words, "--train-teacher", "3", "--method", "pld", "--epochs", "1", "--out", "run"],
        tmp_path,
    )
    assert "Too few seeds to say" in out
    assert (tmp_path / "run" / "students" / "pld-seed0.safetensors").is_file()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<style" in page
