"""How far a system is proven, computed from files and never written down.

``planned``: a card without code, or code whose golden kinds are still planned; ``golden``: code whose golden file (or
named oracle) is checked in full; ``works``: golden, and the evidence of its recipe is stored. It is stale when the code
has changed since: evidence holds, under the key ``hash``, what :func:`evidence_hash` gave when the recipe ran.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distil.catalog import names
from distil.catalog.cards import Card
from distil.errors import DistilError

__all__ = ["State", "code_behind", "evidence", "evidence_hash", "maths_hash", "state"]

WATCHED = ("functional", "methods", "systems")


@dataclass(frozen=True)
class State:
    """How far a system is proven: ``planned``, ``golden`` or ``works``, whether that is stale, and why."""

    name: str
    stale: bool = False
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name}, stale" if self.stale else self.name


@dataclass(frozen=True)
class _Files:
    """Where proof lies: at the root of a checkout, or in ``_proof`` inside an installed package."""

    root: Path
    checkout: bool

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def planned(self) -> Path:
        return self.root / ("tests/golden/planned.toml" if self.checkout else "planned.toml")


def _files(made: Card) -> _Files:
    if made.origin != "distil":
        return _Files(made.folder / "_proof", checkout=False)
    source = names.PACKAGE.parent
    if source.name == "src" and (source.parent / "tests" / "golden").is_dir():
        return _Files(source.parent, checkout=True)
    return _Files(names.PACKAGE / "_proof", checkout=False)


def state(slug: str) -> State:
    """Compute how far a system is proven.

    >>> state("dense2moe").name in ("planned", "golden", "works")
    True
    """
    made = names.card(slug)
    if made.origin == "distil":
        return _state(made)
    try:
        return _state(made)
    except (DistilError, SyntaxError, ValueError, OSError) as error:  # a third party's files concern it alone
        return State("planned", why=f"its files cannot be read: {error}")


def _state(made: Card) -> State:
    if not made.has_code:
        return State("planned", why="a card alone, no code yet")
    gap = _unproven(made, _files(made))
    if gap:
        return State("planned", why=f"code is there, but {gap}")
    stored = evidence(made.slug)
    if stored is None:
        return State("golden", why="its values are checked; no evidence of a run is stored yet")
    if not (made.folder / "recipe.py").is_file():
        return State("golden", why="its values are checked; the stored evidence has no recipe.py to repeat it")
    if stored.get("hash") != evidence_hash(made.slug):
        return State("works", stale=True, why="its code changed after the stored evidence; run the recipe again")
    return State("works", why="its values are checked and the evidence of its recipe is stored")


def _unproven(made: Card, files: _Files) -> str:
    """Say what is missing before the values of a system count as checked; nothing where nothing is."""
    if made.proof.oracle:
        test = made.proof.oracle.partition(":")[0].strip()
        missing = files.checkout and not (files.root / test).is_file()
        return f"its oracle test {test} is not there yet" if missing else ""
    if files.checkout and not (files.root / "tests/golden/data" / made.proof.golden).is_file():
        return f"its golden file {made.proof.golden} is not there yet"
    if not files.planned.is_file():
        return f"the golden plan {files.planned.name} was not found"
    try:
        plan = tomllib.loads(files.planned.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DistilError(f"{files.planned} is not valid TOML: {error}.") from error
    left = plan.get(Path(made.proof.golden).stem, {})
    count = len(left.get("kinds", [])) + len(left.get("partial", []))
    return f"{count} kinds of its golden file are still planned, in whole or in part" if count else ""


def evidence(slug: str) -> dict[str, Any] | None:
    """Return the stored evidence of a system's recipe, or ``None`` where there is none."""
    made = names.card(slug)
    file = _files(made).evidence / f"{made.slug}.json"
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DistilError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(stored, dict):
        raise DistilError(f"{file} must hold one object; it holds a {type(stored).__name__}.")
    return stored


def evidence_hash(slug: str) -> str:
    """Return the hash of a system's code and of the maths it uses.

    It covers the Python files of the system's folder and every module of ``distil.functional``, ``distil.methods`` and
    ``distil.systems`` that they import, followed through those packages. Cards and package faces are left out: they
    hold no maths. Bytes are hashed as they are, so a changed comment counts too.
    """
    made = names.card(slug)
    return _hash_of(code_behind(made.folder.rglob("*.py")), made.folder)


def maths_hash(files: Iterable[Path]) -> str:
    """Return the hash of files and of the maths behind them, as :func:`evidence_hash` has it for a system's folder."""
    return _hash_of(code_behind(files), names.PACKAGE)


def _hash_of(files: Iterable[Path], folder: Path) -> str:
    lines = []
    for file in files:
        home = folder if file.is_relative_to(folder) else names.PACKAGE
        content = file.read_bytes().replace(b"\r\n", b"\n")
        lines.append(f"{file.relative_to(home).as_posix()} {hashlib.sha256(content).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def code_behind(files: Iterable[Path]) -> set[Path]:
    """Return files and every module of ``distil.functional``, ``distil.methods`` and ``distil.systems`` behind them.

    Imports are followed through those packages; package faces are left out, since they hold no maths.
    """
    todo, seen = sorted(files), set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += _imported(file)
    return seen


def _imported(file: Path) -> Iterator[Path]:
    """Yield the files of the watched packages that ``file`` imports, anywhere in it."""
    for level, base, name in imports(file.read_text(encoding="utf-8")):
        if level and file.is_relative_to(names.PACKAGE):
            above = file.relative_to(names.PACKAGE).parts[:-level]
            base = ".".join(part for part in ("distil", *above, base) if part)
        yield from _modules(base, name)


# Lines are looked at, not the syntax tree: of a hundred files that takes a tenth of a second less.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]*(\([^)]*\)|[^\n]+)|import[ \t]+([^\n]+))", re.MULTILINE
)


def imports(source: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield (dots, module, name) of every import in Python source: of ``import a.b`` the name is ``None``.

    >>> list(imports("import a.b as c\\nfrom .d import (e, f as g,)"))
    [(0, 'a.b', None), (1, 'd', 'e'), (1, 'd', 'f')]
    """
    for dots, base, taken, plain in _IMPORT.findall(source):
        listed = re.sub(r"#[^\n]*|[();\\]", " ", plain or taken)
        for words in (entry.split() for entry in listed.split(",")):
            if words:
                yield (0, words[0], None) if plain else (len(dots), base, words[0])


def _modules(base: str, name: str | None) -> Iterator[Path]:
    """Yield the files behind ``from base import name``; all of a package where its face does not tell which."""
    parts = [*base.split("."), *([name] if base == "distil" and name in WATCHED else [])]
    if len(parts) < 2 or parts[0] != "distil" or parts[1] not in WATCHED:
        return
    folder = names.PACKAGE.joinpath(*parts[1:])
    if folder.with_suffix(".py").is_file():
        yield folder.with_suffix(".py")
    elif name and (folder / f"{name}.py").is_file():
        yield folder / f"{name}.py"
    elif parts[1] == "systems":
        system = folder / name if name and len(parts) == 2 else folder
        yield from sorted(system.rglob("*.py")) if system.parent != names.PACKAGE else ()
    elif folder.is_dir():
        yield from _through_face(folder, ".".join(parts), None if parts[-1] == name else name)


def _through_face(folder: Path, base: str, name: str | None) -> Iterator[Path]:
    home = _home(folder / "__init__.py", name) if name else None
    exporter = next((made for made in names.systems().values() if name in made.proof.exports), None)
    if home:
        yield from _modules(home if home.startswith("distil.") else f"{base}.{home.lstrip('.')}", name)
    elif exporter and base == "distil.methods":
        yield from sorted(exporter.folder.rglob("*.py"))
    else:
        yield from sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")


@lru_cache(maxsize=64)
def _tree(source: str) -> tuple[ast.AST, ...]:
    """Return every node of a package's face, which is asked about once for each name taken from it."""
    return tuple(ast.walk(ast.parse(source)))


def _home(face: Path, name: str) -> str | None:
    """Return the module from which a package's face takes ``name``: by an import, or by a literal table of homes.

    Tables are read as ``{name: "module"}``, ``{key: "module:Name"}`` and ``{"module": (names, …)}``.
    """
    for node in _tree(face.read_text(encoding="utf-8")) if face.is_file() else ():
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            return node.module
        for key, value in zip(node.keys, node.values) if isinstance(node, ast.Dict) else ():
            label = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
            held = [e.value for e in ast.walk(value) if isinstance(e, ast.Constant) and isinstance(e.value, str)]
            if isinstance(value, ast.Constant) and held and (label == name or held[0].partition(":")[2] == name):
                return held[0].partition(":")[0]
            if not isinstance(value, ast.Constant) and label and name in held:
                return label
    return None
