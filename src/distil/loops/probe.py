"""How much a frozen encoder knows of labels it never saw: a linear probe and a k-NN probe of its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data.bundle import NO_LABEL, as_dict
from distil.data.loading import as_batches, epoch_order, mix_seed
from distil.errors import DistilError
from distil.tasks.base import device_of, evaluating, to_device
from distil.tasks.features import neighbour_answers

__all__ = ["features_of", "knn_probe", "linear_probe", "standard_scale"]


def features_of(
    encoder: Callable[[Tensor], Tensor], data: Any, *, batch_size: int = 256, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Run a frozen encoder over labelled data, and return what it said and the labels, on the CPU.

    The encoder is put into eval mode, every module of it gets its own mode back, and nothing of it gets a gradient.
    What has more than two axes is flattened; rows without a label (-100) are left out.

    Args:
        encoder: a module, or any callable, from inputs ``[B, …]`` to features ``[B, …]``.
        data: a dataset, a source of batches, or an iterable of them, with ``inputs`` and ``labels``.
        batch_size: for datasets.
        device: where the encoder is; by default the device of its first parameter.

    Returns:
        float32 ``[N, D]`` and int64 ``[N]``.

    Raises:
        DistilError: if there are no labelled rows.

    >>> from distil.data import DictDataset
    >>> features, labels = features_of(nn.Flatten(), DictDataset(torch.ones(3, 2, 2), torch.tensor([0, 1, -100])))
    >>> features.shape, labels
    (torch.Size([2, 4]), tensor([0, 1]))
    """
    where = torch.device(device) if device is not None else device_of(encoder)
    if hasattr(data, "__len__"):  # a small set is no mistake here, so it must not be warned about
        batch_size = max(1, min(batch_size, len(data)))
    kept: list[tuple[Tensor, Tensor]] = []
    for raw in as_batches(data, batch_size):
        batch = as_dict(raw)
        if batch.get("labels") is None:
            raise DistilError("A probe reads labels, and the data have none; give a labelled part of the data.")
        labels = torch.as_tensor(batch["labels"]).long()
        with evaluating(encoder), torch.no_grad():
            found = encoder(to_device(batch["inputs"], where))
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(labels):
            shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DistilError(
                f"A probe needs one row of features for each of {len(labels)} samples; the encoder gave {shown}. Give "
                "the part of the model that returns a tensor (batch, …)."
            )
        rows = labels != NO_LABEL
        kept.append((found.flatten(1).float().cpu()[rows.cpu()], labels.cpu()[rows.cpu()]))
    if not sum(len(labels) for _, labels in kept):
        raise DistilError("A probe reads labels, and no row of the data has one; give a labelled part of the data.")
    return torch.cat([features for features, _ in kept]), torch.cat([labels for _, labels in kept])


def standard_scale(train_features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return all features minus the training mean, divided by the training deviation (unbiased) of each column.

    A column whose deviation is below ten machine epsilons is only centred, so a constant one is 0 and never NaN.

    >>> standard_scale(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[2.0, 6.0]]))[1]
    tensor([[0., 1.]])
    """
    mean = train_features.mean(0)
    deviation = train_features.std(0) if len(train_features) > 1 else torch.zeros_like(mean)
    small = deviation < 10 * torch.finfo(deviation.dtype).eps
    deviation = torch.where(small, torch.ones_like(deviation), deviation)
    return tuple((features - mean) / deviation for features in (train_features, *others))


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    epochs: int = 10,
    lr: float = 1e-3,
    batch_size: int = 256,
    standardise: bool = False,
    seed: int = 0,
) -> float:
    """Train one linear layer on frozen features and return its accuracy, in %, on ``features``.

    Linear(D → K) from a start drawn by ``seed``, AdamW without weight decay, cross-entropy, batches in an order that
    depends on ``seed`` and the epoch: equal seeds give equal accuracy. The caller's generators are left as they were.

    Args:
        train_features, train_labels: ``[N, D]`` and ``[N]``, K being the largest label of both parts plus one.
        features, labels: ``[M, D]`` and ``[M]``, what is scored.
        epochs, lr, batch_size: of the training.
        standardise: scale columns by the training features first (:func:`standard_scale`).

    Raises:
        DistilError: if shapes do not fit, a label is below 0, or a feature is not finite.

    >>> x, y = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    >>> linear_probe(x, y, x, y, epochs=50, lr=0.1)
    100.0

    Paper: as *Random Teachers are Good Teachers* (ICML 2023, arXiv 2302.12091) probes its encoders.
    """
    _check("linear_probe", train_features, train_labels, features, labels)
    if min(epochs, batch_size) < 1 or not lr > 0:
        raise DistilError(
            f"linear_probe: epochs={epochs} and batch_size={batch_size} must be at least 1 and lr={lr} above 0."
        )
    if standardise:
        train_features, features = standard_scale(train_features, features)
    classes = int(torch.cat([train_labels, labels]).max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed("probe", seed))
        layer = nn.Linear(train_features.shape[1], classes).to(train_features)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=0.0)
    with torch.enable_grad():
        for epoch in range(epochs):
            for rows in epoch_order(len(train_labels), seed, epoch, shuffle=True).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(layer(train_features[rows]), train_labels[rows]).backward()
                optimizer.step()
    with torch.no_grad():
        return _accuracy(layer(features).argmax(1), labels)


def knn_probe(train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor, *, k: int = 20) -> float:
    """Return the accuracy, in %, of a majority vote among the ``k`` nearest training features (L2 distance).

    Of classes with equally many votes the lowest wins. Nothing is drawn.

    Args:
        train_features, train_labels: ``[N, D]`` and ``[N]``.
        features, labels: ``[M, D]`` and ``[M]``, what is scored.
        k: from 1 to N.

    Raises:
        DistilError: if ``k`` is out of range, shapes do not fit, a label is below 0, or a feature is not finite.

    >>> x, y = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1])
    >>> knn_probe(x, y, torch.tensor([[8.0]]), torch.tensor([1]), k=1)
    100.0
    """
    _check("knn_probe", train_features, train_labels, features, labels)
    if not 1 <= k <= len(train_labels):
        raise DistilError(f"knn_probe: k={k} must be from 1 to the {len(train_labels)} training rows.")
    return _accuracy(neighbour_answers(features, train_features, train_labels, k=k), labels)


def _accuracy(answers: Tensor, labels: Tensor) -> float:
    return 100 * float((answers == labels).double().mean())


def _check(name: str, train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor) -> None:
    for what, rows, classes in (("training", train_features, train_labels), ("scored", features, labels)):
        if rows.ndim != 2 or tuple(classes.shape) != (len(rows),) or not len(rows):
            raise DistilError(
                f"{name}: the {what} features are {tuple(rows.shape)} and their labels {tuple(classes.shape)}, but "
                "(N, D) and (N,) with at least one row are expected; flatten the features."
            )
        if int(classes.min()) < 0:
            raise DistilError(f"{name}: label {int(classes.min())} is below 0; leave out rows without a label.")
        if not bool(torch.isfinite(rows).all()):
            raise DistilError(f"{name}: the {what} features hold NaN or infinity; look at the encoder's training.")
    if train_features.shape[1] != features.shape[1]:
        raise DistilError(
            f"{name}: the training features have {train_features.shape[1]} columns and the scored ones "
            f"{features.shape[1]}; take both from one encoder."
        )
