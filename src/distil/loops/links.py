"""Prediction of the links of a graph: the task, by the dot product of two nodes' embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.links import Links, both_ways, non_edges, split_links
from distil.data.loading import FullBatch
from distil.errors import DistilError
from distil.functional import Term, link_scores, roc_auc
from distil.tasks.base import Prediction, Task
from distil.tasks.nodes import NodeTask

__all__ = ["LinkTask", "link_bundle"]


@final
class LinkTask(Task):
    """Whether two nodes are joined: sigmoid(z_u · z_v) of the embeddings that a graph network gives.

    A batch is ``{"inputs": [N, F], "edge_index": [2, E], "pairs": [2, P], "known": [2, K]}``: messages pass along
    ``edge_index``, ``pairs`` are joined. :meth:`prepare` adds as many pairs that no edge of ``known`` joins, drawn anew
    for every step, of the nodes ``among`` where the batch names some; a batch to be scored brings ``negatives`` of its
    own.
    """

    name = "link-prediction"
    metric = "auc"
    unit = "%"
    higher_is_better = True

    def prepare(self, batch: dict[str, Any], rng: torch.Generator) -> dict[str, Any]:
        """Return the batch with ``negatives``, as many as there are pairs, where it has none."""
        if "negatives" in batch:
            return batch
        pairs = batch["pairs"]
        drawn = non_edges(pairs.shape[1], batch["known"], len(batch["inputs"]), rng, among=batch.get("among"))
        return batch | {"negatives": drawn.to(pairs.device)}

    def call(self, module: Any, batch: Mapping[str, Any], role: str = "student") -> Any:
        """Run ``module`` on features and edges; it returns embeddings ``[N, D]``."""
        return NodeTask().call(module, batch, role)

    def loss(self, output: Any, batch: Mapping[str, Any]) -> Term:
        """Return the binary cross-entropy of each pair and each non-edge, half and half."""
        if "negatives" not in batch:
            raise DistilError("a batch of links has no negatives; call LinkTask().prepare(batch, rng) before.")
        pairs = torch.cat([batch["pairs"], batch["negatives"]], 1)
        scores = link_scores(self.logits(output), pairs)
        truth = torch.zeros_like(scores)
        truth[: batch["pairs"].shape[1]] = 1
        return Term(F.binary_cross_entropy_with_logits(scores, truth, reduction="none"))

    def _answer(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        pairs = torch.cat([batch["pairs"], batch["negatives"]], 1)
        return {"logits": link_scores(logits, pairs.to(logits.device)).float().cpu()}

    def unpack(self, raw: Any) -> dict[str, Any]:
        """Return the batch; its labels are 1 for a pair and 0 for a non-edge."""
        batch = dict(raw)
        counts = [batch[key].shape[1] if key in batch else 0 for key in ("pairs", "negatives")]
        batch["labels"] = torch.cat([torch.ones(counts[0]), torch.zeros(counts[1])]).long()
        batch.pop("id", None)  # of nodes
        return batch

    def score(self, prediction: Prediction) -> dict[str, float]:
        """Return ``auc`` in %: how often a link scores above a non-edge."""
        scores, labels = prediction["logits"], prediction["labels"]
        return {"auc": 100 * roc_auc(scores[labels == 1], scores[labels == 0])}

    def chance(self, data: Any) -> float:
        """Return 50 %."""
        return 50.0


def link_bundle(bundle: Bundle, seed: int, *, val: float = 0.05, test: float = 0.05) -> tuple[Bundle, Links]:
    """Return a graph's bundle made one of links, and its split; messages pass along the training edges alone."""
    whole = bundle.train.batch
    links = split_links(whole["edge_index"], len(whole["inputs"]), seed, val=val, test=test)
    base = {"inputs": whole["inputs"], "edge_index": both_ways(links.train), "known": links.every}
    parts: dict[str, dict[str, Any]] = {
        "train": {"pairs": links.train},
        "val": {"pairs": links.val, "negatives": links.val_negatives},
        "test": {"pairs": links.test, "negatives": links.test_negatives},
    }
    counts = ", ".join(f"{part['pairs'].shape[1]} {name}" for name, part in parts.items())
    made = Bundle(
        name=bundle.name,
        task=LinkTask(),
        classes=(),
        input_shape=bundle.input_shape,
        fingerprint=fingerprint({"graph": bundle.fingerprint, "test": links.test, "val": links.val}),
        notes=(*bundle.notes, f"edges split by seed {seed}: {counts}."),
        train=FullBatch(base | parts["train"]),
        val=FullBatch(base | parts["val"]),
        test=FullBatch(base | parts["test"]),
    )
    return made, links
