"""How alike the relations of tokens are in a trained student and its teacher, whatever the student was taught with."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

import torch

from distil.data.loading import as_batches
from distil.engine.distiller import Distiller
from distil.engine.reading import read
from distil.functional.token_graph import neighbour_overlap
from distil.functional.tokens import inner_relation
from distil.systems.trg.method import TokenGraph

__all__ = ["likeness"]


def likeness(
    distiller: Distiller, data: Any, *, samples: int = 4, neighbours: int = 8, batch_size: int = 64
) -> dict[str, float]:
    """Return ``neighbour overlap`` and ``context MSE`` of a distiller's student and teacher over ``data``.

    Overlap: the mean Jaccard index of both networks' nearest tokens, ``samples`` from each image of a batch; 1 where
    neighbourhoods agree. Context: the mean squared gap of the attention of each image's tokens; 0 where they agree. The
    drawn tokens and the batches are the same at each call.

    Args:
        distiller: of one student and one teacher with maps; its method may be any.
        data: images, best those that neither training nor the test sees.
        samples, neighbours: of the graphs.
        batch_size: how many images share a graph.
    """
    batches = partial(as_batches, data, batch_size)
    (teacher,) = distiller.teachers.values()
    method = TokenGraph(inner=1.0, local=0.0, contrast=0.0, samples=samples)
    example = next(iter(batches().iterate(0)))
    looking = Distiller(distiller.deployed(), teacher, method, task=distiller.task, example=example)
    rng = torch.Generator().manual_seed(0)
    overlap, context = list[float](), list[float]()
    for student, taught, _ in read(looking, data, batch_size=batch_size):
        ours, theirs = method.tokens(student, taught)
        context += inner_relation(ours, theirs, reduction="none").tolist()
        overlap += neighbour_overlap(*method.nodes(ours, theirs, rng), neighbours=neighbours).tolist()
    return {"neighbour overlap": fmean(overlap), "context MSE": fmean(context)}
