"""Settings: dotted overrides, YAML there and back, types, and the nearest of a name that does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from distil import demo
from distil.errors import DistilError
from distil.loops.own import OwnRun
from distil.loops.recipe import load_recipe
from distil.loops.settings import from_yaml, override, to_yaml, update
from distil.loops.training import Training


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: int = 3
    kind: Literal["cold", "warm"] = "cold"


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    on: bool = True
    limit: float | None = None
    count: int | None = None
    seeds: tuple[int, ...] = (0, 1)
    sides: int | tuple[int, int] = 4
    weights: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=new", {"name": "new"}),
        ("name='5'", {"name": "5"}),
        ("on=false", {"on": False}),
        ("limit=3", {"limit": 3.0}),
        ("limit=null", {"limit": None}),
        ("limit=1e-3", {"limit": 1e-3}),
        ("count=7", {"count": 7}),
        ("seeds=[4, 5, 6]", {"seeds": (4, 5, 6)}),
        ("seeds=4", {"seeds": (4,)}),
        ("weights={a: 1, b: 0.5}", {"weights": {"a": 1.0, "b": 0.5}}),
        ("inner.rate=1e-4", {"inner": Inner(rate=1e-4)}),
        ("inner={steps: 9, kind: warm}", {"inner": Inner(steps=9, kind="warm")}),
        (" inner.kind = warm", {"inner": Inner(kind="warm")}),
        ("name=a=b", {"name": "a=b"}),
    ],
)
def test_an_override_changes_its_key_alone_in_its_type(text: str, expected: Mapping[str, Any]) -> None:
    made = override(Outer(), [text])
    for key, default in vars(Outer()).items():
        wanted = expected.get(key, default)
        assert getattr(made, key) == wanted
        assert type(getattr(made, key)) is type(wanted)


def test_later_overrides_win_and_the_original_stays() -> None:
    first = Outer()
    assert override(first, ["inner.steps=5", "inner.rate=2", "inner.steps=6"]).inner == Inner(rate=2.0, steps=6)
    assert first == Outer()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae=x", "The setting 'nmae' does not exist; did you mean 'name'?"),
        ("inner.rat=1", "The setting 'inner.rat' does not exist; did you mean 'rate'?"),
        ("inner.steps=2.5", "The setting 'inner.steps' is 2.5; a whole number is expected."),
        ("inner.steps=true", "The setting 'inner.steps' is True; a whole number is expected."),
        ("inner.rate=fast", "The setting 'inner.rate' is 'fast'; a number is expected."),
        ("inner.rate=false", "The setting 'inner.rate' is False; a number is expected."),
        ("inner.kind=wram", "The setting 'inner.kind' is 'wram'; did you mean 'warm'?"),
        ("inner=5", "The setting 'inner' is 5; a mapping of settings is expected."),
        ("limit=no", "The setting 'limit' is False; a number or null is expected."),
        ("on=1", "The setting 'on' is 1; true or false is expected."),
        ("name=3", "The setting 'name' is 3; a text is expected."),
        ("seeds=[1, two]", "The setting 'seeds' is 'two'; a whole number is expected."),
        ("sides=[1, 2, 3]", "The setting 'sides' is [1, 2, 3]; a whole number or a list of 2 is expected."),
        ("sides=[1, two]", "The setting 'sides' is [1, 'two']; a whole number or a list of 2 is expected."),
        ("weights=3", "The setting 'weights' is 3; a mapping is expected."),
        ("name.first=3", "The setting 'name' is {'first': 3}; a text is expected."),
        ("name", "--set name is no assignment; write --set key=value."),
        ("=3", "--set =3 is no assignment; write --set key=value."),
        ("seeds=[1", "--set seeds: the value '[1' cannot be read as YAML."),
        ("name=!!python/object:os.system x", "cannot be read as YAML"),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(DistilError) as error:
        override(Outer(), [text])
    assert says in str(error.value)


@examples(deadline=None, max_examples=40)
@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=4),
    limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_yaml_gives_back_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, rate: float, name: str, seeds: list[int], limit: float | None
) -> None:
    settings = Outer(name=name, seeds=tuple(seeds), limit=limit, inner=Inner(rate=rate), weights={name: rate})
    file = tmp_path_factory.mktemp("yaml") / "s.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    assert from_yaml(Outer(), file) == settings


@pytest.mark.parametrize(
    "made", [demo.Setup(), OwnRun(), Training(), *(load_recipe(s).Setup() for s in ("pld", "nd", "ff-g2m"))]
)
def test_every_settings_class_survives_yaml(tmp_path: Path, made: Any) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(to_yaml(made), encoding="utf-8")
    again = from_yaml(made, file)
    assert again == made
    # To the type: what is stored is found by it, so 5 read back as 5.0 would be made again.
    assert repr(again) == repr(made)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inner: {rate: 1\n", r"s.yaml is no readable YAML \(line 2\)"),
        ("a: b: c\n", r"s.yaml is no readable YAML \(line 1\)"),
        ("inner:\n  rat: 1\n", r"s.yaml does not fit: The setting 'inner.rat' does not exist; did you mean 'rate'"),
        ("just words\n", "s.yaml does not fit: 'the settings' must hold keys and values"),
        ("!!python/object/apply:os.system [echo]\n", "s.yaml is no readable YAML"),
        ("\x00", "s.yaml is no readable YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DistilError, match=says):
        from_yaml(Outer(), file)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=r"none.yaml does not exist"):
        from_yaml(Outer(), tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DistilError, match=r"bytes.yaml is no readable YAML"):
        from_yaml(Outer(), tmp_path / "bytes.yaml")
    with pytest.raises(DistilError, match="is no readable YAML"):
        from_yaml(Outer(), tmp_path)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("# nothing\n")
    assert from_yaml(Outer(), tmp_path / "s.yaml") == Outer()


def test_an_update_from_python_is_checked_as_well() -> None:
    assert update(Outer(), {"seeds": [3], "inner": {"rate": 2}}) == Outer(seeds=(3,), inner=Inner(rate=2.0))
    with pytest.raises(DistilError, match="epochs=0 must be a whole number of at least 1"):
        override(Training(), ["epochs=0"])
