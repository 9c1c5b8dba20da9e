"""Imports only go down the floors, in no circle, and a system reaches another only through its face."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from architecture.source import Import, imports, modules, outside, tree

# A module may import from its own floor and from those below. Names on one line share a floor.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files",),
    ("functional",),
    ("tasks", "data", "models"),
    ("cache",),
    ("engine",),
    ("catalog",),
    ("methods",),
    ("report", "plan", "ship"),
    ("loops",),
    ("systems", "demo"),
    ("boards",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
# Extras and slow packages: never imported before they are used.
HEAVY = {
    "timm",
    "torchvision",
    "torch_geometric",
    "pandas",
    "pyarrow",
    "transformers",
    "datasets",
    "onnx",
    "onnxruntime",
}


def floor(module: str) -> int:
    parts = module.split(".")
    return RANK[parts[1]] if len(parts) > 1 else -1


def wrong_way(found: Import) -> bool:
    """Whether an import climbs; the package itself may be imported for its version from the top alone."""
    if found.target == "distil":
        return floor(found.source) < RANK["cli"]
    return floor(found.target) > floor(found.source)


def past_the_face(found: Import) -> bool:
    """Whether one system imports from inside another."""
    ours, theirs = found.source.split("."), found.target.split(".")
    both = ours[1:2] == theirs[1:2] == ["systems"] and len(ours) > 2 and len(theirs) > 2
    return both and ours[2] != theirs[2] and len(theirs) > 3


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


EVERY = [found for name in modules() for found in imports(name)]


def test_every_part_of_the_package_has_a_floor() -> None:
    assert {name.split(".")[1] for name in modules() if "." in name} <= set(RANK)


def test_imports_go_down() -> None:
    assert [str(found) for found in EVERY if wrong_way(found)] == []


def test_a_system_imports_another_through_its_face() -> None:
    assert [str(found) for found in EVERY if past_the_face(found)] == []


def test_no_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in EVERY:
        if found.source != found.target:
            graph[found.source].add(found.target)
    assert circle(graph) == []


def test_systems_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in EVERY:
        ours, theirs = found.source.split("."), found.target.split(".")
        if ours[1:2] == theirs[1:2] == ["systems"] and len(ours) > 2 and len(theirs) > 2 and ours[2] != theirs[2]:
            graph.setdefault(ours[2], set()).add(theirs[2])
    assert circle(graph) == []


def test_the_catalogue_needs_the_standard_library_alone() -> None:
    for name in modules():
        if name.split(".")[1:2] in (["catalog"], ["errors"]) or name == "distil":
            assert outside(name) <= set(sys.stdlib_module_names), name
            assert {found.target.split(".")[1] for found in imports(name)} <= {"catalog", "errors"}, name


def at_import(file: Path) -> list[tuple[int, str]]:
    """The modules that a file imports as soon as it is imported, with their lines."""
    found = []
    for node in tree(file).body:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
    return found


def test_heavy_libraries_are_imported_inside_functions() -> None:
    for name, file in modules().items():
        assert not [line for line, module in at_import(file) if module.partition(".")[0] in HEAVY], name


def test_verbs_load_torch_only_when_they_run() -> None:
    light = {"typer", "rich", "yaml", *sys.stdlib_module_names}
    own = ("distil.cli", "distil.errors", "distil.catalog", "distil.boards")
    for name, file in modules().items():
        if name.startswith("distil.cli"):
            for line, module in at_import(file):
                allowed = module == "distil" or module.startswith(own) or module.partition(".")[0] in light
                assert allowed, f"{name}:{line} imports {module}"


# ---- the rules can fail


@pytest.mark.parametrize(
    ("source", "statement", "rule"),
    [
        ("functional/bad.py", "from distil.engine.method import Method\n", wrong_way),
        ("functional/bad.py", "def f():\n    import distil.methods.kd\n", wrong_way),
        ("engine/bad.py", "from distil import catalog\n", wrong_way),
        ("engine/bad.py", "from ..systems import pld\n", wrong_way),
        ("methods/bad.py", "import distil\n", wrong_way),
        ("systems/nd/bad.py", "from distil.systems.pld.method import PLD\n", past_the_face),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, source: str, statement: str, rule: object) -> None:
    for name in ("engine/method", "methods/kd", "catalog/__init__", "systems/pld/method", "systems/pld/__init__"):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    file = tmp_path / source
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(statement)
    name = "distil." + source.removesuffix(".py").replace("/", ".")
    assert callable(rule)
    assert [rule(found) for found in imports(name, tmp_path)] == [True]


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("distil.systems.nd.method", "distil.systems.pld", past_the_face),
        ("distil.methods.expression", "distil.catalog", wrong_way),
        ("distil.data.loading", "distil.models.mlp", wrong_way),
        ("distil.cli.app", "distil", wrong_way),
    ],
)
def test_a_right_import_is_left_alone(source: str, target: str, rule: object) -> None:
    assert callable(rule)
    assert not rule(Import(source, target, 1))


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
