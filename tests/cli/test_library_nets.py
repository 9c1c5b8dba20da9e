"""Nets of timm and torchvision by name on images of 32 pixels, as CIFAR-10 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distil.errors import DistilError
from distil.models import load_model
from distil.models.published import sized

from .terminal import QUICK, Said, distil

pytest.importorskip("timm")
pytest.importorskip("torchvision")
Screen = pytest.CaptureFixture[str]

TINY_VIT = "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=2)"
MIXER = "distil:mixer(patch=16, dim=16, depth=4)"


def train(capsys: Screen, student: str, *words: str, method: str = "kd", teacher: str = "models.py:eye") -> Said:
    given = ["--data", "photos", "--teacher", teacher, "--student", student, "--method", method, "--no-baseline"]
    return distil(capsys, "train", *given, "--set", "size=32", *QUICK, *words)


@pytest.mark.parametrize(
    "student", ["timm:resnet18", TINY_VIT, "timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small"]
)
def test_a_net_by_name_learns_from_images_of_32_pixels(here: Path, capsys: Screen, student: str) -> None:
    said = train(capsys, student, "--json")
    assert said.code == 0, said.err
    assert said.json["arms"][0]["name"] == "kd"


@pytest.mark.parametrize("method", ["at", "nst", "vid", "reviewkd", "fitnets"])
def test_a_method_on_maps_teaches_tokens_and_the_report_says_how(here: Path, capsys: Screen, method: str) -> None:
    words = ["--train-teacher", "20", "--json"]
    said = train(capsys, MIXER, *words, method=f"supervised + {method}", teacher=TINY_VIT)
    assert said.code == 0, said.err
    notes = said.json["warnings"]
    assert any("Maps of the student are made of its tokens: 2x2 patches." in note for note in notes), notes
    assert any("4x4 patches, without the 1 token before them." in note for note in notes), notes
    assert "made of its tokens" in (here / "runs" / "train" / "report.html").read_text(encoding="utf-8")


def test_a_net_that_strides_to_one_position_is_remarked_on(here: Path, capsys: Screen) -> None:
    said = train(capsys, "torchvision:resnet18", "--dry-run")
    assert said.code == 0, said.err
    text = " ".join((said.out + said.err).split())
    assert "brings 32x32 down to a map of one position (at layer4.0.conv1)" in text
    assert "--set input_size.student=128 resizes images for it" in text
    said = train(capsys, "distil:resnet8", "--dry-run")
    assert "one position" not in said.out + said.err
    said = train(capsys, "torchvision:resnet18", "--dry-run", "--set", "input_size.student=64")
    assert "one position" not in said.out + said.err


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224(img_size=32, patch_size=4) is made for these"),
        ("torchvision:vit_b_16", "torchvision:vit_b_16(image_size=32) is made for these"),
        ("torchvision:alexnet", "--set input_size.student=SIDE resizes images for it"),
        (
            "timm:vit_tiny_patch16_224(img_size=32, patch_size=5)",
            "cuts images of 32x32 into patches of 5x5, which do not divide them; give patch_size= a divisor",
        ),
        ("torchvision:vit_b_16(image_size=30)", "torchvision:vit_b_16 could not be made"),
        ("distil:vit(patch=5)", "images of 32x32 cannot be cut into patches of 5x5"),
    ],
)
def test_a_net_of_another_size_is_one_sentence(here: Path, capsys: Screen, student: str, says: str) -> None:
    said = train(capsys, student, "--dry-run")
    assert said.code == 2
    assert said.err.count("distil: ") == 1
    assert says in " ".join(said.err.split())


def test_the_name_that_is_proposed_can_be_made() -> None:
    for spec in ("timm:vit_tiny_patch16_224(embed_dim=24, depth=2, num_heads=2)", "timm:mixer_s32_224"):
        net = load_model(sized(spec, (3, 32, 32)), classes=3).eval()
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert sized("timm:mixer_s32_224", (3, 28, 28)) == sized("timm:resnet18", (3, 32, 32)) == ""
    assert sized("torchvision:vit_b_16", (3, 28, 28)) == sized("timm:vit_tiny_patch16_224", (3, 32, 40)) == ""
    with pytest.raises(DistilError, match="do not divide them"):
        load_model("timm:mixer_s32_224(img_size=48)", classes=3)
