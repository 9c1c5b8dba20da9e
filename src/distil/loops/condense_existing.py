"""Sets that are there already: labelled anew, or turned into real texts, and written apart from where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet
from distil.data.condensed_files import as_kept
from distil.errors import DistilError
from distil.loops.condense_check import check_views, enough_texts
from distil.loops.condensed import stored_set
from distil.loops.lab import Lab
from distil.loops.labelling import Labelling, augmentation_of, labellers_fit, relabelled
from distil.loops.nearest_texts import nearest_texts
from distil.loops.order import Order

if TYPE_CHECKING:
    from distil.loops.own_condense import CondenseRun

__all__ = ["apart", "existing_fits", "labelling_for", "nearest_fit", "renewed"]


def apart(run: CondenseRun, folder: Path) -> None:
    """Refuse to write a run to where the set that it starts from lies, in it, or around it."""
    if run.existing is None:
        return
    source, target = Path(run.existing).expanduser().resolve(), folder.resolve()
    if source == target or source.is_relative_to(target) or (target.is_relative_to(source) and source.is_dir()):
        raise DistilError(
            f"--out {folder} is where the set {run.existing} lies, which stays as it is; name another folder."
        )


def existing_fits(run: CondenseRun, small: CondensedSet, called: Sequence[nn.Module]) -> None:
    """Refuse teachers that a set which is there does not ask, or labels that it cannot be given.

    Args:
        run: the order. small: the set.
        called: its teachers, whatever they have learned so far.
    """
    texts = small.texts is not None
    if texts and run.keep == "nearest":
        raise DistilError(f"{run.existing} holds texts, which are real ones already; leave keep=nearest out.")
    if run.labels is None:
        labellers_fit(small, called)  # their number
    elif run.labels != "hard":
        if not called:
            raise DistilError(f"{run.labels} labels come from a trained teacher; name one with --teacher.")
        if texts:
            raise DistilError(
                f"{run.existing} holds texts, which teachers see as vectors that a set does not keep; condense anew "
                f"with --labels {run.labels}, or leave it out."
            )
    if called and (run.labels or small.kind) == "hard":
        raise DistilError(
            f"{run.existing} is judged by hard labels, which ask no teacher; leave --teacher out, or say how it is to "
            "be labelled: --labels static."
        )


def nearest_fit(run: CondenseRun, small: CondensedSet, order: Order) -> list[str]:
    """Return what must be said of vectors for which texts are to be taken.

    Raises:
        DistilError: labels that texts cannot have, or that are a teacher's of the vectors alone; a class with fewer
            texts than the set has vectors.
    """
    kind = run.labels or small.kind
    check_views(kind, "label the texts: --labels static, or --labels hard.")
    if run.labels is None and kind == "static" and small.record.get("labelled_by"):
        raise DistilError(
            f"the labels of {run.existing} are its teachers' answers to the vectors, not to texts; label those: "
            "--labels static with --teacher, or --labels hard."
        )
    wanted = small.labels.bincount(minlength=order.classes).tolist()
    enough_texts(order, wanted, "read more of them, or leave it out.")
    known, here = small.made.get("data"), order.bundle.fingerprint
    if known == here:
        return []
    what = (
        f"were made from other data ({known}) than those at hand ({here})" if known else "do not say what they are of"
    )
    return [
        f"The vectors {what}: their nearest texts stand for them if the encoder and its max_length are the same, and "
        "some of what they were made from may stand among the test samples."
    ]


def labelling_for(run: CondenseRun, small: CondensedSet) -> Labelling | None:
    """Return how a set that is there is labelled anew: for hard labels, shown as it was but unmixed, unless told."""
    how = run.relabelling
    if how == Labelling(kind="hard"):
        how = replace(how, augmentation=replace(augmentation_of(small), mix="none"))
    return how


def renewed(
    run: CondenseRun, small: CondensedSet, order: Order, data: Bundle, lab: Lab, notes: Sequence[str] = ()
) -> CondensedSet:
    """Return a set that is there as the run asks: as it is, labelled anew, or the real texts nearest to its vectors.

    What is labelled is the set as it will be kept, so that labels are of the very images that students see.

    Args:
        run: says how. small: the set. order: the teachers, and the texts behind the vectors.
        data: the real data, as the set that comes of it stands for them.
        lab: where it is stored. notes: what its making says besides, from :func:`nearest_fit`.
    """
    if not run.writes:
        return small
    how, small = labelling_for(run, small), as_kept(small, run.exact)
    lab.progress.begin("taking the nearest texts" if order.nearest else f"labelling the set: {run.labels}")

    def make() -> CondensedSet:
        if order.nearest:
            return nearest_texts(small, order, how)
        assert how is not None
        return relabelled(small, order.teachers, how, task=order.task, device=order.device, progress=lab.progress.step)

    made = stored_set(
        lab, "renewed", make, set=small.fingerprint, labelling=how, teachers=list(order.teachers),
        **({"texts": data.fingerprint, "vectors": order.bundle.fingerprint} if order.nearest else {}),
    )  # fmt: skip
    told = {name: value for name, value in made.made.items() if name != "seconds"}
    if "seconds" in small.made:  # of the making, not of what was done here
        told["seconds"] = small.made["seconds"]
    if notes:
        told["notes"] = [*(told.get("notes") or ()), *notes]
    return replace(made, made=told)
