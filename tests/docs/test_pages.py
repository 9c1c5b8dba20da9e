"""The pages that teach by code: every block of them runs, in order, in an empty folder."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).parent / "run_page.py"
TAUGHT = {"write_your_own_method.md": ("file", "python", "sh"), "add_a_system.md": ("file", "python", "sh")}
SETUPTOOLS = importlib.util.find_spec("setuptools")


@pytest.mark.parametrize("name", TAUGHT)
def test_every_block_of_the_page_runs(name: str, tmp_path: Path) -> None:
    page = ROOT / "docs" / name
    if "pip install" in page.read_text(encoding="utf-8") and SETUPTOOLS is None:
        pytest.skip("setuptools, with which the page builds its package, is not installed")
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "DISTIL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(page), str(tmp_path / "site")], cwd=here, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counted = ast.literal_eval(done.stdout.splitlines()[-1])
    assert all(counted[kind] for kind in TAUGHT[name])


def test_the_method_of_both_pages_is_the_same() -> None:
    """The second page packs what the first one writes: the same class but for its remarks."""
    bodies = []
    for name in TAUGHT:
        (found,) = re.findall(r"^class Echo.*?(?=^\S|^```)", (ROOT / "docs" / name).read_text("utf-8"), re.S | re.M)
        tree = ast.parse(found.replace("distil.Term", "Term").replace("distil.Method", "Method"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr):
                node.body = node.body[1:]
        bodies.append(ast.dump(tree))
    assert bodies[0] == bodies[1]
