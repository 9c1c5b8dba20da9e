"""The source as the rules see it: modules, and what each imports, read without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "distil"


@dataclass(frozen=True)
class Import:
    """One import: from which module, of which module of this package, on which line."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def module_name(file: Path, top: Path = SOURCE) -> str:
    parts = ("distil", *file.relative_to(top).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(top: Path = SOURCE) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {module_name(file, top): file for file in sorted(top.rglob("*.py"))}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(name: str, top: Path = SOURCE) -> Iterator[Import]:
    """What ``name`` imports from this package, wherever the statement stands; types alone do not count."""
    known = modules(top)
    for node in _running(tree(known[name])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "distil":
                    yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, name, known[name])
            if base.partition(".")[0] == "distil":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield Import(name, inner if inner in known else base, node.lineno)


def outside(name: str, top: Path = SOURCE) -> set[str]:
    """The top packages from outside that ``name`` imports, wherever the statement stands."""
    found: set[str] = set()
    for node in ast.walk(tree(modules(top)[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found - {"distil", "__future__"}


def _base(node: ast.ImportFrom, name: str, file: Path) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if guarded:
            continue
        yield child
        yield from _running(child)
