"""The application: it registers the verbs that exist, and turns every mistake of a user into one sentence.

A verb is a module of this package with ``register(app)``; name it in ``VERBS`` and it appears. A module must not import
torch when it is imported, only inside the function of a verb that needs it.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer

import distil
from distil.cli import together
from distil.errors import DistilError, nearest

__all__ = ["build", "run"]

# In the order in which --help shows them; a module that is not there yet is skipped, one that is broken is not.
VERBS = (
    "list_show",
    "run",
    "train",
    "compare",
    "search",
    "unlearn",
    "condense",
    "plan",
    "cache",
    "taps",
    "report",
    "export",
    "predict",
    "procedures",
)

# Typer carries its own copy of click, or imports click, depending on its version; these are whichever it uses.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def build() -> typer.Typer:
    """Return the application with every verb that exists."""
    app = typer.Typer(
        name="distil",
        help="Distillation you can check: published systems, on your own models and data.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version and leave.", callback=_version, is_eager=True
        ),
    ) -> None:
        pass

    for name in VERBS:
        if find_spec(f"distil.cli.{name}") is not None:
            import_module(f"distil.cli.{name}").register(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the application on ``arguments`` and return its exit code; no mistake of a user ends in a traceback."""
    command: Any = typer.main.get_command(build())
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    together.silence()
    warnings.filterwarnings("ignore", message=".*torch\\.jit", category=FutureWarning)  # PyG's import, not the user's
    warnings.filterwarnings("ignore", message=".*torch\\.jit", category=DeprecationWarning)
    try:
        together.check_verb(words, command.commands)
        code = command.main(args=words, prog_name="distil", standalone_mode=False)
        sys.stdout.flush()
        together.leave()  # only in good order: who failed hangs up, and the others hear that
    except DistilError as error:
        return _complain(str(error))
    except _ClickException as error:
        return _complain(_usage(error, command))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return _quiet()
    except SystemExit as leaving:  # typer leaves so when the reader of a pipe went away
        if isinstance(leaving.__context__, BrokenPipeError):
            return _quiet()
        return _complain(
            f"code of yours ended the program (SystemExit: {leaving.code}); let it raise an error instead."
        )
    except (OSError, MemoryError, RecursionError) as error:  # the machine's own limits, wherever they are met
        try:
            sys.stdout.flush()
        except OSError:  # it is standard output that cannot be written: nothing may be tried again at the end
            _quiet()
        return _complain(_limit(error))
    except Exception:
        if together.complains():
            raise
        return 2  # another process failed first, and told; this one only lost its connection
    return _interrupted() if code == 130 else int(code or 0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distil {distil.__version__}")
        raise typer.Exit


def _complain(sentence: str) -> int:
    if not together.complains():
        return 2
    # A message may quote a file or a card; a terminal must not obey what is in it.
    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in sentence)
    print(f"distil: {shown}", file=sys.stderr)
    return 2


def _limit(error: OSError | MemoryError | RecursionError) -> str:
    """Say which limit of the machine was met, in a sentence."""
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice; use smaller data, models or batches."
    if isinstance(error, RecursionError):
        return "an input is nested too deeply to be read; make it plainer."
    where = f" ({str(error.filename)[:80]})" if error.filename else ""
    advice = {
        errno.ENOSPC: "free some space, or name a folder on another disk",
        errno.EFBIG: "free some space, or name a folder on another disk",
        errno.EDQUOT: "free some space, or name a folder on another disk",
        errno.EACCES: "check who may read and write there",
        errno.EPERM: "check who may read and write there",
        errno.ELOOP: "correct the link",
        errno.ENAMETOOLONG: "use a shorter name",
    }.get(error.errno or 0, "correct the path, or what it leads to")
    return f"the system refused: {error.strerror or error}{where}; {advice}."


def _interrupted() -> int:
    if together.speaks():
        print("distil: interrupted.", file=sys.stderr)
    return 130


def _quiet() -> int:
    # Nothing may be written when the interpreter flushes at its end: the reader is gone.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _usage(error: Any, command: Any) -> str:
    """Say what is wrong with the words typed, with the nearest verb or option."""
    context = getattr(error, "ctx", None)
    place = context.command_path if context is not None else "distil"
    sentence = str(error.format_message()).strip().rstrip(".")
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        return f"'{place}' has no option '{option}'; {nearest(str(option), [*known, '--help'])}"
    if sentence.startswith("No such command") and context is not None:
        word = sentence.split("'")[1]
        return f"There is no verb '{word}'; {nearest(word, command.commands)}"
    return f"{sentence}; see '{place} --help'."
