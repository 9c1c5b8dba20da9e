"""Runs that are resumed or reported, torn or tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distil.cli import main

from .row import Row, blob, own

TRAINED = own("--student", "distil:mlp(hidden=4)", "--epochs", "2", "--out", "done")
RESUMED = [*TRAINED, "--resume"]


def make_run(place: Path) -> None:
    """A finished run and an export of it, in ``place``; the process stands in a folder of the user's things."""
    assert main([*TRAINED, "--out", str(place / "done")]) == 0
    words = ["export", str(place / "done"), "--out", str(place / "shipped"), "--format", "safetensors"]
    assert main(words) == 0


def spoil(file: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Change what a JSON file holds."""

    def make(here: Path) -> None:
        path = here / file
        tree = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(tree)), encoding="utf-8")

    return make


def cut(file: str) -> Callable[[Path], object]:
    """Keep the first half of the files of this pattern."""

    def make(here: Path) -> None:
        found = sorted(here.glob(file))
        assert found, file
        for path in found:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def gone(file: str) -> Callable[[Path], object]:
    """Delete the files of this pattern."""

    def make(here: Path) -> None:
        found = sorted(here.glob(file))
        assert found, file
        for path in found:
            path.unlink()

    return make


def with_(**changed: Any) -> Callable[[Any], Any]:
    return lambda tree: {**tree, **changed}


def without(*keys: str) -> Callable[[Any], Any]:
    return lambda tree: {key: value for key, value in tree.items() if key not in keys}


def arm(**changed: Any) -> Callable[[Any], Any]:
    return lambda tree: {**tree, "arms": [{**tree["arms"][0], **changed}, *tree["arms"][1:]]}


def report(wrong: str, change: Callable[[Any], Any], sentence: str) -> Row:
    return Row(wrong, ["report", "done"], sentence, spoil("done/report.json", change), run=True)


def resumed(wrong: str, make: Callable[[Path], object] | None, sentence: str, *words: str) -> Row:
    return Row(wrong, [*RESUMED, *words], sentence, make, run=True)


REPORTS = [
    Row("no report", ["report", "photos"], "photos"),
    Row("a report that is none", ["report", "models.py"], "models.py is not whole JSON"),
    Row("a report that is not there", ["report", "nowhere"], "nowhere"),
    Row("an index of nothing", ["report", "empty"], "empty"),
    Row("an index to adjust", ["report", "empty", "--adjust"], "--adjust is for one run"),
    Row(
        "a run that has not finished",
        ["report", "done"],
        "The run in done has not finished",
        gone("done/report.json"),
        run=True,
    ),
    Row("a torn report", ["report", "done"], "is not whole JSON", cut("done/report.json"), run=True),
    Row("an empty report", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"", "odd.json")),
    Row("a report of bytes", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"\xff\xfe\0", "odd.json")),
    Row("a report of NaN", ["report", "odd.json"], "NaN is not JSON", blob(b'{"a": NaN}', "odd.json")),
    Row(
        "a report nested deeply", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"[" * 200_000, "odd.json")
    ),
    Row(
        "a report of a huge number", ["report", "odd.json"], "odd.json is not whole JSON", blob(b"9" * 5000, "odd.json")
    ),
    Row(
        "a report of a list",
        ["report", "odd.json"],
        "it has no 'kind'; give a report.json that distil wrote",
        blob(b"[]", "odd.json"),
    ),
    Row(
        "a report of another kind",
        ["report", "odd.json"],
        "of kind 'x\\x1b[31m', not 'comparison'",
        blob(b'{"kind": "x\\u001b[31m"}', "odd.json"),
    ),
    report("a report of tomorrow", with_(version=99), "has version 99, and this distil reads up to"),
    report("a report without arms", without("arms"), "report: 'arms' is missing, expected a list"),
    report("a report with arms of words", with_(arms=["kd"]), "arms[0] is str, expected an object"),
    report("a report with a metric of a word", with_(metric="accuracy"), "'metric' is str, expected an object"),
    report("a report with seeds of a word", with_(seeds="0"), "'seeds' is str, expected a list"),
    report(
        "a report with more seeds than values",
        with_(seeds=[0, 1, 2]),
        "expected a list with one value for each of 3 seeds",
    ),
    report("an arm of an unknown role", arm(role="methd"), "did you mean 'method'?"),
    report("an arm without a name", arm(name=None), "'name' is"),
    report("an arm twice", arm(name="kd"), "two arms are called 'kd'"),
    report(
        "a verdict on nobody",
        lambda tree: {**tree, "verdicts": [{**tree["verdicts"][0], "arm": "nobody"}]},
        "names the arm 'nobody', which is not in the report",
    ),
    report(
        "a verdict of another outcome",
        lambda tree: {**tree, "verdicts": [{**tree["verdicts"][0], "outcome": "won"}]},
        "has outcome 'won'",
    ),
    report(
        "metrics of words",
        arm(metrics={"accuracy": {"last": ["good"], "best": ["better"]}}),
        "metrics.accuracy.last holds 'good', expected numbers",
    ),
    report(
        "metrics of lists",
        arm(metrics={"accuracy": {"last": [[1]]}}),
        "metrics.accuracy.last holds '[1]', expected numbers",
    ),
    report("agreement of words", arm(agreement=["much"]), "agreement holds 'much', expected numbers"),
    report("curves of a word", arm(curves="up"), "'curves' is str, expected a list"),
    report("verdicts of a word", with_(verdicts="helped"), "'verdicts' is str, expected a list"),
    Row("a difference to itself", ["report", "done", "--against", "done"], "done and done are the same run", run=True),
    Row("a difference to nothing", ["report", "done", "--against", "nowhere"], "nowhere", run=True),
    Row(
        "a difference to a torn run",
        ["report", "done", "--against", "odd.json"],
        "odd.json is not whole JSON",
        blob(b"{", "odd.json"),
        run=True,
    ),
    Row("a page in a file", ["report", "done", "--out", "models.py"], "models.py", run=True),
]

RESUMES = [
    resumed("a resume with another rate", None, "belongs to a run with lr = 0.001; this one has 0.5", "--lr", "0.5"),
    resumed(
        "a resume of torn settings",
        lambda here: (here / "done" / "settings.yaml").write_text("data: [a"),
        "done/settings.yaml is no readable YAML (line 1)",
    ),
    resumed(
        "a resume of settings of another version",
        lambda here: (here / "done" / "settings.yaml").write_text("datum: a"),
        "The setting 'datum' does not exist; did you mean 'data'?",
    ),
    resumed("a resume of torn splits", cut("done/splits.csv"), "splits.csv"),
    resumed(
        "a resume of hostile settings",
        lambda here: (here / "done" / "settings.yaml").write_text(
            "data: !!python/object/apply:os.system ['touch was-run']"
        ),
        "is no readable YAML",
    ),
    Row(
        "an overwrite of a run with a mistake",
        [*TRAINED, "--overwrite", "--lr", "-1"],
        "must be a finite number above 0",
        run=True,
    ),
    Row(
        "a resume of another recipe",
        ["run", "pld", "--out", "done", "--resume"],
        "The settings file done/settings.yaml does not fit",
        run=True,
    ),
]


ROWS = [*REPORTS, *RESUMES]
