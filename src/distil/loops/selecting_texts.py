"""Choosing texts by a language model: how well it foretells them, and how much an instruction helps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distil.errors import DistilError, nearest
from distil.functional.sample_scores import following_difficulty, perplexity
from distil.functional.selection import Selected, chosen_per_class, ranked
from distil.tasks.base import evaluating

__all__ = ["TAKES", "answer_perplexity", "choose_texts", "instruction_difficulty", "taken"]

IGNORED = -100
TAKES = ("lowest", "middle", "highest")
Encode = Callable[[str], Sequence[int]]
"""From a text to its token ids, without special tokens: ``lambda text: tokenizer(text, add_special_tokens=False)
["input_ids"]``."""


def answer_perplexity(
    model: nn.Module, encode: Encode, answers: Sequence[str], *, prompts: Sequence[str] | None = None,
    start: int | None = None, max_length: int = 512, batch_size: int = 8,
) -> Tensor:  # fmt: skip
    """Return the perplexity of each answer, after its prompt where there is one, ``[N]`` float32.

    Args:
        model: a causal language model, called with ``input_ids`` and ``attention_mask``; it gives logits, or something
            with ``.logits``. It is left in the mode it was in.
        encode: from a text to its token ids.
        answers: the texts that are scored.
        prompts: what stands before each; their tokens are read and not scored.
        start: the id of a token that begins every text. Without it the first token of an answer is never scored,
            prompt or not, so that perplexities with and without a prompt are of the same tokens.
        max_length: a longer text loses the beginning of its prompt, and then the end of its answer.
        batch_size: texts in one pass.

    Raises:
        DistilError: texts and prompts of different numbers; an answer of which no token can be scored.
    """
    if prompts is not None and len(prompts) != len(answers):
        raise DistilError(f"answer_perplexity: {len(prompts)} prompts for {len(answers)} answers; give one for each.")
    head = [] if start is None else [start]
    rows = []
    for k, answer in enumerate(answers):
        said = list(encode(answer))[: max_length - len(head)]
        if len(said) < 2 - len(head):
            raise DistilError(
                f"answer_perplexity: answer {k} ({answer[:40]!r}) has {len(said)} tokens, none of which can be scored; "
                "leave it out, or give start=."
            )
        room = max_length - len(head) - len(said)
        before = list(encode(prompts[k]))[-room:] if prompts is not None and room else []
        scored = said if head else [IGNORED, *said[1:]]
        rows.append(([*head, *before, *said], [IGNORED] * (len(head) + len(before)) + scored))
    found = []
    with evaluating(model), torch.no_grad():
        for k in range(0, len(rows), batch_size):
            found.append(_perplexities(model, rows[k : k + batch_size]))
    return torch.cat(found) if found else torch.zeros(0)


def _perplexities(model: nn.Module, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    width = max(len(ids) for ids, _ in rows)
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row, _ in rows], device=place)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows], device=place)
    scored = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for _, row in rows], device=place)
    output: Any = model(input_ids=ids, attention_mask=mask)
    logits = output if isinstance(output, Tensor) else output.logits
    return perplexity(logits[:, :-1], scored[:, 1:]).cpu()


def instruction_difficulty(
    model: nn.Module, encode: Encode, instructions: Sequence[str], answers: Sequence[str], **options: Any
) -> Tensor:
    """Return PPL(answer | instruction) / PPL(answer) of each pair, ``[N]`` (:func:`following_difficulty`).

    Below 1 the instruction helps to foretell the answer; near 1 the pair teaches to follow instructions most; above 1
    the instruction misleads. ``options`` are those of :func:`answer_perplexity`.
    """
    told = answer_perplexity(model, encode, answers, prompts=instructions, **options)
    return following_difficulty(told, answer_perplexity(model, encode, answers, **options))


def taken(scores: Tensor, budget: int, take: str) -> Selected:
    """Return the places with the "highest" or "lowest" scores, or those in the "middle" of their order.

    The middle leaves out as many below as above (one more above where that is uneven), the lowest of it first.

    >>> taken(torch.tensor([9.0, 1.0, 4.0, 6.0, 2.0]), 3, "middle").index
    tensor([4, 2, 3])
    """
    if take not in TAKES:
        raise DistilError(f"take={take!r} is unknown; {nearest(take, TAKES)}")
    if take != "middle":
        return ranked(scores, budget, largest=take == "highest")
    rising = ranked(scores, len(scores), largest=False)
    first = max(0, len(scores) - budget) // 2
    return Selected(rising.index[first : first + budget], rising.weight[first : first + budget])


def choose_texts(
    scores: Tensor, budget: int, *, labels: Tensor | None = None, take: str = "highest", below: float | None = None
) -> Selected:
    """Return the places of texts by their scores, ``budget`` in all, or of each class where ``labels`` are given.

    Args:
        scores: ``[N]``, e.g. perplexities (of which the "lowest" are the fluent ones) or difficulties.
        labels: ``[N]`` class ids.
        take: as in :func:`taken`.
        below: texts whose score reaches this are no candidates: 1.0 leaves out pairs whose instruction misleads.

    >>> choose_texts(torch.tensor([0.5, 0.9, 1.2]), 1, below=1.0).index
    tensor([1])
    """
    left = torch.arange(len(scores)) if below is None else (scores < below).nonzero().flatten()
    if labels is None:
        found = taken(scores[left], budget, take)
    else:
        found = chosen_per_class(lambda at, few: taken(scores[left][at], few, take), labels[left], budget)
    return Selected(left[found.index], found.weight)
