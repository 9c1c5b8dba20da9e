"""What ``distil train`` and ``distil compare`` are told, and the data as both models see them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distil.data import load
from distil.data.bundle import Bundle
from distil.data.condensed import CondensedSet, load_condensed
from distil.data.foreign_sets import find_condensed
from distil.data.splits import SPLITS_FILE
from distil.data.text import TEXT_TASK
from distil.data.tokens import tokenised
from distil.data.twin import ImageViews
from distil.data.views import Views
from distil.engine.frozen import DEFAULT
from distil.errors import DistilError
from distil.loops.inputs import LARGEST_SIDE, InputSize, Normalise
from distil.loops.settings import from_yaml
from distil.loops.training import Training
from distil.models.tokenizers import tokenizer_for
from distil.tasks import TextTask

__all__ = ["Columns", "LargeGraph", "OwnRun", "behind", "read_both", "read_data", "read_raw"]


@dataclass(frozen=True)
class Columns:
    """The columns of a table; ``None`` looks for a usual name.

    Attributes:
        text, image: of texts, of images; without either, numbers and categories are read.
        label, split: of the classes, and of the parts.
        prompt: of what stands before each text, as an instruction before its answer (``distil condense --method ifd``).
        categories: columns that are categories though they hold numbers. ignore: columns left out. missing: ``refuse``
            or ``fill`` empty cells. Any of these three makes a table one of numbers and categories.
    """

    text: str | None = None
    image: str | None = None
    label: str | None = None
    split: str | None = None
    prompt: str | None = None
    categories: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    missing: str | None = None

    def named(self) -> dict[str, Any]:
        """Those that the user named."""
        return {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}


@dataclass(frozen=True)
class LargeGraph:
    """How a graph is read that is too large for one pass of its teacher.

    Attributes:
        fanout: while the teacher is trained, how many neighbours of each node are followed, hop by hop, ``[10, 10]``
            (-1: all), in batches of ``batch_size`` training nodes; the whole graph by default.
        nodes: how many nodes the teacher answers at a time, from their whole neighbourhoods; 0 answers all at once.
    """

    fanout: tuple[int, ...] = ()
    nodes: int = 0


@dataclass(frozen=True)
class OwnRun:
    """The settings of ``distil train`` and ``distil compare``.

    Attributes:
        data: a path or a name that ``distil.load`` reads.
        student, teacher: models by name: ``timm:…``, ``torchvision:…``, ``hf:…``, ``distil:…``, ``module:function``,
        ``file.py:function``. teacher_weights, student_weights: safetensors or state-dict files.
        teachers, teachers_weights: several in the place of the one, who together answer for a condensed set's dynamic
        labels; a file for each, in their order.
        pretrained: let the teacher's library load its published weights.
        train_teacher: epochs to train (or fine-tune) the teacher on the data first; 0 takes it as it is.
        teacher_lr: its learning rate then; default that of the students. A pretrained transformer wants about 5e-5.
        methods: expressions; one for ``train``. One of your own stands in them as ``file.py:Name`` or ``module:Name``.
        baseline: also train the student alone, with the same budget, to say whether the method helped.
        size, channels: how images are read. limit: samples of each part at most.
        columns: the columns of a table, where they have unusual names.
        classes: the class names in the order of the outputs, where the data's own order will not do.
        splits: a ``splits.csv`` of an earlier run, used instead of splits made here. split_seed: makes them.
        drop_leaks: leave samples of train that also stand in val or test out of train.
        max_length: tokens of a text at most. tokenizer: a folder, for models that bring none.
        taps: your paths for meanings, ``{emb: avgpool}``.
        normalise: each role's mean and std of images in [0, 1]: ``auto``, ``none``, ``imagenet`` or ``[mean, std]``.
        input_size: each role's side in pixels, to which its images are resized: ``auto``, ``none`` or a number.
        teacher_forward: how the teacher's passes are made cheap: ``plain``, ``auto``, or options of
            :class:`distil.engine.TeacherForward` joined by commas.
        views: views of the training images, ``{count: 8, kinds: [crop, flip]}``, which every arm sees alike; none
        where ``count`` is 0, and those of the cache where the teacher is one. views_per_image: how many of them one
        reading of an image gives.
        graph: how a large graph is read.
        strong: how the weak and the strong view of an image are made where a method compares two (mlld).
        training: how students are trained.
        grid: values to try, by ``component.argument`` or ``training.setting``; chosen on validation, every arm with the
            same number of trials (see :func:`distil.loops.grid.plan_trials`).
        trials: at most so many for each arm.
        seeds: shared by all arms.
        real: the real data that a condensed set is tested on, where those it was made from have moved.
        updates: steps of a student that is taught by a condensed set's own labels (``methods: [set]``).
    """

    data: str = ""
    student: str = ""
    teacher: str = ""
    teacher_weights: str | None = None
    teachers: tuple[str, ...] = ()
    teachers_weights: tuple[str, ...] = ()
    student_weights: str | None = None
    pretrained: bool = False
    train_teacher: int = 0
    teacher_lr: float | None = None
    methods: tuple[str, ...] = ("kd",)
    baseline: bool = True
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    classes: tuple[str | int, ...] = ()
    splits: str | None = None
    split_seed: int = 0
    drop_leaks: bool = False
    max_length: int = 128
    tokenizer: str | None = None
    taps: dict[str, str] = field(default_factory=dict)
    normalise: Normalise = field(default_factory=Normalise)
    input_size: InputSize = field(default_factory=InputSize)
    teacher_forward: str = DEFAULT
    views: Views = field(default_factory=Views)
    views_per_image: int = 1
    strong: ImageViews = field(default_factory=ImageViews)
    graph: LargeGraph = field(default_factory=LargeGraph)
    training: Training = field(default_factory=Training)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    trials: int | None = None
    seeds: tuple[int, ...] = (0,)
    real: str | None = None
    updates: int = 1000

    def __post_init__(self) -> None:
        if self.teachers and (self.teacher or self.teacher_weights):
            raise DistilError(
                f"teachers={list(self.teachers)} stand in the place of teacher={self.teacher!r} and of teacher_weights="
                f"{self.teacher_weights!r}; leave those out."
            )


def read_data(run: OwnRun, folder: Path) -> Bundle:
    """Return the data as the students of the run in ``folder`` see them."""
    return read_both(run, folder)[0]


def read_raw(run: OwnRun, folder: Path) -> Bundle:
    """Return the data as they are read, texts as texts; a condensed set with the real data's parts to test on."""
    found = find_condensed(run.data)
    if found is not None:
        small = load_condensed(found)
        return small.as_bundle(read_raw(behind(small, run, found), folder))
    options = {**_shape(run), **run.columns.named(), **({"classes": run.classes} if run.classes else {})}
    splits = run.splits or (str(stored) if (stored := folder / SPLITS_FILE).is_file() else None)
    options |= {"seed": run.split_seed, **({"splits": splits} if splits else {})}
    options |= {"drop_leaks": True} if run.drop_leaks else {}
    return load(run.data, **options)


def behind(small: CondensedSet, run: OwnRun, folder: Path) -> OwnRun:
    """Return how the real data behind a condensed set are read: as its maker did, or from where the run says.

    Args:
        small: the set.
        run: names other data by ``real``, where those that made it have moved.
        folder: of the set, beside which its maker kept the parts of the data.
    """
    source: dict[str, Any] = dict(small.made.get("source") or {})
    source.pop("encoder", None)
    data = run.real or source.pop("data", "")
    if not data or (not run.real and ("/" in data or "\\" in data) and not Path(data).exists()):
        lost = f"the data it was made from ({data}) are not there" if data else "it does not say what it was made from"
        raise DistilError(f"{folder} is tested on real data, and {lost}; name them: --set real=PATH.")
    kept = folder.parent / SPLITS_FILE
    splits = run.splits or (str(kept) if kept.is_file() and folder.name == "set" else None)
    columns = Columns(**{name: _tuple(value) for name, value in (source.pop("columns", None) or {}).items()})
    known = {name: _tuple(value) for name, value in source.items() if name in OwnRun.__dataclass_fields__}
    return replace(OwnRun(columns=columns), **{**known, "data": data, "splits": splits})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # undo what JSON makes of tuples


def read_both(run: OwnRun, folder: Path) -> tuple[Bundle, Bundle]:
    """Return the data as the student and as the teacher alone see them; they differ where their tokenizers do."""
    bundle = read_raw(run, folder)
    if bundle.task != TEXT_TASK:
        return bundle, bundle
    texts = [bundle.train.dataset.texts[k] for k in bundle.train.positions.tolist()]
    asked = _cached(run)
    theirs, most = tokenizer_for(
        asked.teacher, texts, named=asked.tokenizer, pretrained=asked.pretrained, role="teacher"
    )
    mine, limit = tokenizer_for(run.student, texts, named=run.tokenizer, fallback=theirs)
    lengths = [
        min(run.max_length, longest, tokenizer.model_max_length)
        for tokenizer, longest in ((mine, limit), (theirs, most))
    ]
    both = tokenised(bundle, mine, theirs, max_length=lengths[0], teacher_max_length=lengths[1])
    alone = tokenised(bundle, theirs, max_length=lengths[1])
    return (
        replace(both, task=TextTask(tokenizer=mine, max_length=lengths[0])),
        replace(alone, task=TextTask(tokenizer=theirs, max_length=lengths[1])),
    )


def _cached(run: OwnRun) -> OwnRun:
    """The settings that a cached teacher was written with, whose tokenizer reads for it; else those of the run."""
    file = Path(run.teacher.removeprefix("cache:")).expanduser() / "settings.yaml"
    if not run.teacher.startswith("cache:") or not file.is_file():
        return run
    stored = from_yaml(OwnRun(), file)
    return replace(stored, tokenizer=run.tokenizer or stored.tokenizer)


def _shape(run: OwnRun) -> dict[str, int]:
    """How images are read, as far as it was said."""
    if run.channels not in (None, 1, 3):
        raise DistilError(f"channels={run.channels} is impossible; expected 1 (grey) or 3 (RGB).")
    given = {key: value for key in ("size", "channels", "limit") if (value := getattr(run, key)) is not None}
    for key, value in given.items():
        if value < 1:
            raise DistilError(f"{key}={value} is impossible; expected at least 1.")
    if given.get("size", 0) > LARGEST_SIDE:
        raise DistilError(f"size={given['size']} is no size of an image; expected at most {LARGEST_SIDE} pixels.")
    return given
