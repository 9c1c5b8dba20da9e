"""The training images of a run of one's own in views: recorded ones, or a weak and a strong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from distil.cache.teacher import CachedTeacher
from distil.data.bundle import Bundle
from distil.data.fingerprint import fingerprint
from distil.data.twin import TwoViews
from distil.data.views import Viewed
from distil.errors import DistilError
from distil.loops.own_run import OwnRun
from distil.methods.expression import parse

__all__ = ["images_alone", "in_views", "seen_by"]


def in_views(run: OwnRun, bundle: Bundle, taught: Bundle, teacher: nn.Module) -> tuple[Bundle, Bundle]:
    """Return the data as students and as the teacher alone train on them, the images in the views that were asked for.

    Recorded views are those that a cached teacher saw, or those of the run; a teacher that is trained first sees them
    too. Where a method compares a weak and a strong view (mlld), every arm trains on the same weak ones, and the
    teacher on the images as they are.

    Raises:
        DistilError: other views than the cache's, data that are no images, a batch that does not hold whole images.
    """
    pairs = _asking(run.methods)
    if pairs:
        return _in_two(run, bundle, teacher, pairs), taught
    seen = _in_recorded(run, bundle, teacher)
    return (bundle, taught) if seen is bundle else (seen, seen)


def seen_by(expression: str, bundle: Bundle) -> Any:
    """Return what an arm trains on: without the strong views, where its method reads none."""
    train = bundle.train
    return train.weakly() if isinstance(train, TwoViews) and not _asking([expression]) else train


def images_alone(bundle: Bundle) -> None:
    """Refuse data that hold no images."""
    if len(bundle.input_shape) != 3 or bundle.task != "classification":
        raise DistilError(f"views are of labelled images, and {bundle.name} holds none; leave views out.")


def _marked(bundle: Bundle, views: Mapping[str, Any]) -> str:
    """Name the data in views; the name of the plain data comes first, by which an export knows them again."""
    return f"{bundle.fingerprint}-{fingerprint(views)}"


def _asking(texts: Iterable[str]) -> str:
    """Return the name of a method that reads a strong view beside the inputs; "" where none does."""
    components = [component for text in texts for component in parse(text)]
    return next((c.name for c in components if getattr(c.method, "two_views", False)), "")


def _in_two(run: OwnRun, bundle: Bundle, teacher: nn.Module, name: str) -> Bundle:
    plain = f"or give it one view: {name}(views=1)"
    if len(bundle.input_shape) != 3 or bundle.task != "classification":
        raise DistilError(f"{name} compares two views of each image, and {bundle.name} holds none; {plain}.")
    if isinstance(teacher, CachedTeacher):
        raise DistilError(
            f"{name} asks the teacher about a strong view made anew each time, which no cache holds; give the model "
            f"itself as --teacher, {plain}."
        )
    if run.views.count:
        raise DistilError(f"{name} makes views of its own (strong.crop, …); leave views out, {plain}.")
    views = run.strong
    views.augmentation()  # refuses early where torchvision is missing
    train = TwoViews(bundle.train, strong=views.strong, weak=views.weak)
    note = (
        f"every arm sees the training images moved by up to {views.crop:.3g} of their side"
        f"{' and mirrored' if views.flip else ''}; {name} sees a second view too, after {views.operations} operations "
        f"of RandAugment at magnitude {views.magnitude}."
    )
    return replace(bundle, train=train, notes=(*bundle.notes, note), fingerprint=_marked(bundle, asdict(views)))


def _in_recorded(run: OwnRun, bundle: Bundle, teacher: nn.Module) -> Bundle:
    cache = teacher.cache if isinstance(teacher, CachedTeacher) else None
    views = run.views if run.views.count else cache.views if cache is not None else None
    if cache is not None and views != cache.views:
        stored = "no views" if cache.views is None else f"the views {cache.views.plain()}"
        raise DistilError(
            f"the run asks for the views {run.views.plain()}, and the cache {cache.folder} holds {stored}: leave views "
            "out, which takes those of the cache, or write it with these."
        )
    if views is None:
        if run.views_per_image != 1:
            raise DistilError(f"views_per_image={run.views_per_image} needs views; set views.count, or cache --views.")
        return bundle
    if run.training.batch_size % max(1, run.views_per_image):
        raise DistilError(
            f"views_per_image={run.views_per_image} does not divide the batch size {run.training.batch_size}; choose "
            "one that does."
        )
    images_alone(bundle)
    each = run.views_per_image
    train = Viewed(bundle.train, views, per_image=each) if cache is None else cache.viewed(bundle.train, per_image=each)
    source = "replayed from the cache" if cache is not None else "drawn by seed"
    note = (
        f"every arm sees the training images in the same {views.count} views ({', '.join(views.kinds)}; {source}), "
        f"{each} of them each time an image is read."
    )
    name = _marked(bundle, {"views": views.plain(), "per_image": each})
    return replace(bundle, train=train, notes=(*bundle.notes, note), fingerprint=name)
