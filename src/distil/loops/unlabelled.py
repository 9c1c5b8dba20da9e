"""Systems that need no labels and whose teacher need know nothing: what a run on the user's own data asks of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from distil import catalog
from distil.data.bundle import Bundle
from distil.errors import DistilError
from distil.loops.training import above_chance
from distil.methods.expression import parse
from distil.tasks import Task

__all__ = ["check_labels_read", "check_teacher"]


ENCODER = "the encoder"  # what the card of a system says that ships no classifier


def check_labels_read(text: str) -> None:
    """Refuse an expression by which no class is learnt: a student without classes cannot be scored."""
    method = parse(text)
    homes = {type(component.method).__module__ for component in method}
    for slug, card in catalog.systems().items():
        mine = any(home.startswith(f"{card.package}.") for home in homes)
        if mine and card.ships == ENCODER and "logits" not in card.needs.taps:  # its student has no classes at all
            raise DistilError(
                f"'{slug}' trains an encoder without labels, and an encoder has no classes to be scored by here; use "
                f"`distil run {slug}` for its experiment, or distil.Distiller(…, task='features') on your own models."
            )
    alone = _exempt(text)
    if alone and not any(component.method.labels for component in method):
        raise DistilError(
            f"'{text}' reads no labels and its teacher need know none, so its student would answer at random and no "
            f"score would mean anything: `distil run {alone}` is its experiment, with probes; 'supervised + {alone}' "
            "trains classes beside it."
        )


def check_teacher(texts: Iterable[str], teacher: nn.Module, bundle: Bundle, task: Task) -> None:
    """Stop where the teacher is no better than chance, unless every method is about one that may be."""
    if not all(_exempt(text) for text in texts):
        above_chance(teacher, bundle, task)


def _exempt(text: str) -> str:
    """Return the slug of a system in an expression that needs neither labels nor a teacher above chance; else ""."""
    kinds = {type(component.method).__name__ for component in parse(text)}
    for slug, card in catalog.systems().items():
        if card.chance_exempt and card.needs.labels == "none" and kinds & set(card.proof.exports):
            return slug
    return ""
