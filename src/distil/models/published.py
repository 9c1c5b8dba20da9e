"""What a library says of the inputs its published weights were trained on: mean, standard deviation, size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from distil.models.load import split_spec

__all__ = ["Published", "is_pretrained", "published_inputs", "sized"]

SMALL = 112
"""Pixels; below it patches of 16 leave few of them."""


@dataclass(frozen=True)
class Published:
    """How images in [0, 1] are brought to the form that published weights know.

    Attributes:
        mean, std: one number per channel.
        size: height and width of the images that they were scored on.
        fixed: the model takes no other size.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    fixed: bool


def published_inputs(spec: str, model: nn.Module | None = None) -> Published | None:
    """Return what the library's own metadata say of ``spec``; ``None`` where it names no library, or none are kept.

    Args:
        spec: a model by name, as :func:`distil.load_model` takes it.
        model: what it gave, if it was made already; timm keeps the metadata there.

    Nothing is downloaded: timm's ``pretrained_cfg`` and torchvision's ``Weights.transforms`` come with the libraries.

    >>> published_inputs("distil:mlp") is None
    True
    """
    kind, name, options = split_spec(spec)
    if kind == "timm":
        return _of_timm(name, options, model)
    if kind == "torchvision":
        return _of_torchvision(name)
    return None


def is_pretrained(spec: str, pretrained: bool) -> bool:
    """Say whether ``spec`` is a library's model with its published weights; ``(pretrained=True)`` in it wins.

    >>> is_pretrained("timm:resnet18(pretrained=True)", False), is_pretrained("models.py:make", True)
    (True, False)
    """
    kind, _, options = split_spec(spec)
    return kind in ("timm", "torchvision") and bool(options.get("pretrained", pretrained))


def sized(spec: str, shape: tuple[int, ...]) -> str:
    """Return a library's net of one size by a name that makes it for images ``(C, H, W)``; "" where there is none.

    >>> sized("timm:vit_tiny_patch16_224", (3, 32, 32)), sized("torchvision:resnet18", (3, 32, 32))
    ('timm:vit_tiny_patch16_224(img_size=32, patch_size=4)', '')
    """
    kind, name, options = split_spec(spec)
    side = shape[-1]
    if shape[-2] != side:
        return ""
    if kind == "torchvision" and name.startswith("vit_") and side % int(name.rsplit("_", 1)[1]) == 0:
        more: dict[str, Any] = {"image_size": side}
    elif kind == "timm" and (found := import_module("timm").get_pretrained_cfg(name)) and found.fixed_input_size:
        more = {"img_size": side}
        patch = re.search(r"(?:patch|_[a-z])([0-9]+)", name)
        if name.startswith(("vit_", "deit_")) and "patch_size" not in options and side < SMALL:
            more["patch_size"] = next(cut for cut in (4, 2, 1) if side % cut == 0)
        elif patch is None or side % int(patch[1]):
            return ""
    else:
        return ""
    return f"{kind}:{name}({', '.join(f'{key}={value}' for key, value in {**options, **more}.items())})"


def _of_timm(name: str, options: Mapping[str, Any], model: nn.Module | None) -> Published | None:
    config: Any = getattr(model, "pretrained_cfg", None)
    if config is None:
        found = import_module("timm").get_pretrained_cfg(name)
        config = found.to_dict() if found is not None else {}
    if not config.get("mean") or not config.get("std") or not config.get("input_size"):
        return None
    # A size that was asked for by name is what the model was built with, and its own business.
    fixed = bool(config.get("fixed_input_size")) and "img_size" not in options
    height, width = config["input_size"][-2:]
    return Published(tuple(config["mean"]), tuple(config["std"]), (height, width), fixed)


def _of_torchvision(name: str) -> Published | None:
    transforms: Any = import_module("torchvision").models.get_model_weights(name).DEFAULT.transforms()
    if type(transforms).__name__ != "ImageClassification":  # boxes, masks and videos have no such thing to tell
        return None
    (side,) = transforms.crop_size
    # torchvision writes down nowhere which of its nets take one size only: these have tables for their positions.
    fixed = name.startswith(("vit_", "maxvit_"))
    return Published(tuple(transforms.mean), tuple(transforms.std), (side, side), fixed)
