"""How a model is written: ``library:name(key=value, …)``, parsed and never evaluated."""

from __future__ import annotations

import ast
import re
from typing import Any

from distil.errors import DistilError

__all__ = ["split_spec"]

_WORDS = {"true": True, "false": False, "null": None, "none": None}


def split_spec(spec: str) -> tuple[str, str, dict[str, Any]]:
    """Return the library (or module) of a specification, the name, and the keyword arguments.

    Values are Python literals, or ``true``, ``false`` and ``null``. What follows ``hf:`` is a folder and may hold
    colons.

    >>> split_spec("hf:models/tiny(num_hidden_layers=2, pretrained=false)")
    ('hf', 'models/tiny', {'num_hidden_layers': 2, 'pretrained': False})
    """
    if spec.startswith("hf:"):
        found = re.fullmatch(r"(hf):(.*?)(\(.*\))?", spec, re.DOTALL)
        assert found is not None
        kind, name, arguments = found.groups()
        return kind, name, _options(spec, arguments or "")
    head, parenthesis, arguments = spec.partition("(")
    kind, _, name = head.rpartition(":")
    return kind, name, _options(spec, parenthesis + arguments)


def _options(spec: str, text: str) -> dict[str, Any]:
    """Return the keyword arguments in ``(key=value, …)``; values are literals."""
    if not text:
        return {}
    try:
        node = ast.parse("f" + text, mode="eval").body
        if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
            raise ValueError("only key=value arguments are allowed")
        return {str(word.arg): _value(word.value) for word in node.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown, why = (spec if len(spec) <= 160 else spec[:160] + "…"), str(error)[:160]
        raise DistilError(
            f"the arguments of {shown!r} cannot be read ({why}); write name(key=value, …) with plain numbers, strings "
            "and tuples."
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    return ast.literal_eval(node)
