"""Calling the command line in this process, and reading what it said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distil.cli import main

OWN = ("--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:make")
QUICK = ("--epochs", "1", "--batch-size", "16")


@dataclass(frozen=True)
class Said:
    """The exit code, and what went to standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON, all of it."""
        return json.loads(self.out)

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("distil: ")]


def distil(capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    code = main(list(words))
    out, err = capsys.readouterr()
    return Said(code, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said where words typed in this folder are refused in one sentence, and nothing in it is touched."""
    before = contents(Path())
    said = distil(capsys, *words, "--device", "cpu")
    assert said.code == 2, said
    assert "Traceback" not in said.err
    (complaint,) = said.complaints
    assert contents(Path()) == before
    return complaint
