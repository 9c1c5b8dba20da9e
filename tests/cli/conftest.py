from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .files import write


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    write(root)
    return root


@pytest.fixture
def here(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's things in it, and the process in that folder."""
    place = tmp_path / "here"
    shutil.copytree(_made, place)
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="session")
def finished(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, ``done``, and an export of it, ``shipped``; copy them, change nothing here."""
    from .bad.runs import make_run

    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(_made)
        make_run(root)
    return root
