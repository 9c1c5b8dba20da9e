"""A card: the facts of one system, read from its ``card.toml`` and checked key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

from distil.errors import DistilError, nearest

__all__ = ["Card", "Experiment", "Needs", "Proof", "read_card"]

KINDS = ("method", "procedure", "both")
LABELS = ("all", "some", "none")
TEACHERS = ("live", "cache", "ensemble", "oracle", "self", "peers", "none")
# The hooks of a Method, and fit's choice of what to train on.
HOOKS = (
    *("rebuild", "setup", "prepare", "transform", "before_step", "forward", "counts", "after_step", "after_epoch"),
    *("groups", "deployed", "select"),
)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a system asks of a run.

    Attributes:
        labels: ``all`` samples, ``some`` of them, or ``none``.
        taps: the intermediate outputs it reads, by meaning.
        teacher: any of live, cache, ensemble, oracle, self, peers, none.
        streams: the data it reads.
        trains: its own trainable parts.
        hooks: the hooks it uses beyond ``forward``.
    """

    labels: str
    taps: tuple[str, ...]
    teacher: tuple[str, ...]
    streams: tuple[str, ...]
    trains: tuple[str, ...]
    hooks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The smallest honest experiment: what is measured, on which data, with which models and arms."""

    task: str
    data: str
    models: str
    arms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What its values are checked against.

    Attributes:
        golden: the file of golden numbers, or nothing where no code exists.
        oracle: without a golden file, the test file that checks it by brute force, then ``:`` and what that shows.
        exports: the classes that ``distil.methods`` gives.
        at_equality: for each term that is not at rest where the student equals the teacher, the reason.
    """

    golden: str
    oracle: str = ""
    exports: tuple[str, ...]
    at_equality: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts of one system; the last three fields say where the card was found."""

    slug: str
    name: str
    number: int = 0
    title: str
    venue: str
    year: int
    arxiv: str = ""
    code: str
    field: str
    kind: str
    rebuilt: bool
    summary: str
    what: str
    needs: Needs
    ships: str
    contains_task: bool
    chance_exempt: bool
    components: Mapping[str, str]
    defaults: Mapping[str, Any]
    differs: tuple[str, ...]
    reading: tuple[str, ...]
    headline: str
    limits: tuple[str, ...]
    experiment: Experiment
    not_run: tuple[str, ...]
    proof: Proof
    package: str
    folder: Path
    origin: str

    def __post_init__(self) -> None:
        file = self.folder / "card.toml"
        for key, seen, known in (
            ("kind", (self.kind,), KINDS),
            ("needs.labels", (self.needs.labels,), LABELS),
            ("needs.teacher", self.needs.teacher, TEACHERS),
            ("needs.hooks", self.needs.hooks, HOOKS),
        ):
            for value in seen:
                if value not in known:
                    raise DistilError(f"{file}: {key} has the unknown value {value!r}; {nearest(value, known)}")
        if bool(self.proof.golden) == bool(self.proof.oracle):
            raise DistilError(f"{file}: proof must name one of 'golden' (a file) and 'oracle' (a test file), not both.")

    @property
    def has_method(self) -> bool:
        return (self.folder / "method.py").is_file()

    @property
    def has_code(self) -> bool:
        return self.has_method or (self.folder / "procedure.py").is_file()


def read_card(file: Path, *, package: str, origin: str = "distil") -> Card:
    """Read and check one ``card.toml``.

    Args:
        file: the card.
        package: the package that holds the system's code.
        origin: the distribution it comes from.

    Raises:
        DistilError: the file is no TOML, or a key is unknown, missing or of the wrong type; it names file and key.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DistilError(f"{file} is not valid TOML: {error}.") from error
    made: Card = _fill(Card, table, file, "", package=package, folder=file.parent, origin=origin)
    return made


def _fill(cls: type, table: Mapping[str, Any], file: Path, prefix: str, **found: Any) -> Any:
    """Make a dataclass from a TOML table; ``found`` holds the fields that are no keys of the file."""
    hints = get_type_hints(cls)
    keys: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.name not in found}
    for key in table:
        if key not in keys:
            raise DistilError(f"{file}: unknown key '{prefix}{key}'; {nearest(key, keys)}")
    for key, spec in keys.items():
        if key not in table and spec.default is MISSING and spec.default_factory is MISSING:
            raise DistilError(f"{file}: the key '{prefix}{key}' is missing; {nearest(key, table)}")
    values = {key: _value(hints[key], value, file, prefix + key) for key, value in table.items()}
    return cls(**values, **found)


def _value(kind: Any, value: Any, file: Path, key: str) -> Any:
    """Return ``value`` as the field type ``kind`` (texts on one line), or say what was expected of the key."""
    origin = get_origin(kind) or kind
    if isinstance(value, dict) and hasattr(kind, "__dataclass_fields__"):
        return _fill(kind, value, file, f"{key}.")
    if origin is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(_line(item) for item in value)
    if isinstance(value, dict) and issubclass(origin, Mapping):
        bad = [name for name, item in value.items() if not isinstance(item, str) and get_args(kind)[1] is not Any]
        if not bad:
            return MappingProxyType({n: _line(item) if isinstance(item, str) else item for n, item in value.items()})
        key, value = f"{key}.{bad[0]}", value[bad[0]]
        origin = str
    if isinstance(value, str) and origin is str:
        return _line(value)
    if type(value) is origin:
        return value
    wanted = {str: "a text", int: "a whole number", bool: "true or false", tuple: "a list of texts"}.get(
        origin, "a table"
    )
    raise DistilError(f"{file}: '{key}' must be {wanted}; got {type(value).__name__} {value!r}.")


def _line(text: str) -> str:
    """Return a text on one line, without the control characters that a terminal would obey."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
