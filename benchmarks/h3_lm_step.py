"""H3: one step of a language model's distillation: loss from hidden states against TRL's GKD loss on full logits.

Llama-like models of about 8 and 1 billion parameters with random weights, generalised Jensen-Shannon at 1/2, lambda 0
(given texts), bf16, AdamW. TRL's side makes the steps of its ``GKDTrainer.compute_loss`` with its own loss function.

    python benchmarks/h3_lm_step.py                        # one CUDA device; writes benchmarks/results/H3.json
    python benchmarks/h3_lm_step.py --device cpu --tiny    # shows that it runs
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from side_by_side import clock_name, compared, device_of, memory_rows, needs, now, options, rounds, waited, write
from torch import Tensor, nn

from distil.functional.linear import Head, linear_divergence

IGNORED = -100
SHAPES = {
    "student": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "teacher": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
TINY = {
    "student": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "teacher": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    given = options(__doc__, repeats=10, devices=True).parse_args(arguments)
    device = device_of(given)
    needs("trl", "transformers")
    batch, length, size = (2, 12, 64) if given.tiny else (4, 2048, 128_256)
    student, teacher = (model(role, size, device, tiny=given.tiny) for role in ("student", "teacher"))
    teacher.eval().requires_grad_(False)
    torch.manual_seed(0)
    ids = torch.randint(size, (batch, length), device=device)
    labels = ids.clone()
    labels[:, : length // 4] = IGNORED  # a prompt
    sides = {"ours": from_hidden(student, teacher, ids, labels), "TRL": from_logits(student, teacher, ids, labels)}
    values = [float(side().detach()) for side in sides.values()]
    assert abs(values[0] - values[1]) <= (1e-5 if given.tiny else 2e-2) * abs(values[1]), values
    steps = {name: waited(step(student, side)) for name, side in sides.items()}
    taken = rounds(steps, repeats=given.repeats, clock=now)
    what = f"step of {batch} x {length} tokens, vocabulary {size}"
    row = compared(
        what,
        taken["ours"],
        taken["TRL"],
        peer_name="TRL's GKD loss",
        unit="ms",
        scale=1e3,
        target="not slower",
        met=1.0,
    )
    rows = [row | {"tokens_per_second": batch * length / row["ours"] * 1e3}]
    rows += memory_rows(what, steps["ours"], {"TRL's GKD loss": steps["TRL"]}, target="not more", least=1.0)
    setting = {"divergence": "jsd 0.5", "dtype": str(next(student.parameters()).dtype), "repeats": given.repeats}
    write("H3", rows, setting, out=given.out, packages=("trl", "transformers"), clock=clock_name())


def model(role: str, size: int, device: torch.device, *, tiny: bool) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=size, tie_word_embeddings=False, **(TINY if tiny else SHAPES)[role])
    return LlamaForCausalLM(config).to(device, torch.float32 if tiny else torch.bfloat16)


def from_hidden(student: Any, teacher: Any, ids: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Ours: no logits but a block of rows at a time; ignored tokens weigh 0."""
    counted = (labels[:, 1:] != IGNORED).float()

    def loss() -> Tensor:
        hidden = student.model(input_ids=ids).last_hidden_state[:, :-1]
        with torch.no_grad():
            known = teacher.model(input_ids=ids).last_hidden_state[:, :-1]
        heads = Head(student.lm_head.weight), Head(teacher.lm_head.weight)
        return linear_divergence(hidden, known, *heads, divergence="jsd", weight=counted / counted.sum()).sum()

    return loss


def from_logits(student: Any, teacher: Any, ids: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """TRL's: both models' logits of all tokens, shifted, through its loss."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    def loss() -> Tensor:
        ours = student(input_ids=ids).logits[:, :-1]
        with torch.no_grad():
            theirs = teacher(input_ids=ids).logits[:, :-1]
        count = (labels[:, 1:] != IGNORED).sum()
        return GKDTrainer.generalized_jsd_loss(ours, theirs, labels[:, 1:], beta=0.5, num_items_in_batch=count)

    return loss


def step(student: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One step of training."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
