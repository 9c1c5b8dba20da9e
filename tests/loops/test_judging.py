"""Judging a small set: which students, which arms, what is said where something is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from distil.data import load
from distil.data.augmented import Augmentation
from distil.data.condensed import CondensedSet
from distil.errors import DistilError
from distil.loops import judging, text_sets
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining
from distil.loops.dd_scores import scores_of
from distil.loops.judging import IMAGES, Judging, _per_class, evaluate, students_for
from distil.loops.lab import Lab
from distil.loops.labelling import Labelling
from distil.loops.order import Order, architecture
from distil.loops.training import build_model
from distil.report import render

from .test_condense import Eye, bundle

STUDENTS = ("distil:mlp(hidden=4)", "distil:mlp(hidden=6)")
JUDGING = Judging(students=STUDENTS, seeds=(0, 1), training=StudentTraining(updates=8, lr=1e-2, checks=2))
SOFT = Labelling("static", temperature=4.0, augmentation=Augmentation(batch=6))


def made(labelling: Labelling | None = None) -> CondensedSet:
    return condense(Order(bundle(), 2, teachers=(Eye(),) if labelling else ()), "random", labelling)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report on a set with static labels and its teacher at hand."""
    return evaluate(made(SOFT), bundle(), Lab(tmp_path_factory.mktemp("lab")), JUDGING, teachers=[Eye()])


def arms(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {arm["name"]: arm for arm in report["arms"]}


def test_the_set_stands_beside_random_samples_its_hard_labels_and_the_real_data(judged: dict[str, Any]) -> None:
    found = arms(judged)
    assert {name: arm["role"] for name, arm in found.items()} == {
        "random": "reference", "set": "method", "set-hard": "ablation", "real": "bound",
    }  # fmt: skip
    assert {arm["budget"]["updates"] for arm in found.values()} == {8}
    assert found["random"]["diagnostics"]["total bytes"] == found["set"]["diagnostics"]["total bytes"]
    assert found["set-hard"]["diagnostics"]["labels bytes"] == [6.0, 6.0]
    assert found["real"]["diagnostics"]["images bytes"] == [24 * 108.0] * 2


def test_a_seeds_figure_is_the_mean_over_the_architectures(judged: dict[str, Any]) -> None:
    for arm in judged["arms"]:
        for which in ("last", "best"):
            each = [arm["diagnostics"][f"{spec}, {which}"] for spec in STUDENTS]
            assert arm["metrics"]["accuracy"][which] == pytest.approx([fmean(pair) for pair in zip(*each, strict=True)])


def test_the_tables_hold_the_scores_and_accuracy_over_bytes(judged: dict[str, Any]) -> None:
    scores, by_student, sizes = judged["tables"]
    seen = {name: arm["metrics"]["accuracy"]["best"] for name, arm in arms(judged).items()}
    expected = scores_of(
        real_hard=seen["real"], set_hard=seen["set-hard"], set_any=seen["set"], random_any=seen["random"]
    )
    assert scores["rows"][1][3] == f"{expected.score:.4f}"
    assert scores["rows"][1][2] == f"{expected.improvement:.1f} ± {expected.improvement_spread:.1f}"
    assert len(by_student["rows"]) == 4 * 2
    for label, spec, *cells in by_student["rows"]:
        [told] = [arm["diagnostics"] for arm in judged["arms"] if arm["label"] == label]
        figures = [told[f"{spec}, {which}"] for which in ("last", "best")]
        assert cells == [f"{fmean(each):.1f} ± {stdev(each):.1f}" for each in figures]
    assert [row[0] for row in sizes["rows"]] == [arm["label"] for arm in judged["arms"]]
    assert "DD-Ranking" in render(judged)


def test_random_samples_are_shown_as_the_set_is_with_hard_labels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Augmentation] = []
    train_on = judging.train_on

    def noting(small: CondensedSet, *given: Any, **options: Any) -> Any:
        if options["augmentation"] is None:  # the set and random samples; the real data are shown unmixed
            seen.append(judging.augmentation_of(small))
        return train_on(small, *given, **options)

    monkeypatch.setattr(judging, "train_on", noting)
    mixed = made(Labelling("hard", augmentation=Augmentation(mix="cutmix", pad=1, batch=6)))
    evaluate(mixed, bundle(), Lab(tmp_path), replace(JUDGING, seeds=(0,), real=False))
    assert len(seen) == 4
    assert {(view.mix, view.pad, view.batch) for view in seen} == {("cutmix", 1, 6)}


def test_a_set_of_other_data_is_told(tmp_path: Path) -> None:
    short = replace(JUDGING, seeds=(0,), real=False, training=StudentTraining(updates=2, checks=1))
    report = evaluate(made(), replace(bundle(), fingerprint="abc"), Lab(tmp_path), short)
    [warning] = [each for each in report["warnings"] if "made from other data" in each]
    assert "(f00) than those it is tested on (abc)" in warning


def test_without_the_teacher_what_it_adds_to_random_is_not_known(tmp_path: Path) -> None:
    once = replace(JUDGING, seeds=(0,), real=False)
    report = evaluate(made(SOFT), bundle(), Lab(tmp_path), once)
    found = arms(report)
    assert {name: arm["role"] for name, arm in found.items()} == {
        "random": "reference", "set-hard": "method", "set": "bound",
    }  # fmt: skip
    assert found["random"]["label"] == "Random samples, hard labels"
    assert report["tables"][0]["rows"][0][1:] == ["not known", "not known", "not known"]
    assert any("name the teacher with --teacher" in text for text in report["warnings"])


def test_hard_labels_need_no_teacher_and_no_second_arm(tmp_path: Path) -> None:
    report = evaluate(made(), bundle(), Lab(tmp_path), replace(JUDGING, seeds=(0,)))
    assert list(arms(report)) == ["random", "set", "real"]
    assert report["tables"][0]["rows"][0][3] != "not known"


def test_a_judged_set_is_not_trained_on_again(tmp_path: Path) -> None:
    once = replace(JUDGING, seeds=(0,), real=False)
    first = evaluate(made(), bundle(), Lab(tmp_path), once)
    again = evaluate(made(), bundle(), Lab(tmp_path), once)
    assert [arm["cost"] for arm in first["arms"]] == [arm["cost"] for arm in again["arms"]]  # their seconds too


def test_students_of_the_form_that_made_the_set_are_passed_over_or_named() -> None:
    data, small = bundle(), made()
    first, second = students_for(Judging(), small, data)[0]
    seen = replace(small, made={**small.made, "nets": [architecture(build_model(first, data, seed=0))]})
    others, notes = students_for(Judging(), seen, data)
    assert first not in others
    assert second in others
    assert len(others) == 2
    assert not notes
    named, notes = students_for(Judging(students=(first, second)), seen, data)
    assert named == (first, second)
    assert len(notes) == 2
    assert "is of the form of a net that made the set" in notes[1]
    with pytest.raises(DistilError, match="name at least two others"):
        students_for(Judging(students=(first,)), seen, data)
    forms = [architecture(build_model(spec, data, seed=0)) for spec in IMAGES]
    two = replace(small, made={**small.made, "nets": forms[:2]})
    assert students_for(Judging(), two, data) == (IMAGES[2:], [students_for(Judging(), two, data)[1][0]])
    with pytest.raises(DistilError, match="name at least two others"):
        students_for(Judging(), replace(small, made={**small.made, "nets": forms}), data)


def test_no_student_is_the_net_that_made_the_set() -> None:
    """Weights of students are drawn anew for every seed, and by other draws than a teacher's of that seed."""
    data = bundle()
    nets = [build_model(STUDENTS[0], data, seed=seed, role=role) for role in ("student", "teacher") for seed in (0, 1)]
    first = [next(iter(net.state_dict().values())).flatten()[:4].tolist() for net in nets]
    assert len({tuple(values) for values in first}) == 4


def test_random_samples_are_no_fewer_than_the_set_stores() -> None:
    """Additive images on top of the budget, or a set that says it was asked for less, get no smaller rival."""
    small = made()
    added = torch.zeros(5, *small.inputs.shape[1:])
    pairs = torch.stack([torch.arange(len(small)), torch.full((len(small),), -1)], 1)
    assert _per_class(small) == 2
    assert _per_class(replace(small, compensators=added, pairs=pairs)) == 4  # 6 + 5 of 3 classes
    assert _per_class(replace(small, made={**small.made, "per_class": 1})) == 2
    assert _per_class(replace(small, made={**small.made, "per_class": 9})) == 9


def test_hard_labels_of_a_set_whose_views_were_labelled_cost_a_class_each(tmp_path: Path) -> None:
    small = made(replace(SOFT, kind="replayed", epochs=2))
    found = arms(evaluate(small, bundle(), Lab(tmp_path), replace(JUDGING, seeds=(0,), real=False), teachers=[Eye()]))
    told = {name: arm["diagnostics"]["labels bytes"][0] for name, arm in found.items()}
    assert told["set"] == told["random"] == 6 + 2 * 6 * 3 * 2
    assert told["set-hard"] == 6


def test_what_students_read_is_part_of_the_key_and_read_once_for_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text's length and the vectors behind random samples decide scores; seeds of one set share its tokens."""
    pytest.importorskip("transformers")
    rows = [f"a {('dull', 'fine')[k % 2]} film of number {k},{k % 2}" for k in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    raw = load(tmp_path / "texts.csv")
    small = condense(Order(raw, 2), "random")
    trained, tokenised = [], []

    def counted(seen: list[int], inner: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(1)
            return inner(*args, **options)

        return call

    monkeypatch.setattr(judging, "train_on", counted(trained, judging.train_on))
    monkeypatch.setattr(text_sets, "tokenised", counted(tokenised, text_sets.tokenised))
    how = replace(JUDGING, students=("distil:bow(vocab=40, dim=4)",), real=False)

    def runs(**options: Any) -> tuple[int, int]:
        trained.clear()
        tokenised.clear()
        evaluate(small, raw, Lab(tmp_path / "lab"), how, **options)
        return len(trained), len(tokenised)

    for_form = 1
    assert runs(length=3) == (4, for_form + 2 + 1)  # two seeds: random samples of each, and the set once
    assert runs(length=3) == (0, for_form)
    assert runs(length=32)[0] == 4
    assert runs(length=32, seen=replace(raw, fingerprint="an encoder's"))[0] == 4
