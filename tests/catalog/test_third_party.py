"""Systems of third parties, installed as a user would, beside packages that are broken."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.fakes import card_text, install

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add_a_system.md"
MODELS = ("--teacher", "distil:mlp(hidden=64)", "--student", "distil:mlp(hidden=8)")
TRAIN = ("train", "--data", "digits", *MODELS, "--train-teacher", "3", "--epochs", "1", "--no-baseline", "--json")


def package(root: Path) -> Path:
    """Write the package of the page that teaches how to make one."""
    for path, body in re.findall(r"^```\w+\n# (their-echo/\S+)\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(body, encoding="utf-8")
    proof = root / "their-echo" / "src" / "their_echo" / "_proof" / "evidence"
    proof.mkdir(parents=True)
    (proof / "echo.json").write_text(json.dumps({"slug": "echo", "hash": "of other code", "runs": []}))
    return root / "their-echo"


def broken(site: Path, name: str, card: str | None, code: str = "") -> None:
    """Put a package with a card, or without one, into ``site``."""
    folder = site / name.replace("-", "_")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code)
    (folder / "method.py").write_text("")
    (folder / "recipe.py").write_text("")
    if card is not None:
        (folder / "card.toml").write_text(card)
    install(site, f"{name}-dist", name, folder.name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good package, installed by pip, and three that are not."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, with which the package is built, is not installed")
    root = tmp_path_factory.mktemp("theirs")
    site = root / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check")
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(site), str(package(root))],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    broken(site, "no-card", None)
    broken(site, "bad-card", card_text("bad-card", kind='"sorcery"'))
    broken(site, "bad-code", card_text("bad-code"), "import nowhere_at_all\n")
    broken(site, "pld", card_text("pld"))
    return site


def distil(site: Path, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(site)])}
    return subprocess.run(
        [sys.executable, "-m", "distil", *words], capture_output=True, text=True, timeout=300, cwd=here, env=environment
    )


def test_it_is_listed_and_what_is_broken_is_named_and_left_out(site: Path, tmp_path: Path) -> None:
    done = distil(site, tmp_path, "list", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["slug"]: row for row in json.loads(done.stdout)}
    assert (rows["echo"]["origin"], rows["echo"]["state"], rows["echo"]["stale"]) == ("their-echo", "works", True)
    assert rows["pld"]["origin"] == "distil"
    assert not {"no-card", "bad-card"} & set(rows)
    notes = done.stderr.strip().splitlines()
    assert len(notes) == 3
    assert all(line.startswith("note: ") for line in notes)
    said = "\n".join(notes)
    assert "'no-card' of 'no-card-dist' names 'no_card', which is no package with a card.toml" in said
    assert "The system 'bad-card' of 'bad-card-dist' is left out: " in said
    assert "kind has the unknown value 'sorcery'" in said
    assert "Two things are called 'pld'" in said


def test_it_is_shown(site: Path, tmp_path: Path) -> None:
    done = distil(site, tmp_path, "show", "echo")
    assert done.returncode == 0, done.stderr
    assert "Pointing Where the Teacher Points" in done.stdout
    asked = distil(site, tmp_path, "show", "bad-card")
    assert asked.returncode == 2
    assert asked.stderr.startswith("distil: The system 'bad-card' of 'bad-card-dist' is left out: ")


def test_it_trains(site: Path, tmp_path: Path) -> None:
    done = distil(site, tmp_path, *TRAIN, "--method", "echo(bias=true)")
    assert done.returncode == 0, done.stderr
    (arm,) = json.loads(done.stdout)["arms"]
    assert arm["expression"] == "echo(bias=true)"
    assert {name for part in arm["terms"] for name in part["loss"]} == {"supervised", "echo"}


@pytest.mark.parametrize("words", [(*TRAIN, "--method", "bad-code"), ("run", "bad-code")], ids=["train", "run"])
def test_code_that_cannot_be_imported_is_named(site: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = distil(site, tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("distil: 'bad-code' cannot be used, since importing bad_code")
    assert "ModuleNotFoundError: No module named 'nowhere_at_all'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_its_recipe_runs(site: Path, tmp_path: Path) -> None:
    quick = ("--set", "training.epochs=1", "--set", "pair.teacher_training.epochs=2", "--set", "pair.train=100")
    done = distil(site, tmp_path, "run", "echo", *quick, "--seeds", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert [arm["name"] for arm in json.loads(done.stdout)["arms"]] == ["alone", "kd", "echo"]
