"""OFA-KD through its methods: what is taught, to whom, from which stages, and what is left of it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.cache import CachedTeacher, TeacherCache
from distil.data import DictDataset
from distil.engine import fit
from distil.engine.distiller import Distiller
from distil.errors import DistilError
from distil.functional import enhanced_cross_entropy, soft_cross_entropy
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import update
from distil.methods import Supervised
from distil.methods.expression import parse
from distil.models import load_model
from distil.report.check import validate
from distil.systems.ofa_kd import OFAExits, OFALogits, published
from distil.tasks import get_task

from .toys import CLASSES, Fixed, seeded

STUDENTS = {
    "resnet8": 3,
    "resnet(depth=(1, 1, 1, 1), widths=(4, 6, 8, 10))": 4,
    "cnn(widths=(4, 6))": 2,
    "vit(patch=4, dim=8, depth=12, heads=2)": 4,
    "vit(patch=4, dim=8, depth=2, heads=2)": 2,
    "mixer(patch=4, dim=8, depth=5)": 4,
}


def images(count: int = 20) -> dict[str, Tensor]:
    """Images large enough for four resolutions, in which every class occurs."""
    labels = torch.arange(count) % CLASSES
    inputs = torch.randn(count, 1, 16, 16, generator=seeded(0)) + labels[:, None, None, None]
    return {"inputs": inputs, "labels": labels, "id": torch.arange(count)}


def net(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return load_model(name if ":" in name else f"distil:{name}", classes=CLASSES, input_shape=(1, 16, 16))


def made(
    method: Any, student: str | nn.Module = "resnet8", teacher: str = "mlp(hidden=8)", **options: Any
) -> Distiller:
    module = net(student) if isinstance(student, str) else student
    return Distiller(module, net(teacher, 1), method, example=images(), **options)


def exits_of(distiller: Distiller) -> dict[str, nn.Module]:
    method: Any = distiller.method.methods["ofaexits"]
    return dict(method.exits.items())


@pytest.mark.parametrize(("student", "stages"), STUDENTS.items())
@pytest.mark.parametrize("teacher", ["mlp(hidden=8)", "vit(patch=4, dim=8, depth=1, heads=2)", "cnn(widths=(4, 6))"])
def test_any_family_teaches_any_other_at_every_stage(student: str, stages: int, teacher: str) -> None:
    distiller = made(published(), student, teacher)
    assert list(exits_of(distiller)) == [str(k + 1) for k in range(stages)]
    distiller(images()).loss.backward()
    taught = [
        p.grad is not None and bool(p.grad.any()) for leave in exits_of(distiller).values() for p in leave.parameters()
    ]
    assert sum(taught) > 0.9 * len(taught)


def test_depth_of_an_exit_is_the_number_of_stages_that_follow() -> None:
    three = exits_of(made(published(), "resnet8"))
    four = exits_of(made(published(), "resnet(depth=(1, 1, 1, 1), widths=(4, 6, 8, 10))"))
    assert [len(leave) for leave in three.values()] == [5, 4, 4]  # convolutions, pool, flatten, linear
    assert [len(leave) for leave in four.values()] == [6, 5, 4, 4]
    tokens = exits_of(made(published(), "vit(patch=4, dim=8, depth=12, heads=2)"))
    assert [len(leave.blocks) for leave in tokens.values()] == [3, 2, 1, 1]


def test_the_loss_is_the_papers_sum() -> None:
    distiller = made(
        published(gamma=[1.2, 1.4, 1.6, 1.8], temperature=2.0, logit_weight=0.5, branch_weight=0.25)
    ).eval()
    batch = images()
    student, teacher = (handle(batch) for handle in distiller.cast.handles())
    seen = [*zip(exits_of(distiller).values(), student["depths"], strict=True)]
    options: dict[str, Any] = {"temperature": 2.0}
    each = [
        enhanced_cross_entropy(leave(tap), teacher.logits, batch["labels"], gamma=g, **options)
        for (leave, tap), g in zip(seen, (1.2, 1.4, 1.6), strict=True)
    ]
    own = enhanced_cross_entropy(student.logits, teacher.logits, batch["labels"], gamma=1.8, **options)
    labels = nn.functional.cross_entropy(student.logits, batch["labels"])
    torch.testing.assert_close(distiller(batch).loss, labels + 0.5 * own + 0.25 * sum(each))


def test_gamma_one_is_at_rest_where_student_and_teacher_agree() -> None:
    z = torch.randn(8, CLASSES, generator=seeded(0), dtype=torch.float64)
    batch = {"inputs": torch.zeros(8, 1), "labels": torch.arange(8) % CLASSES, "id": torch.arange(8)}
    for method, rests in (
        (OFALogits(gamma=1.0), True),
        (OFALogits(enhance="off"), True),
        (OFALogits(gamma=1.5), False),
    ):
        distiller = Distiller(Fixed(z), Fixed(z + 1), method, example=batch)
        distiller(batch).loss.backward()
        assert (float(distiller.student.logits.grad.abs().max()) < 1e-12) is rests
        assert (method.at_equality["logits"] == "stationary") is rests


def test_a_sample_without_a_label_counts_only_where_no_label_is_read() -> None:
    batch = {**images(), "labels": images()["labels"].clone()}
    batch["labels"][5:] = -100
    for method, rows in ((OFALogits(gamma=1.5), 5), (OFALogits(enhance="off"), 20)):
        distiller = made(method + 0.0001 * Supervised()).eval()
        s, t = (handle(batch).logits for handle in distiller.cast.handles())
        enhance = method.enhance
        expected = enhanced_cross_entropy(s[:rows], t[:rows], batch["labels"][:rows], gamma=1.5, enhance=enhance)
        torch.testing.assert_close(distiller(batch).terms["ofalogits"], expected)


def test_unlabelled_training_needs_enhancement_off() -> None:
    unlabelled = {key: value for key, value in images().items() if key != "labels"}
    method = published(enhance="off", label_weight=0.0)
    assert not any(component.method.labels for component in method)
    distiller = made(method)
    distiller(unlabelled).loss.backward()
    s, t = (handle(unlabelled).logits for handle in distiller.eval().cast.handles())
    torch.testing.assert_close(distiller(unlabelled).terms["ofalogits"], soft_cross_entropy(s, t))
    distiller = made(published(label_weight=0.0))
    assert float(distiller(unlabelled).loss.detach()) == 0
    with pytest.raises(DistilError, match="found nothing to learn from"):
        distiller.end_epoch()


def test_of_a_mixed_sample_the_larger_parts_label_is_the_target() -> None:
    distiller, batch = made(OFALogits(gamma=1.5) + OFAExits()).eval(), images()
    partner = (batch["labels"] + 1) % CLASSES
    share = torch.where(torch.arange(20) % 2 == 0, 0.8, 0.3)
    mixed = distiller({**batch, "partner_labels": partner, "share": share}).terms
    plain = distiller({**batch, "labels": torch.where(share > 0.5, batch["labels"], partner)}).terms
    assert all(torch.equal(mixed[name], plain[name]) for name in plain)


def test_only_the_teachers_logits_are_read() -> None:
    """Two teachers of equal logits and other insides teach the same."""
    logits = torch.randn(20, CLASSES, generator=seeded(3))

    class Teacher(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.logits, self.body = nn.Parameter(logits.clone()), nn.Linear(256, width)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.logits + 0 * self.body(inputs.flatten(1)).sum(1, keepdim=True)

    losses = [Distiller(net("resnet8"), Teacher(w), published(), example=images())(images()).loss for w in (3, 99)]
    assert torch.equal(*losses)


def test_a_stored_teacher_of_logits_alone_serves(tmp_path: Path) -> None:
    task, data = get_task("classification"), DictDataset(*images().values())
    stored = CachedTeacher(TeacherCache.write(net("mlp(hidden=8)", 1), data, task, tmp_path, codec="dense32"))
    distillers = [
        Distiller(net("resnet8"), who, published(), example=images()) for who in (net("mlp(hidden=8)", 1), stored)
    ]
    torch.testing.assert_close(*(distiller(images()).loss for distiller in distillers))
    with pytest.raises(DistilError, match="no tap 'emb'"):
        Distiller(net("resnet8"), stored, published(project="features"), example=images())


def test_a_maps_exit_is_as_wide_as_the_wider_embedding() -> None:
    for hidden in (16, 80):
        leave = exits_of(made(published(), "resnet8", f"mlp(hidden={hidden})"))["1"]
        assert leave[-1].in_features == max(64, hidden)


def test_features_are_matched_in_the_teachers_width() -> None:
    distiller = made(published(project="features"), "resnet8", "mlp(hidden=11)")
    assert exits_of(distiller)["2"][-1].out_features == 11
    student, teacher = (handle(images()) for handle in distiller.eval().cast.handles())
    expected = sum(
        nn.functional.mse_loss(leave(tap), teacher["emb"])
        for leave, tap in zip(exits_of(distiller).values(), student["depths"], strict=True)
    )
    torch.testing.assert_close(distiller(images()).terms["ofaexits"], expected)


def test_exits_leave_no_trace_in_what_ships() -> None:
    distiller = made(published(), "cnn(widths=(4, 6))")
    bare = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    data = [images()]
    before = distiller.student.eval()(images()["inputs"])
    distiller.student.train()
    result = fit(distiller, data, data, epochs=2, keep="last", check_teacher=False, device="cpu")
    assert list(result.model.state_dict()) == list(bare)
    shipped = result.model(images()["inputs"])
    assert not torch.equal(shipped, before)
    distiller.method.methods["ofaexits"].exits.clear()  # what the exits were does not matter to it
    assert torch.equal(result.model(images()["inputs"]), shipped)
    fresh = net("cnn(widths=(4, 6))", 5)
    fresh.load_state_dict(result.model.state_dict())
    assert torch.equal(fresh.eval()(images()["inputs"]), shipped)


def test_a_batch_of_one_trains_with_running_statistics() -> None:
    distiller = made(published(), "cnn(widths=(4, 6))")
    one = {key: value[:1] for key, value in images().items()}
    with pytest.warns(UserWarning, match="A batch of one"):
        distiller(one).loss.backward()
    assert distiller.eval()(one).loss.isfinite()


def test_the_exits_term_is_coupled_only_through_batch_norm() -> None:
    for student, coupled in (("resnet8", True), ("vit(patch=4, dim=8, depth=2, heads=2)", False)):
        distiller = made(OFAExits(), student)
        (component,) = distiller.method
        terms = component.method(*distiller.cast.handles(), images(), distiller.ctx)
        assert terms["branches"].coupled is coupled
        distiller.eval()
        assert not component.method(*distiller.cast.handles(), images(), distiller.ctx)["branches"].coupled


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"branches": "some"}, "branches='some' is unknown"),
        ({"branches": [0, 1]}, "counted from 1"),
        ({"branches": [2, 2]}, "each once"),
        ({"branches": [2, 4], "gamma": [1, 1]}, r"gamma has 2 numbers; .* 2 \+ 1"),
        ({"branches": [2, 4], "gamma": [1, 1, 1, 1]}, r"gamma has 4 numbers; .* 2 \+ 1"),
        ({"gamma": []}, "one for each exit and one for the logits"),
        ({"gamma": [1, -1, 1]}, "above 0"),
        ({"gamma": 0.0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"enhance": "on"}, "enhance='on' is unknown"),
        ({"project": "logit"}, "did you mean 'logits'"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        published(**wrong)


@pytest.mark.parametrize(
    ("wrong", "student", "said"),
    [
        ({"gamma": [1, 1, 1]}, "resnet8", r"2 numbers for the exits and there are 3 \(stages 1, 2, 3\)"),
        ({"gamma": [1, 1, 1, 1, 1]}, "resnet8", "4 numbers for the exits and there are 3"),
        ({"branches": [3, 4]}, "resnet8", "the student has 3 stages, so there is no stage 4"),
        ({}, "mlp(hidden=4)", "has no tap 'depths'"),
        ({"class_tokens": 0}, "vit(patch=4, dim=8, depth=2, heads=2)", "17 tokens with class_tokens=0"),
        ({"taps": ["fc"]}, "resnet8", r"a stage of the student gives \[20, 5\]"),
    ],
)
def test_what_does_not_fit_the_student_is_refused_before_training(
    wrong: dict[str, Any], student: str, said: str
) -> None:
    with pytest.raises(DistilError, match=said):
        made(published(**wrong), student)


def test_other_classes_and_exits_without_stages_are_refused() -> None:
    other = load_model("distil:mlp(hidden=4)", classes=3, input_shape=(1, 16, 16))
    with pytest.raises(DistilError, match="must score the same classes"):
        Distiller(net("resnet8"), other, published(), example=images())
    with pytest.raises(DistilError, match="no exit to teach"):
        OFAExits(branches="none")
    assert published(branches="none").expression == "supervised + ofalogits(gamma=1.5, enhance=code, temperature=1)"


def test_gamma_for_each_exit_is_read_from_an_expression() -> None:
    text = "ofa_kd(branches=[2, 3], gamma=[1, 1.5, 2])"
    assert parse(text).expression == published(branches=[2, 3], gamma=[1, 1.5, 2]).expression
    assert parse(parse(text).expression).expression == parse(text).expression
    for wrong in ("gamma=[1, much, 2]", "gamma=much", "gamma=[1, true]", "temperature=[1, 2]"):
        with pytest.raises(DistilError, match=r"must be (a )?finite number"):
            parse(f"ofa_kd({wrong})")


def test_stages_may_be_named_by_path() -> None:
    distiller = made(published(taps=["layer1", "layer3"], gamma=[1, 2, 1]), "resnet8")
    assert [len(leave) for leave in exits_of(distiller).values()] == [4, 4]
    assert distiller(images()).loss.isfinite()


SWIN = (
    "timm:swin_tiny_patch4_window7_224(img_size=32, window_size=2, embed_dim=16, depths=(1, 1, 1, 1), "
    "num_heads=(1, 1, 1, 1))"
)
TIMM = {
    SWIN: ("TokenExit", [3, 2, 1, 1]),
    "timm:vit_tiny_patch16_224(img_size=32, patch_size=4, embed_dim=16, num_heads=2)": ("TokenExit", [3, 2, 1, 1]),
    "timm:deit_tiny_distilled_patch16_224(img_size=32, patch_size=8, embed_dim=16, num_heads=2, depth=8)": (
        "TokenExit",
        [3, 2, 1, 1],
    ),
    "timm:mixer_s32_224(img_size=64)": ("TokenExit", [3, 2, 1, 1]),
    "timm:resmlp_12_224(img_size=32)": ("TokenExit", [3, 2, 1, 1]),
    "timm:convnext_atto(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))": ("MapExit", [6, 5, 4, 4]),
    "timm:resnet10t(channels=(4, 6, 8, 10))": ("MapExit", [6, 5, 4, 4]),
}


@pytest.mark.parametrize("name", TIMM, ids=lambda name: name.split("(")[0])
def test_students_of_timm_by_name(name: str) -> None:
    kind, sizes = TIMM[name]
    torch.manual_seed(0)
    size = 64 if "64" in name else 32
    student = load_model(name, classes=CLASSES, input_shape=(3, size, size))
    batch = {"inputs": torch.randn(2, 3, size, size), "labels": torch.tensor([0, 3]), "id": torch.arange(2)}
    teacher = load_model("distil:mlp(hidden=8)", classes=CLASSES, input_shape=(3, size, size))
    distiller = Distiller(student, teacher, published(), example=batch)
    exits = exits_of(distiller)
    assert {type(leave).__name__ for leave in exits.values()} == {kind}
    assert [len(getattr(leave, "blocks", leave)) for leave in exits.values()] == sizes
    distiller(batch).loss.backward()
    assert all(
        p.grad is not None and bool(p.grad.isfinite().all()) for leave in exits.values() for p in leave.parameters()
    )
    assert distiller.deployed() is student


TOY = (
    "pair.data=digits",
    "pair.size=null",
    "pair.train=60",
    "pair.teacher_train=300",
    "pair.val=60",
    "pair.teacher_training.epochs=20",
    "pair.teacher_training.batch_size=32",
    "pair.teacher_training.lr=0.005",
    "training.epochs=1",
    "seeds=[0, 1]",
)
VIT, CNN = "'distil:vit(patch=2, dim=16, depth=1)'", "'distil:resnet(depth=(1,1), widths=(4,8))'"


@pytest.mark.parametrize(
    ("teacher", "student", "title"), [(VIT, CNN, "vit teaches resnet"), (CNN, VIT, "resnet teaches vit")]
)
def test_the_recipe_runs_on_digits_in_both_directions(teacher: str, student: str, title: str, tmp_path: Path) -> None:
    recipe = load_recipe("ofa-kd")
    setup = prepare_setup(recipe, assignments=(*TOY, f"pair.teacher={teacher}", f"pair.student={student}"))
    report = run_recipe(recipe, setup, tmp_path, Lab(tmp_path), command="distil run ofa-kd", system="ofa-kd")
    validate(report)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert list(arms) == ["alone", "kd", "dist", "fitnets", "ofa", "ofa-1"]
    assert title in report["title"]
    assert all(arm["budget"] == arms["alone"]["budget"] for arm in arms.values())
    assert all(arm["parameters"] == arms["alone"]["parameters"] for arm in arms.values())  # no exit ships
    judged = {(verdict["arm"], verdict["against"]) for verdict in report["verdicts"]}
    assert judged >= {("ofa", name) for name in ("alone", "kd", "dist", "fitnets")}


def test_the_recipes_evidence_is_of_three_directions() -> None:
    recipe: Any = load_recipe("ofa-kd")
    pairs = [update(recipe.Setup(), settings).pair for settings in recipe.EVIDENCE]
    families = [tuple(spec.partition(":")[2].partition("(")[0] for spec in (p.teacher, p.student)) for p in pairs]
    assert families == [("vit", "resnet"), ("resnet", "vit"), ("resnet", "mixer")]
