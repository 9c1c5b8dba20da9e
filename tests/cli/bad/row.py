"""What a row of the table says, and the commands that would work if nothing were wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

OWN = ("--data", "photos", "--teacher", "models.py:eye", "--student", "models.py:make")


@dataclass(frozen=True)
class Row:
    """One bad input.

    Attributes:
        wrong: what is wrong; it names the test too.
        words: the words after ``distil``.
        sentence: what the complaint must hold; ``…`` stands for anything.
        make: makes what is wrong, in the working folder.
        run: a finished run is needed, as ``done``, and an export of it, as ``shipped``.
        environment: variables to set, or to unset (None).
    """

    wrong: str
    words: list[str]
    sentence: str
    make: Callable[[Path], object] | None = None
    run: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def pattern(self) -> re.Pattern[str]:
        """The sentence as a regular expression."""
        return re.compile(re.escape(self.sentence).replace("…", ".*"), re.DOTALL)


def own(*changed: str, verb: str = "train", data: str = "photos") -> list[str]:
    """A command that would work, with what is changed appended (the last of two equal options counts)."""
    method = ("--methods", "kd") if verb == "compare" else ("--method", "kd")
    return [verb, "--data", data, *OWN[2:], "--epochs", "1", *method, *changed]


def graph(data: str, *changed: str) -> list[str]:
    """The same on the nodes of a graph."""
    models = ("--teacher", "models.py:eye", "--student", "distil:mlp", "--method", "ff-g2m")
    return ["train", "--data", data, *models, *changed]


def texts(data: str, *changed: str) -> list[str]:
    """The same on texts."""
    models = ("--teacher", "distil:bow", "--student", "distil:bow", "--method", "kd", "--train-teacher", "1")
    return ["train", "--data", data, *models, "--epochs", "1", *changed]


def table(*rows: str, name: str = "table.csv", encoding: str = "utf-8") -> Callable[[Path], object]:
    """A text file of these lines."""
    return lambda here: (here / name).write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))


def blob(content: bytes, *names: str) -> Callable[[Path], object]:
    """Files of these bytes."""
    return lambda here: [(here / name).write_bytes(content) for name in names]


def code(source: str) -> Callable[[Path], object]:
    """A module of the user's, nets.py."""
    return table(source, name="nets.py")


def half(name: str, odd: str) -> Callable[[Path], object]:
    """The first half of a file, under another name."""

    def make(here: Path) -> None:
        whole = (here / name).read_bytes()
        (here / odd).write_bytes(whole[: len(whole) // 2])

    return make
