"""`distil list` and `distil show`, and the frame they share: exit codes, mistakes in one sentence, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.fakes import Project, as_project
from distil import catalog
from distil.cli import app, main
from distil.errors import DistilError

FIELDS = {"slug", "name", "field", "state", "stale", "needs", "paper"}


def words(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


# ---- in a process where importing torch fails


@pytest.fixture
def torchless(tmp_path: Path) -> dict[str, str]:
    """An environment in which `import torch` raises."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is broken here')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200", "NO_COLOR": "1"}


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["list"], "pld"),
        (["list", "--json"], '"slug": "pld"'),
        (["show", "pld"], "Plackett-Luce"),
        (["show", "dense2moe", "--json"], '"slug": "dense2moe"'),
        (["--help"], "show"),
        (["list", "--help"], "--field"),
        (["--version"], "distil 0.1.0"),
    ],
)
def test_what_needs_no_torch_works_where_torch_is_broken(
    torchless: dict[str, str], arguments: list[str], shows: str
) -> None:
    command = [sys.executable, "-m", "distil", *arguments]
    done = subprocess.run(command, env=torchless, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert done.stderr == ""


def test_torch_is_broken_in_that_process(torchless: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env=torchless, capture_output=True, text=True, check=False
    )
    assert "torch is broken here" in done.stderr


def test_importing_distil_loads_nothing_of_a_third_party() -> None:
    code = "import sys, distil; dir(distil); print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    bare = subprocess.run(
        [sys.executable, "-c", code.replace(", distil; dir(distil)", "")], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) - set(bare.stdout.split()) <= {"distil", *sys.stdlib_module_names}


def test_every_public_name_of_distil_is_found() -> None:
    import distil

    assert set(distil.__all__) <= set(dir(distil))
    for name in distil.__all__:
        assert getattr(distil, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'Distller'"):
        distil.Distller  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    import tomllib

    import distil

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert distil.__version__ == project["version"]


# ---- list


def test_list_shows_every_system_and_the_rivals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = words("list", capsys=capsys)
    assert (code, err) == (0, "")
    for slug in (*catalog.systems(), *catalog.rivals()):
        assert slug in out


def test_a_narrow_list_is_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = words("list", capsys=capsys)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" not in out
    for slug in catalog.systems():
        assert slug in out


def test_list_json_has_its_keys_in_the_order_of_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(words("list", "--json", capsys=capsys)[1])
    assert [row["slug"] for row in rows] == list(catalog.systems())
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)
    for row in rows:
        assert set(row) >= FIELDS
        assert set(row["paper"]) >= {"title", "venue", "arxiv"}
        assert isinstance(row["stale"], bool)
        assert row["state"] == catalog.state(row["slug"]).name


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(words("list", "--json", "--field", "graph", capsys=capsys)[1])
    assert {row["slug"] for row in rows} == {"d2dgn", "ff-g2m"}
    rows = json.loads(words("list", "--json", "--state", "planned", capsys=capsys)[1])
    assert {row["slug"] for row in rows} == {
        slug for slug in catalog.systems() if catalog.state(slug).name == "planned"
    }


@pytest.mark.parametrize(("option", "value", "near"), [("--field", "grph", "'graph'"), ("--state", "wokrs", "'works'")])
def test_an_unknown_filter_names_the_nearest(
    capsys: pytest.CaptureFixture[str], option: str, value: str, near: str
) -> None:
    code, out, err = words("list", option, value, capsys=capsys)
    assert (code, out) == (2, "")
    assert f"no {option[2:]} '{value}'" in err
    assert near in err


# ---- show


def test_show_gives_every_section_of_a_card(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    card = catalog.card("nd")
    code, out, err = words("show", "nd", capsys=capsys)
    assert (code, err) == (0, "")
    texts = [card.title, card.summary, card.what, card.headline, *card.differs, *card.reading, *card.limits]
    texts += [*card.not_run, *card.components.values(), *card.experiment.arms, card.proof.golden, card.ships]
    for text in texts:
        assert text in out, text


def test_show_json_is_the_whole_card_with_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads(words("show", "ff_g2m", "--json", capsys=capsys)[1])
    assert whole["slug"] == "ff-g2m"
    assert whole["proof"]["exports"] == ["LowFrequency", "HighFrequency"]
    assert set(whole) >= FIELDS | {"components", "defaults", "differs", "reading", "limits", "evidence", "why"}
    assert "folder" not in whole


def test_markup_and_control_text_of_a_card_are_shown_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with as_project(tmp_path, monkeypatch) as project:
        project.system("toy", summary='"[bold red]loud[/] and [/nothing] :smile:"', name='"[link=x]n[/link]"')
        run = {"title": "[i]T[/i]", "verdicts": [{"text": "[b]KD[/b] helped"}], "command": "distil run toy"}
        project.evidence("toy", runs=[run], hash="x")
        code, out, _ = words("show", "toy", capsys=capsys)
        listed = words("list", capsys=capsys)[1]
    assert code == 0
    assert "[bold red]loud[/] and [/nothing] :smile:" in out
    assert "[link=x]n[/link]" in out
    assert "[link=x]n[/link]" in listed
    assert "[b]KD[/b] helped" in out
    assert "[i]T[/i]" in out


def test_show_says_when_evidence_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with as_project(tmp_path, monkeypatch) as project:
        make_works(project)
        out = words("show", "toy", capsys=capsys)[1]
        assert "works (" in out
        assert "one helped" in out
        assert "two helped" in out
        rows = json.loads(words("list", "--json", "--state", "stale", capsys=capsys)[1])
        assert rows == []
        project.write("src/distil/systems/toy/method.py", "X = 2\n")
        out = words("show", "toy", capsys=capsys)[1]
        assert "works, stale" in out
        assert "the code has changed since" in out
        rows = json.loads(words("list", "--json", "--state", "stale", capsys=capsys)[1])
        assert [(row["slug"], row["state"], row["stale"]) for row in rows] == [("toy", "works", True)]


def make_works(project: Project) -> None:
    project.system("toy")
    project.write("src/distil/systems/toy/recipe.py", "")
    runs = [{"title": name, "verdicts": [{"text": f"{name} helped"}], "seeds": [0, 1]} for name in ("one", "two")]
    project.evidence("toy", hash=catalog.evidence_hash("toy"), runs=runs)


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shwo", "pld"], "no verb 'shwo'; did you mean 'show'"),
        (["list", "--jsn"], "'distil list' has no option '--jsn'; did you mean '--json'"),
        (["--versoin"], "did you mean '--version'"),
        (["show"], "Missing argument"),
        (["show", "pld", "nd"], "unexpected extra argument"),
        (["show", "pdl"], "no system 'pdl'; did you mean 'pld'"),
        (["list", "--field"], "'--field' requires an argument"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, out, err = words(*arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("distil: ")


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = words(capsys=capsys)
    assert code == 0
    assert "list" in out


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(slug: str) -> None:
        raise error

    monkeypatch.setattr(catalog, "card", fail)


def test_a_distil_error_never_ends_in_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(DistilError("The card is torn; mend it."), monkeypatch)
    assert words("show", "pld", capsys=capsys) == (2, "", "distil: The card is torn; mend it.\n")


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = words("show", "\x1b[2Jpld", capsys=capsys)
    assert code == 2
    assert "\x1b" not in err
    assert "\\x1b[2Jpld" in err


def test_an_interrupt_is_130_with_a_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(KeyboardInterrupt(), monkeypatch)
    assert words("show", "pld", capsys=capsys) == (130, "", "distil: interrupted.\n")


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(ZeroDivisionError("a bug"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["show", "pld"])


def test_a_real_interrupt_of_a_real_process_is_130(tmp_path: Path) -> None:
    slow = "import time\nfrom distil import catalog\nfrom distil.cli import main\n"
    slow += "def wait(slug):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    slow += "catalog.card = wait\nraise SystemExit(main(['show', 'pld']))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell hands on an ignored one
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "distil: interrupted.\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = f"'{sys.executable}' -m distil show llm-kd-survey --json | head -c 10; echo \" ${{PIPESTATUS[0]}}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.endswith(" 0\n")


# ---- the frame


def test_only_verbs_that_are_built_appear(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(app, "VERBS", ("list_show", "not_built_yet"))
    assert {command.name for command in app.build().registered_commands} == {"list", "show"}
    code, out, _ = words("--help", capsys=capsys)
    assert code == 0
    assert "not" not in out.replace("nothing", "")
    assert words("not_built_yet", capsys=capsys)[0] == 2


def test_a_verb_that_is_broken_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "VERBS", ("list_show", "app"))  # a module without register()
    with pytest.raises(AttributeError, match="register"):
        app.build()


@pytest.mark.parametrize("name", sorted(catalog.rivals()))
def test_a_standard_method_tells_of_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = words("show", name.upper(), capsys=capsys)
    assert (code, err) == (0, "")
    assert f"`{name}` in an expression" in out
    told = json.loads(words("show", name, "--json", capsys=capsys)[1])
    assert told["class"].startswith("distil.methods.")
    assert "Example:" in told["text"]
