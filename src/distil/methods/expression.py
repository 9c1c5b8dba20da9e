"""Methods written as text: ``0.1*supervised + 0.9*kd(temperature=4)``, parsed and never evaluated."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from distil import catalog
from distil.engine.method import Method, Sum, as_sum
from distil.engine.schedule import Schedule, as_schedule, cosine, ramp, step_decay
from distil.errors import DistilError, nearest

__all__ = ["parse"]

SCHEDULES: dict[str, Callable[..., Schedule]] = {"ramp": ramp, "cosine": cosine, "step_decay": step_decay}
_WORDS = {"true": True, "false": False, "none": None}


def parse(text: str) -> Sum:
    """Return the sum of methods that ``text`` describes, the same as the expression in Python.

    A name is a rival (``kd``), a system's slug (``pld``: its paper's whole weighted sum) or a lower-cased class that a
    system exports (``directnorm``: the bare method). A coefficient is a number or ``ramp(epochs=20)``, ``cosine(…)``,
    ``step_decay(…)``. Arguments are keywords; a bare word is a string: ``at(taps=stages)``. A slug with a hyphen may be
    written with an underscore (``ff_g2m``) or as it is.

    Raises:
        DistilError: anything else; names the place and the nearest that exists.

    >>> parse("0.1*supervised + 0.9*kd(temperature=4)").expression
    '0.1*supervised + 0.9*kd(temperature=4)'
    """
    for slug in sorted(catalog.systems(), key=len, reverse=True):
        if "-" in slug:
            text = text.replace(slug, slug.replace("-", "_"))
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        where = f" near column {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise DistilError(
            f"The method '{text}' cannot be read{where}; write it like 0.1*supervised + 0.9*kd(temperature=4)."
        ) from None
    value = _value(tree, text)
    if isinstance(value, (int, float, Schedule)):
        raise DistilError(f"The method '{text}' is only a number; name a method, e.g. kd or 0.9*kd.")
    return as_sum(value)


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
        return _named(node.func.id, {str(k.arg): _literal(k.value, text) for k in node.keywords}, text)
    raise DistilError(
        f"'{ast.unparse(node)}' in '{text}' is not allowed; methods are added with +, scaled with *, and take named "
        "arguments."
    )


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
    for argument in arguments:
        if argument not in known and not free:
            raise DistilError(f"{name}({argument}=…) does not exist; {nearest(argument, known)}")
    try:
        return function(**arguments)
    except TypeError as error:
        raise DistilError(f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())}): {error}.") from None


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
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.Attribute):  # a module path such as layer1.0, or stages.1 below
        return ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SCHEDULES:
        return _call(
            SCHEDULES[node.func.id], node.func.id, {str(k.arg): _literal(k.value, text) for k in node.keywords}
        )
    raise DistilError(
        f"The argument '{ast.unparse(node)}' in '{text}' is not allowed; use a number, a word, a quoted string or a "
        "list."
    )
