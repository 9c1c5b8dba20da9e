"""Typed settings: frozen dataclasses with dotted overrides and YAML; unknown keys are refused with the nearest."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml

from distil.errors import DistilError, nearest

__all__ = ["from_yaml", "override", "to_yaml", "update"]

S = TypeVar("S")


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
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise DistilError(f"--set {key}: the value '{value}' cannot be read as YAML.") from None
        tree: Any = parsed
        for part in reversed(key.strip().split(".")):
            tree = {part: tree}
        settings = update(settings, tree)
    return settings


def update(settings: S, tree: Mapping[str, Any], path: str = "") -> S:
    """Return ``settings`` with the nested mapping ``tree`` laid over it, each value checked against its type."""
    if not isinstance(tree, Mapping):
        raise DistilError(f"'{path or 'the settings'}' must hold keys and values; got {tree!r}.")
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
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistilError(f"The settings file {path} does not exist.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise DistilError(
            f"The settings file {path} is no readable YAML{f' (line {line + 1})' if line is not None else ''}."
        ) from None
    try:
        return update(settings, tree if tree is not None else {})
    except DistilError as error:
        raise DistilError(f"The settings file {path} does not fit: {error}") from None


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
        raise DistilError(f"The setting '{where}' is {value!r}; {_wanted(hint)} is expected.")
    if origin is typing.Literal:
        if value not in arguments:
            raise DistilError(f"The setting '{where}' is {value!r}; {nearest(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        members = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_checked(m, arguments[0], where) for m in members)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise DistilError(f"The setting '{where}' is {value!r}; a mapping is expected.")
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
    raise DistilError(f"The setting '{where}' is {value!r}; {_wanted(hint)} is expected.")


def _wanted(hint: Any) -> str:
    """Say in words what a type takes."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_wanted, get_args(hint)))
    if is_dataclass(hint):
        return "a mapping of settings"
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}")
