"""Classification of texts: a dict of token ids and mask per sample, of the student's tokenizer and of the teacher's."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from distil.errors import DistilError
from distil.functional.reduction import Term
from distil.tasks.base import BatchReader, Prediction, Task
from distil.tasks.scores import class_loss, class_scores, labels_in, majority_share

__all__ = ["TextTask"]

_IDS = ("input_ids", "attention_mask")
FOLDER = "tokenizer"
"""What the student's tokenizer is called beside the students."""


@final
class TextTask(Task):
    """One of C classes per text; a model is called with ``input_ids`` and ``attention_mask``, int64 ``[B, T]``.

    A batch is ``{"inputs": {"input_ids", "attention_mask"}, "labels", "id"}``, and has ``teacher_inputs`` of the same
    form where the teacher reads other ids (:func:`distil.data.tokenised` makes both). The keys of a Hugging Face batch
    are understood too.

    Args:
        tokenizer: the student's, kept so that it can ship with the student.
        max_length: the tokens of its longest input.

    >>> TextTask(max_length=64).preprocessing()
    {'kind': 'text', 'tokenizer': 'tokenizer', 'max_length': 64}
    """

    name = "text-classification"
    metric = "accuracy"
    higher_is_better = True

    def __init__(self, *, tokenizer: Any = None, max_length: int = 128) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return the batch dict; loose ``input_ids`` and ``attention_mask`` are put together as ``inputs``."""
        if isinstance(raw, Mapping) and "inputs" not in raw and "input_ids" in raw:
            inputs = {key: raw[key] for key in _IDS if key in raw}
            raw = {"inputs": inputs, **{key: value for key, value in raw.items() if key not in inputs}}
        batch = super().unpack(raw)
        if isinstance(batch["inputs"], (list, tuple, str)):
            raise DistilError(
                "the batch holds raw texts, and models read token ids; tokenise the data first: "
                "distil.data.tokenised(bundle, student_tokenizer, teacher_tokenizer)."
            )
        return batch

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on its role's ids; a model that takes no ``attention_mask`` gets none."""
        if isinstance(module, BatchReader):
            return module(batch)
        inputs = batch["inputs"]
        if role == "teacher":
            inputs = batch.get("teacher_inputs", inputs)
        if isinstance(inputs, Tensor):
            inputs = {"input_ids": inputs}
        owner: Any = type(module) if isinstance(module, nn.Module) else module
        takes = _takes(owner)
        if takes is None:
            return module(**inputs)
        if "input_ids" not in takes:
            raise DistilError(
                f"{type(module).__name__} ({role}) takes ({', '.join(takes)}) and no input_ids, so it reads no texts; "
                "give a model whose forward takes input_ids and attention_mask."
            )
        return module(**{key: value for key, value in inputs.items() if key in takes})

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the cross-entropy of each text; weight 0 where the label is -100."""
        return class_loss(self.logits(output), batch["labels"], mask=batch.get("mask"), ids=batch.get("id"))

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``accuracy`` in %, ``nll`` in nats and ``ece`` in 0..1 over the labelled texts."""
        return class_scores(prediction["logits"], prediction["labels"], prediction["id"])

    def chance(self, data: Any) -> float:
        """Return the accuracy, in %, of always answering the most frequent class."""
        return majority_share(labels_in(data))

    def preprocessing(self) -> dict[str, Any]:
        """Return what a shipped student needs to read texts: its tokenizer's folder and the longest input."""
        return {"kind": "text", "tokenizer": FOLDER, "max_length": self.max_length}

    def keep(self, folder: Path) -> Path | None:
        """Save the tokenizer to ``folder/tokenizer``, whole or not at all; one that is there already stays."""
        place = folder / FOLDER
        if self.tokenizer is None:
            return None
        if place.is_dir():
            return place
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{FOLDER}.", dir=folder) as made:
            self.tokenizer.save_pretrained(str(Path(made) / FOLDER))
            (Path(made) / FOLDER).rename(place)
        return place


@lru_cache(maxsize=256)
def _takes(owner: Hashable) -> tuple[str, ...] | None:
    """The parameters of a model's ``forward``; ``None`` where it takes any."""
    function: Any = getattr(owner, "forward", owner)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()) and "input_ids" in parameters:
        return tuple(parameters)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return tuple(name for name in parameters if name != "self")
