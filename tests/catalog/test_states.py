"""States: computed from files in a checkout and in an installed package, and stale exactly when code has changed."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from catalog.fakes import Project
from distil import catalog
from distil.catalog import names
from distil.catalog.proof import imports
from distil.errors import DistilError


def test_a_card_alone_is_planned(project: Project) -> None:
    project.system("toy", code=None)
    assert catalog.state("toy").name == "planned"


@pytest.mark.parametrize("file", ["method.py", "procedure.py"])
def test_code_with_its_golden_file_checked_is_golden(project: Project, file: str) -> None:
    folder = project.system("toy", code=None)
    (folder / file).write_text("X = 1\n")
    assert (catalog.state("toy").name, catalog.state("toy").stale) == ("golden", False)


def test_code_whose_golden_kinds_are_planned_is_planned(project: Project) -> None:
    project.system("toy")
    project.write("tests/golden/planned.toml", '[toy]\nreason = "later"\nkinds = ["one", "two"]\n')
    state = catalog.state("toy")
    assert state.name == "planned"
    assert "2 kinds" in state.why


def test_keys_left_for_later_count_as_planned(project: Project) -> None:
    project.system("toy")
    project.write("tests/golden/planned.toml", '[[toy.partial]]\nkind = "one"\nkeys = ["out/x"]\nreason = "later"\n')
    assert catalog.state("toy").name == "planned"


def test_the_plan_of_another_system_does_not_matter(project: Project) -> None:
    project.system("toy")
    project.write("tests/golden/planned.toml", '[other]\nkinds = ["one"]\n')
    assert catalog.state("toy").name == "golden"


def test_code_without_its_golden_file_or_without_a_plan_is_planned(project: Project) -> None:
    project.system("toy", proven=False)
    assert "toy.npz is not there" in catalog.state("toy").why
    project.write("tests/golden/data/toy.npz", "")
    (project.root / "tests/golden/planned.toml").unlink()
    assert catalog.state("toy").name == "planned"


def test_an_oracle_counts_once_its_test_exists(project: Project) -> None:
    folder = project.system("toy", proven=False)
    card = folder / "card.toml"
    text = card.read_text().replace('golden = "toy.npz"', 'golden = ""\noracle = "tests/test_toy.py: by brute force"')
    project.write(str(card.relative_to(project.root)), text)
    assert "tests/test_toy.py is not there" in catalog.state("toy").why
    project.write("tests/test_toy.py", "")
    assert catalog.state("toy").name == "golden"


def test_evidence_needs_its_recipe(project: Project) -> None:
    folder = project.system("toy")
    project.evidence("toy", hash=catalog.evidence_hash("toy"))
    assert catalog.state("toy").name == "golden"
    (folder / "recipe.py").write_text("Y = 2\n")
    project.evidence("toy", hash=catalog.evidence_hash("toy"))
    assert (catalog.state("toy").name, catalog.state("toy").stale) == ("works", False)


def test_evidence_that_is_no_object_is_refused(project: Project) -> None:
    project.system("toy")
    for text in ("{", "[]"):
        file = project.write("evidence/toy.json", text)
        with pytest.raises(DistilError, match=re.escape(str(file))):
            catalog.state("toy")


def with_maths(project: Project) -> Path:
    folder = project.system("toy", code="def m():\n    from distil.functional import f\n")
    project.write("src/distil/systems/toy/recipe.py", "import distil.methods.kd\n")
    project.write(
        "src/distil/functional/__init__.py", "from distil.functional.a import f\nfrom distil.functional.c import h\n"
    )
    project.write("src/distil/functional/a.py", "from distil.functional import b\ndef f(): ...\n")
    project.write("src/distil/functional/b.py", "B = 1\n")
    project.write("src/distil/functional/c.py", "def h(): ...\n")
    project.write("src/distil/methods/kd.py", "from distil.functional.d import D\n")
    project.write("src/distil/functional/d.py", "D = 1\n")
    project.evidence("toy", hash=catalog.evidence_hash("toy"))
    assert not catalog.state("toy").stale
    return folder


@pytest.mark.parametrize(
    "file",
    [
        "systems/toy/method.py",
        "systems/toy/recipe.py",
        "functional/a.py",
        "functional/b.py",
        "methods/kd.py",
        "functional/d.py",
    ],
)
def test_a_change_in_code_or_in_the_maths_it_reaches_makes_it_stale(project: Project, file: str) -> None:
    with_maths(project)
    path = project.package / file
    path.write_text(path.read_text() + "# changed\n")
    state = catalog.state("toy")
    assert (state.name, state.stale, str(state)) == ("works", True, "works, stale")


@pytest.mark.parametrize("file", ["systems/toy/card.toml", "functional/c.py", "systems/other/method.py"])
def test_a_change_elsewhere_does_not(project: Project, file: str) -> None:
    with_maths(project)
    path = project.package / file
    project.write(f"src/distil/{file}", (path.read_text() if path.exists() else "") + "# changed\n")
    assert not catalog.state("toy").stale


def test_a_missing_hash_is_stale_and_line_endings_do_not_count(project: Project) -> None:
    folder = with_maths(project)
    before = catalog.evidence_hash("toy")
    method = folder / "method.py"
    method.write_bytes(method.read_bytes().replace(b"\n", b"\r\n"))
    assert catalog.evidence_hash("toy") == before
    project.evidence("toy", verdict="helped")
    assert catalog.state("toy").stale


@pytest.mark.parametrize(
    "face",
    [
        '_HOMES = {"f": "a"}\n',
        '_HOMES = {"f": "a:f"}\n',
        '_HOMES = {"a": ("f", "g")}\n',
        "from .a import f\n",
        "from distil.functional.a import original as f\n",
    ],
)
def test_a_face_tells_which_module_a_name_comes_from(project: Project, face: str) -> None:
    project.system("toy", code="from distil.functional import f\n")
    project.write("src/distil/functional/__init__.py", face)
    project.write("src/distil/functional/a.py", "A = 1\n")
    project.write("src/distil/functional/z.py", "Z = 1\n")
    before = catalog.evidence_hash("toy")
    project.write("src/distil/functional/z.py", "Z = 2\n")
    assert catalog.evidence_hash("toy") == before
    project.write("src/distil/functional/a.py", "A = 2\n")
    assert catalog.evidence_hash("toy") != before


@pytest.mark.parametrize(
    "statement", ["from distil import functional", "import distil.functional", "from distil.functional import *"]
)
def test_a_whole_package_counts_where_no_name_is_told(project: Project, statement: str) -> None:
    project.system("toy", code=f"{statement}\n")
    project.write("src/distil/functional/z.py", "Z = 1\n")
    before = catalog.evidence_hash("toy")
    project.write("src/distil/functional/z.py", "Z = 2\n")
    assert catalog.evidence_hash("toy") != before


@pytest.mark.parametrize("statement", ["from distil.systems.base import Base", "from distil.methods import Base"])
def test_another_system_counts_with_its_maths(project: Project, statement: str) -> None:
    project.system("base", code="from distil.functional.a import f\n", exports='["Base"]')
    project.system("toy", code=f"{statement}\n")
    project.write("src/distil/functional/a.py", "A = 1\n")
    before = catalog.evidence_hash("toy")
    project.write("src/distil/functional/a.py", "A = 2\n")
    after = catalog.evidence_hash("toy")
    project.write("src/distil/systems/base/method.py", "from distil.functional.a import f  # changed\n")
    assert len({before, after, catalog.evidence_hash("toy")}) == 3


def test_an_installed_package_carries_its_proof(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_maths(project)
    site = tmp_path / "site" / "distil"
    shutil.copytree(project.package, site)
    monkeypatch.setattr(names, "PACKAGE", site)
    assert catalog.state("toy").name == "planned"  # no plan travelled with it
    shutil.copytree(project.root / "evidence", site / "_proof" / "evidence")
    shutil.copy(project.root / "tests/golden/planned.toml", site / "_proof" / "planned.toml")
    assert (catalog.state("toy").name, catalog.state("toy").stale) == ("works", False)


def test_states_of_this_project_follow_from_its_files() -> None:
    for slug, card in catalog.systems().items():
        state = catalog.state(slug)
        assert state.name in ("planned", "golden", "works")
        assert card.has_code or state.name == "planned"
        assert (state.name == "works") == (
            catalog.evidence(slug) is not None and card.has_code and "planned" not in state.why
        )


def test_imports_found_by_lines_are_those_of_the_syntax_tree() -> None:
    """Lines may find more (an example in a docstring), never less."""
    for file in sorted((Path(catalog.__file__).parents[1]).rglob("*.py")):
        source, known = file.read_text(encoding="utf-8"), set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                known |= {(0, alias.name, None) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                known |= {(node.level, node.module or "", alias.name) for alias in node.names}
        assert known <= set(imports(source)), file
