"""What users can rely on, as data: public names and command-line options.

After a change that was meant, write both files again and read the difference:

    python tests/architecture/surface.py
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
API = HERE / "public_api.json"
OPTIONS = HERE / "cli_options.json"
SOURCE = HERE.parents[1] / "src" / "distil"
# Their names are verbs and systems, not an interface of their own.
PRIVATE = {"systems", "__pycache__"}


def api() -> dict[str, list[str]]:
    """The names in ``__all__`` of the package and of each of its parts."""
    parts = [p.stem for p in SOURCE.iterdir() if (p.is_dir() or p.suffix == ".py") and not p.name.startswith("_")]
    found = {"distil": sorted(import_module("distil").__all__)}
    for part in sorted(set(parts) - PRIVATE):
        module = import_module(f"distil.{part}")
        names = getattr(module, "__all__", None)
        found[module.__name__] = sorted(names if names is not None else _without_all(module))
    return found


def _without_all(module: Any) -> list[str]:
    """The public names of a package that lists none: those that ``dir()`` gives and that are no modules."""
    names = [name for name in dir(module) if not name.startswith("_") and name not in ("annotations", "Any", "catalog")]
    return [name for name in names if not hasattr(getattr(module, name), "__path__")]


def options() -> dict[str, dict[str, list[str]]]:
    """Each verb's arguments and options."""
    import typer

    from distil.cli.app import build

    command: Any = typer.main.get_command(build())
    verbs = {"distil": command, **{f"distil {name}": verb for name, verb in command.commands.items()}}
    return {
        name: {
            "arguments": [p.name for p in verb.params if p.param_type_name == "argument"],
            "options": sorted(
                o for p in verb.params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)
            ),
        }
        for name, verb in sorted(verbs.items())
    }


def write() -> None:
    for file, content in ((API, api()), (OPTIONS, options())):
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
