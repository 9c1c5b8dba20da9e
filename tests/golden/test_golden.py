"""Agreement with the authors' own code: one test per golden file and case, from the folder named by DISTIL_GOLDEN."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .machinery import HERE, Case, Plan, load_adapters, problems, read_file

FOLDER = Path(os.environ.get("DISTIL_GOLDEN") or HERE / "data")
PLAN = Plan.read()
load_adapters()


def cases(folder: Path) -> list[Case | str]:
    """Return every case of every file, and a sentence in place of each file or folder that cannot be used."""
    found: list[Case | str] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            found += read_file(path) or [f"{path.name} holds no case"]
        except Exception as error:
            found.append(f"{path.name} cannot be read: {error}")
    return found or [f"{folder} holds no golden file, so nothing is proven"]


def name(case: Case | str) -> str:
    return f"{case.slug}-{case.name}" if isinstance(case, Case) else "unusable"


@pytest.mark.parametrize("case", cases(FOLDER), ids=name)
def test_golden(case: Case | str) -> None:
    if isinstance(case, str):
        pytest.fail(case)
    found = problems(case, PLAN)
    planned = PLAN.kind(case.slug, case.kind)
    if found and planned and found[0].startswith("no adapter"):
        pytest.skip(f"planned: {planned}")
    assert not found, f"{case.kind}:\n  " + "\n  ".join(found)
