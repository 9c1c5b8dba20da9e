"""The surface is frozen: public names, options of the command line, and the hooks of a method."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

from architecture.source import SOURCE, tree
from architecture.surface import API, OPTIONS, api, options

# A new hook needs three systems that use it.
HOOKS = {
    *("rebuild", "setup", "prepare", "transform", "before_step", "forward", "counts", "after_step", "after_epoch"),
    *("groups", "deployed"),
}
PROPERTIES = {"expression"}
AGAIN = "if the change is meant, run `python tests/architecture/surface.py` and review the difference"


def test_public_names_are_the_reviewed_ones() -> None:
    assert api() == json.loads(API.read_text(encoding="utf-8")), AGAIN


def test_options_are_the_reviewed_ones() -> None:
    assert options() == json.loads(OPTIONS.read_text(encoding="utf-8")), AGAIN


def test_every_public_name_exists() -> None:
    for module, names in api().items():
        for name in names:
            assert hasattr(import_module(module), name), f"{module}.{name}"


def test_no_verb_spells_a_common_option_in_its_own_way() -> None:
    for verb, taken in options().items():
        if "--overwrite" in taken["options"]:
            assert "--out" in taken["options"], verb
        if "--resume" in taken["options"] or "--seeds" in taken["options"]:  # what trains can be gone on with
            assert {"--out", "--resume", "--overwrite"} <= set(taken["options"]), verb


def method_class() -> ast.ClassDef:
    file = SOURCE / "engine" / "method.py"
    return next(node for node in tree(file).body if isinstance(node, ast.ClassDef) and node.name == "Method")


def test_the_hooks_of_a_method_are_frozen() -> None:
    functions = [node for node in method_class().body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    decorated = {node.name for node in functions if any(ast.unparse(d) == "property" for d in node.decorator_list)}
    assert {node.name for node in functions} - decorated == HOOKS
    assert decorated == PROPERTIES


def test_forward_is_the_only_abstract_hook() -> None:
    from distil.engine.method import Method

    assert Method.__abstractmethods__ == {"forward"}


def test_hooks_that_cards_may_name_are_those_of_a_method() -> None:
    from distil.catalog import cards

    assert set(cards.HOOKS) - {"select"} == HOOKS


@pytest.mark.parametrize("file", [API, OPTIONS])
def test_the_reviewed_files_are_not_empty(file: Path) -> None:
    assert len(json.loads(file.read_text(encoding="utf-8"))) > 2
