"""Cards: every key is checked, and a mistake names the file, the key and the nearest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from catalog.fakes import Project, card_text
from distil import catalog
from distil.errors import DistilError


def read(tmp_path: Path, text: str) -> catalog.Card:
    file = tmp_path / "card.toml"
    file.write_text(text, encoding="utf-8")
    return catalog.read_card(file, package="toy")


def test_a_complete_card_is_read_and_frozen(tmp_path: Path) -> None:
    card = read(tmp_path, card_text())
    assert (card.slug, card.year, card.needs.taps, card.rebuilt) == ("toy", 2025, ("logits",), False)
    with pytest.raises(AttributeError):
        card.slug = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        card.components["new"] = "x"  # type: ignore[index]


def test_texts_over_several_lines_become_one_line(tmp_path: Path) -> None:
    assert read(tmp_path, card_text(summary='"""\n  two\n  lines"""')).summary == "two lines"


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    card = read(tmp_path, card_text(summary='"a\\u001b[31mred"', weights='"b\\u0007"', streams='["c\\u009b"]'))
    assert (card.summary, card.components["weights"], card.needs.streams) == ("a[31mred", "b", ("c",))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (card_text().replace("venue =", "venu ="), "unknown key 'venu'; did you mean 'venue'"),
        (card_text().replace('venue = "NeurIPS"\n', ""), "the key 'venue' is missing"),
        (card_text().replace("taps =", "tap ="), "unknown key 'needs.tap'; did you mean 'taps'"),
        (card_text().replace("exports =", "export ="), "unknown key 'proof.export'; did you mean 'exports'"),
        (card_text(year='"2025"'), "'year' must be a whole number; got str '2025'"),
        (card_text(rebuilt="1"), "'rebuilt' must be true or false"),
        (card_text(streams='"one"'), "'needs.streams' must be a list of texts"),
        (card_text(streams="[1]"), "'needs.streams' must be a list of texts"),
        (card_text(kind='"methd"'), "kind has the unknown value 'methd'; did you mean 'method'"),
        (card_text(teacher='["lve"]'), "needs.teacher has the unknown value 'lve'; did you mean 'live'"),
        (card_text(hooks='["setpu"]'), "needs.hooks has the unknown value 'setpu'; did you mean 'setup'"),
        (card_text(golden=""), "one of 'golden' (a file) and 'oracle'"),
        (card_text(label_first="3"), "'components.label_first' must be a text"),
        ("slug = ", "is not valid TOML"),
        ("", "the key 'slug' is missing"),
    ],
)
def test_a_wrong_card_names_file_and_key(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(DistilError, match=re.escape(says)) as caught:
        read(tmp_path, wrong)
    assert str(tmp_path / "card.toml") in str(caught.value)


def test_a_wrong_card_is_refused_where_the_catalogue_is_read(project: Project) -> None:
    folder = project.system("toy", venue="3")
    with pytest.raises(DistilError, match="'venue' must be a text") as caught:
        catalog.systems()
    assert str(folder) in str(caught.value)
