"""A small set that stands for a large one: images, vectors or texts with their labels, and what training on them needs.

A set may hold more samples than images: natural images and a few additive ones (compensators), from which the samples
are made as they are read. What is counted and stored is then the small form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil.data.bundle import Bundle, DictDataset, View, ids_of, labels_of
from distil.data.condensed_check import LABEL_KINDS, LABELS_REPLAYED, check, keeps_exactly, same_classes, stored_bytes
from distil.data.condensed_files import read, write
from distil.data.fingerprint import fingerprint
from distil.data.text import TextDataset
from distil.errors import DistilError, nearest

__all__ = ["LABEL_KINDS", "CondensedSet", "load_condensed"]


@dataclass(frozen=True, eq=False)
class CondensedSet:
    """A condensed data set.

    Args:
        inputs: ``[k, ...]`` float32: images in [0, 1], channels first, or vectors. With ``pairs`` these are the natural
            images from which the samples are made, else the samples themselves (k = n).
        labels: ``[n]`` int64, one for every sample.
        classes: the class names; label j is ``classes[j]``.
        logits: ``[n, C]`` the teachers' stored logits of each sample (static soft labels).
        weights: ``[n]`` at least 0, how much each sample counts.
        ids: ``[n]`` the id, in the data it was made from, of each sample that is a real one; -1 for a made one.
        compensators: ``[m, ...]`` what is added to natural images.
        pairs: ``[n, 2]`` for each sample its natural image and its compensator (-1: none).
        record: how students are trained on it: ``labels`` (one of :data:`LABEL_KINDS`), ``augmentation`` (the fields of
            :class:`distil.data.augmented.Augmentation`), ``temperature``, ``epochs`` (those that were recorded), and
            whatever the labels' loss needs.
        made: how it was made: ``method``, ``options``, ``seed``, ``per_class``, ``data`` and ``teachers``
            (fingerprints), and what else a reader should know (``notes``).
        replay: further stored tensors by name. ``logits`` ``[epochs, n, C]`` belong to "replayed" labels, ``distances``
            ``[epochs, n, 2]`` to "two-numbers"; in both, row k belongs to the k-th sample of that epoch as
            :func:`distil.data.augmented.augmented` gives them. Anything else counts as augmentation.
        texts: the samples where they are texts, n strings; ``inputs`` are then ``[n, 0]``, and every student reads the
            texts with its own tokenizer.
        prompts: what stood before each text in its source (an instruction), n strings; no student reads them.

    >>> small = CondensedSet(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("cat", "dog"))
    >>> len(small), small.kind, small.storage()["images"]
    (2, 'hard', 32)
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    logits: Tensor | None = None
    weights: Tensor | None = None
    ids: Tensor | None = None
    compensators: Tensor | None = None
    pairs: Tensor | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    replay: Mapping[str, Tensor] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        """How many samples a student trains on."""
        return len(self.inputs) if self.pairs is None else len(self.pairs)

    @property
    def kind(self) -> str:
        """How it is labelled, one of :data:`LABEL_KINDS`."""
        return str(self.record.get("labels", "static" if self.logits is not None else "hard"))

    @property
    def images(self) -> bool:
        """Whether the inputs are images, ``[C, H, W]`` with one or three channels, rather than vectors."""
        return self.inputs.ndim == 4 and self.inputs.shape[1] in (1, 3)

    @property
    def noun(self) -> str:
        """What its inputs are called: images, texts or vectors."""
        return "texts" if self.texts is not None else "images" if self.images else "vectors"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the content."""
        named = {
            name: getattr(self, name) for name in ("inputs", "labels", "logits", "weights", "compensators", "pairs")
        }
        words = {name: value for name in ("texts", "prompts") if (value := getattr(self, name)) is not None}
        return fingerprint(
            {**named, **words, "classes": self.classes, "record": dict(self.record), "replay": dict(self.replay)}
        )

    def samples(self, positions: Tensor | None = None) -> Tensor:
        """Return the samples at ``positions`` (all of them by default), made from natural images and compensators.

        A sum is clipped to [0, 1] where the inputs are images.
        """
        if self.pairs is None or self.compensators is None:
            return self.inputs if positions is None else self.inputs.index_select(0, positions.to(self.inputs.device))
        pairs = self.pairs if positions is None else self.pairs[positions.to(self.pairs.device)]
        made = self.inputs.index_select(0, pairs[:, 0])
        added = pairs[:, 1] >= 0
        if bool(added.any()):
            made = made.clone()
            sums = made[added] + self.compensators.to(made).index_select(0, pairs[added, 1])
            made[added] = sums.clamp(0, 1) if self.images else sums
        return made

    def to(self, device: str | torch.device) -> CondensedSet:
        """Return the set with its tensors on ``device``."""
        names = ("inputs", "labels", "logits", "weights", "ids", "compensators", "pairs")
        moved: dict[str, Any] = {
            name: value.to(device) for name in names if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **moved, replay={name: value.to(device) for name, value in self.replay.items()})

    def with_labels(self, kind: str, **fields: Any) -> CondensedSet:
        """Return the set labelled another way; ``fields`` replace attributes, and are merged into the record.

        Labels stored for views under another kind are dropped: nothing would read them, and they would be counted.

        >>> small = CondensedSet(torch.zeros(2, 3), torch.tensor([0, 1]), ("a", "b"))
        >>> small.with_labels("static", logits=torch.zeros(2, 2), record={"temperature": 4.0}).record["temperature"]
        4.0
        """
        if kind not in LABEL_KINDS:
            raise DistilError(f"labels={kind!r} is unknown; {nearest(kind, LABEL_KINDS)}")
        record = {**self.record, **fields.pop("record", {}), "labels": kind}
        read = {"replayed": "logits", "two-numbers": "distances"}.get(kind)
        replay = fields.pop("replay", self.replay)
        fields["replay"] = {k: v for k, v in replay.items() if k == read or k not in LABELS_REPLAYED}
        return replace(self, **fields, record=record)

    def storage(self, *, exact: bool | None = None) -> dict[str, int]:
        """Return the bytes of each part, uncompressed: images, labels, augmentation, other, total.

        Images count one byte for each value, four where they are kept exactly (vectors always are), and so do texts, in
        UTF-8, with their prompts: the first part is that of the inputs, whatever they are. Class labels count
        one byte (two beyond 256 classes) for each stored input, since those of its sums follow; logits count as they
        are kept, and so do distances. A seed counts eight bytes; boxes, partners and the like as they are kept.
        """
        return stored_bytes(self, keeps_exactly(self, exact))

    def save(self, folder: str | Path, *, exact: bool | None = None) -> Path:
        """Write the set to ``folder``, whole or not at all: PNG images or lines of texts, safetensors, JSON, checksums.

        Args:
            folder: where; a condensed set that stands there is replaced, anything else is refused.
            exact: keep every value as float32. By default images in [0, 1] become PNG, which rounds them to 1/255, and
                compensators too (rounded to 1/255 of their own range); vectors, images that leave [0, 1], and a set
                whose ``made`` says ``"exact": True`` stay exact.
        """
        return write(self, Path(folder), exact)

    def _unused(self) -> list[str]:
        """What of the set plain items cannot carry."""
        left = [f"{self.kind} labels"] if self.kind != "hard" else []
        left += ["weights"] if self.weights is not None else []
        said = f"The set's {' and '.join(left)} are left out: its samples stand here with their classes alone."
        return [said] if left else []

    def as_bundle(self, real: Bundle) -> Bundle:
        """Return a bundle that trains on this set, and validates and tests on ``real``'s own parts.

        Items have ids of their own, above all of ``real``'s.
        """
        same_classes(self, real)
        parts = (real.train, real.val, real.test)
        first = 1 + max(int(ids_of(part).max()) for part in parts if len(part))
        made = replace(
            real,
            name=f"{self.made.get('method', 'condensed')} set of {real.name}",
            train=DictDataset(self.samples(), self.labels, first + torch.arange(len(self))),
            fingerprint=f"{real.fingerprint}-{self.fingerprint}",
            unlabelled=None,
            contents=None,
            notes=(*real.notes, *self._unused()),
        )
        return made if self.texts is None else self._read_together(made)

    def _read_together(self, bundle: Bundle) -> Bundle:
        """Return the bundle with texts to train, validate and test on in one dataset, as tokenizers take them."""
        held = [part.batch(torch.arange(len(part)))["inputs"] for part in (bundle.val, bundle.test)]
        parts = (bundle.train, bundle.val, bundle.test)
        labels, ids = (torch.cat([of(part) for part in parts]) for of in (labels_of, ids_of))
        whole = TextDataset([*(self.texts or ()), *held[0], *held[1]], labels, ids)
        train, val, test = (View(whole, at) for at in torch.arange(len(whole)).split([len(part) for part in parts]))
        return replace(bundle, train=train, val=val, test=test)


def load_condensed(folder: str | Path) -> CondensedSet:
    """Read what :meth:`CondensedSet.save` wrote; a torn or changed file is named, and nothing in it is executed."""
    return CondensedSet(**read(Path(folder)))
