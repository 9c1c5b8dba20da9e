"""The same Distiller under Lightning, with two micro-batches a step, and its twin in plain PyTorch.

python examples/lightning_loop.py
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from ten_lines import batches, by_hand, models
from torch import Tensor, nn

import distil
from distil.methods import KD, Supervised


class Windows:
    """Batches that Lightning takes one by one, each step's first as the list of all that step's micro-batches.

    The others of a step come as an empty list: they were in the first. Any loader with a length can be put in; across
    processes it must read each process's own share by itself, since Lightning adds its sampler to a DataLoader only.
    """

    def __init__(self, loader: Sequence[Any], accumulate: int) -> None:
        self.loader, self.accumulate = loader, accumulate

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Any]]:
        source = iter(self.loader)
        for first in range(0, len(self), self.accumulate):
            window = [next(source) for _ in range(min(self.accumulate, len(self) - first))]
            yield window
            yield from ([] for _ in window[1:])


class Distillation(lightning.LightningModule):
    """Hold a distiller; Lightning sees one module whose step returns a loss."""

    def __init__(self, distiller: distil.Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def training_step(self, window: list[Any], index: int) -> Tensor:
        """Return the loss of the next micro-batch of the open step."""
        if window:
            self.totals = self.distiller.totals(window)
        # Lightning divides by accumulate_grad_batches, at the end of an epoch too, where a step may have fewer: so the
        # distiller is told that nobody divides, and what Lightning divides by is multiplied in here.
        loss = self.distiller(totals=self.totals, divides=False).loss
        return loss * self.trainer.accumulate_grad_batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, watched."""
        optimizer: torch.optim.Optimizer = self.distiller.watch(torch.optim.AdamW(self.distiller.parameters(), lr=1e-3))
        return optimizer

    def on_train_epoch_end(self) -> None:
        """Move the distiller's epoch on."""
        self.distiller.end_epoch()


def with_lightning(distiller: distil.Distiller, loader: Sequence[Any], accumulate: int = 1) -> nn.Module:
    """Train for one epoch; one that shows nothing and writes nothing."""
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Distillation(distiller), Windows(loader, accumulate))
    return distiller.deployed()


def main() -> None:
    """Run both and compare: a step of two micro-batches is the step of the two joined."""
    student, teacher = models()
    twin, loader = copy.deepcopy(student), batches(40)
    method = 0.9 * KD(temperature=4) + 0.1 * Supervised()
    ours = with_lightning(distil.Distiller(student, teacher, method, example=loader[0]), loader, accumulate=2)
    pairs = zip(loader[::2], loader[1::2], strict=True)
    plain = by_hand(twin, teacher, [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in pairs])
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    print(f"largest difference between the weights after 20 steps: {gap:.0e}")


if __name__ == "__main__":
    main()
