"""Is it the right one? Stored answers held against the live teacher, data against what was stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distil.cache.keys import contents_in, ids_in, samples_of, transform_of, viewed_in
from distil.cache.writing import AUGMENT
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError
from distil.tasks.base import Task, device_of, evaluating, to_device

if TYPE_CHECKING:
    from distil.cache.store import TeacherCache

__all__ = ["Check", "complete", "same_data", "same_records", "same_teacher"]


@dataclass(frozen=True)
class Check:
    """What a spot check against the live teacher saw.

    Attributes:
        samples: how many were compared.
        cosine: the lowest between stored and live numbers (of kept log-probabilities where the codec is sparse; 1 for
            samples drawn, which have no such number).
        difference: the largest error in the codec's unit.
        bound: the largest that was allowed there.
    """

    samples: int
    cosine: float
    difference: float
    bound: float


def same_teacher(
    cache: TeacherCache,
    teacher: nn.Module,
    data: Any,
    task: Task,
    *,
    samples: int = 16,
    device: torch.device | str | None = None,
    tolerance: float | None = None,
) -> Check:
    """Compare a few stored answers with the live teacher, and return how near they are.

    Args:
        teacher: the teacher that the cache should be of.
        data: the dataset it should be of.
        task: how the teacher is called.
        samples: how many, evenly spaced over the stored samples of ``data``.
        device: where the teacher runs; default where it is.
        tolerance: allowed beside the codec's bound, as a share of the largest number; default 1e-4 (a teacher's
            answer depends on the batch it was in), and 0.05 where the teacher ran in half precision.

    Raises:
        DistilError: another teacher (both fingerprints are named), changed data, or answers too far apart.
    """
    live = fingerprint(teacher)
    if live != cache.meta.teacher:
        raise DistilError(
            f"the cache {cache.folder} is of the teacher {cache.meta.teacher}, and this one is {live}: give the "
            "weights it was written with, or write it anew."
        )
    same_data(cache, data, samples=samples)
    batch = task.unpack(samples_of(data, _some(cache, data, samples)))
    if "logits" not in cache.meta.fields:
        raise DistilError(f"the cache {cache.folder} holds no logits to compare; compare its taps by hand.")
    where = torch.device(device) if device is not None else device_of(teacher)
    with evaluating(teacher), torch.inference_mode():
        said = task.logits(task.call(teacher, to_device(batch, where), "teacher")).float().cpu().clone()
    field = cache.meta.fields["logits"]
    coder, rows = field.coder(), said.reshape(-1, field.width)
    kept = cache.read(batch["id"], views=batch.get("view"))
    stored = {k: v.reshape(-1, *v.shape[len(field.shape) :]) for k, v in kept.items()}
    error = coder.error(rows, stored)
    half = cache.meta.precision != "fp32"
    share = tolerance if tolerance is not None else (0.05 if half else 1e-4)
    spread = rows.double().nan_to_num(neginf=0.0).abs().amax(1)
    bound = coder.bound(rows) + share * (1 + spread)
    worst = int((error - bound).argmax())
    if not bool(error[worst] <= bound[worst]):
        raise DistilError(
            f"the cache {cache.folder} and the live teacher differ by {float(error[worst]):.4g} on sample "
            f"{int(batch['id'][worst // field.lead])}, and {float(bound[worst]):.4g} is allowed: the task, the "
            "precision or the device's arithmetic is another; write the cache anew."
        )
    return Check(len(batch["id"]), _cosine(coder.dense, rows, stored), float(error.max()), float(bound.max()))


def same_data(cache: TeacherCache, data: Any, *, samples: int = 16) -> None:
    """Refuse data that the cache is not of: samples that are missing, changed, or augmented as they are read."""
    if transform := transform_of(data):
        raise DistilError(
            f"the data are changed as they are read ({transform}), and the cache {cache.folder} has no record of "
            "such changes: read them without it, or use the live teacher."
        )
    viewed = viewed_in(data)
    complete(cache, ids_in(data), views=viewed is not None)
    if cache.meta.contents:
        batch = samples_of(data, _some(cache, data, samples))
        ids, views, seen = torch.as_tensor(batch["id"]).long(), batch.get("view"), contents_in(batch)
        if viewed is not None:
            same_records(cache, ids, batch["view"], batch[AUGMENT])
        stored = cache.contents(ids, views)
        wrong = (stored != seen).nonzero()[:, 0]
        if len(wrong):
            first, graph = wrong[0], "edge_index" in batch
            name = f"node {int(ids[first])} of the graph" if graph else f"sample {int(ids[first])}"
            parts = "features or edges" if graph else "or how they are read: size, channels, tokenizer"
            raise DistilError(
                f"{name} has the content {int(seen[first]) & (1 << 64) - 1:016x}, and the cache {cache.folder} is "
                f"of {int(stored[first]) & (1 << 64) - 1:016x}: the data ({parts}) changed; write the cache anew."
            )


def same_records(cache: TeacherCache, ids: Tensor, views: Tensor, records: Tensor) -> None:
    """Refuse views that are not made as those that were stored.

    Args:
        ids, views: int64 ``[B]``.
        records: uint8 ``[B, bytes]``, as batches of :class:`distil.data.Viewed` carry them under ``augment``.
    """
    _has_views(cache)
    stored = cache.read(ids, tap=AUGMENT, views=views)["values"]
    records = records.cpu()
    same = records.shape == stored.shape and (records == stored).all(1)
    if isinstance(same, bool) or not same.all():
        first = 0 if isinstance(same, bool) else int((~same).nonzero()[0])
        told = "records of another size" if isinstance(same, bool) else _told(cache, records[first])
        raise DistilError(
            f"view {int(views[first])} of sample {int(ids[first])} was cached with {_told(cache, stored[first])}, "
            f"and is now made with {told}: read the data through cache.viewed(data), which replays what was stored."
        )


def complete(cache: TeacherCache, ids: Tensor, *, views: bool) -> None:
    """Refuse samples that are not stored, as they are or in every view."""
    if views:
        _has_views(cache)
    missing = ~cache.has(ids, views=views)
    if missing.any():
        raise DistilError(
            f"the cache {cache.folder} lacks {int(missing.sum())} of the {len(missing)} samples (id "
            f"{int(ids[missing][0])}, …){' in some view' if views else ''}: write the rest with resume."
        )


def _has_views(cache: TeacherCache) -> None:
    if cache.views is None:
        raise DistilError(
            f"the data are seen in views, and the cache {cache.folder} holds samples as they are: write it with "
            "views (--views 8 --augment crop,flip), or train without them."
        )


def _some(cache: TeacherCache, data: Any, samples: int) -> Tensor:
    positions = cache.has(ids_in(data), views=viewed_in(data) is not None).nonzero()[:, 0]
    if not len(positions):
        raise DistilError(f"the cache {cache.folder} holds no sample of these data; they are of other data.")
    count = max(1, min(samples, len(positions)))
    return positions[torch.arange(count) * len(positions) // count]


def _told(cache: TeacherCache, record: Tensor) -> str:
    assert cache.views is not None
    one = record.numpy().view(cache.views.layout)[0]
    return ", ".join(f"{name} {one[name].tolist()}" for name in one.dtype.names)


def _cosine(dense: bool, live: Tensor, stored: Mapping[str, Tensor]) -> float:
    if dense:
        one, two = live.double(), stored["values"].double()
    elif "log_probs" in stored:
        one, two = live.double().log_softmax(1).gather(1, stored["ids"]).exp(), stored["log_probs"].double().exp()
    else:
        return 1.0
    one, two = (x.nan_to_num(neginf=0.0) for x in (one, two))
    return float(torch.nn.functional.cosine_similarity(one, two, dim=1).min())
