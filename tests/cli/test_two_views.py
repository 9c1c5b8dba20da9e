"""Methods that compare a weak and a strong view of an image, from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.data import Batches, DictDataset, ImageViews, TwoViews
from distil.errors import DistilError

from .terminal import OWN, QUICK, Said, distil

pytest.importorskip("torchvision")
Screen = pytest.CaptureFixture[str]


def run(capsys: Screen, verb: str, *words: str, data: str = "photos") -> Said:
    return distil(capsys, verb, "--data", data, *OWN[2:], *QUICK, *words)


def notes(report: dict[str, Any]) -> list[str]:
    return [note for note in report["data"]["notes"] if "every arm sees" in note]


def test_mlld_trains_on_a_weak_and_a_strong_view(here: Path, capsys: Screen) -> None:
    said = run(capsys, "train", "--method", "mlld", "--set", "strong.flip=false", "--json")
    assert said.code == 0, said.err
    (note,) = notes(said.json)
    assert note == (
        "every arm sees the training images moved by up to 0.125 of their side; mlld sees a second view too, after 2 "
        "operations of RandAugment at magnitude 10."
    )
    assert [arm["name"] for arm in said.json["arms"]] == ["alone", "mlld"]
    assert said.json["arms"][0]["budget"] == said.json["arms"][1]["budget"]


def test_what_the_strong_view_is_matters_to_mlld_alone(here: Path, capsys: Screen) -> None:
    losses = []
    for magnitude in (0, 30):
        words = ["--methods", "kd,mlld", "--seeds", "1", "--set", f"strong.magnitude={magnitude}", "--json"]
        said = run(capsys, "compare", *words, "--out", f"m{magnitude}")
        assert said.code == 0, said.err
        losses.append({arm["name"]: arm["curves"][0]["train_loss"] for arm in said.json["arms"]})
    assert losses[0]["alone"] == losses[1]["alone"]
    assert losses[0]["kd"] == losses[1]["kd"]
    assert losses[0]["mlld"] != losses[1]["mlld"]


def test_an_export_knows_the_data_again(here: Path, capsys: Screen) -> None:
    given = ["--set", "views.count=2", "--set", "views.kinds=[flip]"]
    for name, words in (("mlld", []), ("kd", given)):
        assert run(capsys, "train", "--method", name, *words, "--out", name).code == 0
        said = distil(capsys, "export", name, "--out", f"{name}-export", "--format", "safetensors")
        assert said.code == 0, said.err
        assert "random inputs" not in said.out + said.err


def test_the_teacher_that_is_trained_first_sees_the_images_as_they_are(
    here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(here / "cache"))
    for method in ("kd", "lskd(over=mlld)"):
        said = run(capsys, "train", "--method", method, "--train-teacher", "2", "--out", method[:2], "--json")
        assert said.code == 0, said.err
        assert len(notes(said.json)) == (method != "kd")
    assert len(list((here / "cache" / "stages").glob("teacher-*"))) == 1


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        (["--set", "views.count=3"], "photos", "mlld makes views of its own (strong.crop, …); leave views out"),
        (["--set", "strong.magnitude=40"], "photos", "strong.magnitude=40 lie in 0 … 30"),
        (["--set", "strong.crop=1"], "photos", "strong.crop=1 must lie in [0, 1)"),
    ],
)
def test_what_cannot_be_is_one_sentence(here: Path, capsys: Screen, words: list[str], data: str, says: str) -> None:
    said = run(capsys, "train", "--method", "mlld", *words, data=data)
    assert said.code != 0
    assert says in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_data_that_are_no_images_are_refused(here: Path, capsys: Screen) -> None:
    given = ["--data", "graph.npz", "--teacher", "models.py:eye", "--student", "models.py:make"]
    said = distil(capsys, "train", *given, "--method", "mlld", *QUICK)
    assert said.code != 0
    text = " ".join(said.err.split())
    assert "mlld compares two views of each image, and graph holds none; or give it one view" in text.replace(
        ".npz", ""
    )


def test_without_torchvision_a_sentence_says_so(here: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    said = run(capsys, "train", "--method", "mlld")
    assert said.code != 0
    assert "strong views need torchvision, which is not installed" in " ".join(said.err.split())


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_of_one_image_and_resume(channels: int) -> None:
    rng = torch.Generator().manual_seed(0)
    data = DictDataset(torch.rand(40, channels, 8, 8, generator=rng), torch.arange(40) % 3)
    views = ImageViews()
    two = TwoViews(data, strong=views.strong, weak=views.weak)
    first, again = (list(Batches(two, 20, seed=0, shuffle=True).iterate(3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["inputs"], other["inputs"])
        assert torch.equal(one["strong"], other["strong"])
        assert one["strong"].shape == one["inputs"].shape
        assert one["strong"].isfinite().all()
        assert not torch.equal(one["strong"], one["inputs"])
    for one, other in zip(first, Batches(two.weakly(), 20, seed=0, shuffle=True).iterate(3), strict=True):
        assert torch.equal(one["inputs"], other["inputs"])
        assert "strong" not in other
    assert two.fingerprint != two.weakly().fingerprint


def test_a_weak_view_is_a_shifted_and_perhaps_mirrored_image() -> None:
    image = torch.arange(1.0, 17).view(1, 4, 4)
    found = set()
    for seed in range(200):
        torch.manual_seed(seed)
        view = ImageViews(crop=0.25).weak(image)
        found.add(tuple(view.flatten().tolist()))
    shifts = [
        torch.nn.functional.pad(image, (1, 1, 1, 1))[:, top : top + 4, left : left + 4]
        for top in range(3)
        for left in range(3)
    ]
    assert found == {tuple(v.flatten().tolist()) for shift in shifts for v in (shift, shift.flip(-1))}
    assert torch.equal(ImageViews(crop=0, flip=False).weak(image), image)


def test_strong_views_of_what_is_no_picture_are_refused() -> None:
    for image in (torch.rand(2, 4, 4), torch.full((3, 4, 4), 1.5), torch.full((3, 4, 4), torch.nan)):
        with pytest.raises(DistilError, match="grey or RGB images in"):
            ImageViews().strong(image)
