"""A user's own methods in expressions, by file and by module."""

from __future__ import annotations

from pathlib import Path

import pytest

from distil import catalog
from distil.catalog import names
from distil.errors import DistilError
from distil.loops.adopt import adopted, code_of_methods
from distil.methods.expression import parse

WARM = '''
import distil
from distil.methods import KD, Supervised


class Warm(distil.Method):
    """Nothing but a number."""

    at_equality = {"warm": None}

    def __init__(self, *, heat: float = 1.0, name: str | None = None) -> None:
        super().__init__(name=name)
        self.heat = heat

    def forward(self, student, teacher, batch, ctx):
        return {"warm": distil.Term(self.heat * student(batch).logits.square().mean(1))}


def mixture(*, share: float = 0.5):
    return share * KD(temperature=2) + Supervised()


class Cold:
    pass


class PLD(Warm):
    pass
'''


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warm.py").write_text(WARM)
    (tmp_path / "my-own.py").write_text(WARM)
    (tmp_path / "warmth_of_tests.py").write_text(WARM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(names, "_ADOPTED", {})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("warm.py:Warm", "warm"),
        ("0.1*supervised + 0.9*warm.py:Warm(heat=2)", "0.1*supervised + 0.9*warm(heat=2)"),
        ("kd+./warm.py:Warm", "kd+warm"),
        ("2*(my-own.py:Warm+kd)", "2*(warm+kd)"),
        ("warmth_of_tests:Warm(heat=3)", "warm(heat=3)"),
        ("warm.py:mixture(share=0.25)", "mixture(share=0.25)"),
        ("at(taps=fc:in) + kd", "at(taps=fc:in) + kd"),
        ("fitnets(tap='layer1.0:in')", "fitnets(tap='layer1.0:in')"),
    ],
)
def test_a_method_of_ones_own_stands_where_any_stands(text: str, read: str) -> None:
    assert adopted(text) == read
    assert parse(read).components


def test_what_is_adopted_is_what_is_made() -> None:
    made = parse(adopted("0.5*warm.py:Warm(heat=2, name=hot)"))
    (component,) = made.components
    assert (component.name, component.method.heat, type(component.method).__name__) == ("hot", 2, "Warm")
    assert parse(adopted("warm.py:mixture(share=0.25)")).expression == "0.25*kd(temperature=2) + supervised"


def test_a_changed_file_is_other_code_and_is_read_anew() -> None:
    before = code_of_methods(["0.5*warm.py:Warm"])
    assert before == code_of_methods(["kd", "warm.py:Warm(heat=2)"]) != ""
    assert code_of_methods(["kd + at(taps=fc:in)"]) == ""
    assert code_of_methods(["warmth_of_tests:Warm"]) == before
    Path("warm.py").write_text(WARM.replace("heat: float = 1.0", "heat: float = 7.0"))
    assert code_of_methods(["warm.py:Warm"]) != before
    assert parse(adopted("warm.py:Warm")).components[0].method.heat == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cold.py:Warm", "there is no file 'cold.py' for the method 'cold.py:Warm'"),
        ("warm.py:Wram", "is no distil.Method: warm.py has no such name; known: PLD, Warm"),
        ("warm.py:Cold", "is no distil.Method: warm.py holds a class Cold there"),
        ("nowhere_at_all:Warm", "names neither a library nor a module"),
        ("warm.py:PLD", "'pld' of warm.py:PLD is called as the system 'pld' is; rename it"),
        ("broken.py:Warm", r"importing 'broken.py' .* fails \(SyntaxError: .*, line 2\)"),
        ("failing.py:Warm", r"importing 'failing.py' .* fails \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_what_is_no_method_is_refused(text: str, said: str) -> None:
    Path("broken.py").write_text("x = 1\ndef (\n")
    Path("failing.py").write_text("1 / 0\n")
    with pytest.raises(DistilError, match=said):
        adopted(text)


def test_two_of_one_name_are_refused() -> None:
    adopted("warm.py:Warm")
    with pytest.raises(DistilError, match=r"Two methods are called 'warm', of warm.py:Warm and of my-own.py:Warm"):
        adopted("my-own.py:Warm")
    with pytest.raises(DistilError, match="did you mean 'warm'"):
        catalog.resolve("wamr")
