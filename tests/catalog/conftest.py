from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.fakes import Project, as_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project of its own, which the catalogue reads in place of this one."""
    with as_project(tmp_path, monkeypatch) as made:
        yield made
