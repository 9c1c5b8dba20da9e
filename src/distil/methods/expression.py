"""Methods written as text: ``0.1*supervised + 0.9*kd(temperature=4)``, parsed and never evaluated."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from distil import catalog
from distil.engine.method import Method, Sum, as_sum
from distil.engine.schedule import WORDS, Schedule, as_schedule, cosine, during, ramp, step_decay
from distil.errors import DistilError, nearest

__all__ = ["parse"]

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "ramp": ramp,
    "cosine": cosine,
    "step_decay": step_decay,
    "during": during,
}
_SHOWN = 160  # of a text that cannot be read


def parse(text: str) -> Sum:
    """Return the sum of methods that ``text`` describes, the same as the expression in Python.

    A name is a rival (``kd``), a system's slug (``pld``: its paper's whole weighted sum) or a lower-cased class that a
    system exports (``directnorm``: the bare method). A coefficient is a number or ``ramp(epochs=20)``, ``cosine(…)``,
    ``step_decay(…)``, ``during(…)``. Arguments are keywords; a bare word or module path is a string:
    ``at(taps=stages)``, ``at(taps=[layer1.0, layer2.1])``. The words ``true``, ``false`` and ``none`` (or ``null``)
    are Python's True, False and None. A slug with a hyphen may be written with an underscore (``ff_g2m``) or as it is.

    Raises:
        DistilError: anything else; names the place and the nearest that exists.

    >>> parse("0.1*supervised + 0.9*kd(temperature=4)").expression
    '0.1*supervised + 0.9*kd(temperature=4)'
    """
    text = text.replace("\n", " ").strip()
    unread = f"The method '{text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}' cannot be read"
    try:
        tree = ast.parse(_pattern(tuple(catalog.systems())).sub(_plain, text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise DistilError(f"{unread}; write it like 0.1*supervised + 0.9*kd(temperature=4).") from None
    try:
        value = _value(tree, text)
    except RecursionError:
        raise DistilError(f"{unread}: it is nested too deeply.") from None
    if isinstance(value, (int, float, Schedule)):
        raise DistilError(f"The method '{text}' is only a number; name a method, e.g. kd or 0.9*kd.")
    return as_sum(value)


@lru_cache(maxsize=4)
def _pattern(slugs: tuple[str, ...]) -> re.Pattern[str]:
    """Match what is no Python as it stands: paths (``layer1.0``, ``fc:in``) and hyphened slugs; quotes are skipped."""
    hyphened = "|".join(re.escape(slug) for slug in sorted(slugs, key=len, reverse=True) if "-" in slug) or "(?!)"
    path = r"\b[A-Za-z_]\w*(?:(?:\.\w+)+(?::in\b)?|:in\b)"
    return re.compile(rf"""'[^']*'|"[^"]*"|(?P<slug>(?<![\w.-])(?:{hyphened})(?![\w-]))|(?P<path>{path})""", re.I)


def _plain(found: re.Match[str]) -> str:
    if found["slug"]:
        return found["slug"].replace("-", "_")
    return repr(found["path"]) if found["path"] else found[0]


def _value(node: ast.expr, text: str) -> Any:
    """A number, a schedule, or a sum of methods."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _product(-1.0, _value(node.operand, text), text)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _value(node.left, text), _value(node.right, text)
        return _product(left, right, text) if isinstance(node.op, ast.Mult) else _added(left, right, text)
    if isinstance(node, ast.Name):
        return _named(node.id, {}, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.args or any(k.arg is None for k in node.keywords):
            raise DistilError(
                f"'{node.func.id}' in '{text}' takes named arguments only, e.g. {node.func.id}(name=value)."
            )
        return _named(node.func.id, _keywords(node, text), text)
    raise DistilError(
        f"'{ast.unparse(node)}' in '{text}' is not allowed; methods are added with +, scaled with *, and take named "
        "arguments."
    )


def _keywords(node: ast.Call, text: str) -> dict[str, Any]:
    names = [str(keyword.arg) for keyword in node.keywords]
    for name in names:
        if names.count(name) > 1:
            raise DistilError(f"'{name}' is given twice in '{ast.unparse(node)}'; give it once.")
    return {str(keyword.arg): _literal(keyword.value, text) for keyword in node.keywords}


def _named(name: str, arguments: dict[str, Any], text: str) -> Any:
    if name in SCHEDULES:
        return _call(SCHEDULES[name], name, arguments)
    made = _call(catalog.resolve(name).load(), name, arguments)
    if not isinstance(made, (Method, Sum)):
        raise DistilError(f"'{name}' in '{text}' is no method to train with.")
    return as_sum(made)


def _call(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    known = inspect.signature(function).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for argument, value in arguments.items():
        if argument not in known and not free:
            raise DistilError(f"{name}({argument}=…) does not exist; {nearest(argument, known)}")
        _check_kind(
            f"{name}({argument}={value})", argument, value, known[argument].default if argument in known else None
        )
    try:
        return function(**arguments)
    except TypeError as error:
        shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise DistilError(f"{name}({shown}) cannot be made: {error}.") from None


def _check_kind(shown: str, argument: str, value: Any, default: Any) -> None:
    """Refuse a word where the default is a number or a switch: ``label_first=no`` would be as good as true."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise DistilError(f"{shown} must be true or false.")
    elif isinstance(default, (int, float)) and not isinstance(value, Schedule):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DistilError(f"{shown} must be a finite number.")
    elif argument == "name" and not str(value).isidentifier():
        raise DistilError(f"{shown} must be a plain word of letters, digits and underscores.")


def _product(left: Any, right: Any, text: str) -> Any:
    if isinstance(left, Sum) and isinstance(right, Sum):
        raise DistilError(
            f"Two methods are multiplied in '{text}'; scale a method by a number or a schedule, and add methods with +."
        )
    if isinstance(right, Sum):
        return right * as_schedule(left)
    if isinstance(left, Sum):
        return left * as_schedule(right)
    if isinstance(left, Schedule) and isinstance(right, Schedule):
        raise DistilError(f"Two schedules are multiplied in '{text}'; only one may scale a method.")
    return left * right


def _added(left: Any, right: Any, text: str) -> Any:
    if isinstance(left, Sum) != isinstance(right, Sum) or isinstance(left, Schedule) or isinstance(right, Schedule):
        raise DistilError(f"A number is added to a method in '{text}'; scale it with *, e.g. 0.9*kd.")
    return left + right


def _literal(node: ast.expr, text: str) -> Any:
    """A number, a word, a string, or a list of those."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str, bool))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand, text)
    if isinstance(node, (ast.List, ast.Tuple)):
        members = [_literal(member, text) for member in node.elts]
        return members if isinstance(node, ast.List) else tuple(members)
    if isinstance(node, ast.Name):
        return WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SCHEDULES:
        return _call(SCHEDULES[node.func.id], node.func.id, _keywords(node, text))
    raise DistilError(
        f"The argument '{ast.unparse(node)}' in '{text}' is not allowed; use a number, a word, a quoted string or a "
        "list."
    )
