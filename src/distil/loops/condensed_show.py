"""What a report shows of a small set: its images class by class, its compensators, and what it takes to keep."""

from __future__ import annotations

from typing import Any

from distil.data.condensed import CondensedSet
from distil.report.pictures import contact_sheet
from distil.report.text import size

__all__ = ["counted", "sheets_of", "storage_table", "texts_table", "told"]

CLASSES, EACH = 20, 30
"""A page shows the first so many classes, and so many images of each."""

WORDS, LENGTH = 8, 300
"""It shows so many texts of each class, and so many characters of each."""


def sheets_of(small: CondensedSet, *, title: str = "The set") -> list[dict[str, Any]]:
    """Return a contact sheet for each class, and one of the compensators; nothing for vectors."""
    if not small.images:
        return []
    classes = small.classes[:CLASSES]
    sheets = []
    for label, name in enumerate(classes):
        where = (small.labels == label).nonzero().flatten()
        if len(where):
            shown = small.samples(where[:EACH]).cpu()
            more = f", {len(shown)} of {len(where)}" if len(where) > len(shown) else ""
            sheets.append({"name": f"{name}{more}", "source": contact_sheet(shown)})
    note = f"The first {CLASSES} of {len(small.classes)} classes. " if len(small.classes) > CLASSES else ""
    found = [{"title": title, "note": note + _how(small), "sheets": sheets}]
    if small.compensators is not None and len(small.compensators):
        shown = small.compensators[: 2 * EACH].cpu()
        note = "Each is added to natural images of every class; shown from its lowest value (black) to its highest."
        each = {"name": f"{len(shown)} of {len(small.compensators)}", "source": contact_sheet(shown, stretch=True)}
        found.append({"title": f"{title}: compensators", "note": note, "sheets": [each]})
    return found


def texts_table(small: CondensedSet) -> list[dict[str, Any]]:
    """Return a table of a set's texts, class by class; nothing where there are none."""
    if small.texts is None:
        return []
    rows: list[list[Any]] = []
    for label, name in enumerate(small.classes[:CLASSES]):
        for k in (small.labels == label).nonzero().flatten()[:WORDS].tolist():
            row: list[Any] = [name, *([] if small.prompts is None else [_cut(small.prompts[k])]), _cut(small.texts[k])]
            rows.append([*row, *([] if small.weights is None else [f"{float(small.weights[k]):.3g}"])])
    head = [
        "Class",
        *([] if small.prompts is None else ["Prompt"]),
        "Text",
        *([] if small.weights is None else ["Weight"]),
    ]
    note = f"{len(rows)} of {len(small)} texts; the set holds them whole, in texts.jsonl."
    return [{"title": "Texts of the set", "note": note, "head": head, "rows": rows}]


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else text[:LENGTH] + "…"


def _how(small: CondensedSet) -> str:
    if small.ids is None:
        return "As students see them before they are shifted, mirrored or mixed."
    real = int((small.ids >= 0).sum())
    return f"As students see them before they are shifted, mirrored or mixed; {real} of {len(small)} are real images."


def storage_table(small: CondensedSet, *, exact: bool | None = None) -> dict[str, Any]:
    """Return the table of what a set takes: images, labels, augmentation, by its compact form."""
    held = small.storage(exact=exact)
    notes = {
        "images": f"{len(small.inputs)} {small.noun if small.images or small.texts is not None else 'inputs'}"
        + (
            f" and {len(small.compensators)} compensators, for {len(small)} samples"
            if small.compensators is not None
            else ""
        ),
        "labels": {
            "hard": "a class for each input",
            "static": f"a class for each input, {len(small.classes)} logits for each sample",
            "dynamic": "a class for each input; the teachers are needed to train",
            "replayed": "logits for each sample and recorded epoch",
            "two-numbers": "two distances for each sample and recorded epoch",
        }[small.kind],
        "augmentation": "seeds, boxes and partners of recorded views",
        "other": "weights of samples",
        "total": "",
    }
    shown = {"images": "texts"} if small.texts is not None else {}
    rows = [
        [shown.get(name, name), size(value), value, notes[name]]
        for name, value in held.items()
        if value or name != "other"
    ]
    return {
        "title": "What the set takes",
        "note": "Bytes, uncompressed: one for each value of an image, four for each of a vector; texts in UTF-8.",
        "head": ["Part", "size", "bytes", "what"],
        "rows": rows,
    }


def counted(small: CondensedSet) -> str:
    """Return how many samples a set has, and of what."""
    return f"{len(small)} {small.noun}"


def told(small: CondensedSet) -> dict[str, str]:
    """Return what a report says of how a set was made."""
    options = ", ".join(f"{name}={value}" for name, value in (small.made.get("options") or {}).items())
    return {
        "Set": f"{counted(small)} for {len(small.classes)} classes, {small.made.get('per_class')} asked of each",
        "Method": f"{small.made.get('method')}{f' ({options})' if options else ''}",
        "Labels": small.kind,
    }
