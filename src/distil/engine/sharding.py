"""How a run is spread over processes: whole copies (DDP), a student in shards (FSDP2), or ZeRO, as the launcher said.

Under FSDP2 every process holds a part of each weight, of its gradient and of the optimizer's state, and gathers the
weights of a block only while that block runs. Adapters and other parts of methods are small: they stay whole, and their
gradients are averaged. When the run ends, the student is whole again, on every process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from distil.engine.distiller import Distiller
from distil.engine.host import same_buffers
from distil.engine.settings import Plan
from distil.engine.zero import ZeroOptimizer, check_launch, divided
from distil.errors import DistilError

if TYPE_CHECKING:  # these take a second to import, and most runs have nothing in shards
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

__all__ = ["Spread", "bare", "gathered", "kept", "local", "placed", "placed_state"]

TABLES = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


class Spread:
    """One run's student over the processes of a launch.

    Args:
        accelerator: what was launched.
        distiller: whose students are sharded, where the launcher asked for it; with ``plan.shard_teacher`` its frozen
            teachers too, gathered block by block as they run.
        plan: the settings of the run.
    """

    def __init__(self, accelerator: Accelerator, distiller: Distiller, plan: Plan) -> None:
        self.accelerator, self.distiller, self.plan = accelerator, distiller, plan
        self.kind = _kind(accelerator)
        self._engine: Any = None
        self._zero: ZeroOptimizer | None = None
        self._between = True
        self._photos: list[tuple[nn.Module, type, set[str], dict[str, Any]]] = []
        precision, shard_teacher = plan.precision, plan.shard_teacher
        if self.kind == "zero":
            check_launch(precision=precision, clip=plan.clip, accumulate=plan.accumulate)
        if shard_teacher and accelerator.num_processes == 1:
            raise DistilError(
                "shard_teacher=True spreads the teacher over processes, and this run has one; launch more."
            )
        if self.kind == "fsdp2" and precision == "fp16":
            raise DistilError("FSDP2 and precision='fp16' do not go together here; use 'bf16', which needs no scaler.")
        if not (self.sharded or shard_teacher):
            return
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for model in distiller.cast.students.values() if self.sharded else ():
            self._shard(model, mesh)
        for model in distiller.cast.teachers.values() if shard_teacher else ():
            self._shard(model, mesh)
        if self.sharded:
            distiller.untied = frozenset(name for name, _ in distiller.named_parameters())  # nothing here needs ties

    @property
    def sharded(self) -> bool:
        """Whether students are in shards."""
        return self.kind == "fsdp2"

    @property
    def parted(self) -> bool:
        """Whether a checkpoint must be put together by all processes."""
        return self.kind in ("fsdp2", "zero")

    @property
    def _plainly(self) -> bool:
        """Whether accelerate would do nothing but ``backward()`` and ``step()``.

        Its wrappers look for installed packages in every step, which takes longer than a small net's.
        """
        return self.accelerator.scaler is None and self.accelerator.device.type in ("cpu", "cuda")

    def steppers(self, optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
        """Return what is stepped: the optimizers themselves, or accelerate's wrappers where they have work to do."""
        if self._plainly:
            return dict(optimizers)
        return {name: self.accelerator.prepare_optimizer(o) for name, o in optimizers.items()}

    def divide(self, optimizers: Mapping[str, Any], lost: Collection[str]) -> tuple[Any, dict[str, ZeroOptimizer]]:
        """Start DeepSpeed; returns what to call for a pass, and the run's optimizer, which is in parts from now on."""
        inner, plan = bare(optimizers), self.plan
        self._engine, made = divided(
            self.distiller, inner, self.accelerator, lost=lost, batch_size=plan.batch_size, clip=plan.clip
        )
        self._zero = self.distiller.watch(*made.values())
        return self._engine, made

    def _shard(self, model: nn.Module, mesh: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        self._photos += [(m, type(m), set(m.__dict__), _hooks(m)) for m in model.modules()]
        # Gathered weights are let go after every pass, so that whatever reads or writes them in between meets shards.
        for block in _blocks(model):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        if any(not split(p) for p in model.parameters()):
            fully_shard(model, mesh=mesh, reshard_after_forward=True)

    def micro_step(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Return what a micro-batch runs in: gradients of copies travel once a step, shards are summed as they come."""
        if self.parted and self._between:  # as DDP does by itself: each step begins with equal running statistics
            same_buffers(self.distiller)
        self._between = last
        if self._engine is not None:
            self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        return nullcontext() if last or self.parted else self.accelerator.no_sync(model)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return what a pass is made under; DeepSpeed's engine opens it inside."""
        return nullcontext() if self._engine is not None else self.accelerator.autocast()

    def backward(self, loss: Tensor) -> Tensor:
        """Make gradients, and return the loss without its graph; micro-batches are summed, for the loss has been
        divided by what the whole step counts."""
        if self._engine is not None:
            self._engine.backward(loss, scale_wrt_gas=False)
        elif self._plainly:
            loss.backward()
        else:
            self.accelerator.backward(loss)
        return loss.detach()

    @torch.no_grad()
    def average(self) -> None:
        """Average the gradients of the parts that are whole; copies were averaged as they were made."""
        if not self.sharded:
            return
        whole = [p for p in self.distiller.parameters() if p.requires_grad and not split(p)]
        if not whole:
            return
        flags = [torch.full((), float(p.grad is not None), device=p.device) for p in whole]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in whole]
        flat = torch.cat([torch.stack(flags), *(part.flatten().float() for part in parts)])
        dist.all_reduce(flat)
        reached, *grads = flat.split([len(whole), *(p.numel() for p in whole)])
        for parameter, hit, grad in zip(whole, reached.tolist(), grads, strict=True):
            if hit:
                parameter.grad = (grad / self.accelerator.num_processes).view_as(parameter).to(parameter.dtype)

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter], largest: float) -> None:
        """Scale the gradient down to norm ``largest``, taken over all parameters and their shards."""
        if self._engine is not None:  # which clips as it steps
            return
        chosen = list(parameters)
        if not self.sharded:
            self.accelerator.clip_grad_norm_(chosen, largest)
            return
        found = [p.grad for p in chosen if p.grad is not None]
        place = self.accelerator.device
        shards, whole = (
            sum(
                (local(g).float().square().sum() for g in found if split(g) is here),
                torch.zeros((), device=place),
            )
            for here in (True, False)
        )
        dist.all_reduce(shards)
        scale = (largest / ((shards + whole).sqrt() + 1e-6)).clamp(max=1.0)
        for grad in found:
            local(grad).mul_(scale)

    def restore(self) -> None:
        """Make every sharded model whole again, as it was before the run but for its weights."""
        if self._zero is not None:
            self._zero.release()
            self._engine = self._zero = None
        whole: dict[int, nn.Parameter] = {}
        for module, kind, names, before in self._photos:
            module.__class__ = kind
            for name in set(module.__dict__) - names:
                del module.__dict__[name]
            for name, table in before.items():
                module.__dict__[name].clear()
                module.__dict__[name].update(table)
            for name, parameter in module._parameters.items():
                if parameter is not None and split(parameter):
                    if id(parameter) not in whole:  # tied weights stay one parameter
                        full = parameter.full_tensor().detach().clone()
                        whole[id(parameter)] = nn.Parameter(full, parameter.requires_grad)
                    module._parameters[name] = whole[id(parameter)]
        self._photos = []


def _kind(accelerator: Accelerator) -> str:
    """Return "one", "ddp", "fsdp2" or "zero"; what else a launcher may ask for is refused."""

    def asked(name: str) -> bool:
        return os.environ.get(name, "false").lower() in ("true", "1", "yes")

    if asked("ACCELERATE_USE_DEEPSPEED"):
        return "zero"
    if accelerator.num_processes == 1:
        return "one"
    if not asked("ACCELERATE_USE_FSDP"):
        return "ddp"
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise DistilError(
            "The launcher asked for FSDP 1, which renames and flattens parameters; add --fsdp_version 2 to accelerate "
            "launch."
        )
    return "fsdp2"


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a model: those the launcher names by class, else the members of alike lists."""
    named = {name for name in os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",") if name}
    if named:
        yield from (m for m in model.modules() if type(m).__name__ in named)
        return
    for holder in model.modules():
        if isinstance(holder, nn.ModuleList | nn.Sequential) and len(holder) > 1:
            kinds = {type(block) for block in holder}
            if len(kinds) == 1 and all(any(True for _ in block.children()) for block in holder):
                yield from (block for block in holder if any(True for _ in block.parameters()))
                return  # the outermost list is enough; blocks within blocks would be gathered twice


def _hooks(module: nn.Module) -> dict[str, Any]:
    """Copies of a module's tables of hooks."""
    return {name: table.copy() for name, table in module.__dict__.items() if name.endswith(TABLES)}


def split(tensor: Tensor) -> TypeIs[DTensor]:
    """Say whether a tensor is in shards; where their module was never imported, none is.

    >>> split(torch.ones(1))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def bare(optimizers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimizers under accelerate's wrappers."""
    return {name: getattr(optimizer, "optimizer", optimizer) for name, optimizer in optimizers.items()}


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, any other as it is; both share memory with it."""
    return tensor.to_local() if split(tensor) else tensor


def kept(tensor: Tensor) -> Tensor:
    """Return a copy to keep: of a whole tensor on the CPU, of a sharded one in its shards."""
    return tensor.detach().clone() if split(tensor) else tensor.detach().cpu().clone()


def gathered(tree: Any) -> Any:
    """Return a tree with every sharded tensor whole; all processes call it, and the first keeps what it gives.

    >>> gathered({"weights": [torch.ones(1), 2]})
    {'weights': [tensor([1.]), 2]}
    """
    if isinstance(tree, Tensor) and split(tree):
        full = tree.full_tensor()
        return full.detach().cpu() if dist.get_rank() == 0 else full.new_empty(0)
    if isinstance(tree, Mapping):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree


def placed(stored: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor in the shards of ``like``; as it is where that is whole too."""
    if not split(like) or split(stored):
        return stored
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(stored.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def placed_state(optimizer: Optimizer, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's stored state in the shards of its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        i: {k: placed(v, parameters[i]) if isinstance(v, Tensor) and v.ndim else v for k, v in one.items()}
        for i, one in stored["state"].items()
    }
    return {**stored, "state": state}
