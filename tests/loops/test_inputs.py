"""Each role's inputs: the statistics of the library, of a name, of the user, against the libraries' own transforms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distil.data import load
from distil.data.bundle import Bundle
from distil.errors import DistilError
from distil.loops.inputs import (
    InputSize,
    Normalise,
    as_teacher,
    described,
    for_key,
    image_task,
    in_words,
)
from distil.loops.lab import Lab
from distil.loops.training import Training, distil, train_teacher
from distil.models.published import is_pretrained, published_inputs
from distil.ship import read_student
from distil.tasks import ClassificationTask, Task

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def colour() -> Bundle:
    return load("digits", channels=3, size=32, limit=60)


class Seen(nn.Module):
    """Gives back what it was given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def task_for(bundle: Bundle, normalise: Any = None, size: Any = None, **options: Any) -> Task:
    models = {"student": "distil:cnn", "teacher": "distil:cnn", **options}
    made, _ = image_task(bundle, Normalise(**(normalise or {})), InputSize(**(size or {})), **models)
    return made


def given(task: Task, inputs: Tensor, role: str) -> Tensor:
    """What a model of this role would see."""
    seen: Tensor = task.call(Seen(), {"inputs": inputs}, role)
    return seen


def pictures(side: int = 40) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(3)]


def read(images: list[Image.Image]) -> Tensor:
    """As distil reads them: [0, 1]."""
    return torch.stack([torch.from_numpy(np.asarray(i).copy()).permute(2, 0, 1).float() / 255 for i in images])


# --- what the libraries say ---------------------------------------------------------------------------------------


def test_a_pretrained_torchvision_teacher_gets_what_its_weights_were_trained_with(colour: Bundle) -> None:
    from torchvision.models import ResNet18_Weights
    from torchvision.transforms._presets import ImageClassification

    task = task_for(colour, teacher="torchvision:resnet18", pretrained=True)
    theirs = ResNet18_Weights.DEFAULT.transforms()
    # The library's transform without its crop: the images are read at the size that the models see.
    plain = ImageClassification(crop_size=40, resize_size=40, mean=theirs.mean, std=theirs.std)
    expected = torch.stack([plain(image) for image in pictures()])
    torch.testing.assert_close(given(task, read(pictures()), "teacher"), expected)
    assert torch.equal(given(task, read(pictures()), "student"), read(pictures()))


def test_a_pretrained_timm_teacher_gets_what_its_configuration_says(colour: Bundle) -> None:
    import timm

    module = timm.create_model("resnet10t", pretrained=False)
    module.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 32, 32)}
    task = task_for(colour, teacher="timm:resnet10t", pretrained=True, module=module)
    config = {k: v for k, v in timm.data.resolve_model_data_config(module).items() if k in ("mean", "std")}
    transform = timm.data.create_transform((3, 40, 40), crop_pct=1.0, interpolation="bilinear", **config)
    expected = torch.stack([transform(image) for image in pictures()])
    torch.testing.assert_close(given(task, read(pictures()), "teacher"), expected)
    assert described(task) == {"teacher": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


@pytest.mark.parametrize("side", [24, 40, 64])
def test_resizing_is_torchvisions(colour: Bundle, side: int) -> None:
    from torchvision.transforms.v2.functional import normalize, resize

    task = task_for(colour, {"teacher": "imagenet"}, {"teacher": side})
    expected = normalize(resize(read(pictures()), [side, side], antialias=True), *map(list, IMAGENET))
    torch.testing.assert_close(given(task, read(pictures()), "teacher"), expected)
    assert given(task, read(pictures()), "student").shape[-1] == 40


def test_metadata_count_only_where_the_published_weights_are_loaded(colour: Bundle) -> None:
    for teacher in ("timm:resnet10t", "torchvision:resnet18", "models.py:make"):
        assert described(task_for(colour, teacher=teacher)) == {}
    assert described(task_for(colour, {"teacher": "none"}, teacher="torchvision:resnet18", pretrained=True)) == {}
    student = task_for(colour, student="timm:resnet18.a1_in1k(pretrained=True)")
    assert described(student) == {"student": {"mean": list(IMAGENET[0]), "std": list(IMAGENET[1])}}
    assert not is_pretrained("models.py:make", True)
    assert published_inputs("distil:cnn") is None
    assert published_inputs("torchvision:fcn_resnet50") is None


def test_a_net_of_one_size_gets_that_size_and_others_a_remark(colour: Bundle) -> None:
    for name in ("timm:vit_tiny_patch16_224", "torchvision:vit_b_16"):
        assert described(task_for(colour, teacher=name, pretrained=True))["teacher"]["size"] == [224, 224]
    built = task_for(colour, teacher="timm:vit_tiny_patch16_224(img_size=32)", pretrained=True)
    assert "size" not in described(built)["teacher"]
    options: dict[str, Any] = {"student": "distil:cnn", "teacher": "torchvision:resnet18", "pretrained": True}
    _, (remark,) = image_task(colour, Normalise(), InputSize(), **options)
    assert "know images of 224x224, and it is given 32x32; --set input_size.teacher=224" in remark
    _, silent = image_task(colour, Normalise(), InputSize(teacher=224), **options)
    assert silent == []


# --- what the user says -------------------------------------------------------------------------------------------


def test_names_numbers_and_lists(colour: Bundle) -> None:
    inputs = read(pictures())
    task = task_for(colour, {"student": [0.5, 0.25], "teacher": [[0.1, 0.2, 0.3], 2]})
    torch.testing.assert_close(given(task, inputs, "student"), (inputs - 0.5) / 0.25)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(given(task, inputs, "teacher"), (inputs - mean) / 2)
    assert in_words(task) == (
        "the student takes the images with mean 0.5 and std 0.25; the teacher takes them with mean 0.1 0.2 0.3 and "
        "std 2 2 2"
    )
    assert described(task_for(colour, {"teacher": None})) == {}


@pytest.mark.parametrize(
    ("normalise", "size", "said"),
    [
        ({"teacher": "imagnet"}, {}, "did you mean 'imagenet'"),
        ({"student": [0.5]}, {}, r"normalise.student=\[0.5\] cannot be read"),
        ({"student": [0.5, "wide"]}, {}, "cannot be read"),
        ({"student": [[0.5, 0.5], 1]}, {}, "by 2 channels, and the images of digits have 3"),
        ({"student": [0.5, 0.0]}, {}, "std > 0"),
        ({}, {"teacher": 0}, "input_size.teacher=0 is impossible"),
        ({}, {"teacher": "big"}, "input_size.teacher='big' is impossible"),
        ({}, {"teacher": True}, "input_size.teacher=True is impossible"),
    ],
)
def test_what_cannot_be_is_refused(colour: Bundle, normalise: Any, size: Any, said: str) -> None:
    with pytest.raises(DistilError, match=said):
        task_for(colour, normalise, size)


def test_grey_images_under_colour_statistics_name_the_fix() -> None:
    with pytest.raises(DistilError, match="repeats the grey channel: --set channels=3"):
        task_for(load("digits"), {"teacher": "imagenet"})


def test_what_is_no_image_is_left_alone_and_a_setting_for_it_refused(colour: Bundle) -> None:
    table = replace(colour, input_shape=(7,))
    assert described(task_for(table, teacher="torchvision:resnet18", pretrained=True)) == {}
    with pytest.raises(DistilError, match="input_size is for images, and digits holds none"):
        task_for(table, size={"teacher": 8})
    with pytest.raises(DistilError, match=r"resizes images \[B, C, H, W\]"):
        ClassificationTask(input_size={"student": 8}).call(Seen(), {"inputs": torch.zeros(2, 7)})


# --- where it ends ------------------------------------------------------------------------------------------------


def test_a_teacher_is_trained_on_the_inputs_it_teaches_from(colour: Bundle, tmp_path: Path) -> None:
    low: list[float] = []

    class Noting(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            low.append(float(inputs.min()))
            assert inputs.shape[-1] == 16
            out: Tensor = super().forward(inputs)
            return out

    task = task_for(colour, {"teacher": [0.5, 0.25]}, {"teacher": 16})
    start = Noting(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    training = Training(epochs=1, batch_size=30)
    train_teacher(Lab(tmp_path), "noting", colour, training, seed=0, start=start, task=as_teacher(task))
    assert low
    assert max(low) == -2.0  # black is (0 - 0.5) / 0.25, in training as in scoring


def test_what_the_student_needs_goes_with_its_weights(colour: Bundle, tmp_path: Path) -> None:
    task = task_for(colour, {"student": "imagenet"})
    file = tmp_path / "student.safetensors"
    distil(
        Lab(tmp_path), "supervised", "distil:cnn", None, colour, Training(epochs=1), seed=0, task=task, ship=file
    )  # fmt: skip
    told = read_student(file.with_suffix(".json")).preprocessing
    assert (told["kind"], told["range"]) == ("image", [0, 1])
    assert torch.tensor([told["mean"], told["std"]]).allclose(torch.tensor(IMAGENET))
    assert for_key(task_for(colour)) == {}
