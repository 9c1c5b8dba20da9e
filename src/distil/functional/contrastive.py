"""Contrast with remembered samples: noise-contrastive estimation over memory banks (CRD).

A bank holds one row for each sample of the training data. Column 0 of an index names a sample's positive, the others
its negatives. Everything is in log-space; rows are brought to length 1 here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distil.errors import DistilError
from distil.functional._checks import positive, shaped
from distil.functional.affinity import unit_rows
from distil.functional.reduction import reduce, working

__all__ = ["bank_logits", "bank_rows", "crd", "log_normaliser", "noise_contrast"]

DENSE = 8
"""Up to so many bank rows for each negative all inner products are made at once, instead of gathering rows."""


def bank_logits(emb: Tensor, bank: Tensor, index: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Return each sample's inner products with the remembered rows that ``index`` names, over the temperature.

    Args:
        emb: (B, D), of any length; scaled to length 1, an all-zero row without gradient.
        bank: (N, D), as it is.
        index: (B, 1 + K), rows of the bank: the positive, then the negatives.
        temperature: above 0.

    Returns:
        (B, 1 + K).

    Raises:
        DistilError: if the shapes do not fit.

    >>> bank_logits(torch.tensor([[2.0, 0.0]]), torch.eye(2), torch.tensor([[0, 1, 1]]), temperature=0.5)
    tensor([[2., 0., 0.]])
    """
    positive("bank_logits", "temperature", temperature)
    shaped("bank_logits", "the embedding", emb, ("B", "D"), "flatten each sample to one row")
    shaped("bank_logits", "the index", index, (emb.shape[0], "1 + K"), "give one row for each sample")
    shaped("bank_logits", "the bank", bank, ("N", emb.shape[1]), "embed to the bank's width")
    emb, bank = working(emb, bank)
    emb = unit_rows(emb, eps=torch.finfo(emb.dtype).tiny)
    with torch.autocast(emb.device.type, enabled=False):
        if len(bank) <= DENSE * index.shape[1]:
            products = (emb @ bank.mT).gather(1, index)
        else:
            products = (bank[index] @ emb.unsqueeze(2)).squeeze(2)
    return products / temperature


def log_normaliser(logits: Tensor, rows: int) -> Tensor:
    """Return log(mean(exp(logits)) · N), CRD's constant for turning scores into probabilities; without gradient.

    CRD finds it on the first batch and then keeps it.

    >>> log_normaliser(torch.zeros(2, 3), 5)
    tensor(1.6094)
    """
    flat = logits.detach().flatten()
    return flat.logsumexp(0) - math.log(len(flat)) + math.log(rows)


def noise_contrast(
    logits: Tensor,
    rows: int,
    *,
    log_z: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float = 1e-7,
) -> Tensor:
    """Return noise-contrastive estimation: tell the positive from K draws of uniform noise.

    With P = exp(logits) / Z and P_n = 1 / N: −log(P₊ / (P₊ + K P_n + ε)) − Σ_k log(K P_n / (P_k + K P_n + ε)).

    Args:
        logits: (B, 1 + K), the positive first.
        rows: N, the rows that negatives are drawn from.
        log_z: log Z; default `log_normaliser` of these logits.
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per sample).
        eps: as published; of no consequence unless K / N is that small.

    Raises:
        DistilError: if there is no negative.

    >>> noise_contrast(torch.tensor([[9.0, -9.0]]), 2, log_z=torch.tensor(0.0))
    tensor(0.0003)
    """
    shaped("noise_contrast", "the logits", logits, ("B", "1 + K"), "give the positive's, then the negatives'")
    count = logits.shape[1] - 1
    if count < 1 or rows < 1:
        raise DistilError(f"noise_contrast: {count} negatives out of {rows} rows; give one at least.")
    (logits,) = working(logits)
    noise = count / rows
    # log P - log(K P_n + eps): positive where the pair is likelier than noise.
    margin = logits - (log_normaliser(logits, rows) if log_z is None else log_z) - math.log(noise + eps)
    least = math.log(noise) - math.log(noise + eps)
    values = -F.logsigmoid(margin[:, 0]) - (F.logsigmoid(-margin[:, 1:]) + least).sum(1)
    return reduce(values, weight, reduction=reduction)


def crd(
    student_emb: Tensor,
    teacher_emb: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    index: Tensor,
    *,
    temperature: float = 0.07,
    log_z: tuple[Tensor, Tensor] | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return contrastive representation distillation: each side finds its own sample among the other side's memories.

    `noise_contrast` of the student against the teacher's bank plus that of the teacher against the student's.

    Args:
        student_emb: (B, D), embedded, of any length.
        teacher_emb: (B, D).
        student_bank: (N, D), what is remembered of the student.
        teacher_bank: (N, D).
        index: (B, 1 + K), the sample itself, then samples of other classes.
        temperature: above 0.
        log_z: the two constants, of the student's and of the teacher's scores; default those of this batch.
        weight: (B,).
        reduction: "mean", "sum" or "none" (one value per sample).

    Raises:
        DistilError: if the shapes do not fit.

    >>> rows, index = torch.eye(3), torch.tensor([[0, 1, 2], [1, 0, 2]])
    >>> crd(rows[:2], rows[:2], rows, rows, index) < crd(rows[:2], rows[:2], -rows, -rows, index)
    tensor(True)

    Paper: Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020, arXiv 1910.10699. Differs from
    official code: log-space, so that no score overflows.
    """
    if student_emb.shape != teacher_emb.shape:
        raise DistilError(
            f"crd: the student gives {tuple(student_emb.shape)} and the teacher {tuple(teacher_emb.shape)}, which must "
            "be equal; embed both to one width."
        )
    sides = ((student_emb, teacher_bank), (teacher_emb, student_bank))
    found = [bank_logits(emb, bank, index, temperature=temperature) for emb, bank in sides]
    known = log_z or (None, None)
    values = torch.stack(
        [noise_contrast(f, len(student_bank), log_z=z, reduction="none") for f, z in zip(found, known)]
    ).sum(0)
    return reduce(values, weight, reduction=reduction)


def bank_rows(rows: Tensor, emb: Tensor, *, momentum: float = 0.5) -> Tensor:
    """Return remembered rows moved towards new embeddings: momentum · row + (1 − momentum) · emb, of length 1.

    Args:
        rows: (B, D), the bank's rows of the samples seen.
        emb: (B, D), of any length; scaled to 1 first.
        momentum: from 0 (forget) to 1 (keep).

    >>> bank_rows(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
    tensor([[0.7071, 0.7071]])
    """
    rows, emb = working(rows, emb.detach())
    return F.normalize(momentum * rows + (1 - momentum) * F.normalize(emb, dim=1), dim=1)
