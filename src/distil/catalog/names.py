"""Which systems there are, and what a name in an expression means.

A third party adds a system with an entry point in the group ``distil.systems`` whose value is a package that holds a
``card.toml``; the package is found without being imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata, util
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from distil.catalog.cards import Card, read_card
from distil.errors import DistilError, nearest

__all__ = [
    "Target",
    "UnknownName",
    "adopt",
    "broken",
    "card",
    "export",
    "export_names",
    "import_code",
    "resolve",
    "rival_text",
    "rivals",
    "systems",
]

PACKAGE = Path(__file__).resolve().parents[1]
GROUP = "distil.systems"


class UnknownName(DistilError, AttributeError):
    """A name that nothing answers to; an AttributeError too, so that a module's lazy look-up may raise it."""


@dataclass(frozen=True)
class Target:
    """What a name stands for: a ``rival``, a ``system`` (its ``published``), an ``export`` (a bare class), or ``own``.

    ``thing`` is what was :func:`adopt`-ed, which is there already.
    """

    name: str
    kind: str
    module: str
    attribute: str
    thing: Any = None

    def load(self) -> Any:
        """Import it; only here does the catalogue touch code."""
        if self.thing is not None:
            return self.thing
        found = getattr(import_code(self.module, self.name), self.attribute, None)
        if found is None:
            raise DistilError(f"'{self.name}' should be {self.attribute} in {self.module}, which has no such name.")
        return found


def import_code(module: str, name: str) -> ModuleType:
    """Import a module of a system; what breaks in a third party's is said in a sentence that names it.

    Args:
        module: which; ``distil.…`` is this project's, whose errors are left as they are.
        name: of the system, for the message.
    """
    if module.partition(".")[0] == "distil":
        return import_module(module)
    try:
        return import_module(module)
    except DistilError:
        raise
    except Exception as error:  # it is their code: anything may be wrong in there
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise DistilError(
            f"'{name}' cannot be used, since importing {module} fails ({type(error).__name__}: {reason}); mend or "
            "uninstall the package it comes from."
        ) from error


_ADOPTED: dict[str, Target] = {}


def adopt(name: str, thing: Any, origin: str) -> None:
    """Let expressions of this process call ``thing``, a user's own method, by ``name``.

    Adopting from the same ``origin`` again replaces what was there.

    Raises:
        DistilError: the name is taken.
    """
    key = name.lower()
    taken = _ADOPTED.get(key)
    if taken is not None and taken.module != origin:
        raise DistilError(f"Two methods are called '{key}', of {taken.module} and of {origin}; rename one of them.")
    if taken is None:
        try:
            found = resolve(key)
        except UnknownName:
            pass
        else:
            raise DistilError(f"'{key}' of {origin} is called as the {found.kind} '{found.name}' is; rename it.")
    _ADOPTED[key] = Target(key, "own", origin, name, thing)


def systems() -> dict[str, Card]:
    """Return every card by slug: this project's in the order of their numbers, then third parties'.

    A third party whose card cannot be used is left out, and named by :func:`broken`.
    """
    return dict(_systems(PACKAGE, tuple(sys.path)).cards)


def broken() -> dict[str, str]:
    """Return why third parties are left out, a sentence for each by the name of its entry point."""
    return dict(_systems(PACKAGE, tuple(sys.path)).broken)


def card(slug: str) -> Card:
    """Return one card; ``ff_g2m`` and ``FF-G2M`` are read as ``ff-g2m``."""
    found = systems()
    key = _slug(slug)
    if key not in found:
        _refuse_broken(key)
        raise UnknownName(f"There is no system '{slug}'; {nearest(key, found)}")
    return found[key]


def rivals() -> dict[str, str]:
    """Return the standard methods that belong to no system, ``{"kd": "kd:KD", …}``, read without importing them."""
    return dict(_rivals(PACKAGE))


def rival_text(name: str) -> str:
    """Return what the class of a standard method says of itself, read from its file without importing it.

    >>> rival_text("kd").splitlines()[0]
    "Match the teacher's softened class probabilities."
    """
    module, _, kind = rivals()[name].partition(":")
    tree = ast.parse((PACKAGE / "methods" / f"{module}.py").read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind), None)
    return (ast.get_docstring(found) if found is not None else None) or ""


def export_names() -> list[str]:
    """Return the class names that ``distil.methods`` gives: the rivals' and those of systems that have code."""
    own = [home.partition(":")[2] for home in rivals().values()]
    return sorted({*own, *(name for made in systems().values() if made.has_code for name in made.proof.exports)})


def resolve(name: str) -> Target:
    """Say what a name in an expression stands for.

    A rival (``kd``), a system's slug (``pld``: the paper's whole weighted sum, its ``published``) or the lower-cased
    name of a class that a system exports (``directnorm``: the bare method).

    Raises:
        DistilError: nothing has the name (the nearest are listed), or its system is planned or no method to train with.
    """
    key = name.strip().lower()
    if key in rivals():
        return _rival(key, rivals()[key])
    found = systems()
    if _slug(name) in found:
        return _target(found[_slug(name)], _slug(name), "system", "published")
    exports = {label.lower(): (made, label) for made in found.values() for label in made.proof.exports}
    if key in exports:
        made, label = exports[key]
        return _target(made, key, "export", label)
    if key in _ADOPTED:
        return _ADOPTED[key]
    _refuse_broken(_slug(name))
    raise UnknownName(f"'{name}' is no method; {nearest(key, [*rivals(), *found, *exports, *_ADOPTED])}")


def export(name: str) -> Any:
    """Return the class that a rival or a system exports under ``name``; what ``distil.methods.NAME`` means."""
    for key, home in rivals().items():
        if home.partition(":")[2] == name:
            return _rival(key, home).load()
    for made in systems().values():
        if name in made.proof.exports:
            return _target(made, name, "export", name).load()
    raise UnknownName(f"distil.methods has no '{name}'; {nearest(name, export_names())}")


def _refuse_broken(slug: str) -> None:
    if slug in broken():
        raise DistilError(broken()[slug])


def _slug(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _rival(name: str, home: str) -> Target:
    module, _, attribute = home.partition(":")
    return Target(name, "rival", f"distil.methods.{module}", attribute)


def _target(made: Card, name: str, kind: str, attribute: str) -> Target:
    if not made.has_code:
        raise DistilError(
            f"'{made.slug}' ({made.name}) is planned: this version has its card but not its code yet; "
            f"see `distil show {made.slug}`."
        )
    if kind == "system" and not made.has_method:
        raise DistilError(f"'{made.slug}' ({made.name}) is a procedure, not a method to train with; run it by itself.")
    return Target(name, kind, made.package, attribute)


class _Found(NamedTuple):
    cards: Mapping[str, Card]
    broken: Mapping[str, str]


@lru_cache(maxsize=8)
def _systems(package: Path, _path: tuple[str, ...]) -> _Found:
    files = sorted((package / "systems").glob("*/card.toml"))
    own = [read_card(file, package=f"distil.systems.{file.parent.name}") for file in files]
    cards = sorted(own, key=lambda c: (c.number, c.slug))
    owners = {name: f"{name!r} of distil.methods" for name in _rivals(package)}
    for made in cards:
        _own_names(made, owners)
    theirs, faults = [], {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        try:
            made = _third_party(entry)
            _own_names(made, owners)
            theirs.append(made)
        except DistilError as error:  # one broken package must not take the catalogue with it
            faults[_slug(entry.name)] = str(error)
    cards += sorted(theirs, key=lambda c: c.slug)
    return _Found(MappingProxyType({made.slug: made for made in cards}), MappingProxyType(faults))


def _own_names(made: Card, owners: dict[str, str]) -> None:
    """Note what a card calls by which name; a name that is taken is refused, naming both."""
    names = {made.slug: "slug", **{label.lower(): f"export {label}" for label in made.proof.exports}}
    mine = {name: f"the {role} of {made.package} (from '{made.origin}')" for name, role in names.items()}
    for name, what in mine.items():
        if name in owners:
            raise DistilError(f"Two things are called '{name}': {owners[name]} and {what}; rename one of them.")
    owners |= mine


def _third_party(entry: metadata.EntryPoint) -> Card:
    owner = entry.dist.name if entry.dist else "an unnamed distribution"
    top, *rest = entry.value.partition(":")[0].strip().split(".")
    try:
        # Only the top package is looked up, and a look-up does not import: the card is found without running code.
        spec = util.find_spec(top) if top.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    folders = [Path(root, *rest) for root in (spec.submodule_search_locations or ())] if spec else []
    folder = next((f for f in folders if (f / "card.toml").is_file()), None)
    if folder is None:
        raise DistilError(
            f"The entry point '{entry.name}' of '{owner}' names '{entry.value}', which is no package with a "
            f"card.toml; mend or uninstall '{owner}'."
        )
    try:
        return read_card(folder / "card.toml", package=".".join([top, *rest]), origin=owner)
    except (DistilError, OSError) as error:
        raise DistilError(f"The system '{entry.name}' of '{owner}' is left out: {error}") from error


@lru_cache(maxsize=8)
def _rivals(package: Path) -> Mapping[str, str]:
    face = package / "methods" / "__init__.py"
    for node in ast.parse(face.read_text(encoding="utf-8")).body if face.is_file() else ():
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if node.value and any(isinstance(target, ast.Name) and target.id == "RIVALS" for target in targets):
            return MappingProxyType(ast.literal_eval(node.value))
    return MappingProxyType({})
