"""Random Teachers as a method: match an untrained network's outputs; with its switches on it is DINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces, as_sum, batch_size
from distil.engine.schedule import Schedule, as_schedule
from distil.engine.trace import Spec
from distil.engine.window import mean_of_ranks
from distil.errors import DistilError, nearest
from distil.functional.averages import flat_weights, moving_average, named_weights
from distil.functional.crops import crop_boxes, cropped, noise_like
from distil.functional.reduction import Term, working
from distil.functional.views import VIEW_LOSSES, VIEW_PAIRS, paired_views
from distil.models import Headed

__all__ = ["RandomTeacher", "published"]

INPUTS = ("images", "noise")


@final
class RandomTeacher(Method):
    """Match the outputs of a frozen network, on inputs without labels; the encoder is what ships.

    ``−Σ_c p_c log q_c`` with ``p = softmax((t − centre) / T_t)``, ``q = softmax(s / T_s)``, averaged over the pairs of
    views. Off by default, and DINO together: centring, two temperatures, averaging, crops, a last layer that is frozen
    first, and clipping (``fit(clip=…)``).

    Args:
        loss: "ce", "kl" (its gradient is the same), "mse" of the scaled outputs, or "entropy" of the student's alone.
        student_temperature, teacher_temperature: above 0; numbers or schedules. A lower one sharpens.
        centring: momentum of a moving average of the teacher's outputs, subtracted from them; 0 is off. It moves after
            each step, by the mean over all of the teacher's views: every output is centred by what was before it.
        averaging: momentum, a number or a schedule, of a moving average of the student's weights that takes the
            teacher's place (which itself stays as it is); 0 is off. Both must be of one architecture.
        crops: (global, local) random crops of each image; (0, 0) takes images as they are. The student sees all, the
            teacher the global ones.
        crop_size: side of local crops in pixels; global ones keep the images' size.
        views: which crops of an image are compared: "all", "same" or "opposite" pairs.
        freeze_last: epochs in which the student's last layer stays as it is.
        inputs: "images", or "noise": the control, in which both networks see Gaussian noise of ``sigma`` in place of
            every batch.
        sigma: above 0, the noise's deviation.

    Requirements: a teacher whose outputs the student can match; for the paper's setting both are an encoder with an
    `L2Head` (`distil.models.Headed`), the student's start is near the teacher (`distil.models.interpolate_init`), and
    no weight decay. A teacher at chance is what it is about, so fit takes ``check_teacher=False``. Other methods of a
    sum that run the student on the same batch come after one with ``freeze_last``.

    Relations:
        With a trained teacher of the same outputs and ``loss="kl"`` it is KD at temperature 1.

    Example:
        >>> from distil.systems.random_teachers import RandomTeacher
        >>> RandomTeacher(loss="kl", centring=0.9).expression
        'randomteacher(loss=kl, centring=0.9)'

    Paper: Sarnthein, Bachmann, Anagnostidis, Hofmann, Random Teachers are Good Teachers, ICML 2023, arXiv 2302.12091.
    Differs from official code: the centre and the averaged teacher move after the optimizer's step, once for all
    micro-batches and ranks; an averaged teacher keeps the buffers of the first one; crops are drawn batch by batch.
    """

    taps: tuple[Spec, ...] = ("logits",)
    at_equality: Mapping[str, AtEquality] = {"match": "stationary"}
    centre: Tensor
    average: Tensor

    def __init__(
        self, *, loss: str = "ce", student_temperature: float | Schedule = 1.0,
        teacher_temperature: float | Schedule = 1.0, centring: float = 0.0, averaging: float | Schedule = 0.0,
        crops: Sequence[int] = (0, 0), crop_size: int = 0, views: str = "all", freeze_last: int = 0,
        inputs: str = "images", sigma: float = 1.0, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        for key, value, options in (
            ("loss", loss, VIEW_LOSSES),
            ("views", views, VIEW_PAIRS),
            ("inputs", inputs, INPUTS),
        ):
            if value not in options:
                raise DistilError(f"randomteacher({key}={value!r}) is unknown; {nearest(str(value), options)}")
        self.loss, self.views, self.noise, self.sigma = loss, views, inputs == "noise", sigma
        self.student_temperature = as_schedule(student_temperature)
        self.teacher_temperature = as_schedule(teacher_temperature)
        self.centring, self.averaging, self.freeze_last = centring, as_schedule(averaging), freeze_last
        self.averages = self.averaging.constant != 0
        self.crops, self.crop_size = (int(crops[0]), int(crops[1])) if len(crops) == 2 else (-1, -1), crop_size
        self._check(sigma)
        equal = self.student_temperature.constant == self.teacher_temperature.constant is not None
        at_rest = equal and not centring and not self.averages and not any(self.crops)
        known: dict[str, AtEquality] = {"ce": "stationary", "kl": "zero", "mse": "zero", "entropy": None}
        self.at_equality = {"match": known[loss] if at_rest else None}
        if freeze_last:
            self.taps = ("logits", ("head", None))
        self.register_buffer("centre", torch.zeros(0))
        self.register_buffer("average", torch.zeros(0))  # of all weights, from the first training call on
        self._seen: list[Tensor] = []
        self._student: list[nn.Module] = []

    def _check(self, sigma: float) -> None:
        for key, value in (("student", self.student_temperature), ("teacher", self.teacher_temperature)):
            if value.constant is not None and not value.constant > 0:
                raise DistilError(f"randomteacher({key}_temperature={value}) must be above 0.")
        momentum = self.averaging.constant
        if not 0 <= self.centring < 1 or not 0 <= (momentum or 0) <= 1:
            raise DistilError(
                f"randomteacher(centring={self.centring}, averaging={self.averaging}) must be from 0 (off) to below 1; "
                "they say how much of the old stays."
            )
        if min(self.crops) < 0 or (self.crops[1] and not self.crops[0]) or (self.crops[1] and self.crop_size < 1):
            raise DistilError(
                f"randomteacher(crops={self.crops}, crop_size={self.crop_size}): give (global, local) numbers, at "
                "least one global where there are local ones, and a crop_size of at least 1 for those."
            )
        if self.views == "opposite" and self.crops[0] + self.crops[1] < 2:
            raise DistilError(
                "randomteacher(views=opposite) compares two crops of an image; give crops=(2, 0) or more."
            )
        if self.freeze_last < 0 or not sigma > 0:
            raise DistilError(
                f"randomteacher(freeze_last={self.freeze_last}, sigma={sigma}) must be at least 0, and above 0."
            )

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Begin with a centre of 0, as wide as the teacher's outputs."""
        if teacher is None:
            raise DistilError("randomteacher needs a teacher; give a copy of the student's network, drawn anew.")
        if self.centring:
            self.centre = self.centre.new_zeros(teacher.logits.shape[-1])

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``match``, one value per sample: the mean over its pairs of views."""
        views = self._views(batch, ctx)
        seen = len(views) if not any(self.crops) else self.crops[0]
        with self._frozen_last(student, batch, ctx):
            ours = torch.stack([student(view).logits for view in views])
        theirs = torch.stack([self._teach(student, teacher, view, ctx) for view in views[:seen]])
        values = paired_views(
            ours, theirs, loss=self.loss, pairing=self.views, reduction="none",
            student_temperature=self.student_temperature(ctx), teacher_temperature=self.teacher_temperature(ctx),
            centre=self.centre if self.centring else None,
        )  # fmt: skip
        if ctx.training and self.centring:
            self._seen = [*self._seen, theirs.flatten(0, 1)] if ctx.micro else [theirs.flatten(0, 1)]
        return {"match": Term(values)}

    def after_step(self, ctx: Context) -> None:
        """Move the centre and the averaged teacher."""
        if self._seen:
            mean = mean_of_ranks(*working(torch.cat(self._seen)))
            self.centre = moving_average(self.centre, mean, momentum=self.centring)
            self._seen = []
        if self._student:
            new = flat_weights(dict(self._student[0].named_parameters()))
            self.average = moving_average(self.average, new, momentum=self.averaging(ctx))

    def deployed(self, student: Handles, teacher: Handles) -> nn.Module:
        """Return the encoder without its head; the whole student where it is none with a head."""
        module = super().deployed(student, teacher)
        return module.encoder if isinstance(module, Headed) else module

    def _views(self, batch: Batch, ctx: Context) -> list[Batch]:
        """What the networks see: the batch, its crops, or noise of its shape."""
        if not self.noise and not any(self.crops):
            return [batch]
        images = batch["inputs"]
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise DistilError("randomteacher draws crops and noise for inputs that are one tensor of numbers.")
        if self.noise:
            images = noise_like(images, scale=self.sigma, generator=ctx.rng)
        # Without ids: what a cache knows of an image is not true of its crops.
        rest = {key: value for key, value in batch.items() if key != "id"}
        if not any(self.crops):
            return [rest | {"inputs": images}]
        found: list[Batch] = []
        for many, share, side in ((self.crops[0], (0.4, 1.0), 0), (self.crops[1], (0.05, 0.4), self.crop_size)):
            for _ in range(many):
                boxes = crop_boxes(batch_size(batch), share=share, generator=ctx.rng)
                found.append(rest | {"inputs": cropped(images, boxes, side=side or images.shape[-1])})
        return found

    def _teach(self, student: Handles, teacher: Handles, view: Batch, ctx: Context) -> Tensor:
        """The teacher's outputs: the given network's, or those of the student's moving average."""
        if not self.averages:
            found: Tensor = teacher(view).logits
            return found
        like = dict(teacher.module.named_parameters())
        ours = {name: value.shape for name, value in student.module.named_parameters()}
        if ours != {name: value.shape for name, value in like.items()}:
            raise DistilError(
                "randomteacher(averaging=…) puts an average of the student in the teacher's place, and the two are of "
                "different architectures; make both by the same function."
            )
        if not len(self.average):
            self.average = flat_weights(like)
        self._student = [student.module] if ctx.training else self._student
        averaged: Tensor = teacher(view, params=named_weights(self.average, like), grad=False).logits
        return averaged

    def _frozen_last(self, student: Handles, batch: Batch, ctx: Context) -> AbstractContextManager[None]:
        """Leave the student's last layer out of the graph in the first epochs."""
        if ctx.epoch >= self.freeze_last or not ctx.training:
            return nullcontext()
        if student.remembered(batch) is not None:
            raise DistilError("randomteacher(freeze_last=…) must make the student's pass: name it first in the sum.")
        return _without_gradient(student.part("head"))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "average")
        if isinstance(stored, Tensor):  # how many weights there are is known from the first training call on
            self.average = self.average.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def _without_gradient(module: nn.Module) -> Any:
    learning = [p for p in module.parameters() if p.requires_grad]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def published(
    *, loss: str = "ce", student_temperature: float | Schedule = 1.0, teacher_temperature: float | Schedule = 1.0,
    centring: float = 0.0, averaging: float | Schedule = 0.0, crops: Sequence[int] = (0, 0), crop_size: int = 0,
    views: str = "all", freeze_last: int = 0, inputs: str = "images",
) -> Sum:  # fmt: skip
    """Return the paper's whole loss: cross-entropy with the teacher's outputs, and nothing else.

    >>> sorted(published().methods)
    ['randomteacher']
    """
    return as_sum(
        RandomTeacher(
            loss=loss, student_temperature=student_temperature, teacher_temperature=teacher_temperature,
            centring=centring, averaging=averaging, crops=crops, crop_size=crop_size, views=views,
            freeze_last=freeze_last, inputs=inputs,
        )
    )  # fmt: skip
