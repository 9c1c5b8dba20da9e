"""The Distiller under Lightning and in a Hugging Face Trainer gives the weights of the plain loop."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distil
from distil.engine.context import Context
from distil.methods import KD, Supervised

EXAMPLES = Path(__file__).parents[2] / "examples"
Batches = list[tuple[Tensor, Tensor]]
Host = Callable[[distil.Distiller, Batches, int, Path], Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec.*", "ignore:.*num_workers.*", "ignore:.*litlogger.*", "ignore:.*pin_memory.*"
)


class Counting(KD):
    """Notes at which step it was told of a step, and what the step's terms were."""

    def __init__(self) -> None:
        super().__init__(temperature=4, name="kd")
        self.steps: list[int] = []
        self.seen: list[float] = []

    def after_step(self, ctx: Context) -> None:
        self.steps.append(ctx.step)
        self.seen.append(float(ctx.terms["supervised"]))


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)


def lightning(distiller: distil.Distiller, loader: Batches, accumulate: int, folder: Path) -> None:
    importlib.import_module("lightning_loop").with_lightning(distiller, loader, accumulate)


def trainer(distiller: distil.Distiller, loader: Batches, accumulate: int, folder: Path) -> None:
    importlib.import_module("hf_trainer").with_trainer(
        distiller, samples(loader), str(folder / "trainer"), batch_size=32, accumulate=accumulate
    )


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """Adam's steps hardly change where all losses are scaled by one number; these do."""
    return torch.optim.SGD(parameters, lr=100 * lr, momentum=0.9)


HOSTS = pytest.mark.parametrize("host", [lightning, trainer], ids=["lightning", "trainer"])


def samples(loader: Batches) -> list[dict[str, Tensor]]:
    return [{"inputs": x, "labels": y} for inputs, labels in loader for x, y in zip(inputs, labels, strict=True)]


def uneven(count: int) -> Batches:
    """Batches of which every other one has lost most of its labels."""
    made = importlib.import_module("ten_lines").batches(count)
    for _, labels in made[1::2]:
        labels[3:] = -100
    return made


def joined(loader: Batches, accumulate: int) -> Batches:
    """Each step's micro-batches as one batch: what a step is over them must be."""
    windows = [loader[i : i + accumulate] for i in range(0, len(loader), accumulate)]
    return [(torch.cat([x for x, _ in w]), torch.cat([y for _, y in w])) for w in windows]


def trained(host: Host, loader: Batches, accumulate: int, folder: Path) -> tuple[nn.Module, nn.Module, Counting]:
    """The student that the host trained, its twin from the plain loop, and the method that counted."""
    plain = importlib.import_module("ten_lines")
    student, teacher = plain.models()
    twin, method = copy.deepcopy(student), Counting()
    distiller = distil.Distiller(student, teacher, 0.9 * method + 0.1 * Supervised(), example=loader[0])
    host(distiller, loader, accumulate, folder)
    plain.by_hand(twin, copy.deepcopy(teacher), joined(loader, accumulate))
    return student, twin, method


def assert_same(student: nn.Module, twin: nn.Module) -> None:
    for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@HOSTS
@pytest.mark.parametrize(("accumulate", "micro"), [(1, 20), (2, 40), (2, 39)], ids=["1", "2", "2-short-end"])
@pytest.mark.parametrize("factory", [torch.optim.AdamW, sgd], ids=["adamw", "sgd"])
def test_weights_are_those_of_the_plain_loop(
    host: Host, accumulate: int, micro: int, factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", factory)
    student, twin, method = trained(host, uneven(micro), accumulate, tmp_path)
    assert_same(student, twin)
    assert method.steps == list(range(20))


@HOSTS
def test_what_methods_are_told_of_a_step_is_over_all_its_micro_batches(host: Host, tmp_path: Path) -> None:
    loader = uneven(40)
    plain = importlib.import_module("ten_lines")
    student, _ = plain.models()
    (inputs, labels), *_ = joined(loader, 2)
    expected = nn.functional.cross_entropy(student(inputs), labels)
    _, _, method = trained(host, loader, 2, tmp_path)
    assert method.seen[0] == pytest.approx(float(expected.detach()), rel=1e-5)


@HOSTS
def test_nothing_is_left_behind(host: Host, tmp_path: Path) -> None:
    trained(host, uneven(4), 2, tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def stock(distiller: distil.Distiller, loader: Batches, accumulate: int, folder: Path) -> None:
    """The Trainer as it comes, without a word about windows."""
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"), num_train_epochs=1, per_device_train_batch_size=32, max_grad_norm=0.0,
        gradient_accumulation_steps=accumulate, remove_unused_columns=False, train_sampling_strategy="sequential",
        lr_scheduler_type="constant", use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    optimizer = distiller.watch(torch.optim.AdamW(distiller.parameters(), lr=1e-3))
    made = Trainer(model=distiller, args=settings, train_dataset=samples(loader), optimizers=(optimizer, None))
    assert made.model_accepts_loss_kwargs is False
    assert made._get_num_items_in_batch([{"labels": torch.zeros(3)}], torch.device("cpu")) is None
    made.train()


def test_the_stock_trainer_is_right_where_counts_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", sgd)
    loader = importlib.import_module("ten_lines").batches(39)  # the last step has one micro-batch
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Micro-batches of one step")
        student, twin, method = trained(stock, loader, 2, tmp_path)
    assert_same(student, twin)
    assert method.steps == list(range(20))


def test_the_stock_trainer_says_where_counts_are_not_equal(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="totals=distiller"):
        student, twin, _ = trained(stock, uneven(40), 2, tmp_path)
    with pytest.raises(AssertionError):
        assert_same(student, twin)


@pytest.mark.parametrize("name", ["lightning_loop", "hf_trainer"])
def test_the_script_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], capture_output=True, text=True, check=True, timeout=120,
        cwd=tmp_path,
    )  # fmt: skip
    said, _, gap = done.stdout.strip().splitlines()[-1].rpartition(": ")
    assert said == "largest difference between the weights after 20 steps"
    assert float(gap) < 1e-6
    assert list(tmp_path.iterdir()) == []
