"""DeepSpeed's ZeRO with two gloo processes: an optimizer in parts learns, resumes and ships what a whole one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distil.engine import fit, zero
from distil.engine.serial import load_tree
from distil.errors import DistilError
from engine import ranks, toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios, run by two processes together and, whole, by this one alone."""
    pytest.importorskip("deepspeed")
    root = tmp_path_factory.mktemp("zero")
    ranks.by_two(root / "two", "zero", ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE="2")
    ranks.run_all(root / "one", ranks.ZERO | {"halved": ranks.halved})
    return root


@pytest.mark.parametrize("name", ranks.ZERO)
def test_parts_learn_what_the_whole_learns(folder: Path, name: str) -> None:
    first, second, alone = ranks.read(folder, name)
    ranks.same_everywhere(first, second, alone)


def test_running_statistics_are_one_processs(folder: Path) -> None:
    ranks.ended_alike(folder)


def test_a_stopped_run_goes_on_to_the_bit(folder: Path) -> None:
    again, straight = load_tree(folder / "two/resumed-0"), load_tree(folder / "two/straight-0")
    assert toys.same(again["state"], straight["state"])
    assert again["history"] == straight["history"]


def test_the_checkpoint_is_a_plain_optimizers(folder: Path) -> None:
    """Whole tensors under the numbers that torch gives parameters: the optimizer itself takes them."""
    tree = load_tree(folder / "two" / "run" / "step-000000009")
    (stored,) = tree["optimizers"].values()
    distiller = ranks.deep(ranks.KD() + ranks.FitNets(tap="head:in"))[0]
    plain = torch.optim.AdamW([{"params": parameters} for parameters in distiller.groups().values()])
    plain.load_state_dict(stored)
    for parameter in distiller.parameters():
        assert plain.state[parameter]["exp_avg"].shape == parameter.shape
        assert plain.state[parameter]["exp_avg_sq"].sum() > 0
        assert plain.state[parameter]["step"] == 9


def test_half_precision_passes_and_halved_state(folder: Path) -> None:
    first, second, alone = ranks.read(folder, "halved")
    whole = load_tree(folder / "one" / "halved-0")["kept"]
    assert whole / 2 <= first["kept"] == second["kept"] < 0.6 * whole  # a few elements pad the flat weights
    drift = [(first["state"][key] - value).abs().max() for key, value in alone["state"].items()]
    assert 1e-5 < max(drift) < 2e-3  # rounded to bfloat16 over other batches, so near, and not nearer


@pytest.mark.parametrize(
    ("launch", "options", "said"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, "stage 3; stages 1 and 2 are known here"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, {}, "offload_optimizer to 'cpu'"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulate": 2}, "steps 4 and the run accumulate=2"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, {}, "gradient_clipping 1.0 and the run clip=None"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "missing.json"}, {}, "could not be read as JSON"),
        ({}, {"precision": "fp16"}, "use 'bf16'"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, str], options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: object())
    monkeypatch.setattr(zero, "world_size", lambda: 2)
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistilError, match=said):
        zero.check_launch(**{"precision": "fp32", "clip": None, "accumulate": 1, **options})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, "sets 'optimizer'"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "sets 'bf16'"),
        ({"zero_optimization": {"stage": 3}}, "stage 3"),
        ({"fp16": {"enabled": False}}, "has no section 'zero_optimization'"),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}, "train_batch_size": "auto"}, None),
    ],
)
def test_a_file_may_set_zero_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tree: dict[str, Any], said: str | None
) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: object())
    monkeypatch.setattr(zero, "world_size", lambda: 2)
    (tmp_path / "ds.json").write_text(json.dumps(tree))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))
    if said is None:
        assert zero.settings_of_launch() == {"stage": 1}
        return
    with pytest.raises(DistilError, match=said):
        zero.check_launch(precision="fp32", clip=None, accumulate=1)


@pytest.mark.parametrize(
    ("optimizers", "change", "said"),
    [
        ([torch.optim.Rprop], None, "Rprop may not be made for"),
        ([torch.optim.SGD, torch.optim.Adam], None, "drives one optimizer"),
        ([torch.optim.SGD], torch.bfloat16, "is torch.bfloat16 of shape"),
    ],
)
def test_what_it_cannot_drive_is_refused(optimizers: list[Any], change: Any, said: str) -> None:
    distiller, _ = ranks.deep()
    parameters = list(distiller.parameters())
    made = {str(i): factory(parameters, lr=0.1) for i, factory in enumerate(optimizers)}
    if change is not None:
        distiller.to(change)
    with pytest.raises(DistilError, match=said):
        zero.divided(distiller, made, None, lost=[], batch_size=1, clip=None)  # type: ignore[arg-type]


def test_a_plain_run_imports_neither_shards_nor_deepspeed() -> None:
    code = "import sys, distil.engine.loop; print({'torch.distributed.tensor', 'deepspeed'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_one_process_and_no_deepspeed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller, data = ranks.deep()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for known, said in ((object(), "this run has one; launch more"), (None, r"pip install 'distil\[scale\]'")):
        monkeypatch.setattr(zero, "find_spec", lambda name, known=known: known)
        with pytest.raises(DistilError, match=said):
            fit(distiller, data, steps=1, check_teacher=False, device="cpu")
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"
