"""The triangle of student, teacher and label, and that of student, class mean and label, as numbers for each sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distil.errors import DistilError
from distil.functional._checks import IGNORE, class_index, known, same_shape, shaped
from distil.functional.divergence import SAME_CLASSES
from distil.functional.prototypes import ClassMeans
from distil.functional.reduction import working

__all__ = ["STATE_BLOCKS", "add_probabilities", "class_probabilities", "mean_rows", "trilateral_state"]

_POINTS = ("S", "T", "G", "M")
_EDGES = ("(M-S)^2", "(G-S)^2", "(T-S)^2")
_ANGLES = ("(M-S)(G-S)", "(T-S)(G-S)")

STATE_BLOCKS: dict[str, tuple[str, ...]] = {
    "1": _POINTS,
    "2": _EDGES,
    "3": (*_POINTS, *_EDGES, "(T-G)^2", "(M-G)^2"),
    "4": (*_POINTS, *_ANGLES),
    "5": (*_EDGES, *_ANGLES),
    "6": (*_POINTS, *_EDGES, *_ANGLES),
    "7": _ANGLES,
    "cifar": ("S", "T", "M", "G", "|S-G|", "|S-T|", "|S-M|", "(G-M)(G-S)", "(G-T)(G-S)"),
}
"""The blocks of each design, in order, C numbers each: probabilities of student S, teacher T, label G, class mean M."""


def mean_rows(means: ClassMeans) -> Tensor:
    """Return the (C, C) table of mean teacher probabilities gathered in ``means``; a class never seen gets 1 / C.

    Every row sums to 1, in the precision of the sums. The uniform row is read by no sample that the means were taken
    from.

    >>> means = ClassMeans(2)
    >>> means.update(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), torch.tensor([1, 1]))
    >>> mean_rows(means)
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    classes = len(means.names)
    if means.sums is None or means.counts is None:
        raise DistilError("mean_rows: no batch has been seen; pass the training set through ClassMeans.update first.")
    shaped("mean_rows", "the table of sums", means.sums, (classes, classes), "gather class probabilities, C of them")
    rows = means.sums / means.counts.clamp(min=1).unsqueeze(1)
    return torch.where((means.counts > 0).unsqueeze(1), rows, 1.0 / classes)


def add_probabilities(means: ClassMeans, teacher_logits: Tensor, labels: Tensor, counted: Tensor | None = None) -> None:
    """Add softmax(t) of a batch's counted rows to ``means``, each to its label's class.

    Args:
        means: gathers (C, C) sums.
        teacher_logits: (B, C).
        labels: (B,), class indices; −100 is left out.
        counted: (B,) of bool; by default all.

    >>> means = ClassMeans(2)
    >>> add_probabilities(means, torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([True, False]))
    >>> means.counts.tolist()
    [1.0, 0.0]
    """
    shaped("add_probabilities", "teacher_logits", teacher_logits, ("B", "C"), "give one row per sample")
    (teacher,) = working(teacher_logits)
    means.update(teacher.softmax(1), labels if counted is None else labels.masked_fill(~counted, IGNORE))


def class_probabilities(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the (C, C) table whose row y is the mean of softmax(t) over the samples labelled y; see `mean_rows`.

    The whole set at once; batch by batch, :func:`add_probabilities` and :func:`mean_rows` do the same.

    Args:
        teacher_logits: (N, C).
        labels: (N,), class indices; −100 is left out.

    >>> class_probabilities(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([0, 0]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    shaped("class_probabilities", "teacher_logits", teacher_logits, ("N", "C"), "give one row per sample")
    means = ClassMeans(teacher_logits.shape[1])
    add_probabilities(means, teacher_logits, labels)
    return mean_rows(means).to(working(teacher_logits)[0].dtype)


def trilateral_state(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, mean_probabilities: Tensor, *,
    design: int | str = 3,
) -> Tensor:  # fmt: skip
    """Return what TGeo-KD's controller sees of each sample, (B, k·C).

    With S, T the probabilities of student and teacher at temperature 1, G the one-hot label and M the teacher's mean
    probabilities of the label's class, the blocks of ``STATE_BLOCKS[design]`` stand side by side; products are
    taken class by class, nothing is summed. No gradient flows back through it.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        labels: (B,), class indices; a row labelled −100 gets the state of class 0 and must weigh 0 in the loss.
        mean_probabilities: (C, C), row y for label y, from :func:`class_probabilities`.
        design: the options of the released script: 1 the four points (4C), 2 three squared distances (3C), 3 points
            and all five distances (9C, the published one), 4 points and angles (6C), 5 three distances and angles (5C),
            6 points, three distances and angles (9C), 7 angles (2C); or "cifar", the variant of the CIFAR-100 code
            (9C).

    Raises:
        DistilError: an unknown design, shapes or labels that do not fit.

    >>> zeros, label, means = torch.zeros(1, 2), torch.tensor([0]), torch.full((2, 2), 0.5)
    >>> trilateral_state(zeros, zeros, label, means, design=7)
    tensor([[0., -0., 0., -0.]])
    >>> trilateral_state(zeros, zeros, label, means).shape
    torch.Size([1, 18])

    Paper: Hu et al., *Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation*, ICLR 2024,
    arXiv 2312.15112. Agrees with the released ``state_design`` (golden).
    """
    name = "trilateral_state"
    known(name, "design", str(design), tuple(STATE_BLOCKS))
    shaped(name, "student_logits", student_logits, ("B", "C"), "give one row per sample")
    same_shape(name, student_logits, teacher_logits, SAME_CLASSES)
    classes = student_logits.shape[1]
    shaped(name, "mean_probabilities", mean_probabilities, (classes, classes), "take the means of the same classes")
    student, teacher = working(student_logits.detach(), teacher_logits.detach())
    index, _ = class_index(name, labels, student.shape[:1], classes)
    s, t = student.softmax(1), teacher.softmax(1)
    g, m = F.one_hot(index, classes).to(s.dtype), mean_probabilities.detach().to(s.dtype)[index]
    blocks = {
        "S": s, "T": t, "G": g, "M": m,
        "(M-S)^2": (m - s).square(), "(G-S)^2": (g - s).square(), "(T-S)^2": (t - s).square(),
        "(T-G)^2": (t - g).square(), "(M-G)^2": (m - g).square(),
        "(M-S)(G-S)": (m - s) * (g - s), "(T-S)(G-S)": (t - s) * (g - s),
        "|S-G|": (s - g).abs(), "|S-T|": (s - t).abs(), "|S-M|": (s - m).abs(),
        "(G-M)(G-S)": (g - m) * (g - s), "(G-T)(G-S)": (g - t) * (g - s),
    }  # fmt: skip
    return torch.cat([blocks[block] for block in STATE_BLOCKS[str(design)]], 1)
