"""The condensers that choose texts by a causal language model: by perplexity, and by what an instruction adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distil.data.condensed import CondensedSet
from distil.data.fingerprint import fingerprint
from distil.data.text import with_utf8
from distil.errors import DistilError, nearest
from distil.loops.condense_check import class_counts
from distil.loops.condense_select import Choosing, chosen_set
from distil.loops.order import Order, options_of
from distil.loops.pools import candidates
from distil.loops.selecting_texts import TAKES, Encode, answer_perplexity, instruction_difficulty, taken
from distil.models.hf import check_causal, load_causal, load_tokenizer, token_limit
from distil.models.spec import split_spec
from distil.tasks.base import evaluating

__all__ = ["Following", "Reading", "ifd", "perplexity", "refuse_ifd", "refuse_perplexity"]

SHOWN = 3  # texts that a remark names


@dataclass(frozen=True)
class Reading(Choosing):
    """Choosing texts by how well a language model foretells them.

    Attributes:
        lm: the model, ``hf:FOLDER``: a causal language model and its tokenizer as transformers saves them.
        take: the "lowest" scores of a class, the "highest", or those in the "middle" of its order, as many below as
            above: neither the worn nor the garbled (Marion et al., arXiv 2309.04564).
        below: texts whose score reaches this are no candidates.
        tokens: of a text that are read at most; fewer where the model takes fewer.
        batch: texts in one pass.
    """

    lm: str = ""
    take: str = "middle"
    below: float | None = None
    tokens: int = 512
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.take not in TAKES:
            raise DistilError(f"take={self.take!r} is unknown; {nearest(self.take, TAKES)}")
        if self.tokens < 2 or self.batch < 1:
            raise DistilError(f"tokens={self.tokens} must be at least 2 and batch={self.batch} at least 1.")


@dataclass(frozen=True)
class Following(Reading):
    """Choosing answers by their instruction-following difficulty: the hardest of those an instruction helps at all."""

    take: str = "highest"
    below: float | None = 1.0


@dataclass(frozen=True)
class _Reader:
    """A language model with what it reads by; ``start`` begins every text, if the tokenizer has such a token."""

    model: nn.Module
    encode: Encode
    start: int | None
    longest: int


def perplexity(order: Order) -> CondensedSet:
    """Choose texts by their perplexity: :func:`distil.loops.selecting_texts.answer_perplexity`."""

    def score(reader: _Reader, texts: Sequence[str], prompts: Sequence[str] | None, batch: int) -> Tensor:
        return answer_perplexity(
            reader.model, reader.encode, texts, start=reader.start, max_length=reader.longest, batch_size=batch
        )

    return _by_reading(order, "perplexity", options_of(order, Reading), score)


def ifd(order: Order) -> CondensedSet:
    """Choose answers by how little their instruction helps to foretell them, misleading ones left out.

    The score is :func:`distil.loops.selecting_texts.instruction_difficulty`; the texts of the data are the answers, and
    the column ``columns.prompt`` holds the instructions.
    """

    def score(reader: _Reader, texts: Sequence[str], prompts: Sequence[str] | None, batch: int) -> Tensor:
        return instruction_difficulty(
            reader.model, reader.encode, prompts or (), texts, start=reader.start, max_length=reader.longest,
            batch_size=batch,
        )  # fmt: skip

    return _by_reading(order, "ifd", options_of(order, Following), score)


def refuse_perplexity(order: Order) -> None:
    """Refuse an order that perplexity cannot fill, before any weights are read."""
    _refuse(order, "perplexity", options_of(order, Reading))


def refuse_ifd(order: Order) -> None:
    """Refuse an order that the difficulty cannot fill, before any weights are read."""
    _refuse(order, "ifd", options_of(order, Following))
    if order.said(order.ids(torch.tensor([0])))[1] is None:
        raise DistilError(
            "ifd scores an answer with and without its instruction; name the column of instructions: --set "
            "columns.prompt=NAME (and that of answers, --set columns.text=NAME)."
        )


def _refuse(order: Order, name: str, how: Reading) -> None:
    if how.twins and order.raw:
        raise DistilError(
            f"twins={how.twins} compares texts as vectors; name their encoder: --set encoder=hf:FOLDER, or look for "
            "copies with --method duplicates."
        )
    folder = _folder(name, how)
    check_causal(folder)
    load_tokenizer(folder)


def _folder(name: str, how: Reading) -> str:
    if not how.lm:
        raise DistilError(f"{name} reads texts by a causal language model; name its folder: --set lm=hf:FOLDER.")
    kind, folder, options = split_spec(how.lm)
    if kind != "hf" or options:
        raise DistilError(f"lm={how.lm!r} is no language model; hf:FOLDER alone is expected.")
    return folder


def _reader(name: str, how: Reading, device: str | None) -> _Reader:
    folder = _folder(name, how)
    tokenizer = load_tokenizer(folder)
    model = load_causal(folder, tokenizer).to(device or "cpu")
    _looks_back(how.lm, model)

    def encode(text: str) -> Sequence[int]:
        found: Sequence[int] = tokenizer(with_utf8(text), add_special_tokens=False, verbose=False)["input_ids"]
        return found

    return _Reader(model, encode, tokenizer.bos_token_id, min(how.tokens, token_limit(folder, {})))


def _looks_back(lm: str, model: nn.Module) -> None:
    """Refuse a model whose answers at a token change with what comes after it: its perplexity would mean nothing."""
    place = next(model.parameters()).device
    ids = torch.tensor([[0, 1, 0], [0, 1, 1]], device=place)
    net: Any = model
    with evaluating(model), torch.no_grad():
        said = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :2].float()
    if float((said[0] - said[1]).abs().max()) > 1e-4 * float(said.std()):  # rounding alone gives about 1e-6 of it
        raise DistilError(
            f"lm={lm!r} looks at tokens that come after the one it foretells, so it is no causal language model; name "
            "one (GPT-2, Llama, …)."
        )


def _by_reading(
    order: Order, name: str, how: Reading,
    score: Callable[[_Reader, Sequence[str], Sequence[str] | None, int], Tensor],
) -> CondensedSet:  # fmt: skip
    positions, labels = candidates(order, how.pool or None)
    texts, prompts = order.said(order.ids(positions))
    reader = _reader(name, how, order.device)
    least = 1 if reader.start is not None else 2  # without a start the first token is read and not scored
    long = torch.tensor([len(reader.encode(text)) >= least for text in texts])
    notes = _too_short(order, positions, texts, long, least)
    at = long.nonzero().flatten()
    found = []
    for part in at.split(8 * how.batch):
        told = None if prompts is None else [prompts[k] for k in part.tolist()]
        found.append(score(reader, [texts[k] for k in part.tolist()], told, how.batch))
        order.progress.step(sum(map(len, found)), len(at))
    scores = torch.cat(found) if found else torch.zeros(0)
    if how.below is not None:
        under = scores < how.below
        if not bool(under.all()):
            notes.append(f"{int((~under).sum())} of {len(scores)} texts score {how.below:g} or more and were left out.")
        at, scores = at[under], scores[under]
    left = labels[at].bincount(minlength=order.classes)
    empty = [order.bundle.classes[k] for k, count in enumerate(left.tolist()) if not count]
    if empty and (how.balance or not len(at)):
        raise DistilError(
            f"{name}: no text of {', '.join(map(repr, empty[:6]))} can be chosen. {' '.join(notes)} Add texts, or "
            "raise below= (null: no bound)."
        )
    for note in notes:
        order.progress.say(f"{name}: {note}")
    before = zip(order.bundle.classes, class_counts(order), left.tolist(), strict=True)
    few = [f"{each} ({now})" for each, count, now in before if now < order.per_class <= count]
    if few and how.balance:
        order.progress.say(
            f"{name}: fewer than {order.per_class} texts can be chosen of {', '.join(few[:6])}: all are."
        )
    small = chosen_set(
        order, name, how, positions[at], labels[at], lambda where, few: taken(scores[where], few, how.take)
    )
    said = [*notes, *(small.made.get("notes") or ())]
    made = {**small.made, "lm": fingerprint(reader.model), **({"notes": said} if said else {})}
    return replace(small, made=made)


def _too_short(order: Order, positions: Tensor, texts: Sequence[str], long: Tensor, least: int) -> list[str]:
    """What is said of texts too short to be scored, which are no candidates."""
    short = (~long).nonzero().flatten().tolist()
    if not short:
        return []
    ids = order.ids(positions).tolist()
    named = ", ".join(f"{texts[k][:40]!r} (id {ids[k]})" for k in short[:SHOWN])
    more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
    return [
        f"{len(short)} of {len(texts)} texts have fewer than {least} tokens, too short to be scored, and were left "
        f"out: {named}{more}."
    ]
