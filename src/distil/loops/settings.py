"""Typed settings: frozen dataclasses with dotted overrides and YAML; unknown keys are refused with the nearest."""

from __future__ import annotations

import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml

from distil.errors import DistilError, nearest

__all__ = ["from_yaml", "override", "read_yaml", "to_yaml", "update"]

S = TypeVar("S")
_LARGEST = 100_000  # values in a file of settings
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def override(settings: S, assignments: Iterable[str]) -> S:
    """Return ``settings`` with ``a.b=value`` assignments applied; values are read as YAML.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Small:
    ...     epochs: int = 3
    >>> override(Small(), ["epochs=5"])
    Small(epochs=5)
    """
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise DistilError(f"--set {text} is no assignment; write --set key=value.")
        try:
            tree = read_yaml(value)
        except ValueError:
            raise DistilError(f"--set {key}: the value '{_short(value)}' cannot be read as YAML.") from None
        for part in reversed(key.strip().split(".")):
            tree = {part: tree}
        settings = update(settings, tree)
    return settings


def update(settings: S, tree: Mapping[str, Any], path: str = "") -> S:
    """Return ``settings`` with the nested mapping ``tree`` laid over it, each value checked against its type."""
    if not isinstance(tree, Mapping):
        raise DistilError(f"'{path or 'the settings'}' must hold keys and values; got {_shown(tree)}.")
    hints = typing.get_type_hints(type(settings))
    known = {f.name for f in fields(settings)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            raise DistilError(f"The setting '{where}' does not exist; {nearest(str(key), known)}")
        current = getattr(settings, key)
        inner = is_dataclass(current) and not isinstance(current, type) and isinstance(value, Mapping)
        changes[key] = update(current, value, where) if inner else _checked(value, hints[key], where)
        if get_origin(hints[key]) is dict and changes[key]:  # laid over as settings are; an empty one clears it
            changes[key] = {**current, **changes[key]}
    made: S = replace(settings, **changes)  # type: ignore[type-var]
    return made


def to_yaml(settings: Any) -> str:
    """Return the settings as YAML that :func:`from_yaml` reads back."""
    tree = _plain(asdict(settings))
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    # A few odd characters come back changed unless they are escaped.
    return text if yaml.safe_load(text) == tree else yaml.safe_dump(tree, sort_keys=False)


def from_yaml(settings: S, path: str | Path) -> S:
    """Return ``settings`` with a YAML file laid over it."""
    try:
        tree = read_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistilError(f"The settings file {path} does not exist.") from None
    except OSError as error:
        why = error.strerror
        raise DistilError(f"The settings file {path} is no readable YAML: {why}; correct the path.") from None
    except UnicodeDecodeError:
        raise DistilError(f"The settings file {path} is no readable YAML: it is not in UTF-8; save it so.") from None
    except ValueError as error:
        raise DistilError(f"The settings file {path} is no readable YAML{error}.") from None
    try:
        return update(settings, tree if tree is not None else {})
    except DistilError as error:
        raise DistilError(f"The settings file {path} does not fit: {error}") from None


def read_yaml(text: str) -> Any:
    """Return what a YAML text holds: plain values, no key twice, and nothing that unfolds without bounds.

    Raises:
        ValueError: it cannot be read; the message goes on where a sentence says so (`` (line 2)``).
    """
    try:
        tree = yaml.load(text, _Loader)  # a SafeLoader that refuses a key given twice
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        twice = f": {error.problem}" if isinstance(error, _Twice) else ""
        deep = ": it is nested too deeply" if isinstance(error, RecursionError) else ""
        raise ValueError(f"{f' (line {line + 1})' if line is not None else ''}{twice}{deep}") from None
    if _unfolded(tree, {}) > _LARGEST:
        raise ValueError(f": its aliases unfold to more than {_LARGEST} values")
    return tree


class _Twice(yaml.MarkedYAMLError):
    """A mapping that gives one key twice."""


class _Loader(yaml.SafeLoader):
    """The safe loader, for which a key given twice is a mistake."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _Twice(problem=f"it gives '{_short(key.value)}' twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _unfolded(value: Any, known: dict[int, float]) -> float:
    """Count the values of a tree, each alias as often as it is named; one that holds itself has no end."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(value)]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"


def _shown(value: Any) -> str:
    """Show a value in a message: whole where it is short."""
    return _short(repr(value)) if isinstance(value, (str, int, float)) else _REPR.repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the type ``hint``, or refuse it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _checked(value, option, where)
            except DistilError:
                continue
        raise DistilError(f"The setting '{where}' is {_shown(value)}; {_wanted(hint)} is expected.")
    if origin is typing.Literal:
        if value not in arguments:
            raise DistilError(f"The setting '{where}' is {_shown(value)}; {nearest(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        members = value if isinstance(value, (list, tuple)) else [value]
        hints = [arguments[0]] * len(members) if arguments[-1] is ... else list(arguments)
        if len(members) != len(hints):
            raise DistilError(f"The setting '{where}' is {_shown(value)}; {_wanted(hint)} is expected.")
        return tuple(_checked(m, kind, where) for m, kind in zip(members, hints, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise DistilError(f"The setting '{where}' is {_shown(value)}; a mapping is expected.")
        return {str(k): _checked(v, arguments[1], where) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is Any or (isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))):
        return value
    raise DistilError(f"The setting '{where}' is {_shown(value)}; {_wanted(hint)} is expected.")


def _wanted(hint: Any) -> str:
    """Say in words what a type takes."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_wanted, get_args(hint)))
    if get_origin(hint) is tuple:
        members = get_args(hint)
        return "a list" if members[-1] is ... else f"a list of {len(members)}"
    if is_dataclass(hint):
        return "a mapping of settings"
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}")
