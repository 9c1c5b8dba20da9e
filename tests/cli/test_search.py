"""distil search on a user's own things: the report, what it leaves, resuming, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from distil.loops.spaces import TinyCNN
from distil.report import load
from distil.systems.diswot import own

from .files import CLASSES
from .terminal import contents, distil

Screen = pytest.CaptureFixture[str]

SPACE = '''
from torch import nn
from distil.models import SmallCNN

COUNT = {"built": 0}

class Nets:
    """Two stages; the last is eight channels wide."""

    def __init__(self, classes, channels):
        self.classes, self.channels = classes, channels

    def sample(self, rng):
        return {"width": rng.choice([2, 3, 4, 6])}

    def mutate(self, genome, rng):
        return {"width": max(2, genome["width"] + rng.choice([-1, 1]))}

    def build(self, genome):
        return SmallCNN(self.channels, self.classes, widths=(genome["width"], 8))

class Fails(Nets):
    def build(self, genome):
        raise ValueError("no such net")

class Half:
    def sample(self, rng):
        return 1

class Unplain(Nets):
    def sample(self, rng):
        return {1, 2}
'''
TEACHER = ("--teacher", "distil:cnn(widths=(4, 8))")


def words(*more: str, space: str = "my_space.py:Nets") -> list[str]:
    return [
        *("search", "--data", "photos", "--space", space, *TEACHER, "--device", "cpu", "--evaluations", "10"),
        *("--set", "search.population=4", "--set", "search.sample=2", *more),
    ]


DISTILLED = ("--train-teacher", "12", "--lr", "0.03", "--epochs", "1", "--seeds", "1", "--batch-size", "12")


@pytest.fixture
def there(here: Path) -> Path:
    (here / "my_space.py").write_text(SPACE)
    return here


def test_a_search_ends_in_a_report_and_in_students(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--out", "found", *DISTILLED))
    assert said.code == 0, said
    report = load(there / "found")
    assert report["arms"][0]["role"] == "reference"
    assert {"median", "largest", "random", "winner"} >= {arm["name"] for arm in report["arms"]}
    budgets = [arm["budget"] for arm in report["arms"]]
    assert all(budget == budgets[0] for budget in budgets)
    (table,) = report["tables"]
    assert table["head"][:3] == ["place", "by size", "net"]
    assert any("winner" in row[-1] for row in table["rows"])
    assert any("parameter count ranks better (Kendall tau 0.87" in text for text in report["warnings"])
    assert "parameter count ranks better" in said.out.replace("\n", " ")
    history = json.loads((there / "found" / "history.json").read_text())
    assert len(history) == 10
    assert max(history, key=lambda e: e["score"])["genome"] == eval_width(report["setting"]["Winner"])
    page = (there / "found" / "report.html").read_text(encoding="utf-8")
    assert "Candidates, by score and by parameters" in page
    for arm in report["arms"]:
        weights = load_file(there / "found" / "students" / f"{arm['name']}-seed0.safetensors")
        assert sum(w.numel() for n, w in weights.items() if n.endswith(("weight", "bias"))) == arm["parameters"]
        assert weights["fc.weight"].shape == (len(CLASSES), 8)


def eval_width(text: str) -> dict[str, int]:
    return {"width": int(text.partition("}")[0].rpartition(" ")[2])}


def test_a_search_alone_says_the_rival_ranking_and_trains_nothing(there: Path, capsys: Screen) -> None:
    said = distil(capsys, *words("--no-distil", "--json", "--out", "found", space="tiny-cnn"), *CAM)
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["arms"] == []
    assert "the rival ranking, which costs nothing" in report["tables"][0]["note"]
    assert report == load(there / "found")
    assert not (there / "found" / "students").exists()
    assert any("parameter count ranks better" in text for text in report["warnings"])


CAM = ("--set", "scoring.semantic=cam", "--set", "scoring.batch=12", "--set", "size=16")


def test_limits_strategy_and_proxy_are_obeyed(there: Path, capsys: Screen) -> None:
    more = ("--max-params", "1700", "--max-flops", "60000", "--strategy", "exhaustive", "--set", "scoring.proxy=rkd")
    said = distil(capsys, *words(*more, "--no-distil", "--json", "--out", "found", space="tiny-cnn"))
    assert said.code == 0, said
    history = json.loads((there / "found" / "history.json").read_text())
    assert all(e["cost"]["parameters"] <= 1700 and e["cost"]["flops"] <= 60000 for e in history)
    assert len(history) == len({json.dumps(e["genome"]) for e in history}) < len(TinyCNN().all())
    assert "−rkd" in json.loads(said.out)["setting"]["Score"]


def test_a_stopped_search_goes_on_to_the_same_history(
    there: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distil(capsys, *words("--no-distil", "--out", "whole")).code == 0
    monkeypatch.setattr(own, "SAVE_EVERY", 0.0)
    scored = own.scored
    count = {"calls": 0}

    def stopping(*arguments: object) -> object:
        count["calls"] += 1
        if count["calls"] == 4:
            raise KeyboardInterrupt
        return scored(*arguments)

    monkeypatch.setattr(own, "scored", stopping)
    stopped = distil(capsys, *words("--no-distil", "--out", "torn"))
    assert stopped.code == 130
    assert "--resume" in stopped.err
    assert not (there / "torn" / "report.json").exists()
    monkeypatch.setattr(own, "scored", scored)
    again = distil(capsys, "search", "--out", "torn", "--resume", "--device", "cpu")
    assert again.code == 0, again
    assert "going on after" in again.err
    whole, torn = (json.loads((there / name / "history.json").read_text()) for name in ("whole", "torn"))
    assert whole == torn
    assert not list((there / "torn" / "stages").glob("searching-*"))


def test_a_dry_run_writes_nothing(there: Path, capsys: Screen) -> None:
    before = contents(there)
    said = distil(capsys, *words("--dry-run", "--no-distil"))
    assert said.code == 0, said
    assert "Everything fits" in said.out
    assert contents(there) == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--space", "s1"), "There is no space 's1'; "),
        (("--space", "my_space.py:Net"), "did you mean 'Nets'"),
        (("--space", "none.py:Nets"), "there is no file 'none.py' for the space"),
        (("--space", "my_space.py:Half"), "The space Half has no mutate()"),
        (("--space", "my_space.py:Fails"), "Fails.build("),
        (("--space", "my_space.py:Unplain"), "a genome with a set in it"),
        (("--space", "my_space.py:COUNT"), "is a dict; an object with sample() is expected"),
        (("--max-params", "3"), "is within the limits (3 parameters)"),
        (("--max-params", "0"), "should be greater than or equal to 1"),
        (("--set", "limits.parameters=0"), "The limit of parameters is 0"),
        (("--strategy", "evolve"), "The strategy 'evolve' is unknown"),
        (("--strategy", "exhaustive"), "Nets has no all()"),
        (("--set", "scoring.semantic=camm"), "did you mean 'cam'"),
        (("--set", "scoring.proxy=kdd"), "'kdd' is no method"),
        (("--set", "scoring.relations=no"), "'scoring.relations' does not exist; did you mean 'relation'"),
        (("--space", "tiny-cnn"), "use semantic='cam'"),
        (("--method", "kdd"), "'kdd' is no method"),
        (("--method", "at(taps=layer9)", "--distil"), "Tap 'layer9' does not exist"),
        (("--teacher", "models.py:eye"), "has no tap"),
        (("--data", "graph.npz"), "distil search takes images"),
        (("--data", "photo/s"), "correct the path"),
        (("--out", "models.py"), "--out models.py is a file"),
        (("--seed", "-1"), "seeds=[-1]"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    there: Path, capsys: Screen, more: tuple[str, ...], says: str
) -> None:
    before = contents(there)
    said = distil(capsys, *words("--no-distil", *more))
    assert said.code == 2, said
    assert said.out == ""
    (complaint,) = said.complaints
    assert says in complaint
    assert "Traceback" not in said.err
    assert contents(there) == before


def test_a_teacher_at_chance_is_refused_before_the_search(there: Path, capsys: Screen) -> None:
    before = contents(there)
    said = distil(capsys, *words("--epochs", "1", "--batch-size", "12"))
    assert said.code == 2
    assert "chance level" in said.complaints[0]
    assert contents(there) == before


def test_what_is_missing_is_named(there: Path, capsys: Screen) -> None:
    for left_out in ("data", "teacher", "space"):
        given = {"data": "photos", "teacher": "distil:cnn", "space": "tiny-cnn"}
        del given[left_out]
        said = distil(capsys, "search", *(w for k, v in given.items() for w in (f"--{k}", v)))
        assert said.code == 2
        assert f"--{left_out} is missing; see `distil search --help`" in said.complaints[0]
