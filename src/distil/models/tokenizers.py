"""The tokenizer that goes with a model by name: its own, one named for it, one made from the words of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from distil.data.text import with_utf8
from distil.errors import DistilError
from distil.models.hf import load_tokenizer, token_limit
from distil.models.spec import split_spec

__all__ = ["TEXT_NETS", "tokenizer_for", "word_tokenizer"]

TEXT_NETS = ("bow", "textcnn")
_SPECIAL = ("[PAD]", "[UNK]")


def tokenizer_for(
    spec: str,
    texts: Sequence[str],
    *,
    named: str | None = None,
    fallback: Any = None,
    pretrained: bool = False,
    role: str = "student",
) -> tuple[Any, int]:
    """Return the tokenizer that a model reads texts with, and the longest input it takes.

    ``hf:FOLDER`` brings its own. ``distil:bow(vocab=5000)`` gets the 5000 most frequent words of ``texts``,
    ``distil:bow(tokenizer='FOLDER')`` that one. Any other net reads with ``named`` (a folder), else with ``fallback``.

    Raises:
        DistilError: a model that reads no texts, or none of these.
    """
    kind, name, options = split_spec(spec)
    if kind == "hf":
        return load_tokenizer(name, pretrained=pretrained or bool(options.get("pretrained"))), token_limit(
            name, options, pretrained=pretrained
        )
    if kind in ("timm", "torchvision") or (kind == "distil" and name not in TEXT_NETS):
        raise DistilError(
            f"the {role} {spec!r} reads no texts; use hf:FOLDER, distil:bow, distil:textcnn, or your own "
            "module:function whose model takes input_ids and attention_mask."
        )
    own = options if kind == "distil" else {}
    if "tokenizer" in own and "vocab" in own:
        raise DistilError(f"{spec!r} names both vocab and tokenizer; choose one.")
    if "vocab" in own:
        return word_tokenizer(texts, own["vocab"]), _NO_LIMIT
    folder = own.get("tokenizer", named)
    found = load_tokenizer(str(folder), pretrained=pretrained) if folder is not None else fallback
    if found is None:
        raise DistilError(
            f"the {role} {spec!r} brings no tokenizer and there is no other model to take it from; write "
            "distil:bow(vocab=5000) for the words of the data, or name one with --set tokenizer=FOLDER."
        )
    return found, _NO_LIMIT


_NO_LIMIT = 1 << 30


def word_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Return a tokenizer of the most frequent words of ``texts``, lower-cased, punctuation apart; others are unknown.

    Args:
        texts: the training texts.
        size: the number of entries, padding and the unknown word included; words of equal count go by alphabet.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise DistilError("transformers is not installed; install it with pip install 'distil[text]'.") from error
    if not isinstance(size, int) or size < len(_SPECIAL) + 1:
        raise DistilError(f"vocab={size!r} must be a whole number of at least {len(_SPECIAL) + 1}.")
    lower, apart = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in apart.pre_tokenize_str(lower.normalize_str(with_utf8(text))))
    words = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(_SPECIAL)]
    numbers = {word: k for k, word in enumerate((*_SPECIAL, *words))}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = lower, apart
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
