"""How a frozen teacher's passes are made cheap: what may be asked for, and what is recorded of what was kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distil.errors import DistilError, nearest

__all__ = ["AUTO", "CLOSE", "COPIED", "DEFAULT", "LENGTH", "OPTIONS", "Settled", "TeacherForward"]

OPTIONS = {
    "truncate": "stop after the last layer that a method reads, where none reads the logits",
    "inference": "torch.inference_mode; what methods get is copied out of it",
    "fold_bn": "BatchNorm folded into the convolution before it",
    "channels_last": "convolutions in the channels-last layout",
    "bf16": "bfloat16: autocast, with the weights of linear layers and convolutions cast once",
    "int8": "weights of linear layers in 8 bits (torchao)",
    "compile": "torch.compile of the pass, which returns the taps",
    "offload": "the teacher lives on the CPU and visits the device once for each window of micro-batches",
    "stream": "passes of a window are made ahead on a second CUDA stream",
}
"""The options, in the order in which they are applied."""
AUTO = ("truncate", "inference", "fold_bn", "channels_last", "bf16")
"""What ``"auto"`` tries: no ``compile``, ``int8``, ``offload`` or ``stream``, which cost time or serve memory."""
DEFAULT = "truncate"
CLOSE = 0.9999
"""The cosine with the plain float32 pass that every sample of every tensor must reach."""
LENGTH = 0.01
"""How far, at most, the lengths of the two may be apart: a cosine does not see a wrong scale."""
SAME = frozenset({"truncate", "inference", "offload", "stream"})  # these change no number
COPIED = frozenset({"fold_bn", "channels_last", "bf16", "int8"})  # these work on a copy of the teacher


@dataclass(frozen=True)
class TeacherForward:
    """What is asked of the teacher's plain passes (those without gradient, whole or up to the last tap).

    Every option is tried on the first real batch against the plain float32 pass and dropped, with a reason that the
    report states, unless for every sample the logits and every tap reach a cosine of 0.9999 and keep their length
    within 1 %. ``"auto"`` drops those that are not quicker too. The teacher itself is never changed: folding,
    channels-last, bf16 and int8 work on a copy, so that its weights are held twice. Whatever needs the teacher itself
    (``replace=``, ``params=``, ``part()``, ``grad=True``) gets it. Methods are handed float32.

    With any option but "truncate" alone, a run's mixed precision does not reach the teacher: it computes in float32
    unless "bf16" is kept.

    Attributes:
        options: a selection of :data:`OPTIONS`.
        auto: keep only what was measured to be quicker.

    >>> TeacherForward.of("bf16, inference").options
    ('inference', 'bf16')
    >>> TeacherForward.of("auto").auto, str(TeacherForward.of("plain"))
    (True, 'plain')
    """

    options: tuple[str, ...] = (DEFAULT,)
    auto: bool = False

    @classmethod
    def of(cls, text: str | TeacherForward) -> TeacherForward:
        """Read ``"plain"`` (nothing), ``"auto"``, or names of options separated by commas.

        Raises:
            DistilError: an unknown name, or ``int8`` without torchao.
        """
        if isinstance(text, TeacherForward):
            return text
        names = [name.strip() for name in str(text).split(",")]
        if names == ["plain"]:
            return cls(())
        if names == ["auto"]:
            return cls(AUTO, auto=True)
        for name in names:
            if name not in OPTIONS:
                raise DistilError(
                    f"teacher_forward has the unknown option '{name}'; write plain, auto, or options joined by commas; "
                    f"{nearest(name, [*OPTIONS, 'plain', 'auto'])}"
                )
        if "int8" in names and importlib.util.find_spec("torchao") is None:
            raise DistilError("teacher_forward=int8 needs torchao: pip install 'distil[quantise]'.")
        if "offload" in names and "stream" in names:
            raise DistilError(
                "teacher_forward has both offload and stream: a second stream keeps the teacher busy while offload "
                "takes it away. Name one."
            )
        if "offload" in names and "int8" in names:
            raise DistilError(
                "teacher_forward has both offload and int8: quantised weights cannot be moved to and fro. Name one."
            )
        return cls(tuple(name for name in OPTIONS if name in names))

    @property
    def exact(self) -> bool:
        """Whether no number can change."""
        return SAME.issuperset(self.options)

    @property
    def early(self) -> bool:
        """Whether the passes of a window are made at its beginning."""
        return "offload" in self.options or "stream" in self.options

    def __str__(self) -> str:
        return "auto" if self.auto else ",".join(self.options) or "plain"


@dataclass
class Settled:
    """What was kept for one teacher, and what was seen; plain data, for checkpoints and reports.

    Attributes:
        asked: the options as asked for. kept: those in use.
        dropped: the others, each with its reason.
        cosine: the lowest cosine with the plain float32 pass over the samples of the batch, for the logits and taps.
        plain_seconds, seconds: the median pass on that batch, plain and as kept, measured in turn.
        batch: how many samples it held. checking_seconds: what trying took.
        copy_bytes: what the copy of the weights takes.
        last: the tap after which a pass stops.
        reruns: whole passes made because an output was asked for that no method had listed.
        visits: how often an offloaded teacher came to the device.
    """

    asked: str
    kept: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    cosine: dict[str, float] = field(default_factory=dict)
    plain_seconds: float | None = None
    seconds: float | None = None
    batch: int = 0
    checking_seconds: float = 0.0
    copy_bytes: int = 0
    last: str | None = None
    reruns: int = 0
    visits: int = 0

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it, with ``speedup`` where both passes were timed."""
        timed = self.plain_seconds and self.seconds
        return asdict(self) | {"speedup": self.plain_seconds / self.seconds if timed else None}  # type: ignore[operator]

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Settled:
        """Read what :meth:`plain` returned."""
        return cls(**{name: value for name, value in stored.items() if name in cls.__dataclass_fields__})
