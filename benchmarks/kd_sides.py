"""One epoch of plain knowledge distillation by this project, by hand, by torchdistill and by timm, on equal batches.

Every side is called as ``run(student, teacher, data)`` and returns the seconds from the first batch to the last step,
and the student. All read the same batches and end with equal weights (:func:`same`). Torchdistill runs as its own
examples do (``forward_process``, ``post_forward_process``), without their logging; timm's task object stands within the
loop by hand.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from side_by_side import now
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import RandomSampler

from distil import Distiller, fit
from distil.functional import kl
from distil.methods import KD, Supervised

HARD, SOFT, T, LR, MOMENTUM = 0.1, 0.9, 4.0, 0.01, 0.9

Outcome = tuple[float, nn.Module]
Run = Callable[..., Outcome]
Start = tuple[nn.Module, nn.Module]
"""Student and teacher before the epoch; a run gets copies."""


class Shared:
    """Batches in an order that is the same for every side; images are mirrored at random.

    Args:
        inputs, labels: of all samples, on the device that trains.
        batch: samples of a batch; an incomplete last one is left out.
        mirror: mirror half of the images.
        triple: yield ``(inputs, labels, {})``, as torchdistill's loaders do.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, batch: int, *, mirror: bool = False, triple: bool = False
    ) -> None:
        self.inputs, self.labels, self.size, self.mirror, self.triple = inputs, labels, batch, mirror, triple
        self.began = 0.0

    def __len__(self) -> int:
        return len(self.inputs) // self.size

    def __iter__(self) -> Iterator[Any]:
        synchronise(self.inputs.device)
        self.began = now()
        rng = torch.Generator().manual_seed(0)
        order = torch.randperm(len(self.inputs), generator=rng).to(self.inputs.device)
        for chosen in order.split(self.size)[: len(self)]:
            inputs, labels = self.inputs[chosen], self.labels[chosen]
            if self.mirror:
                flipped = torch.rand(len(inputs), 1, 1, 1, generator=rng).to(inputs.device) < 0.5
                inputs = torch.where(flipped, inputs.flip(-1), inputs)
            yield (inputs, labels, {}) if self.triple else (inputs, labels)

    def seconds(self) -> float:
        """Return the seconds since the first batch was asked for."""
        synchronise(self.inputs.device)
        return now() - self.began


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator, so that the clock is read when the work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sgd(student: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every side."""
    return torch.optim.SGD(student.parameters(), lr=LR, momentum=MOMENTUM)


def method() -> Any:
    """The loss of every side: 0.9 T^2 KL + 0.1 cross-entropy."""
    return SOFT * KD(temperature=T) + HARD * Supervised()


def by_fit(
    student: nn.Module, teacher: nn.Module, data: Any, *, made: Mapping[str, Any] | None = None, **chosen: Any
) -> Outcome:
    """``fit``; of a dataset instead of batches the set-up counts. ``made`` goes to the Distiller."""
    begun = now()
    example = next(iter(data)) if isinstance(data, Shared) else data.batch(torch.arange(min(8, len(data))))
    distiller = Distiller(student, teacher, method(), example=example, **(made or {}))
    fit(
        distiller, data, epochs=1, optimizer=partial(torch.optim.SGD, momentum=MOMENTUM), lr=LR, schedule="constant",
        check_teacher=False, diagnose=False, device=next(student.parameters()).device.type, **chosen,
    )  # fmt: skip
    return data.seconds() if isinstance(data, Shared) else now() - begun, student


def by_distiller(student: nn.Module, teacher: nn.Module, data: Shared) -> Outcome:
    """The ten lines of the README: a Distiller in the user's own loop."""
    distiller = Distiller(student, teacher, method(), example=next(iter(data)))
    optimizer = distiller.watch(sgd(student))
    distiller.train()
    for batch in data:
        distiller(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return data.seconds(), student


def torch_loss(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """The loss as one writes it with torch alone."""
    log_p, log_q = F.log_softmax(target / T, -1), F.log_softmax(logits / T, -1)
    soft = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return SOFT * T * T * soft + HARD * F.cross_entropy(logits, labels)


def own_loss(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """The same with this project's checked divergence."""
    return SOFT * kl(logits, target, temperature=T) + HARD * F.cross_entropy(logits, labels)


def by_hand(student: nn.Module, teacher: nn.Module, data: Shared, loss: Callable[..., Tensor] = torch_loss) -> Outcome:
    """A loop written by hand."""
    optimizer = sgd(student)
    teacher.eval()
    student.train()
    for inputs, labels in data:
        with torch.no_grad():
            target = teacher(inputs)
        loss(student(inputs), target, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return data.seconds(), student


def by_torchdistill(student: nn.Module, teacher: nn.Module, data: Any, batch: int = 0) -> Outcome:
    """Torchdistill's box with its KDLoss; with ``batch``, ``data`` is a dataset, and the set-up counts."""
    from torchdistill.core.distillation import get_distillation_box

    begun = now()
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    taken = {
        f"{role}_module_{part}": at for role in ("student", "teacher") for part, at in (("path", "."), ("io", "output"))
    }
    loss = {"key": "KDLoss", "kwargs": {**taken, "temperature": T, "alpha": HARD, "reduction": "batchmean"}}
    config: dict[str, Any] = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
    }
    if batch:
        own = {"sampler": {"class_or_func": RandomSampler}, "kwargs": {"batch_size": batch, "drop_last": True}}
        config["train_data_loader"] = {"dataset_id": "train", **own}
    device = next(student.parameters()).device
    box = get_distillation_box(teacher, student, {"train": data}, config, device, None, False, 1)
    teacher.eval()
    box.pre_epoch_process(epoch=0)
    for inputs, labels, more in box.train_data_loader if batch else data:
        box.post_forward_process(box.forward_process(inputs, labels, more))
    box.post_epoch_process()
    return now() - begun if batch else data.seconds(), student


def by_timm(student: nn.Module, teacher: nn.Module, data: Shared) -> Outcome:
    """Timm's task for logits within the loop by hand; what it reads of a timm model is said of these nets."""
    from timm.task import LogitDistillationTask

    shape = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    for net in (student, teacher):
        net.pretrained_cfg, net.num_classes, net.in_chans = shape, net.fc.out_features, net.conv1.in_channels
    weights: dict[str, Any] = {"task_loss_weight": HARD, "distill_loss_weight": SOFT, "temperature": T}
    task = LogitDistillationTask(student, teacher, criterion=nn.CrossEntropyLoss(), verbose=False, **weights)
    optimizer = sgd(student)
    task.train()
    for inputs, labels in data:
        task(inputs, labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return data.seconds(), student


def side(run: Run, start: Start, data: Any, **chosen: Any) -> Callable[[], float]:
    """Return a side for :func:`side_by_side.rounds`: an epoch from the same start, and its own seconds."""

    def timed() -> float:
        return run(copy.deepcopy(start[0]), copy.deepcopy(start[1]), data, **chosen)[0]

    return timed


def same(runs: Mapping[Run, Any], start: Start) -> float:
    """Assert that every side makes the same student of its data, and return the largest difference of a weight.

    Give it a few batches: rounding errors grow from step to step in any two programs.
    """
    made = [run(copy.deepcopy(start[0]), copy.deepcopy(start[1]), data)[1].state_dict() for run, data in runs.items()]
    far = max(float((made[0][key].double() - other[key].double()).abs().max()) for other in made[1:] for key in made[0])
    assert far < 1e-4, f"the sides did not do the same work: weights differ by {far}"
    return far
