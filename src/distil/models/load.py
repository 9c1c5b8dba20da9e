"""Models by name (timm, torchvision, the reference nets, a user's own function), and weights from files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError  # the error alone; nothing is ever unpickled here
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.models.spec import split_spec

__all__ = ["Summary", "import_own", "load_model", "load_weights", "read_state", "split_spec", "summary"]

_NETS: dict[str, tuple[str, str]] = {
    "mlp": ("mlp", "MLP"),
    "cnn": ("cnn", "SmallCNN"),
    "convnet": ("convnet", "ConvNet"),
    "resnet": ("resnet", "CifarResNet"),
    "wrn": ("wrn", "WideResNet"),
    "mobilenet": ("mobilenet", "MobileNet"),
    "shufflenet": ("shufflenet", "ShuffleNet"),
    "vit": ("tokens", "ViT"),
    "mixer": ("tokens", "Mixer"),
    "mae": ("masked", "MaskedAutoencoder"),
    "masked_vit": ("masked", "MaskedViT"),
    "gcn": ("gnn", "GCN"),
    "gat": ("gnn", "GAT"),
    "sage": ("gnn", "SAGE"),
    "gin": ("gin", "GIN"),
    "bow": ("text", "BagOfWords"),
    "textcnn": ("text", "TextCNN"),
    "unet": ("unet", "UNet"),
    "vgg": ("vgg", "VGG"),
}
_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
_WIDE = re.compile(r"wrn([0-9]{1,3})_([0-9]{1,3})")
_TWICE = re.compile(r"got multiple values for (?:keyword )?argument '(\w+)'")
_NESTING = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Summary:
    """The size of a model: parameters, those that are trained, and the bytes of parameters and buffers."""

    parameters: int
    trainable: int
    bytes: int


def load_model(
    spec: str,
    *,
    classes: int | None = None,
    channels: int = 3,
    weights: str | Path | None = None,
    pretrained: bool = False,
    input_shape: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    tokenizer: Any = None,
) -> nn.Module:
    """Return a model from a specification; its text is parsed, never evaluated.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER`` (transformers; see :mod:`distil.models.hf`),
            ``distil:NAME`` (mlp, cnn, convnet, resnet8, resnet20, …, wrn16_2, …, mobilenet, shufflenet, vit, mixer,
            mae, masked_vit, unet, vgg, gcn, gat, sage, gin; for texts bow, textcnn), or your own factory as
            ``package.module:function`` or ``path/to/file.py:function``; each optionally with ``(key=value, …)``. A
            factory gets what it names of classes, channels, input_shape and, for texts, vocab and tokenizer.
        classes: the number of outputs; default the library's own.
        channels: input channels.
        weights: a ``.safetensors`` file or a torch file with a state dict; see :func:`load_weights`.
        pretrained: let the library load its published weights, which may need a download; ``(pretrained=True)`` in
            the specification does the same.
        input_shape: the shape of one sample; it gives ``mlp`` and the graph networks their ``in_features``. A library's
            net is not made for it: many transformers take images of one size alone, 224 by default. Make them for
            yours, ``timm:vit_tiny_patch16_224(img_size=32, patch_size=4)``, or have a role's images resized.
        labels: the class names in order, for a model that keeps them.
        tokenizer: what makes the data's texts into ids; it gives text nets their ``vocab``.

    >>> load_model("distil:mlp(hidden=32, layers=3)", classes=10, input_shape=(1, 8, 8)).in_features
    64
    """
    kind, name, options = split_spec(spec)
    context = {"classes": classes, "channels": channels, "input_shape": input_shape}
    if tokenizer is not None:
        context |= {"vocab": len(tokenizer), "tokenizer": tokenizer}
    if input_shape is not None and len(input_shape) == 3:
        context["channels"] = channels = int(input_shape[0])
    if kind in ("timm", "torchvision"):
        pretrained = bool(options.pop("pretrained", pretrained))
    if kind == "hf":
        from distil.models.hf import load_hf

        model = load_hf(
            name, options, classes=classes, labels=labels, tokenizer=tokenizer, input_shape=input_shape,
            pretrained=pretrained,
        )  # fmt: skip
    elif kind == "timm":
        model = _timm(name, options, classes, channels, pretrained)
    elif kind == "torchvision":
        model = _torchvision(name, options, classes, channels, pretrained)
    elif pretrained:
        raise DistilError(f"{spec!r} has no published weights; give weights=FILE, or pretrained=False.")
    elif kind == "distil":
        model = _reference(name, options, context)
    elif kind:
        model = _own(spec, kind, name, options, context)
    else:
        raise DistilError(
            f"the model {spec!r} names no library; write timm:{spec or 'NAME'}, torchvision:{spec or 'NAME'}, "
            f"hf:{spec or 'FOLDER'}, distil:mlp(hidden=64), or your own module:function."
        )
    if weights is not None:
        load_weights(model, weights)
    return model


def _timm(name: str, options: dict[str, Any], classes: int | None, channels: int, pretrained: bool) -> nn.Module:
    timm = _library("timm", "vision")
    if not timm.is_model(name.partition(".")[0]):
        raise DistilError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    if classes is not None:
        options = {"num_classes": classes, **options}
    made = _make(
        f"timm:{name}", pretrained, timm.create_model, name, pretrained=pretrained, in_chans=channels, **options
    )
    _whole_patches(f"timm:{name}", made)
    return made


def _whole_patches(what: str, model: nn.Module) -> None:
    """Refuse patches that do not divide the images, of which timm would leave out a border without a word."""
    for part in model.modules():
        size, patch = getattr(part, "img_size", None), getattr(part, "patch_size", None)
        if not (isinstance(size, tuple) and isinstance(patch, tuple)) or getattr(part, "dynamic_img_pad", False):
            continue
        if any(side % each for side, each in zip(size, patch)):
            raise DistilError(
                f"{what} cuts images of {size[0]}x{size[1]} into patches of {patch[0]}x{patch[1]}, which do not divide "
                "them; give patch_size= a divisor of the side, or img_size= a multiple of the patch."
            )


def _torchvision(name: str, options: dict[str, Any], classes: int | None, channels: int, pretrained: bool) -> nn.Module:
    zoo = _library("torchvision", "vision").models
    if name not in zoo.list_models():
        raise DistilError(f"torchvision has no model {name!r}; {nearest(name, zoo.list_models())}")
    if channels != 3:
        raise DistilError(
            f"torchvision:{name} takes 3 channels, not {channels}; read the images with channels=3, or use timm:."
        )
    weights = "DEFAULT" if pretrained else None
    if classes is not None and not pretrained:
        options = {"num_classes": classes, **options}
    model = _make(f"torchvision:{name}", pretrained, zoo.get_model, name, weights=weights, **options)
    if classes is not None and pretrained:
        from distil.models.heads import find_head, replaced

        path = find_head(model)
        old: Any = model.get_submodule(path)
        if old.out_features != classes:
            model = replaced(model, path, nn.Linear(old.in_features, classes))
    return model


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DistilError(f"{name} is not installed; install it with pip install 'distil[{extra}]'.") from error


def _make(what: str, published: bool, function: Callable[..., nn.Module], *args: Any, **options: Any) -> nn.Module:
    try:
        return function(*args, **options)
    except DistilError:
        raise
    except Exception as error:
        reason = _reason(error)
        twice = _TWICE.search(reason)
        if twice is not None and twice[1] in options:
            raise DistilError(
                f"{what} fixes {twice[1]} itself, so {twice[1]}={options[twice[1]]} cannot be given; leave it out, or "
                "name a model that is made with the value you need."
            ) from error
        if published:
            raise DistilError(
                f"the pretrained weights of {what} could not be loaded ({reason}); check the connection, or give "
                "weights=FILE instead of pretrained."
            ) from error
        raise DistilError(f"{what} could not be made ({reason}); check its arguments {options}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, UnpicklingError):  # torch's own words go on to advise loading it without care
        return "it holds other objects than tensors, or is damaged"
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _reference(name: str, options: dict[str, Any], context: Mapping[str, Any]) -> nn.Module:
    key = name
    if name.startswith("resnet") and name[6:].isdecimal():
        key, options = "resnet", {"depth": int(name[6:]), **options}
    wide = _WIDE.fullmatch(name)
    if wide is not None:
        key, options = "wrn", {"depth": int(wide[1]), "width": int(wide[2]), **options}
    if key not in _NETS:
        known = [*_NETS, *(f"resnet{depth}" for depth in _DEPTHS), "wrn16_2"]
        raise DistilError(f"distil has no reference net {name!r}; {nearest(name, known)}")
    module, attribute = _NETS[key]
    cls = getattr(importlib.import_module(f"distil.models.{module}"), attribute)
    accepted = inspect.signature(cls).parameters
    if "vocab" in accepted and "tokenizer" in context:  # both were for the tokenizer, which is at hand
        options = {k: v for k, v in options.items() if k not in ("vocab", "tokenizer")} | {"vocab": context["vocab"]}
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise DistilError(f"distil:{name} has no argument {unknown[0]!r}; {nearest(unknown[0], accepted)}")
    shape = context["input_shape"]
    given = {"classes": context["classes"], "channels": context["channels"], "hidden": 64}
    given["in_features"] = None if shape is None else prod(shape)
    given["size"] = tuple(shape[1:]) if shape is not None and len(shape) == 3 else None
    filled = {key: value for key, value in given.items() if key in accepted and value is not None} | options
    missing = [key for key, it in accepted.items() if it.default is inspect.Parameter.empty and key not in filled]
    if missing:
        raise DistilError(
            f"distil:{name} needs {' and '.join(missing)}; write distil:{name}({missing[0]}=…), or give classes= and "
            "input_shape=."
        )
    return _make(f"distil:{name}", False, cls, **filled)


def _own(spec: str, kind: str, name: str, options: dict[str, Any], context: Mapping[str, Any]) -> nn.Module:
    module = import_own(kind, f"the model {spec!r}")
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DistilError(f"{kind!r} has no function {name!r}; {nearest(name, public)}")
    accepted = inspect.signature(function).parameters
    passed = {key: value for key, value in context.items() if key in accepted and value is not None}
    try:
        inspect.signature(function).bind(**(passed | options))
    except TypeError as error:
        raise DistilError(f"{spec!r} cannot be called with {passed | options}: {error}.") from None
    try:
        model = function(**(passed | options))
    except DistilError:
        raise
    except (Exception, SystemExit) as error:  # whatever is wrong in there, it is the user's own code
        raise DistilError(f"{spec!r} fails when it is called with {passed | options} ({_reason(error)}).") from error
    if not isinstance(model, nn.Module):
        raise DistilError(f"{spec!r} returned {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def import_own(kind: str, what: str) -> Any:
    """Import a user's module, by name or from a ``.py`` file; ``what`` asks for it, and stands in messages."""
    try:
        if not kind.endswith(".py"):
            return importlib.import_module(kind)
        file = Path(kind).expanduser().resolve()
        if not file.exists():
            raise DistilError(f"there is no file {kind!r} for {what}; correct the path.")
        # A name for each path: two files of one name, or one named like a library, must not be taken for each other.
        name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        found = importlib.util.spec_from_file_location(name, file)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module  # so that its classes can be pickled, and their source be found
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except ModuleNotFoundError as error:
        if error.name and kind.partition(".")[0] == error.name:
            hint = nearest(kind, ["timm", "torchvision", "distil"])
            raise DistilError(f"{what} names neither a library nor a module that can be imported; {hint}") from error
        raise DistilError(f"importing {kind!r} for {what} fails: {error}.") from error
    except DistilError:
        raise
    except (Exception, SystemExit) as error:  # whatever is wrong in there, it is the user's own code
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise DistilError(f"importing {kind!r} for {what} fails ({_reason(error)}{line}).") from error


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a state dict from a file into ``model``, all of it, and return the model.

    Args:
        model: the model; its parameters and buffers are overwritten.
        path: ``.safetensors``, or a torch file that holds tensors only (read with ``weights_only=True``), possibly
            nested under ``state_dict`` or ``model`` and with ``module.`` or ``_orig_mod.`` before every name.

    Raises:
        DistilError: with every missing, unexpected and misshapen tensor, or if the file is damaged.
    """
    state = _unprefixed(read_state(path), set(model.state_dict()))
    own = model.state_dict()  # counters of batch norm are absent from old files and change nothing at inference
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing and "operators.0" in state and not any(key.startswith("operators.") for key in own):
        raise DistilError(
            f"the weights in {str(path)!r} are under GNNDelete's operators; distil unlearn loads them, and "
            "distil.models.deletion.under_operators. Unlearn with --method d2dgn for a plain network."
        )
    if missing or extra or wrong:
        problems = [
            *_listed("missing", [f"{key} {tuple(own[key].shape)}" for key in missing]),
            *_listed("unexpected", [f"{key} {tuple(state[key].shape)}" for key in extra]),
            *_listed(
                "of another shape",
                [f"{key} {tuple(own[key].shape)} in the model, {tuple(state[key].shape)} in the file" for key in wrong],
            ),
        ]
        raise DistilError(
            f"the weights in {str(path)!r} do not fit {type(model).__name__}: {'; '.join(problems)}. Make the model as "
            "it was when they were saved (classes=, channels=, its arguments)."
        )
    model.load_state_dict(state, strict=False)
    return model


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = f", … {len(items) - 6} more" if len(items) > 6 else ""
    return [f"{len(items)} {what}: {', '.join(items[:6])}{more}"]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` or torch file; nothing in it is executed."""
    path = Path(path).expanduser()
    if not path.exists():
        raise DistilError(f"there is no weights file {str(path)!r}; correct the path.")
    if path.is_dir():
        raise DistilError(f"the weights {str(path)!r} are a folder; name the file in it.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = _reason(error)
        raise DistilError(
            f"the weights file {str(path)!r} ({path.stat().st_size} bytes) cannot be read ({reason}); it is "
            "truncated, or holds more than tensors: save model.state_dict() again, best as .safetensors."
        ) from error
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in _NESTING if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise DistilError(f"{str(path)!r} holds {type(loaded).__name__}; expected a state dict (names and tensors).")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise DistilError(f"{str(path)!r} holds no tensors but {sorted(map(str, loaded))[:8]}; expected a state dict.")
    return state


def _unprefixed(state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Remove what wrappers put before every name, as long as that is not how the model itself names things."""
    while True:
        prefix = next((each for each in _PREFIXES if all(key.startswith(each) for key in state)), None)
        if prefix is None or any(key.startswith(prefix) for key in own):
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def summary(module: nn.Module) -> Summary:
    """Return the size of a model; tensors that are shared count once.

    >>> summary(nn.Linear(3, 2))
    Summary(parameters=8, trainable=8, bytes=32)
    """
    parameters = list(module.parameters())
    learns = sum(each.numel() for each in parameters if each.requires_grad)
    size = sum(each.numel() * each.element_size() for each in [*parameters, *module.buffers()])
    return Summary(parameters=sum(each.numel() for each in parameters), trainable=learns, bytes=size)
