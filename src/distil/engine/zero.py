"""DeepSpeed's ZeRO, stages 1 and 2: every process holds the weights, and a part of the gradient and optimizer's state.

DeepSpeed's engine averages the gradients, clips them, steps each process's part of one flat copy of the weights, and
gathers the result back into the student's own parameters. So all that reads or writes weights (evaluation, averages,
checkpoints, what ships) meets whole ones, and only the optimizer is special: :class:`ZeroOptimizer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from distil.engine.distiller import Distiller
from distil.engine.window import rank, world_size
from distil.errors import DistilError

__all__ = ["ZeroOptimizer", "check_launch", "divided", "settings_of_launch"]

ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that treat every element by itself, so that they may be run on any part of flattened weights."""

UNSET = ("", "none", "auto", None)


def check_launch(*, precision: str, clip: float | None, accumulate: int) -> None:
    """Refuse, before anything is trained, what a launch with DeepSpeed asks for and this package does not do."""
    if find_spec("deepspeed") is None:
        raise DistilError("The launcher asked for DeepSpeed, which is not installed; pip install 'distil[scale]'.")
    if world_size() == 1:
        raise DistilError(
            "The launcher asked for DeepSpeed, which divides a run among processes, and this run has one; launch more, "
            "or leave --use_deepspeed out."
        )
    if precision == "fp16":
        raise DistilError("DeepSpeed and precision='fp16' do not go together here; use 'bf16', which needs no scaler.")
    given = {"gradient_accumulation_steps": (accumulate, "accumulate"), "gradient_clipping": (clip, "clip")}
    for name, (mine, argument) in given.items():
        told = os.environ.get(f"ACCELERATE_{name.upper()}", "")
        if told not in UNSET and float(told) not in (float(mine or 0), 1.0 if name.endswith("steps") else 0.0):
            raise DistilError(
                f"The launcher says --{name} {told} and the run {argument}={mine}; leave the launcher's out, and give "
                f"{argument}={told} to the run."
            )
    settings_of_launch()


def settings_of_launch() -> dict[str, Any]:
    """Return the launch's ``zero_optimization`` settings: from its file, or from its flags."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    found: dict[str, Any] = {"stage": int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))}
    for part in ("optimizer", "param"):
        device = os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part.upper()}_DEVICE", "none")
        if device not in UNSET:
            found[f"offload_{part}"] = {"device": device}
    if file not in UNSET:
        found = _from_file(Path(file))
    if found.get("stage") not in (1, 2):
        raise DistilError(
            f"The launcher asked for DeepSpeed's ZeRO stage {found.get('stage')}; stages 1 and 2 are known here, and "
            "to shard the weights too, use FSDP2: accelerate launch --use_fsdp --fsdp_version 2."
        )
    for part in ("offload_optimizer", "offload_param"):
        device = (found.get(part) or {}).get("device", "none")
        if device not in UNSET:
            raise DistilError(
                f"The launcher asked DeepSpeed for {part} to '{device}', which is not done here; leave it out."
            )
    return found


def _from_file(path: Path) -> dict[str, Any]:
    """Read the one section of a DeepSpeed file that is not a setting of the run itself."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DistilError(f"The launcher's DeepSpeed file {path} could not be read as JSON: {error}") from None
    if not isinstance(tree, Mapping) or not isinstance(tree.get("zero_optimization"), Mapping):
        raise DistilError(f"The launcher's DeepSpeed file {path} has no section 'zero_optimization'; add one.")
    for name, value in tree.items():
        asked = value.get("enabled", True) if isinstance(value, Mapping) else value
        if name != "zero_optimization" and asked not in (False, "auto"):
            raise DistilError(
                f"The launcher's DeepSpeed file {path} sets '{name}', which the run's own settings decide; leave only "
                "'zero_optimization' in it, or set the others to \"auto\"."
            )
    return {name: value for name, value in tree["zero_optimization"].items() if value != "auto"}


def divided(
    distiller: Distiller,
    optimizers: Mapping[str, Optimizer],
    accelerator: Accelerator,
    *,
    lost: Collection[str],
    batch_size: int,
    clip: float | None,
) -> tuple[Any, dict[str, ZeroOptimizer]]:
    """Return DeepSpeed's engine around a distiller, and the run's optimizer in parts, under its name.

    Args:
        distiller: what is trained.
        optimizers: the run's, of which there may be one.
        accelerator: where, and in which precision.
        lost: names of parameters that no loss reaches; they stay as they are, without weight decay too.
        batch_size: of one process's micro-batch.
        clip: the largest norm of the gradient.
    """
    if len(optimizers) > 1:
        raise DistilError(f"DeepSpeed drives one optimizer and this run has {list(optimizers)}; give all groups one.")
    (name, base), *_ = optimizers.items()
    if type(base) not in ELEMENTWISE:
        raise DistilError(
            f"DeepSpeed steps parts of flattened weights, which {type(base).__name__} may not be made for; use sgd, "
            "adam or adamw, or launch without --use_deepspeed."
        )
    for where, parameter in distiller.named_parameters():
        if parameter.dtype != torch.float32 or parameter.ndim == 0:
            raise DistilError(
                f"DeepSpeed is given float32 parameters of at least one dimension here, and '{where}' is "
                f"{parameter.dtype} of shape {list(parameter.shape)}; change it, or launch without --use_deepspeed."
            )
    optimizer = ZeroOptimizer(base, {id(p) for n, p in distiller.named_parameters() if n in set(lost)})
    learned = sum(p.numel() for _, _, parameters in optimizer.parts for p in parameters)
    # DeepSpeed makes room for 500 million gradients, however few there are.
    sections = {"reduce_bucket_size": min(learned, 500_000_000), **settings_of_launch()}
    settings = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": 1,  # every step says itself which micro-batch is its last
        "gradient_clipping": clip or 0.0,
        "zero_optimization": sections,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": sys.maxsize,
    }
    engine = _engine(_Inside(distiller, accelerator), base, settings, accelerator.device.type)
    optimizer.engine = engine
    return engine, {name: optimizer}


def _engine(module: nn.Module, base: Optimizer, settings: dict[str, Any], kind: str) -> Any:
    """Start DeepSpeed, whose greetings would otherwise stand in what the run prints."""
    os.environ.setdefault("DS_ACCELERATOR", kind)
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    with contextlib.redirect_stdout(sys.stderr):
        try:
            import deepspeed

            # Else it compiles, for minutes, a way through shared memory that only CPUs take; gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            return deepspeed.initialize(
                model=module, optimizer=base, config=settings, model_parameters=list(module.parameters())
            )[0]
        except (ImportError, RuntimeError, OSError, ValueError) as error:  # a compiler is missing, a setting unknown
            raise DistilError(f"DeepSpeed could not be started: {error}") from None


class _Inside(nn.Module):
    """A distiller that opens its own autocast: DeepSpeed's engine closes one that is opened around it."""

    def __init__(self, distiller: Distiller, accelerator: Accelerator) -> None:
        super().__init__()
        self.distiller, self.accelerator = distiller, accelerator

    def forward(self, **inputs: Any) -> Any:
        """Call the distiller."""
        with self.accelerator.autocast():
            return self.distiller(**inputs)


class ZeroOptimizer(Optimizer):
    """A run's optimizer, over whole parameters, whose step is DeepSpeed's and whose state lies in parts.

    Its state is whole only where it is read or written (:meth:`state_dict`, :meth:`load_state_dict`), in the very form
    of the optimizer that it stands for.

    Args:
        base: the optimizer that DeepSpeed will take over.
        lost: the ids of parameters that ``base`` shall not see.
    """

    def __init__(self, base: Optimizer, lost: Collection[int] = ()) -> None:
        super().__init__([{**group, "params": list(group["params"])} for group in base.param_groups], base.defaults)
        self.base = base
        self.engine: Any = None
        self.found_inf = torch.zeros(())
        self._known = {id(p): set(p.__dict__) for group in self.param_groups for p in group["params"]}
        for group in base.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in lost]
        # DeepSpeed drops empty groups and puts one flat part in the place of the others' parameters.
        self.parts = [(i, group, group["params"]) for i, group in enumerate(base.param_groups) if group["params"]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step all parts and gather the weights; hooks run once, after that."""
        for i, part, _ in self.parts:
            part.update({name: value for name, value in self.param_groups[i].items() if name != "params"})
        self.engine.optimizer.refresh_fp32_params()  # whatever was written into the weights since the last step
        self.engine.step()
        self.found_inf.fill_(float(not self.engine.was_step_applied()))

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, on the first process; all call it together."""
        for parameter, flat in self._each():
            for key, value in self.base.state.get(flat, {}).items():
                self.state[parameter][key] = _whole(parameter, value) if _split(key, value) else value
        found = super().state_dict()
        self.state.clear()
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take each process's part of a whole state."""
        super().load_state_dict(state_dict)
        self.base.state.clear()
        for parameter, flat in self._each():
            for key, value in self.state[parameter].items():
                if _split(key, value):
                    part = self.base.state[flat].setdefault(key, torch.zeros_like(flat))
                    _copy(value.flatten(), part, parameter)
                else:
                    self.base.state[flat][key] = value
        self.state.clear()

    def release(self) -> None:
        """Let go of the engine: every parameter is its own again."""
        self.engine.destroy()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data = parameter.data.clone()
                for name in set(parameter.__dict__) - self._known[id(parameter)]:
                    delattr(parameter, name)

    def _each(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter and the flat tensor that holds this process's part of its group."""
        for _, part, parameters in self.parts:
            for parameter in parameters:
                yield parameter, part["params"][0]


def _split(key: str, value: Any) -> bool:
    """Say whether a state lies in parts: all tensors but the counter of steps."""
    return isinstance(value, Tensor) and key != "step"


def _copy(whole: Tensor, part: Tensor, parameter: nn.Parameter, *, back: bool = False) -> None:
    """Copy the elements of one parameter that this process holds, into its part or ``back``."""
    piece = parameter._hp_mapping  # type: ignore[attr-defined]
    if piece is None:  # they lie with other processes
        return
    here, there = piece.lp_fragment_address, piece.hp_fragment_address
    mine = whole.narrow(0, here.start, here.numel), part.narrow(0, there.start, there.numel)
    source, target = reversed(mine) if back else mine
    target.copy_(source)


@torch.no_grad()
def _whole(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """Put together what processes hold of one parameter's state; an empty tensor on all but the first."""
    whole = torch.zeros(parameter.numel(), dtype=part.dtype, device=parameter.device)
    _copy(whole, part, parameter, back=True)
    dist.all_reduce(whole)
    return whole.view_as(parameter).cpu() if rank() == 0 else whole.new_empty(0)
