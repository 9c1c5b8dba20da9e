"""How good a small set is: fresh students of several architectures on it, on random samples, and on the real data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from torch import nn

from distil.data.augmented import Augmentation
from distil.data.bundle import Bundle, labels_of
from distil.data.condensed import CondensedSet
from distil.data.fingerprint import fingerprint
from distil.data.loading import mix_seed
from distil.data.text import TEXT_TASK
from distil.errors import DistilError
from distil.loops.compare import check_seeds, compare
from distil.loops.condense_random import random_set
from distil.loops.condensed import StudentTraining, outcome_of, train_on
from distil.loops.dd_scores import scores_of
from distil.loops.encoded import folders_behind
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.labelling import Labelling, augmentation_of, labellers_fit, relabelled
from distil.loops.order import Order, architecture
from distil.loops.own_check import check_student
from distil.loops.recipe import data_report
from distil.loops.text_sets import Shown, as_read, shown
from distil.loops.training import build_model
from distil.report.text import over_seeds, size
from distil.tasks import get_task

__all__ = [
    "Judging",
    "check_students",
    "evaluate",
    "labelling_of",
    "made_elsewhere",
    "size_table",
    "students_for",
]

IMAGES = ("distil:cnn", "distil:resnet8", "distil:mobilenet")
TEXTS = ("distil:bow(vocab=5000)", "distil:textcnn(vocab=5000)", "distil:bow(vocab=5000, hidden=0)")
VECTORS = ("distil:mlp(hidden=64)", "distil:mlp(hidden=[128,64])", "distil:mlp(hidden=[])")


@dataclass(frozen=True)
class Judging:
    """How a set is judged.

    Attributes:
        students: nets by name; by default two that had no part in making the set.
        seeds: of weights, views and random samples; at least three say something.
        training: of every student.
        real: also train on all real data, for hard label recovery.
        weight: of the improvement over random in the ranking score.
    """

    students: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    training: StudentTraining = field(default_factory=StudentTraining)
    real: bool = True
    weight: float = 0.5


def students_for(
    judging: Judging, small: CondensedSet, bundle: Bundle, *, length: int = 128
) -> tuple[tuple[str, ...], list[str]]:
    """Return the students by which a set is judged, and what must be said of them.

    Raises:
        DistilError: every student has the form of a net that made the set.
    """
    named = judging.students or {"images": IMAGES, "texts": TEXTS, "vectors": VECTORS}[small.noun]
    forms = {}
    for spec in named:
        seen, _ = shown(small, spec, bundle, max_length=length)
        forms[spec] = architecture(build_model(spec, seen, seed=0))
    return _judges(judging, forms, small.made.get("nets") or ())


def _judges(judging: Judging, forms: Mapping[str, str], nets: Collection[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return those of the students, with their forms, that judge a set made with ``nets``."""
    named = tuple(forms)
    unseen = [spec for spec, form in forms.items() if form not in nets]
    if not unseen:
        raise DistilError(
            f"every student ({', '.join(named)}) is of the form of a net that makes the set, so it is no unseen "
            "architecture; name at least two others with --student."
        )
    notes = []
    if len(unseen) < 2:
        notes.append(f"Only {unseen[0]} is of a form that had no part in making the set; two or more say more.")
    if not judging.students:
        return tuple(unseen[:2]), notes
    if len(unseen) < len(named):
        known = ", ".join(spec for spec in named if spec not in unseen)
        notes.append(f"{known} is of the form of a net that made the set; its weights are fresh.")
    return named, notes


def check_students(judging: Judging, bundle: Bundle, nets: Collection[str] = (), *, length: int = 128) -> list[str]:
    """Refuse seeds and students that cannot judge, before anything is made to be judged; return what must be said.

    Args:
        judging: how it will be judged.
        bundle: the real data.
        nets: the forms of the nets that will make the set (or made it), none of which is an unseen architecture.
            Students of texts are built for the words of a set, so theirs are compared when it is there.
        length: tokens of a text.
    """
    check_seeds(judging.seeds)
    for spec in judging.students:
        seen = as_read(spec, bundle, max_length=length)
        check_student(spec, build_model(spec, seen, seed=0), seen)
    if bundle.task == TEXT_TASK:
        return []
    shape = bundle.input_shape
    named = judging.students or (IMAGES if len(shape) == 3 and shape[0] in (1, 3) else VECTORS)
    return _judges(judging, {spec: architecture(build_model(spec, bundle, seed=0)) for spec in named}, nets)[1]


def evaluate(
    small: CondensedSet,
    bundle: Bundle,
    lab: Lab,
    judging: Judging,
    *,
    teachers: Sequence[nn.Module] = (),
    title: str = "",
    command: str = "",
    seen: Bundle | None = None,
    length: int = 128,
    **inputs: Any,
) -> dict[str, Any]:
    """Return the report on a set: fresh students on it, on random samples and on the real data, seed by seed.

    Every arm makes the same number of updates. A seed's figure is the mean over the architectures; the table of sizes
    and one for each architecture stand beside it. The arms:

    - ``random``: as many random samples per class as the set was allowed, under the same kind of labels and views
      (the reference; with hard labels where no teacher is there to label them).
    - ``set``: the set as it is labelled.
    - ``set-hard``, where that is another thing: the set with its class labels alone, shown unmixed.
    - ``real``: all training data with hard labels, shown as ``set-hard`` (a bound, for orientation).

    Args:
        small: the set.
        bundle: the real data.
        lab: where runs are stored.
        judging: students, seeds, training.
        teachers: those that labelled it, for random samples and dynamic labels.
        title, command: of the report.
        seen: the data as teachers see them, where that is not ``bundle``: an encoder's vectors of its texts.
        length: tokens of a text.
        inputs: what the runs depend on besides.
    """
    students, notes = students_for(judging, small, bundle, length=length)
    notes += [*labellers_fit(small, teachers), *made_elsewhere(small, bundle)]
    task, kind = get_task(bundle.task), small.kind
    plain = _plain_view(small)
    soft = kind != "hard"
    labelled = not soft or bool(teachers)
    hard = small.with_labels("hard", logits=None)

    def averaged(make: Callable[[int], CondensedSet], view: Augmentation | None) -> Callable[[int], Outcome]:
        read = Shown(bundle, max_length=length)

        def run(seed: int) -> Outcome:
            found = make(seed)
            return _mean({s: _one(found, s, read, lab, judging, seed, teachers, view) for s in students})

        return run

    def random(seed: int) -> CondensedSet:
        texts = bundle if small.texts is not None else None
        order = Order(
            seen or bundle, _per_class(small), seed=mix_seed("judging", seed), progress=lab.progress, texts=texts
        )
        found = replace(random_set(order), made={"method": "random", "per_class": order.per_class})
        if labelled:  # the views belong to that too, mixed or not
            found = relabelled(found, teachers, labelling_of(small), task=order.task, device=lab.device)
        return order.kept(found)

    words = {"hard": "hard labels"}.get(kind, f"{kind} labels")
    arms: dict[str, Arm] = {}

    def add(name: str, role: Role, label: str, make: Callable[[int], CondensedSet], view: Any = None) -> None:
        arms[name] = Arm(role, averaged(make, view), label=label, phrase=label[0].lower() + label[1:])

    if labelled:
        add("random", "reference", f"Random samples, {words}", random)
        add("set", "method", f"The set, {words}", lambda seed: small)
    else:
        notes.append(
            f"The set has {words} and no teacher is named, so random samples have hard labels only, and what the set "
            "adds to them under its own labels is not known; name the teacher with --teacher."
        )
        add("random", "reference", "Random samples, hard labels", random, plain)
    if soft:
        role: Role = "ablation" if labelled else "method"
        add("set-hard", role, "The set, hard labels", lambda seed: hard, plain)
        if not labelled:
            add("set", "bound", f"The set, {words}", lambda seed: small)
    if judging.real:
        add("real", "bound", "All real data, hard labels", lambda seed: _whole(bundle), plain)
    report = compare(
        arms,
        judging.seeds,
        lab,
        title=title or f"{small.made.get('method', 'a condensed')} set of {bundle.name}",
        task=task,
        command=command,
        setting=_setting(small, judging, students),
        data=data_report(bundle),
        set=small.fingerprint,
        students=list(students),
        judging=judging.training,
        data_fingerprint=bundle.fingerprint,
        teacher_fingerprints=[fingerprint(t) for t in teachers],
        seen=(seen or bundle).fingerprint,
        length=length,
        **folders_behind(*students),
        **inputs,
    )
    report["warnings"] += notes
    scored = _scores(report, judging, soft=soft, labelled=labelled)
    report["tables"] = [scored, _by_student(report, students), size_table(report)]
    return report


def made_elsewhere(small: CondensedSet, real: Bundle) -> list[str]:
    """Return what must be said where a set was made from other data than it is tested on; else nothing."""
    known = small.made.get("data")
    if not known or known == real.fingerprint:
        return []
    return [
        f"The set was made from other data ({known}) than those it is tested on ({real.fingerprint}); what it was made "
        "from may stand among the test samples."
    ]


def labelling_of(small: CondensedSet) -> Labelling:
    """Return the labelling that a set's record describes."""
    record = small.record
    known = ("temperature", "epochs", "combine", "distance", "weight", "target")
    given = {name: record[name] for name in known if name in record}
    return Labelling(kind=small.kind, augmentation=augmentation_of(small), **given)


def size_table(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of accuracy over bytes: what each arm's set takes in images, labels and augmentation.

    Args:
        report: of arms whose diagnostics are a set's bytes, as :func:`distil.loops.condensed.outcome_of` notes them.
    """
    metric, rows = report["metric"]["name"], []
    for arm in report["arms"]:
        told = arm.get("diagnostics") or {}
        if "total bytes" not in told:
            continue
        bytes_ = [fmean(told[f"{name} bytes"]) for name in ("images", "labels", "augmentation", "total")]
        scores = [fmean(arm["metrics"][metric][which]) for which in ("last", "best")]
        rows.append([arm.get("label") or arm["name"], *map(size, bytes_), *(f"{value:.1f}" for value in scores)])
    head = ["Set", "inputs", "labels", "views", "together", f"{metric}, last", "best"]
    note = "Uncompressed: a byte for each value of an image, four for a vector's, texts in UTF-8; mean over seeds."
    return {"title": "Accuracy over bytes", "note": note, "head": head, "rows": rows}


def _one(
    small: CondensedSet, spec: str, as_shown: Shown, lab: Lab, judging: Judging, seed: int,
    teachers: Sequence[nn.Module], view: Augmentation | None,
) -> Outcome:  # fmt: skip
    bundle, read = as_shown(small, spec)
    trained = train_on(
        small, build_model(spec, bundle, seed=seed), judging.training, task=get_task(bundle.task), teachers=teachers,
        val=bundle.val, seed=seed, augmentation=view, device=lab.device, progress=lab.progress, read=read,
    )  # fmt: skip
    return outcome_of(trained, small, bundle, judging.training, batch=(view or augmentation_of(small)).batch)


def _mean(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return one outcome whose figures are the means over several students, theirs beside them."""
    first = next(iter(outcomes.values()))
    several = list(outcomes.values())
    metrics = {
        score: {name: round(fmean(o.metrics[score][name] for o in several), 4) for name in first.metrics[score]}
        for score in ("last", "best")
    }
    history = [
        {
            **records[0],
            "loss": fmean(r["loss"] for r in records),
            "val": {name: fmean(r["val"][name] for r in records) for name in records[0]["val"]},
        }
        for records in zip(*(o.history for o in several), strict=True)
    ]
    cost = {name: sum(o.cost[name] for o in several) for name in ("seconds", "teacher_seconds")}
    own = {f"{spec}, {score}": o.metrics[score]["accuracy"] for spec, o in outcomes.items() for score in o.metrics}
    return replace(first, metrics=metrics, history=history, cost=cost, diagnostics={**first.diagnostics, **own})


def _plain_view(small: CondensedSet) -> Augmentation:
    """How samples with class labels alone are shown: as the set's, but unmixed."""
    return replace(augmentation_of(small), mix="none")


def _per_class(small: CondensedSet) -> int:
    """How many random samples of each class stand against it: as were asked for, and no fewer than it stores."""
    stored = len(small.inputs) + (0 if small.compensators is None else len(small.compensators))
    return max(int(small.made.get("per_class") or 0), -(-stored // len(small.classes)))


def _whole(bundle: Bundle) -> CondensedSet:
    """All training data as a set of its own."""
    labels = labels_of(bundle.train)
    positions = (labels >= 0).nonzero().flatten()
    order, made = Order(bundle, 1), {"method": "all real data"}
    return order.kept(
        CondensedSet(order.inputs(positions), labels[positions], bundle.classes, ids=order.ids(positions), made=made)
    )


def _setting(small: CondensedSet, judging: Judging, students: Sequence[str]) -> dict[str, str]:
    t = judging.training
    return {
        "Set": f"{len(small)} samples for {len(small.classes)} classes, made by {small.made.get('method', 'others')}"
        + (
            f" from {len(small.inputs)} images and {len(small.compensators)} compensators"
            if small.compensators is not None
            else ""
        ),
        "Labels": small.kind,
        "Students": f"{', '.join(students)}; fresh weights for every seed, a seed's figure is the mean over them",
        "Budget": f"{t.updates} updates of batches of {augmentation_of(small).batch}, {t.optimizer}, learning rate "
        f"{t.lr:g} ({t.schedule}), for every arm",
        "Choice": f"the best of {t.checks} looks at validation data, scored on test data; the last beside it",
    }


def _scores(report: Mapping[str, Any], judging: Judging, *, soft: bool, labelled: bool) -> dict[str, Any]:
    arms = {arm["name"]: arm for arm in report["arms"]}
    head = ["Score of", "hard label recovery", "improvement over random", "ranking score"]
    rows = []
    for which in ("last", "best"):
        seen = {name: arm["metrics"][report["metric"]["name"]][which] for name, arm in arms.items()}
        found = scores_of(
            real_hard=seen.get("real"), set_hard=seen["set-hard" if soft else "set"], set_any=seen["set"],
            random_any=seen["random"] if labelled else None, weight=judging.weight,
        )  # fmt: skip
        rows.append(
            [
                f"{which} state",
                _spread(found.recovery, found.recovery_spread),
                _spread(found.improvement, found.improvement_spread),
                "not known" if found.score is None else f"{found.score:.4f}",
            ]
        )
    note = (
        "Recovery: all real data less the set, both with hard labels (lower is better). Improvement: the set less "
        "random samples under the same labels and views (higher is better). In points, mean ± population deviation "
        "over seeds (over n, as DD-Ranking's package has it). "
        f"Ranking score (e^α − 1/e) / (e − 1/e) with α = {judging.weight:g} · improvement − {1 - judging.weight:g} · "
        "recovery, both as shares."
    )
    return {"title": "DD-Ranking's scores", "note": note, "head": head, "rows": rows}


def _spread(mean: float | None, spread: float | None) -> str:
    return "not known" if mean is None or spread is None else f"{mean:.1f} ± {spread:.1f}"


def _by_student(report: Mapping[str, Any], students: Sequence[str]) -> dict[str, Any]:
    rows = []
    for arm in report["arms"]:
        told = arm["diagnostics"]
        for spec in students:
            cells = [told[f"{spec}, {which}"] for which in ("last", "best")]
            rows.append([arm["label"], spec, *map(over_seeds, cells)])
    note = "Accuracy in %, mean ± sample deviation over seeds."
    return {"title": "By architecture", "note": note, "head": ["Set", "Student", "last", "best"], "rows": rows}
