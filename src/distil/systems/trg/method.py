"""TRG as a method: three relations of tokens, within an image, between neighbours, and across networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from distil.engine.context import Context
from distil.engine.method import AtEquality, Batch, Handles, Method, Sum, Traces
from distil.engine.schedule import cosine, ramp
from distil.engine.trace import Spec, side_of
from distil.errors import DistilError, nearest
from distil.functional.reduction import Term
from distil.functional.token_graph import DIRECTIONS, MASKS, SIGMAS, local_relation, token_contrast
from distil.functional.tokens import draw_tokens, gather_tokens, image_values, inner_relation, token_pair
from distil.methods.kd import KD
from distil.methods.places import lie_of
from distil.methods.supervised import Supervised

__all__ = ["TokenGraph", "published"]

FALLS = ("linear", "cosine", "constant")
REDUCTIONS = ("sum", "mean")


@final
class TokenGraph(Method):
    """Match how the teacher's tokens relate: within an image, among neighbours in the batch, and across networks.

    Feature maps and token sequences become tokens at the same places of both networks. ``inner``: each image's row
    softmax of F Fᵀ / √D is matched by mean squared error. Of every image ``samples`` tokens are drawn, anew in each
    step; they are the nodes of one graph for each network, with weights exp(−d² / 2σ) between nearest neighbours.
    ``local``: the row softmaxes of both graphs are matched by a divergence. ``contrast`` (the paper's global term):
    after a linear layer on each side, the student's token finds the teacher's token of the same place among all others,
    at a temperature that falls during training. A weight of 0 leaves a part out.

    Args:
        inner, local, contrast: weights of the three parts; not all 0.
        tap: what is cut into tokens: a map ``[N, C, H, W]``, a sequence ``[N, L, D]`` or an embedding ``[N, D]``;
            ``"tokens"`` for two transformers, ``("tokens", "map")`` for a transformer taught by a CNN.
        samples: n, tokens drawn from each image; all of them where it has fewer.
        neighbours: k of the graphs.
        patch: side of a patch of a map.
        grid: maps are pooled to so many places a side first; 1 makes each image one token.
        class_tokens: leading tokens of a sequence that are no patches; by default what the models themselves say, and
            of square images whose grid nobody knows, what leaves a square.
        mask: "own" (each network's own neighbours) or "shared" (the teacher's for both).
        sigma: "detached", "median", or a number; see :func:`~distil.functional.graph_weights`.
        direction: of the local divergence: which network's distribution stands first, "student" or "teacher".
        reduction: of ``local`` over nodes: "sum" as printed, or "mean", which does not grow with the batch.
        sharpness: an inverse temperature of the graphs' weights; the paper has none.
        projection: the common width of both linear layers.
        tau_first, tau_last: the contrast's temperature in the first and in the last epoch.
        fall: "linear", "cosine", or "constant" (``tau_last`` throughout).

    Requirements: a tap whose tokens stand for places. ``local`` and ``contrast`` depend on who shares the batch. Memory
    grows with (N · samples)². A temperature that falls needs to know the number of epochs.

    Relations:
        RKD and SP relate whole samples; with ``grid=1`` so does this.

    Example:
        >>> from distil.systems.trg import TokenGraph
        >>> TokenGraph(inner=0, neighbours=4).expression
        'tokengraph(inner=0, neighbours=4)'

    Paper: Zhang, Liu, He, Knowledge Distillation via Token-level Relationship Graph, 2023, arXiv 2306.12442.
    Differs from official code: none was found; what the paper leaves open is an argument here, and the card says what
    was chosen. A loss that is only measured draws the same tokens every time.
    """

    at_equality: Mapping[str, AtEquality] = {"inner": "zero", "local": "zero", "contrast": None}

    def __init__(
        self,
        *,
        inner: float = 100.0,
        local: float = 0.25,
        contrast: float = 0.2,
        tap: Spec = "map",
        samples: int = 4,
        neighbours: int = 8,
        patch: int = 1,
        grid: int | None = None,
        class_tokens: int | None = None,
        mask: str = "own",
        sigma: float | str = "detached",
        direction: str = "student",
        reduction: str = "sum",
        sharpness: float = 1.0,
        projection: int = 128,
        tau_first: float = 0.5,
        tau_last: float = 0.1,
        fall: str = "linear",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for key, value, options in (
            ("mask", mask, MASKS), ("direction", direction, DIRECTIONS), ("reduction", reduction, REDUCTIONS),
            ("fall", fall, FALLS), *([("sigma", sigma, SIGMAS)] if isinstance(sigma, str) else []),
        ):  # fmt: skip
            if value not in options:
                raise DistilError(f"tokengraph({key}={value!r}) is unknown; {nearest(str(value), options)}")
        weights = {"inner": inner, "local": local, "contrast": contrast}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise DistilError(f"tokengraph: {weights} must not be below 0, nor all be 0; give one part a weight.")
        positive = {"tau_first": tau_first, "tau_last": tau_last, "sharpness": sharpness}
        if not isinstance(sigma, str):
            positive["sigma"] = sigma
        for key, number in positive.items():
            if not number > 0:
                raise DistilError(f"tokengraph({key}={number}) must be above 0.")
        whole = {"samples": samples, "neighbours": neighbours, "patch": patch, "projection": projection}
        for key, number in {**whole, "grid": 1 if grid is None else grid}.items():
            if number < 1:
                raise DistilError(f"tokengraph({key}={number}) must be at least 1.")
        if fall != "constant" and tau_last > tau_first:
            raise DistilError(
                f"tokengraph: the temperature falls, and tau_first={tau_first} is below tau_last={tau_last}; exchange "
                "them, or use fall=constant."
            )
        self.inner, self.local, self.contrast = inner, local, contrast
        self.at_equality = {key: claim for key, claim in TokenGraph.at_equality.items() if weights[key]}
        self.tap: Spec = tap if isinstance(tap, str) else (tap[0], tap[1])
        self.taps = (self.tap,)
        self.samples, self.neighbours, self.projection = samples, neighbours, projection
        self.patch, self.grid, self.class_tokens = patch, grid, class_tokens
        self.mask, self.sigma, self.direction, self.sharpness = mask, sigma, direction, sharpness
        self.reduction, self.tau_first, self.tau_last, self.fall = reduction, tau_first, tau_last, fall

    def setup(self, student: Traces, teacher: Traces) -> None:
        """Check that both sides give tokens, and make the linear layers of the contrast."""
        ours, theirs = self.tokens(student, teacher)
        if self.contrast:
            self.student_projection = nn.Linear(ours.shape[2], self.projection, bias=False)
            self.teacher_projection = nn.Linear(theirs.shape[2], self.projection, bias=False)

    def tokens(self, student: Traces, teacher: Traces) -> tuple[Tensor, Tensor]:
        """Return both sides' tokens, ``[N, P, D]`` each with its own width, at the same places."""
        for trace in (student, teacher):
            if not isinstance(trace[self.tap], Tensor):
                raise DistilError(
                    f"tokengraph compares one map, one sequence of tokens or one embedding; tap "
                    f"'{side_of(self.tap, trace.role)}' of the {trace.role} gives {len(trace[self.tap])} outputs. Name "
                    "one of them, e.g. tokengraph(tap='stages.1')."
                )
        return token_pair(
            student[self.tap], teacher[self.tap], patch=self.patch, grid=self.grid, class_tokens=self.class_tokens,
            **lie_of("tokengraph", self.tap, student, teacher, self.class_tokens),
        )  # fmt: skip

    def nodes(self, student_tokens: Tensor, teacher_tokens: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the drawn tokens of the whole batch, ``[N · n, D]``, the same places on both sides."""
        images, count, _ = student_tokens.shape
        drawn = draw_tokens(images, count, self.samples, generator=rng, device=student_tokens.device)
        return gather_tokens(student_tokens, drawn), gather_tokens(teacher_tokens, drawn)

    def temperature(self, ctx: Context) -> float:
        """Return the contrast's temperature in this epoch: the first epoch's, …, the last epoch's."""
        if self.fall == "constant":
            return self.tau_last
        if ctx.epochs is None:
            raise DistilError(
                "tokengraph's temperature falls over the epochs, whose number is unknown: pass epochs= to Distiller, "
                "use distil.fit, or give tokengraph(fall=constant)."
            )
        way = ramp if self.fall == "linear" else cosine
        return way(epochs=max(1, ctx.epochs - 1), first=self.tau_first, last=self.tau_last)(ctx)

    def forward(self, student: Handles, teacher: Handles, batch: Batch, ctx: Context) -> dict[str, Term]:
        """Return ``inner``, one value per image, and ``local`` and ``contrast``, coupled, averaged for each image."""
        ours, theirs = self.tokens(student(batch), teacher(batch))
        terms: dict[str, Term] = {}
        if self.inner:
            terms["inner"] = Term(self.inner * inner_relation(ours, theirs, reduction="none"))
        if not self.local and not self.contrast:
            return terms
        images = len(ours)
        s, t = self.nodes(ours, theirs, ctx.rng if ctx.training else torch.Generator().manual_seed(0))
        if self.local:
            values = local_relation(
                s, t, neighbours=self.neighbours, mask=self.mask, sigma=self.sigma, direction=self.direction,
                sharpness=self.sharpness, reduction="none",
            )  # fmt: skip
            terms["local"] = Term(self.local * image_values(values, images, reduction=self.reduction), coupled=True)
        if self.contrast:
            found = token_contrast(
                self.student_projection(s), self.teacher_projection(t), temperature=self.temperature(ctx),
                reduction="none",
            )  # fmt: skip
            terms["contrast"] = Term(self.contrast * image_values(found, images), coupled=True)
        return terms


def published(
    *,
    kd: float = 1.0,
    temperature: float = 4.0,
    inner: float = 100.0,
    local: float = 0.25,
    contrast: float = 0.2,
    tap: Spec = "map",
    samples: int = 4,
    neighbours: int = 8,
    patch: int = 1,
    grid: int | None = None,
    class_tokens: int | None = None,
    mask: str = "own",
    sigma: float | str = "detached",
    direction: str = "student",
    reduction: str = "sum",
    sharpness: float = 1.0,
    projection: int = 128,
    tau_first: float = 0.5,
    tau_last: float = 0.1,
    fall: str = "linear",
) -> Sum:
    """Return the paper's whole loss: labels, ``kd`` times KD, and the three relations under their weights.

    >>> sorted(published().methods), sorted(published(kd=0).methods)
    (['kd', 'supervised', 'tokengraph'], ['supervised', 'tokengraph'])
    """
    options: dict[str, Any] = {"inner": inner, "local": local, "contrast": contrast, "tap": tap, "samples": samples}
    options |= {"neighbours": neighbours, "patch": patch, "grid": grid, "class_tokens": class_tokens, "mask": mask}
    options |= {"sigma": sigma, "direction": direction, "reduction": reduction, "sharpness": sharpness}
    options |= {"projection": projection, "tau_first": tau_first, "tau_last": tau_last, "fall": fall}
    return Supervised() + kd * KD(temperature=temperature) + TokenGraph(**options)
