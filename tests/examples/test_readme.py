"""The README and the docs: their Python runs, their commands parse, their methods exist, their files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from distil import catalog
from distil.cli import main
from distil.cli.app import build
from distil.methods.expression import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Their commands use what the page itself makes; tests/docs runs them, in order.
EXECUTED = ("write_your_own_method.md", "add_a_system.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages; "" is a fence that names none."""
    return [body for language, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S) if language in languages]


def commands() -> list[list[str]]:
    """Every command of the shell blocks, continuation lines joined and remarks left out."""
    found = []
    pages = [page for page in PAGES if page.name not in EXECUTED]
    for page in pages:
        for block in blocks(page.read_text(encoding="utf-8"), "", "sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("distil "):
                    found.append(shlex.split(line, comments=True)[1:])
    # Commands inside a sentence, in backticks.
    for page in pages:
        for text in re.findall(r"`(distil [a-z][^`]*)`", page.read_text(encoding="utf-8")):
            found.append(shlex.split(text)[1:])
    return found


def test_there_are_commands_to_check() -> None:
    assert {words[0] for words in commands()} >= {"list", "show", "run", "taps", "train", "compare", "report"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_uses_verbs_and_options_that_exist(words: list[str]) -> None:
    group: Any = typer.main.get_command(build())
    assert words[0] in group.commands
    command = group.commands[words[0]]
    with command.make_context(words[0], list(words[1:])) as context:
        assert context.params


@pytest.mark.parametrize("words", [w for w in commands() if w[0] in ("list", "show")], ids=" ".join)
def test_commands_that_only_read_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("method", sorted(set(re.findall(r"`([^`|]*\*[a-z]+[^`|]*)`", README.replace("\n", " ")))))
def test_every_method_expression_parses_and_prints_itself(method: str) -> None:
    assert parse(parse(method).expression).expression == parse(method).expression


def test_methods_named_on_the_command_line_exist() -> None:
    makers = {"unlearn", "condense"}  # their --method is no sum of methods; their own tests refuse unknown ones
    for words in commands():
        for option in ("--method", "--methods"):
            if option in words and not makers & set(words):
                for name in words[words.index(option) + 1].split(","):
                    assert parse(name).components, name


def test_the_python_of_the_readme_runs() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Linear(6, 3)
    loader = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(3)]
    before = [p.detach().clone() for p in student.parameters()]
    names: dict[str, Any] = {"student": student, "teacher": teacher, "loader": loader, "batch": loader[0]}
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"] is student
    assert set(names["step"].terms) == {"kd", "supervised"}
    assert all(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))


def test_rivals_and_states_are_those_of_the_catalogue() -> None:
    (sentence,) = re.findall(r"rivals that belong to no system: ([^.]*)\.", README)
    classes = {home.partition(":")[2] for home in catalog.rivals().values()}
    assert set(sentence.replace("\n", " ").split(", ")) == classes
    assert f"the {len(catalog.systems())} systems" in README
    (ready,) = re.findall(r"(\d+) rivals \+ (\d+) systems", README)
    made = [slug for slug, card in catalog.systems().items() if card.has_method]
    # Supervised is the label loss, and no rival of anything.
    assert ready in [(str(len(classes)), str(len(made))), (str(len(classes) - 1), str(len(made)))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_two_commands_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert f"\n{target}:" in makefile
