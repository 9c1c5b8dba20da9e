"""What the verbs that run something share: the output folder, the progress display, and how to go on after Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distil import cli
from distil.cli.together import launched, speaks
from distil.errors import DistilError

__all__ = ["RUNS", "SETTINGS", "Display", "Tracker", "command_line", "console", "open_out", "out_folder", "resumable"]

RUNS, SETTINGS = Path("runs"), "settings.yaml"

Tracker = Annotated[
    list[str] | None, typer.Option(help="Log to tensorboard or wandb (offline), under OUT/trackers. May be repeated.")
]

console = Console(stderr=True, emoji=False)
"""Progress and remarks go to standard error, so that ``--json`` on standard output stays clean."""


def open_out(out: Path | None, default: str, *, resume: bool, overwrite: bool, device: str | None = None) -> Path:
    """Return the folder to write to; the processes of a launch meet here (on ``device``), and the first chooses it.

    A named folder that holds something is refused unless the run is resumed or the folder may be overwritten; the
    default is ``runs/NAME``, or the next free ``runs/NAME-2``. What is overwritten is only set aside here:
    :func:`resumable` deletes it once the new run has got going.
    """
    if not launched():
        return _opened(out, default, resume=resume, overwrite=overwrite)
    from distil.engine.processes import meet, of_first

    meet(device)
    return Path(of_first(lambda: str(_opened(out, default, resume=resume, overwrite=overwrite))))


def out_folder(out: Path | None, default: str, *, resume: bool) -> Path:
    """Return the folder that :func:`open_out` would open, as things are; nothing is written."""
    folder = RUNS / default if out is None else out
    i = 2
    while out is None and not resume and _holds_something(folder):
        folder, i = RUNS / f"{default}-{i}", i + 1
    return folder


def _opened(out: Path | None, default: str, *, resume: bool, overwrite: bool) -> Path:
    if resume and overwrite:
        raise DistilError("--resume and --overwrite exclude each other; choose one.")
    folder = out_folder(out, default, resume=resume)
    if folder.exists() and not folder.is_dir():
        raise DistilError(f"--out {folder} is a file; name a folder.")
    if resume and not folder.exists():
        raise DistilError(f"--resume found no run in {folder}; correct --out, or leave --resume out to begin one.")
    run = (folder / SETTINGS).exists() or (folder / "stages").exists()
    if resume and _holds_something(folder) and not run:
        raise DistilError(f"--resume found no run in {folder}, but other things; correct --out.")
    if _holds_something(folder) and not resume:
        if not overwrite:
            raise DistilError(
                f"--out {folder} already holds something; add --resume to go on with it, --overwrite to replace it, "
                "or name another folder."
            )
        if not run:
            raise DistilError(f"--overwrite would delete {folder}, which is no run of distil; name another folder.")
    try:
        if overwrite and _holds_something(folder):
            shutil.rmtree(_aside(folder), ignore_errors=True)
            folder.rename(_aside(folder))
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise DistilError(f"--out {folder} cannot be written to ({error.strerror}); name another folder.") from None
    return folder


@contextmanager
def resumable(folder: Path, words: list[str]) -> Iterator[None]:
    """On Ctrl-C, say how to go on; after a mistake that came before any result, leave ``folder`` as it was found."""
    if not speaks():  # the first process does
        yield
        return
    kept = (folder / SETTINGS).read_bytes() if (folder / SETTINGS).is_file() else None
    results = _results(folder)
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            "\nStopped. What is done is kept; go on with:\n  distil "
            f"{escape(shlex.join([*words, '--out', str(folder), '--resume']))}",
            highlight=False,
            soft_wrap=True,
        )
        raise
    except Exception:
        if _results(folder) == results:
            _undo(folder, kept)
        raise
    finally:
        shutil.rmtree(_aside(folder), ignore_errors=True)


def _results(folder: Path) -> set[Path]:
    """What was done in a folder: stored stages of a run, shards of a teacher cache."""
    return {*folder.rglob("tree.json"), *folder.rglob("*.shard")}


def command_line() -> str:
    """Return the command as it was typed."""
    return "distil " + shlex.join(cli.typed)


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _aside(folder: Path) -> Path:
    return folder.absolute().parent / f".{folder.name}.replaced"


def _undo(folder: Path, settings: bytes | None) -> None:
    """Take back what was written before the mistake was seen: settings, splits, a tokenizer, and an empty folder."""
    if settings is not None:
        (folder / SETTINGS).write_bytes(settings)
        return
    for name in (SETTINGS, "splits.csv"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
        if _aside(folder).is_dir():
            _aside(folder).rename(folder)
        elif folder.parent == RUNS and not any(RUNS.iterdir()):
            RUNS.rmdir()


class Display:
    """A live line for what runs now, and a line that stays for each thing done."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name, self._began, self._quiet = "", 0.0, quiet
        self._shown = 0.0
        self._told: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Display:
        self._open.enter_context(warnings.catch_warnings())
        # What libraries tell their developers is no news to who types a command.
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = self._warn
        self._bar.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._close(done=kind is None)
        self._bar.stop()
        self._open.close()

    def begin(self, name: str, total: int | None = None) -> None:
        """Name what runs now; what ran before leaves a line where it took a while."""
        self._close()
        self._name, self._began = name, time.perf_counter()
        self._task = self._bar.add_task(escape(name), total=total or 1)

    def step(self, done: int, total: int) -> None:
        """Move the bar, at most ten times a second."""
        now = time.perf_counter()
        if self._task is not None and (now - self._shown > 0.1 or done >= total):
            self._shown = now
            self._bar.update(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._bar.console.print(escape(text), highlight=False)

    def _warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Print a warning once, as a sentence, without the place in the code it came from."""
        text = str(message)
        if text not in self._told:
            self._told.add(text)
            self._bar.console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def _close(self, *, done: bool = True) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
            seconds = time.perf_counter() - self._began
            if done and not self._quiet and seconds > 0.05:
                self._bar.console.print(f"  [green]✓[/] {escape(self._name)} [dim]{seconds:.1f} s[/]", highlight=False)
