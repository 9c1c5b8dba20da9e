"""Small reference nets by family, models by name, and the changes made to a model before it is distilled.

Nothing heavy is imported here: a name is looked up in its module when it is first used, so that
``import distil.models`` needs neither timm nor torch-geometric.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "mlp": ("MLP",),
    "cnn": ("SmallCNN",),
    "convnet": ("ConvNet",),
    "resnet": ("CifarResNet",),
    "wrn": ("WideResNet",),
    "mobilenet": ("MobileNet",),
    "shufflenet": ("ShuffleNet",),
    "tokens": ("Mixer", "ViT"),
    "masked": ("MaskedAutoencoder", "MaskedViT", "load_encoder", "token_head"),
    "gnn": ("GAT", "GCN", "SAGE"),
    "gin": ("GIN",),
    "nodewise": ("Nodewise",),
    "text": ("BagOfWords", "TextCNN"),
    "hf": ("MeanPooled", "load_tokenizer"),
    "unet": ("UNet",),
    "discriminator": ("LogitDiscriminator",),
    "vgg": ("VGG",),
    "bottleneck": ("Headed", "L2Head", "UnitLinear"),
    "fresh": ("drawn", "redrawn"),
    "graft": ("grafted", "with_class_maps"),
    "load": ("load_model", "load_weights", "summary"),
    "rebuild": (
        "copy_layers",
        "grow_classes",
        "add_lora",
        "interpolate_init",
        "merge_lora",
        "to_experts",
        "with_outputs",
        "with_second_head",
        "with_subclasses",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'distil.models' has no attribute {name!r}")
    return getattr(import_module(f"distil.models.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
