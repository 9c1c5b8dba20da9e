"""What every loss of the package owes: gradients, precision, reductions, refusals, and its value at equality."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

import distil.functional as D
from distil.errors import DistilError

from .oracles import gradient, normal

LABELS = torch.tensor([0, 2, 1, 3])
EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 0, 3, 2, 2]])
MEANS = normal(4, 5, seed=9)


@dataclass(frozen=True)
class Loss:
    """One loss with everything but the two tensors filled in."""

    call: Callable[..., Tensor]
    student: tuple[int, ...] = (4, 5)
    teacher: tuple[int, ...] = (4, 5)
    zero: bool = True  # value and gradient vanish at student = teacher
    detached: bool = False  # the teacher never receives a gradient
    rows: bool = True  # has reduction= and weight=, one weight per first axis of the values


def labelled(function: Callable[..., Tensor], labels: Tensor = LABELS, **options: object) -> Callable[..., Tensor]:
    return lambda s, t, **kw: function(s, t, labels[: len(s)], **options, **kw)


def two_numbers(**options: object) -> Callable[..., Tensor]:
    """Against given distances, or those of given logits; one image is mixed with its own class, one with nothing."""

    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        pair = LABELS[: len(s)], torch.tensor([1, 2, -100, 0])[: len(s)]
        return D.two_distances(s, D.label_distances(t, *pair) if t.shape == s.shape else t, *pair, **options, **kw)

    return call


def on_edges(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        return function(s, t, EDGES if len(s) > 1 else EDGES[:, :0], **options, **kw)

    return call


def to_means(**options: object) -> Callable[..., Tensor]:
    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        means = MEANS if s.dtype == torch.float64 else MEANS.float()
        return D.directional_norm(s, t, means, LABELS[: len(s)], **options, **kw)

    return call


def masked(kind: str, function: Callable[..., Tensor] = D.masked_mse, **options: object) -> Callable[..., Tensor]:
    """Fixed masks, cut to the batch and brought to the maps' precision."""

    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        masks = MASKS[kind][: len(s)].to(torch.float64 if s.dtype == torch.float64 else torch.float32)
        return function(s, t, masks, **options, **kw)

    return call


def by_tokens(function: Callable[..., Tensor], *, importance: bool = False, **options: object) -> Callable[..., Tensor]:
    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        wide = torch.float64 if s.dtype == torch.float64 else torch.float32
        given = [TOKENS.to(wide)] + ([torch.full((len(s), 2), 0.5, dtype=wide)] if importance else [])
        return function(s, t, *given, **options, **kw)

    return call


def remembered(copies: int = 1) -> Callable[..., Tensor]:
    """CRD against fixed banks and constants; long banks are gathered from, short ones are multiplied."""

    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        wide = torch.float64 if s.dtype == torch.float64 else torch.float32
        banks = [torch.cat([normal(6, 5, seed=seed)] * copies).to(wide) for seed in (7, 8)]
        index = torch.tensor([[0, 3, 4], [1, 5, 2], [2, 0, 1], [3, 0, 5]])[: len(s)]
        log_z = torch.tensor(1.5, dtype=wide)
        return D.crd(s, t, *banks, index, temperature=1.0, log_z=(log_z, log_z), **kw)

    return call


def hidden(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Every patch is removed."""
    return lambda s, t, **kw: function(s, t, torch.ones(s.shape[:2]), **kw)


def weighed(student: Tensor, teacher: Tensor, labels: Tensor, **options: object) -> Tensor:
    """Teacher and label in a fixed ratio for each row."""
    return D.fused(student, teacher, labels, torch.tensor([0.2, 1.0, 0.0, 0.7])[: len(student)], **options)


def per_channel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A learned number for each of three channels, in the maps' precision."""

    def call(s: Tensor, t: Tensor, **kw: object) -> Tensor:
        scale = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64 if s.dtype == torch.float64 else torch.float32)
        return function(s, t, scale, **kw)

    return call


TOKENS = normal(2, 3, scale=0.1)
MASKS = {"channel": normal(4, 2, 3).sigmoid(), "spatial": normal(4, 2, 4, 4).sigmoid()}
DENSE = {"student": (4, 3, 4, 4), "teacher": (4, 3, 4, 4)}
MAPS = {"student": (3, 2, 4, 4), "teacher": (3, 5, 4, 4)}


def of_one(target: str) -> Callable[..., Tensor]:
    """Several teachers, of whom there is one."""
    return lambda s, t, **kw: D.several_teachers(s, t[None], torch.ones(1, len(t)), target=target, **kw)


LOSSES = {
    **{f"several_teachers {name}": Loss(of_one(name), detached=True) for name in ("probabilities", "logits", "losses")},
    "kl": Loss(partial(D.kl, temperature=2.0)),
    "bernoulli_kl": Loss(partial(D.bernoulli_kl, temperature=2.0), student=(6,), teacher=(6,)),
    "cosine_distance": Loss(D.cosine_distance),
    "reverse_kl": Loss(partial(D.reverse_kl, temperature=2.0)),
    "soft_cross_entropy": Loss(partial(D.soft_cross_entropy, temperature=2.0), zero=False),
    **{f"kd-{name}": Loss(partial(D.kd, convention=name), zero=name != "textbrewer") for name in D.CONVENTIONS},
    "tckd": Loss(labelled(D.tckd, temperature=2.0)),
    "nckd": Loss(labelled(D.nckd, temperature=2.0)),
    "dkd": Loss(labelled(D.dkd)),
    "standardised kl": Loss(lambda s, t, **kw: D.kl(D.standardise(s), D.standardise(t), **kw)),
    "jsd": Loss(partial(D.jsd, beta=0.3, temperature=2.0)),
    "total_variation": Loss(D.total_variation),
    "skew_kl": Loss(partial(D.skew_kl, alpha=0.2)),
    "skew_reverse_kl": Loss(partial(D.skew_reverse_kl, alpha=0.2)),
    "interpolated_kl": Loss(partial(D.interpolated_kl, share=1.0, temperature=2.0)),
    "soft_label_cross_entropy": Loss(
        lambda s, t, **kw: D.soft_label_cross_entropy(s, D.mean_labels([t]), **kw), zero=False, detached=True
    ),
    "source_cross_entropy": Loss(D.source_cross_entropy, (4, 2), (4, 2), zero=False),
    "mse": Loss(D.mse),
    "attention code": Loss(D.attention_transfer, **MAPS),
    "attention paper": Loss(partial(D.attention_transfer, variant="paper"), **MAPS),
    "attention pooled": Loss(D.attention_transfer, student=(3, 2, 6, 8), teacher=(3, 2, 3, 4)),
    **{f"masked_mse {kind}": Loss(masked(kind), **DENSE) for kind in MASKS},
    "masked_mse literal": Loss(masked("channel", normalizer="literal"), **DENSE),
    "maskd_segmentation": Loss(by_tokens(D.maskd_segmentation), **DENSE),
    "maskd_detection": Loss(by_tokens(D.maskd_detection, importance=True, customised=False), **DENSE),
    **{f"cwd {norm}": Loss(partial(D.cwd, norm=norm), **DENSE) for norm in ("channel", "spatial")},
    "vid": Loss(per_channel(D.vid), **DENSE, zero=False),
    **{f"fsp {variant}": Loss(partial(D.fsp, variant=variant), (4, 2, 3), (4, 2, 3)) for variant in ("code", "paper")},
    "fsp torchdistill": Loss(partial(D.fsp, variant="torchdistill"), (4, 2, 3), (4, 2, 3)),
    **{
        f"token_distance {kind}{'' if on else ' raw'}": Loss(
            partial(D.token_distance, distance=kind, normalise=on), (4, 3, 5), (4, 3, 5)
        )
        for kind in ("l1", "l2")
        for on in (True, False)
    },
    "masked_reconstruction": Loss(hidden(D.masked_reconstruction), (4, 3, 5), (4, 3, 5)),
    "hierarchical_context": Loss(D.hierarchical_context, student=(3, 2, 5, 4), teacher=(3, 2, 5, 4)),
    "class_attention": Loss(D.class_attention, student=(3, 4, 4, 4), teacher=(3, 4, 6, 6)),
    "class_attention raw": Loss(partial(D.class_attention, normalise=False, classes=2), **DENSE),
    "cwd channel_mean": Loss(partial(D.cwd, norm="channel_mean", divergence="mse"), **DENSE),
    "gram samples": Loss(D.sample_gram, student=(4, 2, 3, 3), teacher=(4, 5, 2, 2)),
    "gram channels": Loss(D.channel_gram, student=(4, 3, 3, 3), teacher=(4, 3, 2, 2)),
    "gram gradients": Loss(D.gradient_gram),
    "pkt": Loss(D.pkt, teacher=(4, 7)),
    "cc code": Loss(D.correlation_congruence),
    **{
        f"cc {kernel}": Loss(partial(D.kernel_congruence, kernel=kernel), teacher=(4, 7), rows=False)
        for kernel in ("gaussian", "bilinear")
    },
    "nst": Loss(D.nst, **MAPS),
    "nst pooled": Loss(D.nst, student=(3, 2, 6, 8), teacher=(3, 2, 3, 4)),
    "batch_relation": Loss(partial(D.batch_relation, temperature=2.0)),
    "class_relation": Loss(partial(D.class_relation, temperature=2.0)),
    "crd": Loss(remembered(), zero=False),
    "crd gathered": Loss(remembered(copies=20), zero=False),
    "rkd_distance": Loss(D.rkd_distance, teacher=(4, 7)),
    "rkd_angle": Loss(D.rkd_angle, teacher=(4, 7)),
    "rkd": Loss(D.rkd, teacher=(4, 7), rows=False),
    "dist_inter": Loss(D.dist_inter),
    "dist": Loss(partial(D.dist, temperature=2.0), rows=False),
    "dist torchdistill": Loss(partial(D.dist, variant="torchdistill"), rows=False),
    **{
        f"plackett_luce {weights}": Loss(labelled(D.plackett_luce, weights=weights), zero=False, detached=True)
        for weights in ("teacher", "uniform", "position", "first-only")
    },
    **{f"fused {on}": Loss(labelled(weighed, labels_on=on), zero=False) for on in ("logits", "probabilities")},
    "plackett_luce both": Loss(labelled(D.plackett_luce, standardise="both"), zero=False, detached=True),
    "directional_norm": Loss(to_means(), zero=False, detached=True),
    "directional_norm cosine": Loss(to_means(part="cosine"), zero=False, detached=True),
    **{
        f"enhanced {name}": Loss(
            labelled(D.enhanced_cross_entropy, enhance=name, gamma=1.5, temperature=2.0), zero=False, detached=True
        )
        for name in ("code", "target_only", "off")
    },
    "low_frequency": Loss(on_edges(D.low_frequency), zero=False, detached=True),
    "high_frequency": Loss(on_edges(D.high_frequency, temperature=1.5), detached=True),
    "inner_relation": Loss(D.inner_relation, student=(4, 3, 5), teacher=(4, 3, 7)),
    **{
        f"local_relation {mask} {sigma}": Loss(
            partial(D.local_relation, neighbours=2, mask=mask, sigma=sigma, sharpness=3.0), teacher=(4, 7)
        )
        for mask in ("own", "shared")
        for sigma in ("median", 2.0)
    },
    **{
        f"two_distances {name}": Loss(two_numbers(distance=name), teacher=(4, 2), detached=True)
        for name in D.two_numbers.DISTANCES
    },
    "token_contrast": Loss(partial(D.token_contrast, temperature=0.5), zero=False),
}
BATCHWISE = ("pkt", "cc c", "batc", "clas", "loca", "toke")  # values that depend on who shares the batch
EVERY = pytest.mark.parametrize("name", LOSSES)


def pair(name: str, *, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    loss = LOSSES[name]
    return normal(*loss.student, scale=scale, dtype=dtype), normal(*loss.teacher, seed=1, scale=scale, dtype=dtype)


@EVERY
def test_gradient_equals_finite_differences(name: str) -> None:
    student, teacher = pair(name)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name].call(s, teacher), student.requires_grad_())


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = pair(name, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        half = LOSSES[name].call(student, teacher)
        full = LOSSES[name].call(student.float(), teacher.float())
    assert half.dtype == torch.float32
    assert torch.equal(half, full)
    exact = LOSSES[name].call(student.double(), teacher.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(full.double(), exact, rtol=2e-5, atol=1e-6)


@EVERY
def test_reductions_and_weights_agree_with_the_unreduced_values(name: str) -> None:
    loss = LOSSES[name]
    if not loss.rows:
        with pytest.raises(TypeError):
            loss.call(*pair(name), reduction="none")
        return
    student, teacher = pair(name)
    values = loss.call(student, teacher, reduction="none")
    weight = torch.linspace(0, 1, len(values), dtype=torch.float64).reshape(-1, *[1] * (values.ndim - 1))
    torch.testing.assert_close(loss.call(student, teacher), values.mean())
    torch.testing.assert_close(loss.call(student, teacher, reduction="sum"), values.sum())
    torch.testing.assert_close(loss.call(student, teacher, weight=weight, reduction="none"), values * weight)
    expected = (values * weight).sum() / weight.expand_as(values).sum()
    torch.testing.assert_close(loss.call(student, teacher, weight=weight), expected)
    with pytest.raises(DistilError, match="reduction='median' is unknown"):
        loss.call(student, teacher, reduction="median")


@EVERY
def test_value_and_gradient_vanish_at_equality_where_they_should(name: str) -> None:
    loss, (student, _) = LOSSES[name], pair(name)
    slope = gradient(lambda s: loss.call(s, student), student)
    value = loss.call(student, student)
    # DIST's authors add 1e-8 to the product of the lengths, which costs about 1e-5 on flat predictions.
    assert (bool(value.abs() < 1e-4) and bool(slope.abs().max() < 1e-4)) is loss.zero


@EVERY
@pytest.mark.parametrize("scale", [60.0, 1e4])
def test_extreme_inputs_stay_finite(name: str, scale: float) -> None:
    student, teacher = pair(name, dtype=torch.float32, scale=scale)
    student, teacher = student.clamp(-scale, scale), teacher.clamp(-scale, scale)
    assert LOSSES[name].call(student, teacher).isfinite()
    assert gradient(lambda s: LOSSES[name].call(s, teacher), student).isfinite().all()


@EVERY
def test_constant_inputs_stay_finite(name: str) -> None:
    student, teacher = pair(name)
    for s, t in ((0 * student, teacher), (student, 0 * teacher), (0 * student, 0 * teacher)):
        assert LOSSES[name].call(s, t).isfinite()
        assert gradient(lambda x, t=t: LOSSES[name].call(x, t), s).isfinite().all()


@EVERY
def test_a_batch_of_one_gives_a_finite_value_and_gradient(name: str) -> None:
    student, teacher = pair(name)
    value = LOSSES[name].call(student[:1].requires_grad_(), teacher[:1])
    assert value.isfinite()
    assert gradient(lambda s: LOSSES[name].call(s, teacher[:1]), student[:1]).isfinite().all()


@pytest.mark.parametrize(
    "name", [n for n, loss in LOSSES.items() if loss.rows and n[:4] not in ("rkd_", "low_", "high", "gram", *BATCHWISE)]
)
def test_rows_of_weight_zero_are_as_good_as_absent(name: str) -> None:
    loss, (student, teacher) = LOSSES[name], pair(name)
    keep = torch.ones(len(student), dtype=torch.float64)
    keep[-1] = 0
    keep = keep.reshape(-1, *[1] * (loss.call(student, teacher, reduction="none").ndim - 1))
    torch.testing.assert_close(loss.call(student, teacher, weight=keep), loss.call(student[:-1], teacher[:-1]))


@EVERY
def test_mismatched_shapes_are_refused_by_both_shapes(name: str) -> None:
    student, teacher = pair(name)
    with pytest.raises(DistilError) as refused:
        LOSSES[name].call(student, teacher[:-1])
    assert str(tuple(teacher[:-1].shape)) in str(refused.value)
    assert str(len(student)) in str(refused.value)


@EVERY
def test_the_teacher_gets_a_gradient_only_where_the_caller_decides(name: str) -> None:
    student, teacher = pair(name)
    (slope,) = torch.autograd.grad(
        LOSSES[name].call(student.requires_grad_(), teacher.requires_grad_()),
        teacher,
        allow_unused=True,
    )
    assert (slope is None) is LOSSES[name].detached


@pytest.mark.parametrize("name", ["kl", "dkd", "dist", "plackett_luce teacher", "low_frequency"])
def test_a_temperature_that_is_not_above_zero_is_refused(name: str) -> None:
    option = "teacher_temperature" if name.startswith("plackett") else "temperature"
    call = {"dkd": labelled(D.dkd), "dist": D.dist}.get(name, LOSSES[name].call)
    call = D.kl if name == "kl" else call
    with pytest.raises(DistilError, match="must be above 0"):
        call(*pair(name), **{option: 0.0})


def test_every_public_name_is_exported_once_and_sorted() -> None:
    assert sorted(D.__all__) == sorted(set(D.__all__))
    assert all(hasattr(D, name) for name in D.__all__)


@pytest.mark.parametrize("module", sorted(m.name for m in pkgutil.iter_modules(D.__path__)))
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"distil.functional.{module}")).failed == 0
