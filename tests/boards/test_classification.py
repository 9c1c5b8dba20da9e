"""The leaderboard: who is on it, what its tables say, that it resumes, that adding a method trains only that one."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from distil import catalog
from distil.boards import BOARDS, board
from distil.boards.classification import ENTRIES, LEFT_OUT, PUBLISHED, left_out
from distil.errors import DistilError, Diverged
from distil.loops.board_tables import orderings
from distil.loops.board_tries import Entry, kept_from
from distil.loops.lab import Lab, code_for, files_behind
from distil.loops.recipe import prepare_setup, run_recipe
from distil.loops.tuning import tune_arms
from distil.methods.expression import parse
from distil.models import SmallCNN
from distil.report.check import validate
from engine import toys
from engine.kills import FORKS

from .killed import live

TINY = (
    "pair.data=digits", "pair.size=null", "pair.train=200", "pair.teacher_train=400", "pair.val=80",
    "pair.teacher='distil:mlp(hidden=32)'", "pair.student='distil:mlp(hidden=6)'",
    "pair.teacher_training.epochs=6", "training.epochs=2", "training.batch_size=50",
)  # fmt: skip


def run(out: Path, methods: str, *more: str, lab: Lab | None = None) -> dict[str, Any]:
    made = board("classification")
    setup = prepare_setup(made, assignments=[*TINY, f"methods={methods}", *more])
    return run_recipe(made, setup, out, lab or Lab(out, device="cpu"), command="distil run classification")


def table(report: dict[str, Any], title: str) -> dict[str, Any]:
    return next(one for one in report["tables"] if one["title"] == title)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("board")
    return run(out, "[kd, dkd, at, 'mine: supervised + 2*rkd']"), out


def test_every_system_for_classification_has_its_place() -> None:
    on_it = {entry.name for entry in ENTRIES}
    for slug, card in catalog.systems().items():
        if card.field == "classification" and card.has_method and card.origin == "distil":
            assert (slug in on_it) != (slug in LEFT_OUT), f"'{slug}' is neither on the board nor left out, or both"


def test_what_is_left_out_names_the_recipe_that_shows_it() -> None:
    for key, why in LEFT_OUT.items():
        assert why.endswith(f"distil run {key.split()[0]}")
    assert "fresh" in LEFT_OUT["meal-v2 from a checkpoint"]  # the row on the board is another start
    assert next(entry for entry in ENTRIES if entry.name == "meal-v2").note.endswith("fresh student")


def test_every_standard_method_on_logits_maps_and_embeddings_is_on_it() -> None:
    elsewhere = {"supervised", "glnn", "mse", "cwd", "maskd"}  # the student alone; graphs; maps of pixels
    assert set(catalog.rivals()) - elsewhere <= {entry.name for entry in ENTRIES}


def test_every_entry_is_a_sum_that_can_be_read() -> None:
    for entry in ENTRIES:
        system = entry.name in catalog.systems() and not catalog.card(entry.name).has_method
        if not system:
            assert parse(entry.expression).components, entry.name


def test_published_figures_are_of_entries() -> None:
    assert set(PUBLISHED) <= {entry.name for entry in ENTRIES} | {"alone"}


@pytest.mark.parametrize("name", list(BOARDS))
def test_every_board_has_settings(name: str) -> None:
    made = board(name)
    setup = prepare_setup(made)
    assert "kd" in setup.methods
    assert len(setup.seeds) >= 3


def test_the_report_is_whole(small: tuple[dict[str, Any], Path]) -> None:
    report, out = small
    validate(report)
    roles = {arm["name"]: arm["role"] for arm in report["arms"]}
    assert roles == {"alone": "reference", "kd": "rival", "dkd": "method", "mine": "method"}
    assert {(v["arm"], v["against"]) for v in report["verdicts"]} >= {("dkd", "alone"), ("dkd", "kd"), ("kd", "alone")}
    gaps = [v["difference"]["mean"] for v in report["verdicts"] if v["against"] == "alone"]
    assert gaps == sorted(gaps, reverse=True)
    assert report["adjustment"] == {"kind": "blocks", "comparisons": 3, "level": 0.95}
    assert all(arm["budget"]["trials"] == 2 for arm in report["arms"])
    standing = table(report, "Leaderboard")
    assert len(standing["rows"]) == 4
    means = [float(row[1].split()[0]) for row in standing["rows"]]
    assert means == sorted(means, reverse=True)
    assert all(float(row[standing["head"].index("step cost")]) > 0 for row in standing["rows"])
    assert re.match(r"(long enough|too short.*): with twice the epochs", report["setting"]["Length"])
    for row in standing["rows"]:
        values = {arm["label"]: arm["metrics"]["accuracy"]["best"] for arm in report["arms"]}[row[0]]
        assert row[1].startswith(f"{sum(values) / 3:.1f} ")
        seconds = {arm["label"]: sorted(arm["cost"]["seconds"])[1] for arm in report["arms"]}[row[0]]
        assert row[standing["head"].index("seconds")] == f"{seconds:.0f}"
    assert standing["note"].endswith("Above 120: none.")
    assert "Leaderboard" in (out / "report.html").read_text(encoding="utf-8")


def test_every_method_has_two_tries_and_what_was_measured(small: tuple[dict[str, Any], Path]) -> None:
    rows = table(small[0], "Tries")["rows"]
    assert [row[0] for row in rows].count("KD") == 2
    assert sum(row[-1] == "chosen" for row in rows) == 4
    first, second = (row for row in rows if row[0] == "KD")
    assert first[1] == "0.1*supervised + 0.9*kd(temperature=4)"
    assert second[1].startswith("supervised + ")
    assert 0 < float(first[3].rstrip("%")) < 100
    alone = [row for row in rows if row[0] == "Student alone"]
    assert float(alone[1][2]) < float(alone[0][2])


def test_a_method_that_does_not_fit_is_named_with_its_reason(small: tuple[dict[str, Any], Path]) -> None:
    absent = dict(table(small[0], "Not on the board")["rows"])
    assert "no tap 'stages'" in absent["at"]
    assert set(LEFT_OUT) <= set(absent)


def test_adding_a_method_trains_only_that_one(small: tuple[dict[str, Any], Path]) -> None:
    report, out = small
    before = {folder.name for folder in (out / "stages").iterdir()}
    more = run(out, "[kd, dkd, at, 'mine: supervised + 2*rkd', pkt]")
    new = {folder.name for folder in (out / "stages").iterdir()} - before
    assert len(new) == 2 + 3 + 2  # two tries, three seeds, its balance and its pace
    assert all("pkt" in name for name in new)
    for arm in report["arms"]:
        assert arm["metrics"] == next(other for other in more["arms"] if other["name"] == arm["name"])["metrics"]


def test_what_is_stored_of_a_method_depends_on_its_own_code() -> None:
    def names(text: str) -> set[str]:
        return {"/".join(file.parts[-2:]) for file in files_behind(text, SmallCNN())}

    kd, simkd = names("supervised + kd"), names("simkd")
    assert {"methods/kd.py", "functional/divergence.py", "engine/loop.py", "models/cnn.py", "data/loading.py"} <= kd
    assert "methods/simkd.py" not in kd
    assert not kd & {"methods/rkd.py", "models/vgg.py", "data/sources.py", "loops/board.py"}
    assert {"methods/simkd.py", "models/graft.py"} <= simkd
    assert code_for("kd") == code_for("kd")
    assert len({code_for("kd"), code_for("simkd"), code_for("kd", SmallCNN())}) == 3


def test_a_killed_board_goes_on_to_the_same_figures(small: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Dying:
        """A progress that kills the run when it comes to the second seed."""

        def begin(self, name: str, total: int | None = None) -> None:
            if "seed 2/" in name:
                raise Stop

        def step(self, done: int, total: int) -> None: ...

        def say(self, text: str) -> None: ...

    with pytest.raises(Stop):
        run(tmp_path, "[kd, dkd]", lab=Lab(tmp_path, device="cpu", progress=Dying()))
    stored = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "stages").iterdir()}
    resumed = run(tmp_path, "[kd, dkd]")
    assert {folder: folder.stat().st_mtime_ns for folder in stored} == stored  # nothing was made twice
    for arm in resumed["arms"]:
        whole = next(other for other in small[0]["arms"] if other["name"] == arm["name"])
        assert arm["metrics"] == whole["metrics"]


def test_a_board_killed_while_an_arm_trains_goes_on_to_the_same_figures(
    small: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    settings = [*TINY, "methods=[kd, dkd]"]
    given = (out, settings, os.environ["DISTIL_CACHE"], torch.get_num_threads(), "DKD · seed 2/3", mark)
    process = FORKS.Process(target=live, args=given)
    process.start()
    try:
        while not mark.exists() and process.is_alive():
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, mark.with_suffix(".error").read_text()
    stored = {folder: folder.stat().st_mtime_ns for folder in (out / "stages").iterdir()}
    assert sum("arm-dkd-" in folder.name for folder in stored) == 3  # both tries and the first seed; not the second
    assert not (out / "report.json").exists()
    resumed = run(out, "[kd, dkd]")
    assert {folder: folder.stat().st_mtime_ns for folder in stored} == stored
    for arm in resumed["arms"]:
        whole = next(other for other in small[0]["arms"] if other["name"] == arm["name"])
        assert arm["metrics"] == whole["metrics"]
    tries = table(small[0], "Tries")["rows"]
    assert all(row in tries for row in table(resumed, "Tries")["rows"])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("[kd, kd]", "Two rows of the leaderboard are called 'kd'"),
        ("[kd, 'a/b: kd']", "plain name"),
        ("[kd, 'mine: kd(temprature=2)']", "temperature"),
        ("[kd, dkt]", "dkd"),
        ("[kd, 'dkd: supervised']", "plain name of its own"),
        ("[dkd]", "needs the entry 'kd'"),
    ],
)
def test_unknown_methods_are_refused(methods: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=said):
        run(tmp_path, methods)


def test_orderings_hold_are_reversed_or_undecided() -> None:
    published = {"a": [5.0, 5.0], "b": [3.0, 3.0], "c": [1.0, 4.5]}
    scores = {"a": [90, 91, 92], "b": [80, 81.2, 82.1], "c": [80.5, 81.0, 82.0], "d": [1.0, 2.0, 3.0]}
    rows = {(row[0], row[1]): row[-1] for row in orderings(published, scores)["rows"]}
    assert rows == {("a", "b"): "holds"}  # a and c, b and c are not a point apart, the same way, in both pairs
    turned = orderings(published, {**scores, "a": [70, 71, 72]})
    assert turned["rows"][0][-1] == "reversed"
    level = orderings(published, {**scores, "a": [80.1, 81.1, 82.2]})
    assert level["rows"][0][-1] == "undecided"


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("supervised + ramp(fraction=0.5)*kd", ""),
        ("during(end=2)*kd + during(start=1)*supervised", ""),
        ("during(end=1)*kd + during(start=1)*supervised", "apart"),
        ("0.1*supervised", "alone"),
        ("kd", "none"),
        ("supervised + pld", ""),
        ("pld", "held"),
    ],
)
def test_labels_and_the_rest_are_weighed_where_a_step_has_both_apart(expression: str, kept: str) -> None:
    assert kept_from(expression, steps=12, epochs=3) == kept


def test_where_nothing_can_be_weighed_the_second_try_is_a_lower_rate_and_no_share_is_shown(tmp_path: Path) -> None:
    staged = "during(end=1)*kd + during(start=1)*supervised"
    found = run(tmp_path, f"[kd, pld, 'staged: {staged}']", "seeds=[0]")
    for name, expression in (("PLD", "pld"), ("staged", staged)):
        first, second = (row for row in table(found, "Tries")["rows"] if row[0] == name)
        assert [first[1], first[3]] == [second[1], second[3]] == [expression, ""]
        assert float(second[2]) < float(first[2])


def test_methods_that_were_not_chosen_are_named_once() -> None:
    every = [entry.name for entry in ENTRIES]
    assert left_out(every) == LEFT_OUT
    (names,) = set(left_out(["kd", "mine: at", "dkd"])) - set(LEFT_OUT)
    assert names.split(", ") == [name for name in every if name not in ("kd", "dkd")]


def test_what_is_left_out_speaks_of_no_row() -> None:
    assert not any("row" in why for why in LEFT_OUT.values())  # a board may be without it


def test_an_entry_needs_no_note() -> None:
    assert Entry("a", "kd", "A").note == ""


def test_a_sum_with_its_labels_apart_is_the_same_sum() -> None:
    (entry,) = (entry for entry in ENTRIES if entry.parted and not entry.weighted)
    held, parted = (
        toys.taught(parse(text))(toys.batch(toys.vectors(16))).loss for text in (entry.expression, entry.parted)
    )
    torch.testing.assert_close(held, parted)


def test_a_method_that_holds_the_labels_is_weighed_against_them_where_it_can_be(tmp_path: Path) -> None:
    found = run(tmp_path, "[kd, mlld]", "seeds=[0]")
    first, second = (row for row in table(found, "Tries")["rows"] if row[0] == "MLLD")
    assert first[1].startswith("mlld(")
    assert re.match(r"supervised \+ [\d.]+\*mlld\(.*task=0", second[1])
    assert first[2] == second[2]


def test_a_balanced_sum_of_the_methods_own_is_the_published_one_at_its_weights() -> None:
    (entry,) = (entry for entry in ENTRIES if entry.weighted)
    published, own = (
        toys.taught(parse(text))(toys.batch(toys.vectors(16))).loss
        for text in (entry.expression, f"0.1*{entry.weighted.format(weight=9)}")
    )
    torch.testing.assert_close(published, own)


def test_a_method_that_mixes_labels_is_weighed_by_its_own_weights(tmp_path: Path) -> None:
    found = run(tmp_path, "[kd, mix-kd]", "seeds=[0]")
    first, second = (row for row in table(found, "Tries")["rows"] if row[0] == "MIX-KD")
    assert first[1] == "mix-kd"  # as published: gamma 0.1, alpha 0.9
    assert first[2] == second[2]
    weight = float(re.search(r"gamma=1, alpha=([\d.]+)", second[1])[1])  # type: ignore[index]
    share = (
        float(first[3].rstrip("%")) / 100
    )  # of the published weights: 0.9 g / (0.9 g + 0.1 labels), g = labels / weight
    assert share == pytest.approx(0.9 / (0.9 + 0.1 * weight), abs=0.006)


def test_a_method_whose_tries_all_diverge_is_listed_and_the_board_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(lab: Lab, arms: Any, *given: Any, **more: Any) -> Any:
        if "dkd" in arms:
            raise Diverged("Every trial of 'dkd' diverged.")
        return tune_arms(lab, arms, *given, **more)

    monkeypatch.setattr("distil.loops.board.tune_arms", failing)
    found = run(tmp_path, "[kd, dkd]", "seeds=[0]")
    assert ["dkd", "Every trial of 'dkd' diverged."] in table(found, "Not on the board")["rows"]
    assert [arm["name"] for arm in found["arms"]] == ["alone", "kd"]
