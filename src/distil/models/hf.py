"""Models and tokenizers of the transformers library, from a local folder or, where asked for, from the hub.

Nothing is looked up on a network unless ``pretrained`` says so; code that comes with a model is never run, and weights
are read from safetensors only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest

__all__ = ["MeanPooled", "check_causal", "load_causal", "load_hf", "load_tokenizer"]
__all__ += ["files_fingerprint", "token_limit"]

_OWN = ("pretrained", "new_head")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.h5", "*.ckpt", "*.msgpack")
_CONTENT = ("*.safetensors", "*.json", "*.txt", "*.model")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text", "mpnet"})


class MeanPooled(nn.Module):
    """A classifier on an encoder that has none: mean of the last hidden states over real tokens → dropout → Linear.

    ``logits = W · (Σ_t m_t h_t / Σ_t m_t) + b`` with the hidden states ``h [B, T, D]`` and the mask ``m [B, T]``: the
    pooling that sentence encoders such as all-MiniLM-L6-v2 are trained with, without their final normalisation.

    Args:
        encoder: a transformers model whose output has ``last_hidden_state``.
        width: its hidden size D.
        classes: the number of outputs.
        dropout: before the linear layer.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits ``[B, classes]`` for token ids and mask, int64 ``[B, T]``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weight = mask[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.head(self.dropout(mean))


def load_hf(
    name: str,
    options: Mapping[str, Any],
    *,
    classes: int | None,
    labels: Sequence[str] | None = None,
    tokenizer: Any = None,
    input_shape: Sequence[int] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Return a classifier of transformers; use it through ``load_model("hf:…")``.

    A folder whose architecture is a classifier of sequences (texts) or images is loaded as it is. Any other text
    encoder gets a :class:`MeanPooled` head, which is new and wants training. ``hf:package:NAME/PATH`` is a folder
    inside an installed package.

    Args:
        name: a folder, or with ``pretrained`` a name on the hub.
        options: ``pretrained=False`` for the architecture with fresh weights; ``new_head=True`` to replace a head of
            other classes; any other key changes the configuration (``num_hidden_layers=2``), where weights still fit.
        classes: the number of outputs; default the configuration's.
        labels: the class names, in order; they become ``id2label``, and a loaded head must not contradict them.
        tokenizer: what makes texts into ids; its size must fit the embedding. ``None`` for images.
        input_shape: (channels, height, width) of images.
        pretrained: the user's leave to look a name up on the hub, which may download.

    Raises:
        DistilError: a missing folder, configuration or tokenizer, weights that do not fit or are pickled, a head of
            other classes or another order of them, images of another size.
    """
    transformers = _transformers()
    place = _place(name, pretrained=pretrained or options.get("pretrained") is True)
    config = _configured(name, place, options)
    fresh = options.get("pretrained") is False
    kind = next((a for a in config.architectures or () if a.endswith("Classification")), "")
    texts = tokenizer is not None or not (input_shape is not None and len(input_shape) == 3)
    if texts:
        whole = kind.endswith("ForSequenceClassification")
        auto = transformers.AutoModelForSequenceClassification if whole else transformers.AutoModel
        _fit_tokenizer(name, config, tokenizer)
    else:
        whole, auto = True, transformers.AutoModelForImageClassification
        _fit_images(name, config, tuple(input_shape or ()), fresh)
    has_head = whole and bool(kind) and not fresh
    if has_head and not options.get("new_head"):
        _check_head(name, config, classes, labels)
    if whole and classes is not None:
        config.num_labels = classes
        names = list(labels or map(str, range(classes)))
        config.id2label, config.label2id = dict(enumerate(names)), {label: k for k, label in enumerate(names)}
    model = _made(name, auto, config) if fresh else _loaded(name, place, auto, config, replace_head=has_head)
    if not whole:
        if getattr(model, "pooler", None) is not None and "add_pooling_layer" in model.__init__.__code__.co_varnames:
            model.pooler = None  # it would ship weights that the mean does not use
        model = MeanPooled(model, _width(name, config), classes or int(config.num_labels))
    return model.float().train()


def check_causal(name: str) -> Any:
    """Return the configuration of the causal language model in a folder; nothing is looked up elsewhere.

    Raises:
        DistilError: no such folder, or a model of another kind in it.
    """
    if not name.startswith("package:") and not Path(name).expanduser().is_dir():
        raise DistilError(f"there is no folder {name!r} with a language model; correct hf:FOLDER (none is downloaded).")
    _transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = _configured(name, _place(name, pretrained=False), {})
    kinds = config.architectures or ()
    if not {*kinds} & {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}:
        raise DistilError(
            f"'hf:{name}' holds a {', '.join(kinds) or config.model_type}, which is no causal language model; name a "
            "folder that AutoModelForCausalLM saved (GPT-2, Llama, …)."
        )
    return config


def load_causal(name: str, tokenizer: Any) -> nn.Module:
    """Return the causal language model in a folder, float32, in eval mode, whose tokenizer is that.

    Raises:
        DistilError: what :func:`check_causal` refuses, weights that are pickled or not whole, another tokenizer.
    """
    config = check_causal(name)
    _fit_tokenizer(name, config, tokenizer)
    auto = _transformers().AutoModelForCausalLM
    model: nn.Module = _loaded(name, _place(name, pretrained=False), auto, config, replace_head=False, whole=True)
    return model.float().eval()


def load_tokenizer(name: str, *, pretrained: bool = False) -> Any:
    """Return the tokenizer in a folder, or with ``pretrained`` that of a name on the hub."""
    transformers = _transformers()
    place = _place(name, pretrained=pretrained)
    local = isinstance(place, Path)
    if isinstance(place, Path) and not any(next(place.glob(pattern), None) for pattern in _VOCABULARIES):
        raise DistilError(
            f"the folder {name!r} holds no tokenizer ({', '.join(_VOCABULARIES[:3])}, …); save it there with "
            "tokenizer.save_pretrained(FOLDER)."
        )
    try:
        with _quiet():
            found = transformers.AutoTokenizer.from_pretrained(
                str(place), local_files_only=local, trust_remote_code=False
            )
    except Exception as error:
        raise DistilError(f"the tokenizer of {name!r} cannot be loaded ({_reason(error)}).") from error
    if found.pad_token is None and found.eos_token is not None:
        found.pad_token = found.eos_token  # masked anyway; generative models come without one
    return found


def token_limit(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> int:
    """Return how many tokens a model takes: its positions, less what its family keeps for padding."""
    place = _place(name, pretrained=pretrained or options.get("pretrained") is True)
    config = _configured(name, place, options)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 1 << 30
    offset = 1 + int(config.pad_token_id or 0) if config.model_type in _OFFSET_POSITIONS else 0
    return max(1, positions - offset)


def files_fingerprint(name: str, *, pretrained: bool = False) -> str:
    """Return a name for the weights, configuration and tokenizer in a folder; of a model on the hub, its commit.

    A model that was trained further in place has another.
    """
    place = _place(name, pretrained=pretrained)
    if isinstance(place, str):
        return str(getattr(_configured(name, place, {}), "_commit_hash", None) or name)
    whole = hashlib.sha256()
    for file in sorted({each for pattern in _CONTENT for each in place.glob(pattern) if each.is_file()}):
        with file.open("rb") as held:
            whole.update(f"\x1e{file.name}\x1f{hashlib.file_digest(held, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()[:16]


def _place(name: str, *, pretrained: bool) -> Path | str:
    """Return the local folder, or the name on the hub where it may be looked up."""
    if not name:
        raise DistilError("hf: names no model; write hf:FOLDER, or hf:NAME with --pretrained.")
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise DistilError(f"no package {package!r} is installed for the model 'hf:{name}'.")
        path = Path(found.submodule_search_locations[0]) / inside
    else:
        path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DistilError(f"{name!r} is a file; hf: takes the folder that holds config.json and the weights.")
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is None:
        raise DistilError(f"there is no folder {name!r} for the model 'hf:{name}'; correct the path.")
    if not pretrained:
        raise DistilError(
            f"there is no folder {name!r}, and a name on the hub is looked up only with --pretrained (a student's: "
            f"hf:{name}(pretrained=True)), since that downloads."
        )
    return name


def _configured(name: str, place: Path | str, options: Mapping[str, Any]) -> Any:
    transformers = _transformers()
    if isinstance(place, Path):
        file = place / "config.json"
        if not file.is_file():
            hint = "; is it a folder inside it?" if next(place.glob("*/config.json"), None) else ""
            raise DistilError(f"the folder {name!r} holds no config.json, so it is no transformers model{hint}")
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DistilError(f"{str(file)!r} is no JSON ({error}).") from error
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(
                str(place), local_files_only=isinstance(place, Path), trust_remote_code=False
            )
    except Exception as error:
        raise DistilError(
            f"the configuration of 'hf:{name}' cannot be loaded ({_reason(error)}); code that comes with a model is "
            "not run."
        ) from error
    changes = {key: value for key, value in options.items() if key not in _OWN}
    for key, value in changes.items():
        if not hasattr(config, key):
            raise DistilError(f"'hf:{name}' has no argument {key!r}; {nearest(key, [*config.to_dict(), *_OWN])}")
        setattr(config, key, value)
    return config


def _made(name: str, auto: Any, config: Any) -> Any:
    try:
        with _quiet():
            return auto.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise DistilError(f"'hf:{name}' cannot be made ({_reason(error)}); check its arguments.") from error


def _loaded(name: str, place: Path | str, auto: Any, config: Any, *, replace_head: bool, whole: bool = False) -> Any:
    """Load weights, all of the model's own but those of a head that is new; the head too where it is ``whole``."""
    if isinstance(place, Path) and next(place.glob("*.safetensors"), None) is None:
        pickled = [file.name for pattern in _PICKLED for file in sorted(place.glob(pattern))]
        held = f"only {', '.join(pickled)}, which may run code when it is read" if pickled else "no weights"
        raise DistilError(
            f"the folder {name!r} holds {held}; save the model with save_pretrained(FOLDER), which writes "
            "model.safetensors, or write (pretrained=False) for fresh weights."
        )
    try:
        with _quiet():
            model, info = auto.from_pretrained(
                str(place),
                config=config,
                local_files_only=isinstance(place, Path),
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=replace_head,
                output_loading_info=True,
            )
    except Exception as error:
        raise DistilError(
            f"the weights of 'hf:{name}' cannot be loaded ({_reason(error)}); they must be safetensors that fit the "
            "configuration. With other sizes write (pretrained=False, …) for fresh weights."
        ) from error
    base = model.base_model
    body = {child for child, _ in base.named_children()}
    prefix = f"{model.base_model_prefix}."
    # A head may be new, and the checkpoint's own head may be left over; the body must fit to the last tensor.
    odd = [*info["missing_keys"], *info["unexpected_keys"], *(each[0] for each in info["mismatched_keys"])]
    body -= set() if whole else {"pooler"}
    odd = sorted(k for k in map(str, odd) if whole or k.removeprefix(prefix).partition(".")[0] in body)
    if odd:
        raise DistilError(
            f"the weights of 'hf:{name}' do not fit its configuration: {len(odd)} tensors are missing or left over "
            f"({', '.join(odd[:3])}, …); "
            + ("save it whole." if whole else "write (pretrained=False, …) for fresh weights of another size.")
        )
    return model


def _check_head(name: str, config: Any, classes: int | None, labels: Sequence[str] | None) -> None:
    """Refuse a trained head that scores other classes, or the same in another order."""
    own = [str(config.id2label[k]) for k in sorted(config.id2label)]
    if classes is not None and len(own) != classes:
        raise DistilError(
            f"the head of 'hf:{name}' scores {len(own)} classes ({', '.join(own[:6])}), and the data have {classes}; "
            "give a model of these classes, or write (new_head=True) and train it (--train-teacher)."
        )
    if labels is None or all(re.fullmatch(r"LABEL_\d+", each) for each in own):
        return
    mine, theirs = [each.casefold() for each in labels], [each.casefold() for each in own]
    if mine != theirs and sorted(mine) == sorted(theirs):
        raise DistilError(
            f"'hf:{name}' scores the classes in the order {', '.join(own)}, and the data have {', '.join(labels)}; "
            f"give its order: --set classes=[{', '.join(labels[mine.index(each)] for each in theirs)}]."
        )


def _fit_tokenizer(name: str, config: Any, tokenizer: Any) -> None:
    if tokenizer is None:
        return
    size = getattr(config, "vocab_size", None)
    if isinstance(size, int) and len(tokenizer) > size:
        raise DistilError(
            f"the tokenizer has {len(tokenizer)} entries and 'hf:{name}' embeds {size}; use the model's own tokenizer, "
            f"or write (vocab_size={len(tokenizer)}, pretrained=False)."
        )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id  # models that score the last real token look for it


def _fit_images(name: str, config: Any, shape: tuple[int, ...], fresh: bool) -> None:
    """Bring a fresh model to the images' shape; a loaded one must have it."""
    size = getattr(config, "image_size", None)
    own = None if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if own is not None and own != shape[1:]:
        if not fresh:
            raise DistilError(
                f"'hf:{name}' reads images of {own[0]}x{own[1]} and the data are {shape[1]}x{shape[2]}; read them "
                f"with --set size={own[0]}."
            )
        config.image_size = shape[1] if shape[1] == shape[2] else shape[1:]
    channels = getattr(config, "num_channels", None)
    if channels is not None and channels != shape[0]:
        if not fresh:
            raise DistilError(
                f"'hf:{name}' reads {channels} channels and the data have {shape[0]}; read them with --set "
                f"channels={channels}."
            )
        config.num_channels = shape[0]


def _width(name: str, config: Any) -> int:
    for key in ("hidden_size", "dim", "d_model", "n_embd"):
        if isinstance(getattr(config, key, None), int):
            return int(getattr(config, key))
    raise DistilError(f"'hf:{name}' ({config.model_type}) does not say its hidden size, so no head can be put on it.")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DistilError("transformers is not installed; install it with pip install 'distil[text]'.") from error
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own remarks and bars off the screen: what matters of them is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    text = " ".join((str(error).strip() or "no reason given").split())
    return f"{type(error).__name__}: {text[:200]}"
