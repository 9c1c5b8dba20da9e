"""The teacher's plain pass made cheap: each way against the plain pass, kept or dropped with a reason, never silent."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.data.fingerprint import fingerprint
from distil.engine import Distiller, Method, TeacherForward, Term, fit, visits
from distil.engine import shortcut as shortcuts
from distil.engine import trial as trials
from distil.engine.lighter import Unfit, fold_batchnorm
from distil.engine.ways import closeness, handed
from distil.errors import DistilError
from distil.methods import AT, KD, RKD, FitNets, Supervised
from engine import toys


class Reads(Method):
    """Reads named taps of the teacher, and keeps the last trace."""

    at_equality = {"reads": None}  # noqa: RUF012

    def __init__(self, *taps: str, output: bool = False) -> None:
        super().__init__()
        self.taps, self.named, self.output = (("logits", None), *((None, tap) for tap in taps)), taps, output

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        self.seen = teacher(batch)
        target = self.seen.logits if self.output else self.seen[self.named[0]]
        theirs = target.float().flatten(1).mean(1, keepdim=True)
        return {"reads": Term((student(batch).logits - theirs).square().mean(1))}


class Scaled(Method):
    """Weighs the teacher's tap by the student's: autograd must save the teacher's."""

    taps = ("two",)
    at_equality = {"scaled": None}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        mine, theirs = student(batch)["two"].flatten(1).mean(1, keepdim=True), teacher(batch)["two"].flatten(1)
        return {"scaled": Term((mine * theirs - 1).square().mean(1))}


class Branches(nn.Module):
    """Two branches after a trunk; which of them counts depends on the input."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.left, self.right = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.trunk(inputs)
        hidden = self.left(hidden) if inputs.mean() > 0 else self.right(hidden)
        return self.head(hidden.relu_().mean((2, 3)))


def reading(teacher: nn.Module, method: Method, forward: str, data: dict[str, Tensor], **options: Any) -> Distiller:
    """A distiller whose teacher's pass is made as ``forward`` says, after one call."""
    student = toys.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(data["inputs"][0].numel(), 3)), 3)
    distiller = Distiller(student, teacher, method, example=data, teacher_forward=forward, **options)
    distiller(data)
    return distiller


def pictures(size: int = 8, channels: int = 2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6, channels, size, size, generator=rng)
    return {"inputs": x, "labels": torch.arange(6) % 3, "id": torch.arange(6)}


def settled_norms(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and a scale that folding would get wrong if it could."""
    rng = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=rng)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0, generator=rng)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=rng)
    return net.eval()


def cnn(seed: int = 2) -> nn.Module:
    return settled_norms(toys.seeded(lambda: toys.CNN(8), seed))


def said(distiller: Distiller) -> dict[str, Any]:
    return distiller.cast.said()["model"]


# --- stopping at the last tap ---------------------------------------------------------------------------------------


def timm_net(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    net: nn.Module = toys.seeded(lambda: timm.create_model(name, num_classes=3, **options), 5)
    return settled_norms(net)


STOPPED = [
    (cnn, ("one",), (8, 2)),
    (lambda: toys.seeded(Branches, 4).eval(), ("trunk.0", "trunk"), (8, 2)),
    (lambda: timm_net("resnet18"), ("layer1", "layer3", "layer2.0.bn1:in"), (32, 3)),
    (
        lambda: timm_net("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3),
        ("blocks.0", "blocks.1.norm2:in"),
        (32, 3),
    ),
]


@pytest.mark.parametrize(("make", "taps", "shape"), STOPPED, ids=["cnn", "branches", "resnet", "vit"])
def test_a_stopped_pass_gives_the_taps_of_a_whole_one_to_the_bit(
    make: Callable[[], nn.Module], taps: tuple[str, ...], shape: tuple[int, int]
) -> None:
    teacher, data = make(), pictures(*shape)
    stopped, whole = Reads(*taps), Reads(*taps)
    a, b = reading(teacher, stopped, "truncate", data), reading(teacher, whole, "plain", data)
    assert said(a)["kept"] == ["truncate"]
    assert b.cast.said() == {}
    assert stopped.seen.values.keys() == whole.seen.values.keys()
    assert all(torch.equal(value, whole.seen.values[place]) for place, value in stopped.seen.values.items())
    assert toys.hooks(teacher) == 0


def test_layers_after_the_last_tap_do_not_run_and_the_report_names_it() -> None:
    teacher, ran = cnn(), []
    teacher.two.register_forward_hook(lambda *_: ran.append("two"))  # type: ignore[union-attr]
    distiller = reading(teacher, Reads("one"), "truncate", pictures())
    assert ran == ["two"] * 2  # finding the taps, and the dry run
    assert said(distiller)["last"] == "one"


@pytest.mark.parametrize("method", [lambda: AT() + Supervised(), lambda: FitNets(), lambda: KD(), lambda: RKD()])
def test_the_default_trains_to_the_same_bits_as_the_plain_pass(method: Callable[[], Any]) -> None:
    runs = []
    for forward in ("plain", None):
        given = {} if forward is None else {"teacher_forward": forward}
        distiller = toys.taught(method(), make=toys.CNN, **given)
        toys.train(distiller, toys.images(), epochs=2)
        runs.append(toys.state(distiller))
    assert toys.same(*runs)


def test_an_unlisted_output_is_made_again_whole_counted_and_no_pass_stops_after_that() -> None:
    teacher, data, method = cnn(), pictures(), Reads("one", output=True)
    distiller = reading(teacher, method, "truncate", data)
    assert torch.equal(method.seen.logits, teacher(data["inputs"]))
    distiller(data)
    assert said(distiller)["reruns"] == 1
    assert "list 'logits'" in said(distiller)["dropped"]["truncate"]
    assert torch.equal(method.seen.output, teacher(data["inputs"]))


def test_a_pass_does_not_stop_where_logits_are_listed_or_nothing_is_tapped() -> None:
    for method in (KD() + Scaled(), KD()):
        distiller = toys.taught(method, make=toys.CNN)
        toys.step(distiller, toys.batch(toys.images()))
        assert distiller.cast.said() == {}


class Careful(toys.CNN):
    """Catches what goes wrong inside it."""

    def forward(self, inputs: Tensor) -> Tensor:
        try:
            return super().forward(inputs)
        except Exception:
            return torch.zeros(len(inputs), toys.CLASSES)


def test_a_model_that_catches_errors_lets_the_stop_through() -> None:
    teacher, data, method = toys.seeded(Careful, 2), pictures(), Reads("one", output=True)
    reading(teacher, method, "truncate", data)
    assert torch.equal(method.seen.logits, teacher(data["inputs"]))


# --- each way -------------------------------------------------------------------------------------------------------

WAYS = ["inference", "fold_bn", "channels_last", "bf16", "fold_bn,channels_last,bf16,inference"]


@pytest.mark.parametrize("forward", WAYS)
@pytest.mark.parametrize("tap", ["two", "head:in"])
def test_a_way_is_kept_close_and_hands_over_plain_float32(forward: str, tap: str) -> None:
    teacher, data = cnn(), pictures()
    before, method, plain = fingerprint(teacher), Reads(tap), Reads(tap)
    distiller = reading(teacher, method, forward, data)
    reading(teacher, plain, "plain", data)
    one = said(distiller)
    assert set(one["kept"]) == set(forward.split(","))
    assert one["dropped"] == {}
    assert set(one["cosine"]) == {tap, "logits"}
    assert min(one["cosine"].values()) >= 0.9999
    assert one["speedup"] > 0
    for value in (method.seen[tap], method.seen.logits, method.seen.output):
        assert value.dtype == torch.float32
        assert value.is_contiguous()
        assert not value.is_inference()
    assert torch.allclose(method.seen[tap], plain.seen[tap], rtol=0.05, atol=0.05)
    assert fingerprint(teacher) == before
    assert toys.hooks(teacher) == 0


def test_a_transformer_keeps_inference_and_bf16_and_says_why_not_the_rest() -> None:
    teacher = timm_net("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2)
    one = said(reading(teacher, Reads("blocks.1"), "inference,bf16,fold_bn,truncate", pictures(32, 3)))
    assert one["kept"] == ["truncate", "inference", "bf16"]
    assert "no BatchNorm" in one["dropped"]["fold_bn"]


def test_what_inference_mode_gave_can_be_saved_by_autograd() -> None:
    plain, quick = (toys.taught(Scaled(), make=toys.CNN, teacher_forward=f) for f in ("plain", "inference"))
    for distiller in (plain, quick):
        toys.step(distiller, toys.batch(toys.images()))
    assert said(quick)["kept"] == ["inference"]
    assert toys.same(toys.state(plain), toys.state(quick))


@pytest.mark.parametrize("outlier", [False, True])
def test_eight_bit_weights_are_kept_where_they_can_say_the_weights(outlier: bool) -> None:
    pytest.importorskip("torchao")
    teacher = toys.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.Linear(64, 3)), 1).eval()
    rng = torch.Generator().manual_seed(0)
    for layer in (teacher[1], teacher[2]):
        weight = torch.randn(layer.weight.shape, generator=rng)
        weight = weight if outlier else weight.sign()
        weight[:, 0] = 1000.0 if outlier else 1.0  # one scale for each output: a large weight takes it all
        layer.weight.data = weight
    data = pictures()
    data["inputs"][:, 0, 0, 0] = 0.0  # the outlier itself says nothing
    before, one = fingerprint(teacher), said(reading(teacher, Reads("1"), "int8", data))
    assert one["kept"] == ([] if outlier else ["int8"])
    assert outlier == ("int8" in one["dropped"])
    assert one["copy_bytes"] < sum(4 * p.numel() for p in teacher.parameters()) / 2
    assert fingerprint(teacher) == before


def test_a_compiled_way_returns_the_taps_and_only_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real, compiled = torch.compile, []

    def eager(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return real(function, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    teacher, data, method, plain = cnn(), pictures(), Reads("one"), Reads("one")
    distiller = reading(teacher, method, "compile,truncate", data)
    reading(teacher, plain, "plain", data)
    assert compiled
    assert said(distiller)["kept"] == ["truncate", "compile"]
    assert torch.allclose(method.seen["one"], plain.seen["one"])
    assert torch.allclose(method.seen.logits, plain.seen.logits)  # asked for all the same: made again


# --- folding --------------------------------------------------------------------------------------------------------


def test_a_tapped_layer_is_not_folded_and_the_block_around_another_still_fires() -> None:
    teacher, data, method, plain = cnn(), pictures(), Reads("one.1", "two.0", "one", "two"), Reads("one.1", "two.0")
    one = said(reading(teacher, method, "fold_bn", data))
    assert "no BatchNorm" in one["dropped"]["fold_bn"]
    reading(teacher, plain, "plain", data)
    assert torch.equal(method.seen["two.0"], plain.seen["two.0"])
    kept = said(reading(teacher, Reads("one.1", "two"), "fold_bn", data))  # of the two pairs one may be folded
    assert kept["kept"] == ["fold_bn"]


class Forked(nn.Module):
    """A convolution whose output is read by a BatchNorm and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv(inputs)
        return (self.norm(hidden) + hidden).mean((2, 3))


def test_only_a_norm_that_alone_reads_its_convolution_is_folded() -> None:
    x = pictures()["inputs"]
    forked = settled_norms(toys.seeded(Forked, 1))
    with pytest.raises(Unfit, match="no BatchNorm alone"):
        fold_batchnorm(forked, lambda: forked(x))
    net = copy.deepcopy(cnn())
    expected = net(x)
    fold_batchnorm(net, lambda: net(x))
    assert [type(m).__name__ for m in net.modules()].count("Identity") == 2
    assert torch.allclose(net(x), expected, atol=1e-5)
    twice = settled_norms(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    twice.add_module("2", twice[0])  # a shared convolution
    with pytest.raises(Unfit):
        fold_batchnorm(twice, lambda: twice(x))


# --- what does not hold ---------------------------------------------------------------------------------------------


class Sensitive(nn.Module):
    """Loses in bfloat16 what makes its answer: the small part of a sum with a large one."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(128, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(inputs.flatten(1))
        return self.head((hidden + 3000.0).to(hidden.dtype) - 3000.0)


class Offset(nn.Module):
    """Adds the same large number to all logits: a bare cosine sees nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(128, 3)
        nn.init.constant_(self.head.bias, 1000.0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.flatten(1))


@pytest.mark.parametrize("make", [Sensitive, Offset])
@pytest.mark.parametrize("forward", ["bf16", "auto"])
def test_a_way_that_strays_is_dropped_with_its_cosine_and_the_plain_pass_is_used(
    make: Callable[[], nn.Module], forward: str
) -> None:
    teacher, data = toys.seeded(make, 1).eval(), pictures()
    method = KD() + Reads("head:in")
    distiller = reading(teacher, method, forward, data)  # type: ignore[arg-type]
    one = said(distiller)
    assert "bf16" not in one["kept"]
    assert "cosine" in one["dropped"]["bf16"]
    assert "below 0.9999" in one["dropped"]["bf16"]
    assert torch.equal(method.components[1].method.seen.logits, teacher(data["inputs"]))


def test_closeness_sees_scale_shape_and_what_is_not_finite() -> None:
    x = torch.randn(4, 5)
    assert closeness(x, x) == (pytest.approx(1.0), 0.0)
    assert closeness(1.02 * x, x)[1] == pytest.approx(0.02, abs=1e-4)
    assert closeness(x[:, :4], x) == (-1.0, float("inf"))
    assert closeness(x * float("nan"), x)[0] == -1.0
    assert closeness(torch.zeros(2, 3), torch.zeros(2, 3)) == (1.0, 0.0)
    one_wrong = x.clone()
    one_wrong[2] = -one_wrong[2]
    assert closeness(one_wrong, x)[0] == pytest.approx(-1.0)


def test_a_wrong_scale_is_dropped_though_its_cosine_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from distil.engine import ways

    def longer(module: Any) -> None:
        with torch.no_grad():
            module.head.weight.mul_(1.5)
            module.head.bias.mul_(1.5)

    monkeypatch.setattr(ways, "to_channels_last", longer)
    teacher, data = cnn(), pictures()
    one = said(reading(teacher, KD() + Reads("one"), "channels_last", data))  # type: ignore[arg-type]
    assert "longer or shorter" in one["dropped"]["channels_last"]


def test_a_way_that_fails_is_dropped_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncopied(toys.CNN):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("not to be copied")

    one = said(reading(toys.seeded(Uncopied, 1).eval(), Reads("two"), "channels_last,inference", pictures()))
    assert one["kept"] == ["inference"]
    assert one["dropped"]["channels_last"] == "it fails: RuntimeError: not to be copied"


@pytest.mark.parametrize(("ratio", "kept"), [(0.97, ["truncate"]), (1.5, list(TeacherForward.of("auto").options))])
def test_auto_drops_what_is_not_quicker_and_a_named_way_stays(
    monkeypatch: pytest.MonkeyPatch, ratio: float, kept: list[str]
) -> None:
    monkeypatch.setattr(trials.Trial, "_ratio", lambda self, before, after: ratio)
    one = said(reading(cnn(), Reads("two"), "auto", pictures()))
    assert one["kept"] == kept
    assert all("not quicker: 0.97" in reason for reason in one["dropped"].values())
    assert said(reading(cnn(), Reads("two"), "bf16", pictures()))["kept"] == ["bf16"]


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("bf17", r"unknown option 'bf17'.*bf16"),
        ("", "unknown option ''"),
        ("auto,bf16", "unknown option 'auto'"),
        ("offload,stream", "both offload and stream"),
        ("int8,offload", "both offload and int8"),
    ],
)
def test_impossible_requests_are_refused_at_once(forward: str, message: str) -> None:
    with pytest.raises(DistilError, match=message):
        toys.taught(teacher_forward=forward)


def test_int8_without_torchao_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from distil.engine import frozen

    monkeypatch.setattr(frozen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DistilError, match=r"distil\[quantise\]"):
        TeacherForward.of("int8")


def test_what_needs_another_device_says_so_on_the_cpu() -> None:
    one = said(reading(cnn(), Reads("two"), "stream", pictures()))
    assert "CUDA" in one["dropped"]["stream"]
    one = said(reading(cnn(), Reads("two"), "offload", pictures()))
    assert "on the CPU" in one["dropped"]["offload"]
    with pytest.raises(DistilError, match="teacher_device=cpu"):
        toys.taught(teacher_forward="offload", teacher_device="cpu")


# --- the teacher itself ---------------------------------------------------------------------------------------------


class Works(Method):
    """Uses the teacher in every way that needs the module itself."""

    taps = (("logits", None), (None, "two"))
    at_equality = {"works": None}  # noqa: RUF012

    def forward(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> dict[str, Term]:
        plain = teacher(batch)["two"]
        weights = dict(teacher.module.named_parameters())
        self.seen = {
            "replace": teacher(batch, replace={(None, "two"): nn.Identity()})["two"],
            "params": teacher(batch, params=weights)["two"],
            "grad": teacher(batch, grad=True)["two"],
        }
        self.part = teacher.part("head")
        return {"works": Term((student(batch).logits.mean(1) - plain.mean((1, 2, 3))).square())}


def test_what_works_on_the_teacher_gets_the_teacher_in_full_precision() -> None:
    teacher, data, method = cnn(), pictures(), Works()
    distiller = reading(teacher, method, "fold_bn,channels_last,bf16", data)
    assert len(said(distiller)["kept"]) == 3
    expected = teacher.two(teacher.one(data["inputs"]))  # type: ignore[operator]
    assert all(torch.allclose(value, expected, atol=1e-6) for value in method.seen.values())
    assert method.part is teacher.head


def test_a_copy_follows_weights_that_are_loaded_later() -> None:
    teacher, data, method = cnn(), pictures(), Reads("two")
    distiller = reading(teacher, method, "fold_bn", data)
    old = method.seen["two"]
    teacher.load_state_dict(cnn(seed=7).state_dict())
    distiller(data)
    assert torch.allclose(method.seen["two"], teacher.two(teacher.one(data["inputs"])), atol=1e-4)  # type: ignore[operator]
    assert not torch.allclose(old, method.seen["two"], atol=1e-2)


def test_copied_and_pickled_distillers_go_on_in_the_settled_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.batch(toys.images())
    distiller = toys.taught(Scaled(), make=toys.CNN, teacher_forward="bf16,fold_bn")
    expected = distiller(data).loss
    monkeypatch.setattr(trials.Trial, "run", lambda self: pytest.fail("tried again"))
    for other in (copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))):
        assert torch.equal(other(data).loss, expected)
        assert said(other) == said(distiller)


def test_trying_is_not_counted_as_teaching(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = toys.taught(Scaled(), make=toys.CNN, teacher_forward="bf16")
    before = distiller.teacher_seconds
    distiller(toys.batch(toys.images()))
    assert 0 < distiller.teacher_seconds - before < said(distiller)["checking_seconds"]


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_says_what_was_kept_and_a_resumed_one_goes_on_in_it_to_the_bit(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Distiller:
        return toys.taught(Scaled() + Supervised(), make=toys.CNN)

    options: dict[str, Any] = {"epochs": 3, "batch_size": 12, "lr": 0.02, "check_teacher": False, "device": "cpu"}
    options["teacher_forward"] = "truncate,bf16"
    whole = made()
    result = fit(whole, toys.images(), **options)
    assert result.teacher_forward["model"]["kept"] == ["truncate", "bf16"]

    class Stop(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        if step == 4:
            raise Stop

    with pytest.raises(Stop):
        fit(made(), toys.images(), **options, out=tmp_path, save_every=2, progress=stop)
    for forward, message in (("plain", None), ("fold_bn", "teacher_forward")):
        if message is not None:
            with pytest.raises(DistilError, match=message):
                fit(made(), toys.images(), **{**options, "teacher_forward": forward}, out=tmp_path, resume=True)
    monkeypatch.setattr(trials.Trial, "run", lambda self: pytest.fail("tried again"))
    resumed = made()
    again = fit(resumed, toys.images(), **options, out=tmp_path, resume=True)
    assert toys.same(toys.state(whole), toys.state(resumed))
    assert again.teacher_forward["model"]["kept"] == ["truncate", "bf16"]


# --- away and ahead -------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the CPU pass for a device that weights have to be moved to; counts the moves."""
    moves: list[int] = []

    @contextmanager
    def lent(module: nn.Module, device: torch.device) -> Iterator[None]:
        moves.append(1)
        with real(module, device):
            yield

    real = visits.lent
    monkeypatch.setattr(shortcuts, "lent", lent)
    for module in (shortcuts, trials):
        monkeypatch.setattr(module, "on_accelerator", lambda device: True)
    return moves


@pytest.mark.parametrize("forward", ["offload", "offload,bf16"])
def test_an_offloaded_teacher_visits_once_for_a_window(elsewhere: list[int], forward: str) -> None:
    data = toys.images()
    plain, away = (toys.taught(Scaled(), make=toys.CNN, teacher_forward=f) for f in ("plain", forward))
    counts = []
    for k in range(3):
        window = [toys.batch(data, 4, start=4 * k + i) for i in range(4)]
        before = len(elsewhere)
        for distiller in (plain, away):
            totals = distiller.totals(window)
            for part in window:
                distiller(part, totals=totals).loss.backward()
            distiller.sgd.step()
            distiller.sgd.zero_grad()
        counts.append(len(elsewhere) - before)
    assert counts == [1 + 4, 1, 1]  # settling, and each pass of the first window by itself; then one visit a window
    assert said(away)["visits"] == 4 + 2
    assert forward != "offload" or toys.same(toys.state(plain), toys.state(away))
    assert not next(iter(away.cast.by_role("teacher").values())).held


def test_a_method_that_works_on_the_teacher_keeps_it_on_the_device(elsewhere: list[int]) -> None:
    distiller = reading(cnn(), Works(), "offload", pictures())
    one = said(distiller)
    assert one["kept"] == []
    assert "works on the teacher itself" in one["dropped"]["offload"]
    visited = len(elsewhere)
    distiller(pictures())
    assert len(elsewhere) == visited


def test_a_teacher_that_no_method_calls_is_not_run_ahead(elsewhere: list[int]) -> None:
    distiller = toys.taught(Supervised(), make=toys.CNN, teacher_forward="offload")
    for _ in range(2):
        totals = distiller.totals([toys.batch(toys.images(), 4)])
        distiller(totals=totals)
    assert elsewhere == []


def test_lent_weights_come_home_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "to_device", lambda tensor, device: tensor.clone())
    net = nn.Linear(2, 2)
    home, away = net.weight.data_ptr(), 0
    with suppress(RuntimeError), visits.lent(net, torch.device("cpu")):
        away = net.weight.data_ptr()
        raise RuntimeError
    assert away not in (0, home)
    assert net.weight.data_ptr() == home


def test_handing_over_keeps_containers() -> None:
    given = {"a": torch.ones(2, dtype=torch.bfloat16), "b": (torch.ones(1), [torch.ones(1, dtype=torch.int64)], None)}
    seen = handed(given)
    assert seen["a"].dtype == torch.float32
    assert seen["b"][1][0].dtype == torch.int64
    assert isinstance(seen["b"], tuple)
