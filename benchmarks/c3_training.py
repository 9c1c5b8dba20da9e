"""Training from stored answers: five epochs beside a file for each sample, and an epoch beside one without a teacher.

The peer imitates torchdistill's ``CacheableDataset`` (its 0.x releases; the 1.1.5 of today has no cache to run): in the
first epoch the teacher is asked and ``{"teacher_outputs": …, "extracted_outputs": …}`` of every sample is saved with
``torch.save`` as ``DDDD/INDEX.pt``; later epochs ``torch.load`` it as the sample is read. None of its code runs. Both
sides train the same student by the same plain loop, loss and order; ours first asks the teacher in a pass of its own,
which is counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from side_by_side import medians
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from distil.cache import CachedTeacher, Dense8, Dense16, Int8, TeacherCache, TopK
from distil.data import Batches, DictDataset, epoch_order
from distil.functional import kl
from distil.models import SmallCNN

COUNT, BATCH, SIDE, EPOCHS = 1024, 64, 16, 5
Row = dict[str, Any]


def images(count: int = COUNT, classes: int = 10) -> DictDataset:
    """Return noise with labels: what is timed does not depend on what it shows."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return DictDataset(pixels, torch.randint(classes, (count,), generator=generator))


def nets(classes: int) -> tuple[nn.Module, nn.Module]:
    """Return a student and a teacher about eight times as dear, in eval."""
    torch.manual_seed(0)
    return SmallCNN(3, classes, widths=(16, 32)), SmallCNN(3, classes, widths=(48, 96, 192)).eval()


class FilePerSample(Dataset[dict[str, Any]]):
    """Items with what the teacher said, where its file is there."""

    def __init__(self, data: DictDataset, folder: Path) -> None:
        self.data, self.folder = data, folder

    def path(self, index: int) -> Path:
        digits = f"{index:04d}"
        return self.folder / digits[-4:] / f"{digits}.pt"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.data[index]
        file = self.path(index)
        if file.is_file():
            item["said"] = torch.load(file, weights_only=True)["teacher_outputs"]
        return item

    def save(self, index: int, logits: Tensor) -> None:
        file = self.path(index)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"teacher_outputs": logits.clone(), "extracted_outputs": {}}, file)


def epoch(student: nn.Module, batches: Iterable[Any], targets: Callable[[Any], Tensor] | None) -> float:
    """Train for an epoch and return its seconds; without ``targets`` on the labels alone."""
    optimizer, start = torch.optim.SGD(student.parameters(), lr=0.01), time.perf_counter()
    for batch in batches:
        logits = student(batch["inputs"])
        loss = F.cross_entropy(logits, batch["labels"])
        if targets is not None:
            loss = loss + kl(logits, targets(batch), temperature=4.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def ours(place: Path, classes: int) -> dict[str, float]:
    """Cache, then train from the cache; return the seconds of both."""
    (student, teacher), data = nets(classes), images(classes=classes)
    start = time.perf_counter()
    cache = TeacherCache.write(teacher, data, "classification", place, batch_size=BATCH)
    written, who = time.perf_counter() - start, CachedTeacher(cache)
    batches = Batches(data, BATCH, seed=0, shuffle=True)
    seconds = [epoch(student, batches.iterate(k), who) for k in range(EPOCHS)]
    return {"write": written, "total": written + sum(seconds), "epoch": statistics.median(seconds)}


def theirs(place: Path, classes: int) -> dict[str, float]:
    """Train while files are written, then from the files."""
    (student, teacher), data = nets(classes), FilePerSample(images(classes=classes), place)
    taken = [0.0]

    def asked(batch: Any) -> Tensor:
        if "said" in batch:
            return batch["said"]
        start = time.perf_counter()
        with torch.no_grad():
            logits = teacher(batch["inputs"])
        for index, row in zip(batch["id"].tolist(), logits):
            data.save(index, row)
        taken[0] += time.perf_counter() - start
        return logits

    seconds = []
    for k in range(EPOCHS):
        order = epoch_order(len(data), 0, k, True).tolist()
        loader = DataLoader(data, BATCH, sampler=order)
        seconds.append(epoch(student, loader, asked))
    return {"write": taken[0], "total": sum(seconds), "epoch": statistics.median(seconds[1:])}


def rows(repeats: int) -> list[Row]:
    """Return the lines of training, and those of smaller codecs."""
    found: list[Row] = []
    for classes in (10, 100, 1000):
        both: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(max(1, repeats // 10)):
            for side in ("ours", "peer", "peer", "ours"):
                with tempfile.TemporaryDirectory() as place:
                    both[side].append({"ours": ours, "peer": theirs}[side](Path(place), classes))
        mine, peer = ({k: statistics.median(x[k] for x in both[s]) for k in both[s][0]} for s in both)
        name = f"{classes} classes"
        found.append(_row(f"{name}: five epochs of cached KD, s, writing counted", mine["total"], peer["total"]))
        found.append(_row(f"{name}: a cached epoch, s", mine["epoch"], peer["epoch"]))
        found.append(
            _row(f"{name}: asking and writing, us a sample", *(s["write"] / COUNT * 1e6 for s in (mine, peer)))
        )
        found.append(student_only(classes, repeats))
    return found + smaller()


def student_only(classes: int, repeats: int) -> Row:
    """Return a step of a cached epoch beside the same step on labels alone, in turn."""
    (student, teacher), data = nets(classes), images(classes=classes)
    with tempfile.TemporaryDirectory() as place:
        who = CachedTeacher(TeacherCache.write(teacher, data, "classification", place))
        batches = Batches(data, BATCH, seed=0, shuffle=True)
        # Step by step, each read with its batch: an epoch is long enough for the machine to change under it.
        pair = medians(
            lambda: epoch(student, _first(batches), who), lambda: epoch(student, _first(batches), None),
            repeats=10 * repeats,
        )  # fmt: skip
    what = f"{classes} classes: a step from the cache beside one on labels alone, s"
    return {**_row(what, *pair), "target": "<= 1.05 of it", "met": pair[0] <= 1.05 * pair[1]}


def _first(batches: Batches) -> Iterator[Any]:
    return islice(batches.iterate(0), 1)


def smaller() -> list[Row]:
    """Return what codecs of fewer bytes lose at 1,000 classes, beside float32 in a file for each sample."""
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(512, 1, generator=generator) * 1.45 + 1.05
    ranked = -power * torch.arange(1, 1001).log() + 0.3 * torch.randn(512, 1000, generator=generator)
    logits = ranked.gather(1, torch.rand(512, 1000, generator=generator).argsort(1))
    live, found = logits.double().log_softmax(1), []
    middle = (logits.amax(1, keepdim=True) + logits.amin(1, keepdim=True)) / 2
    tried = {
        "dense16 (the default)": (Dense16(), logits),
        "dense8 (a square scale for each row)": (Dense8(), logits),
        "int8 (even steps, a scale for each row)": (Int8(), logits - middle),
        "top-64 with tail, 8 bits": (TopK(64, 8), logits),
        "top-128 with tail, 8 bits": (TopK(128, 8), logits),
    }
    for name, (codec, values) in tried.items():
        back = codec.decode(codec.encode(values), 1000)
        if "values" in back:
            log_q = back["values"].double().log_softmax(1)
        else:
            spread = (back["tail"].double() / (1000 - back["ids"].shape[1])).clamp(min=1e-12).log()
            log_q = spread[:, None].repeat(1, 1000).scatter(1, back["ids"], back["log_probs"].double())
        lost = float((live.exp() * (live - log_q)).sum(1).mean())
        size, disk = codec.bytes(1000) + 16, 8192
        found.append(
            {
                "what": f"1000 classes: bytes a sample on disk, {name}",
                "ours": size,
                "peer": disk,
                "ratio": disk / size,
                "target": ">= 10 times smaller",
                "met": disk / size >= 10,
                "kl_nats": lost,
                "tried": name,
            }
        )
    return found


def _row(what: str, mine: float, peer: float) -> Row:
    return {"what": what, "ours": mine, "peer": peer, "ratio": peer / mine, "target": "> 1", "met": mine < peer}
