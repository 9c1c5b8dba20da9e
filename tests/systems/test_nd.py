"""ND through its method: warm-up, projector, class means, and the batch of one that BatchNorm cannot take."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.functional.prototypes import class_means, directional_norm
from distil.systems.nd import DirectNorm, published
from distil.systems.nd.method import direction_and_length
from distil.tasks import get_task

from .toys import CLASSES, image_distiller, mlp, samples, train


def term(distiller: Distiller) -> DirectNorm:
    return next(c.method for c in distiller.method if isinstance(c.method, DirectNorm))


def embedding(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The input of the model's last linear layer."""
    seen: list[torch.Tensor] = []
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(inputs)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.0), (10, 1.75), (20, 3.5), (200, 3.5)])
def test_the_base_term_warms_up_and_the_others_do_not(epoch: int, weight: float) -> None:
    made = image_distiller(published(kd_weight=3.5, nd_weight=2.0), epochs=300)
    made.ctx.epoch = epoch
    weights = {c.name: c.coefficient(made.ctx) for c in made.method}
    assert weights == {"supervised": 1.0, "kd": weight, "directnorm": 2.0}
    step = made.eval()(samples())
    assert ("kd" in step.terms) == (weight > 0)
    named = sum(weights[name] * value for name, value in step.terms.items())
    torch.testing.assert_close(step.loss, torch.as_tensor(named))


@pytest.mark.parametrize("base", ["kd", "dkd", "dist"])
def test_every_base_is_warmed_up(base: str) -> None:
    made = image_distiller(published(base=base, warmup=4), epochs=8)
    ramp = next(c.coefficient for c in made.method if c.name == base)
    seen = []
    for epoch in range(6):
        made.ctx.epoch = epoch
        seen.append(ramp(made.ctx))
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def dead_for(labels: list[int]) -> tuple[Distiller, dict[str, torch.Tensor]]:
    """A distiller whose teacher embeds samples of some classes as zero, and its data."""
    data = samples()
    data["inputs"] = torch.where(torch.isin(data["labels"], torch.tensor(labels))[:, None], -1.0, data["inputs"].abs())
    student, teacher = (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES)) for _ in range(2))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.eye(6))
        teacher[0].bias.zero_()
    return Distiller(student, teacher, DirectNorm(), example=data), data


@pytest.mark.parametrize(
    ("labels", "said"), [([2], "is zero for class 2, of which the data hold samples"), ([*range(9)], "for every class")]
)
def test_a_teacher_whose_embedding_is_dead_is_named_before_training(labels: list[int], said: str) -> None:
    made, data = dead_for(labels)
    with pytest.raises(DistilError, match=rf"'emb'\) .*{said}.*the layer is dead there"):
        made.prepare([data])
    fine, data = dead_for([])
    fine.prepare([data])
    only_length = DirectNorm(part="norm")  # which reads no mean
    Distiller(*(dead_for(labels)[0].student, dead_for(labels)[0].teachers["model"]), only_length, example=data).prepare(
        [dead_for(labels)[1]]
    )


def test_a_mean_of_zero_says_what_may_be_wrong() -> None:
    row = torch.ones(1, 2)
    with pytest.raises(DistilError, match=r"class 0 is zero.* holds every class, with a teacher .* \(a dead layer\)"):
        directional_norm(row, row, torch.zeros(1, 2), torch.tensor([0]))


def test_an_unknown_base_or_part_lists_the_nearest() -> None:
    with pytest.raises(DistilError, match=r"did you mean .*'dkd'"):
        published(base="kdd")
    with pytest.raises(DistilError, match="did you mean 'cosine'"):
        published(part="cosin")


def test_there_is_a_projector_exactly_where_widths_differ() -> None:
    assert isinstance(term(image_distiller(published(), width=8, teacher_width=8)).projector, nn.Identity)
    kinds = [type(m) for m in term(image_distiller(published(), width=4, teacher_width=8)).projector.children()]
    assert kinds == [nn.BatchNorm1d, nn.Dropout, nn.Linear]


def test_the_projector_is_trained_and_does_not_ship() -> None:
    made = image_distiller(published(), width=4)
    projector = list(term(made).projector.parameters())
    groups = made.groups()
    assert {id(p) for p in groups["directnorm"]} == {id(p) for p in projector}
    assert {id(p) for p in projector} <= {id(p) for p in made.parameters()}
    before = [p.detach().clone() for p in projector]
    train(made, samples())
    assert all(not torch.equal(old, new) for old, new in zip(before, projector, strict=True))
    shipped = made.deployed()
    assert shipped is made.student
    assert not any("projector" in name or "mean" in name for name in shipped.state_dict())
    assert not any("projector" in name for name, _ in image_distiller(published(), width=8).named_parameters())


def test_the_projector_starts_as_the_official_one_and_serves_this_term_alone() -> None:
    made = image_distiller(published(), width=4)
    norm, dropout, last = term(made).projector.children()
    assert isinstance(norm, nn.BatchNorm1d)
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5
    assert isinstance(last, nn.Linear)
    assert (last.bias == 0).all()
    logits = made.eval()(samples()).student
    torch.testing.assert_close(logits, made.student(samples()["inputs"]))


def test_means_are_those_of_the_teachers_embeddings_over_the_data_given_to_prepare() -> None:
    made = image_distiller(published(), width=8)
    data = samples(30, seed=5)
    made.prepare([{k: v[:11] for k, v in data.items()}, {k: v[11:] for k, v in data.items()}])
    (teacher,) = made.teachers.values()
    theirs = embedding(teacher, data["inputs"])
    means = class_means(theirs, data["labels"], 5)
    torch.testing.assert_close(term(made).means, means)
    ours = embedding(made.student, data["inputs"])
    step = made.eval()(data)
    torch.testing.assert_close(step.terms["directnorm"], directional_norm(ours, theirs, means, data["labels"]).detach())


def test_a_class_that_never_occurs_is_named_before_training() -> None:
    made = Distiller(mlp(4), mlp(8, 1), published(), example=samples(), epochs=1)
    few = {key: value[:3] for key, value in samples().items()}
    with pytest.raises(DistilError, match="no sample of class 3, 4 was seen"):
        made.prepare([few])
    with pytest.raises(DistilError, match=r"call distiller.prepare\(data\) first"):
        made.watch(torch.optim.SGD(made.parameters())) and made(samples())


def test_no_gradient_reaches_the_teacher_or_the_means() -> None:
    made = image_distiller(published(), width=4)
    train(made, samples())
    assert all(p.grad is None for teacher in made.teachers.values() for p in teacher.parameters())
    assert not term(made).means.requires_grad


def test_a_batch_of_one_uses_running_statistics_and_says_so() -> None:
    made = image_distiller(published(), width=4)
    norm = next(m for m in term(made).projector.children() if isinstance(m, nn.BatchNorm1d))
    made(samples())  # statistics to use
    made.after_step()
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    one = {key: value[:1] for key, value in samples().items()}
    with pytest.warns(UserWarning, match="A batch of one sample: BatchNorm uses its running statistics"):
        step = made(one)
    step.loss.backward()
    assert step.loss.isfinite()
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    made.after_step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(one)  # said once


def test_a_run_whose_last_batch_holds_one_sample_finishes() -> None:
    made = Distiller(mlp(4), mlp(8, 1), published(warmup=1), example=samples(), epochs=2)
    inputs = samples(21)
    data = [{key: value[i : i + 10] for key, value in inputs.items()} for i in (0, 10, 20)]
    with pytest.warns(UserWarning, match="A batch of one sample"):
        result = fit(made, data, epochs=2, check_teacher=False)
    assert result.cost["updates"] == 6


def test_a_label_outside_the_classes_is_named() -> None:
    made = image_distiller(published())
    wrong = samples()
    wrong["labels"] = wrong["labels"].clone()
    wrong["labels"][7] = 9
    with pytest.raises(DistilError, match="label 9"):
        made(wrong)


def test_the_term_alone_turns_embeddings_towards_their_class_means_and_lengthens_them() -> None:
    made = image_distiller(3.0 * DirectNorm(), width=8)
    data = [samples()]
    before = direction_and_length(made.eval(), data)
    optimizer = made.train().watch(torch.optim.Adam(made.parameters(), lr=0.02))
    for _ in range(60):
        made(samples()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = direction_and_length(made.eval(), data)
    assert after["cosine with class mean"] > before["cosine with class mean"] + 0.1
    assert after["length over teacher's"] > max(before["length over teacher's"], 0.8)


def test_the_teachers_own_embedding_is_not_at_rest() -> None:
    twin = mlp(8, 1)
    made = Distiller(twin, mlp(8, 1), published(), example=samples(), epochs=2).prepare([samples()])
    step = made.eval()(samples())
    assert step.terms["directnorm"] > 0.01
    assert get_task("classification").evaluate(made.deployed(), [samples()])["accuracy"] >= 0
