"""The same Distiller in a Hugging Face Trainer, with two micro-batches a step, and its twin in plain PyTorch.

python examples/hf_trainer.py
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from ten_lines import batches, by_hand, models
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import distil
from distil.methods import KD, Supervised


class DistillationTrainer(Trainer):
    """A Trainer whose model is a Distiller, and whose steps are exact for any micro-batches.

    ``Trainer(model=distiller, …)`` as it is works too; then each micro-batch is averaged by itself, which differs where
    they count unequal numbers (missing labels, padding), and the distiller says so once.
    """

    totals: Any = None

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Take the micro-batches of one optimizer step, and let the distiller count over them."""
        window, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if window:
            self.totals = self.accelerator.unwrap_model(self.model).totals(window)
        return window, items

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of the next micro-batch of the step; outside training, of the batch alone."""
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        # The Trainer divides by the number of micro-batches it really took, which is what the distiller expects.
        return model(totals=self.totals).loss


def with_trainer(
    distiller: distil.Distiller, data: Sequence[dict[str, Tensor]], folder: str, *, batch_size: int, accumulate: int = 1
) -> nn.Module:
    """Train for one epoch; one that shows nothing and writes nothing."""
    settings = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        remove_unused_columns=False,  # it would drop what Distiller.forward does not name, so nearly everything
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",  # these two so that the plain loop below is the same; the defaults are a
        max_grad_norm=0.0,  # linear schedule and a gradient clipped at norm 1
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    optimizer = distiller.watch(torch.optim.AdamW(distiller.parameters(), lr=1e-3))
    trainer = DistillationTrainer(model=distiller, args=settings, train_dataset=data, optimizers=(optimizer, None))
    trainer.train()
    return distiller.deployed()


def main() -> None:
    """Run both and compare: a step of two micro-batches is the step of the two joined."""
    student, teacher = models()
    twin, loader = copy.deepcopy(student), batches(40)
    method = 0.9 * KD(temperature=4) + 0.1 * Supervised()
    distiller = distil.Distiller(student, teacher, method, example=loader[0])
    samples = [{"inputs": x, "labels": y} for inputs, labels in loader for x, y in zip(inputs, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        ours = with_trainer(distiller, samples, folder, batch_size=32, accumulate=2)
    pairs = zip(loader[::2], loader[1::2], strict=True)
    plain = by_hand(twin, teacher, [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in pairs])
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    print(f"largest difference between the weights after 20 steps: {gap:.0e}")


if __name__ == "__main__":
    main()
