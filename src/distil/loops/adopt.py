"""A user's own methods in expressions: ``0.1*supervised + 0.9*warm.py:Warm(temperature=2)``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from distil import catalog
from distil.engine.method import Method, Sum
from distil.errors import DistilError, nearest
from distil.methods.expression import parse
from distil.models.load import import_own

__all__ = ["adopted", "code_of_methods", "scored_by_labels"]

ENCODER = "the encoder"  # what the card of a system says that ships no classifier
# Where a component may stand: first, or after a factor, a plus, a parenthesis. ``fc:in`` is a tap, not a method.
_OWN = re.compile(r"(?:^|(?<=[*+(\s]))(?P<home>[\w./~-]+\.py|[A-Za-z_]\w*(?:\.\w+)*):(?!in\b)(?P<name>[A-Za-z_]\w*)")


def adopted(text: str) -> str:
    """Return the expression with every ``file.py:Name`` or ``module:Name`` imported and written as ``name``.

    ``Name`` is a Method, or a function that returns methods; from here on expressions of this process know it in lower
    case. The file is executed, as that of a ``--teacher file.py:function`` is.

    Raises:
        DistilError: there is no such file, module or name, it is no method, or a method of that name exists.
    """
    return _OWN.sub(lambda found: _adopt(found["home"], found["name"]), text)


def scored_by_labels(text: str) -> Sum:
    """Parse an expression whose student is to be scored by its labels.

    Raises:
        DistilError: the expression cannot be read, or a system in it ships an encoder, which has no classes.
    """
    made = parse(text)
    homes = {type(component.method).__module__ for component in made}
    for slug, card in catalog.systems().items():
        if card.ships == ENCODER and any(home.startswith(f"{card.package}.") for home in homes):
            raise DistilError(
                f"'{slug}' trains an encoder without labels, and an encoder has no classes to be scored by here; use "
                f"`distil run {slug}` for its experiment, or distil.Distiller(…, task='features') on your own models."
            )
    return made


def code_of_methods(texts: Iterable[str]) -> str:
    """Hash the files of the user's own methods in these expressions; "" where there are none."""
    homes = sorted({found["home"] for text in texts for found in _OWN.finditer(text)})
    digest = hashlib.sha256()
    for home in homes:
        file = home if home.endswith(".py") else import_module(home).__file__
        digest.update(Path(file or "").expanduser().read_bytes())
    return digest.hexdigest()[:16] if homes else ""


def _adopt(home: str, name: str) -> str:
    what = f"{home}:{name}"
    module = import_own(home, f"the method '{what}'")
    thing = getattr(module, name, None)
    if not callable(thing) or (isinstance(thing, type) and not issubclass(thing, Method)):
        held = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Method)]
        seen = "has no such name" if thing is None else f"holds a {_kind(thing)} there"
        hint = nearest(name, [kind.__name__ for kind in held if kind.__module__ == module.__name__])
        raise DistilError(f"The method '{what}' is no distil.Method: {home} {seen}; {hint}")
    catalog.adopt(name, thing, what)
    return name.lower()


def _kind(thing: object) -> str:
    return f"class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
