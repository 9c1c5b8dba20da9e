"""distil: distillation you can check.

Importing it is quick and loads nothing but the standard library: every public name is looked up when it is first used.

>>> import distil
>>> "Distiller" in dir(distil)
True
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Each public name and its home: a module of this package, or "module:attribute".
_HOMES = {
    "Card": "catalog:Card",
    "DistilError": "errors:DistilError",
    "Distiller": "engine.distiller:Distiller",
    "KD": "methods:KD",
    "Method": "engine.method:Method",
    "Supervised": "methods:Supervised",
    "Term": "functional.reduction:Term",
    "anatomy": "engine.anatomy:anatomy",
    "catalog": "catalog",
    "data": "data",
    "export": "ship:export",
    "fit": "engine.fit:fit",
    "functional": "functional",
    "indexed": "data:indexed",
    "load": "data:load",
    "load_model": "models:load_model",
    "methods": "methods",
    "models": "models",
    "ramp": "engine.schedule:ramp",
    "resolve": "catalog:resolve",
    "tasks": "tasks",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distil' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = import_module(f"distil.{module}")
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
