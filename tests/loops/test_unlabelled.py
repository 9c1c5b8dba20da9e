"""What `distil train` asks of methods that read no labels and whose teacher need know nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from distil.cli import main
from distil.errors import DistilError
from distil.loops.unlabelled import check_labels_read
from distil.report import load

OWN = ["train", "--data", "digits", "--teacher", "distil:mlp(hidden=12)", "--student", "distil:mlp(hidden=8)"]
OWN += ["--set", "training.epochs=1", "--set", "limit=120"]


@pytest.mark.parametrize("text", ["random-teachers", "0.5*randomteacher(loss=kl)"])
def test_an_expression_that_teaches_no_class_is_refused_and_names_the_experiment(text: str) -> None:
    with pytest.raises(DistilError, match="`distil run random-teachers` is its experiment"):
        check_labels_read(text)


@pytest.mark.parametrize("text", ["kd", "supervised + random-teachers", "diswot", "pld"])
def test_every_other_expression_passes(text: str) -> None:
    check_labels_read(text)


def test_an_untrained_teacher_teaches_beside_labels_and_no_other_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*OWN, "--method", "random-teachers", "--out", str(tmp_path / "alone")]) == 2
    assert "supervised + random-teachers" in capsys.readouterr().err
    assert main([*OWN, "--method", "supervised + random-teachers", "--out", str(tmp_path / "both")]) == 0
    assert [arm["name"] for arm in load(tmp_path / "both")["arms"]] == ["alone", "supervised-random-teachers"]
    assert main([*OWN, "--method", "kd", "--out", str(tmp_path / "kd")]) == 2
    assert "above the chance level" in capsys.readouterr().err
