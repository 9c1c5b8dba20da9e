"""Clusters of one class's embeddings, by scikit-learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["CLUSTERS", "clustered"]

CLUSTERS = ("kmeans", "agglomerative", "tsne")


def clustered(kind: str, rows: Tensor, count: int, *, seed: int) -> Tensor:
    """Return a cluster 0 … ``count`` − 1 for each row of ``[N, D]``.

    ``kind`` is "kmeans", "agglomerative" (Ward's criterion) or "tsne": k-means on two dimensions of t-SNE.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.manifold import TSNE

    found: Any = rows.numpy()
    if count == 1:
        return torch.zeros(len(rows), dtype=torch.long)
    if kind == "agglomerative":
        return torch.as_tensor(AgglomerativeClustering(count).fit_predict(found))
    if kind == "tsne":
        found = TSNE(2, perplexity=min(30.0, (len(found) - 1) / 3), random_state=seed).fit_transform(found)
    return torch.as_tensor(KMeans(count, n_init=10, random_state=seed).fit_predict(found))
