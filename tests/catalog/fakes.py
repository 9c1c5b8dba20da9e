"""A project of a few small files that the catalogue reads as if it were this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distil.catalog import names, read_card

CARD = names.PACKAGE / "systems" / "pld" / "card.toml"


def card_text(slug: str = "toy", exports: str = "[]", golden: str = "toy.npz", **changes: str) -> str:
    """A complete card: that of a real system under another name, with single lines replaced."""
    lines = []
    for line in CARD.read_text(encoding="utf-8").splitlines():
        key = line.partition(" = ")[0]
        given = {"slug": f'"{slug}"', "exports": exports, "golden": f'"{golden}"', **changes}
        lines.append(f"{key} = {given[key]}" if key in given and " = " in line else line)
    return "\n".join(lines) + "\n"


class Project:
    """A source tree under ``root`` with systems, maths, golden plan and evidence."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "src" / "distil"
        self.write("src/distil/methods/__init__.py", 'RIVALS = {"kd": "kd:KD"}\n')
        self.write("src/distil/functional/__init__.py", "")
        self.write("tests/golden/planned.toml", "")

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        names._systems.cache_clear()
        names._rivals.cache_clear()
        return file

    def system(self, slug: str = "toy", *, code: str | None = "X = 1\n", proven: bool = True, **card: str) -> Path:
        """Add a system; with ``code`` it has a method.py, and where ``proven`` its golden file is there."""
        folder = f"src/distil/systems/{slug.replace('-', '_')}"
        self.write(f"{folder}/card.toml", card_text(slug, golden=f"{slug}.npz", **card))
        if code is not None:
            self.write(f"{folder}/method.py", code)
        if proven:
            self.write(f"tests/golden/data/{slug}.npz", "")
        return self.root / folder

    def evidence(self, slug: str, **content: Any) -> None:
        self.write(f"evidence/{slug}.json", json.dumps(content))


@contextmanager
def as_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    made = Project(root)
    monkeypatch.setattr(names, "PACKAGE", made.package)
    yield made
    names._systems.cache_clear()
    names._rivals.cache_clear()


def install(site: Path, distribution: str, entry: str, value: str) -> None:
    """Put a distribution with one entry point into a folder on the import path."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"  # a hyphen ends the name here
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[distil.systems]\n{entry} = {value}\n")


def put_on_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    assert str(site) in sys.path


__all__ = ["CARD", "Project", "as_project", "card_text", "install", "put_on_path", "read_card"]
