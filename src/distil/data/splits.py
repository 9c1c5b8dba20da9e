"""Which sample trains, validates and tests: made by seed where the source does not say, stored, and read again.

Also the two things that make a split lie: copies inside a part, and samples of train that stand in val or test too.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distil.data.bundle import Bundle, ids_of
from distil.data.records import SPLITS
from distil.data.select import split_positions
from distil.errors import DistilError
from distil.files import write_text

__all__ = ["SPLITS_FILE", "content_of", "count_copies", "make_splits", "read_splits", "write_splits"]

SPLITS_FILE = "splits.csv"
_HEADER = ["id", "part", "content"]


def content_of(content: bytes | str) -> str:
    """Return 16 hex digits that name what a sample holds.

    >>> content_of("good") == content_of(b"good"), len(content_of(""))
    (True, 16)
    """
    return hashlib.sha256(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    ).hexdigest()[:16]


def make_splits(
    name: str, given: Sequence[str | None], labels: Tensor, seed: int, limit: int | None, notes: list[str]
) -> list[Tensor]:
    """Return the positions of train, val and test; what the source lacks is made by ``seed`` and noted.

    Nothing given: 70/15/15. No val: a tenth of train. No test: half of val. All stratified.
    """
    parts = {
        split: torch.tensor([k for k, own in enumerate(given) if own == split], dtype=torch.long) for split in SPLITS
    }
    outside = sum(own is None for own in given)
    if outside == len(given):
        pieces = split_positions(labels, [0.7, 0.15, 0.15], seed)
        parts = dict(zip(SPLITS, pieces))
        notes.append(f"no split was given: 70/15/15 made by seed {seed}, stratified ({[len(p) for p in pieces]}).")
    elif not len(parts["train"]):
        raise DistilError(f"{name!r} has splits but none called train; name one of them train.")
    elif outside:
        notes.append(f"{outside} samples belong to no split and are left out.")
    if not len(parts["val"]):
        parts["train"], parts["val"] = _cut(parts["train"], labels, 0.9, seed)
        notes.append(f"no val split was given: a tenth of train was taken by seed {seed} ({len(parts['val'])}).")
    if not len(parts["test"]):
        parts["val"], parts["test"] = _cut(parts["val"], labels, 0.5, seed)
        notes.append(f"no test split was given: half of val was taken by seed {seed} ({len(parts['test'])}).")
    if limit is not None:
        for split, part in parts.items():
            if len(part) > limit:
                parts[split] = part[split_positions(labels[part], [limit], seed)[0]]
        notes.append(f"at most {limit} samples of each split are used ({[len(parts[s]) for s in SPLITS]}).")
    return [parts[split] for split in SPLITS]


def _cut(part: Tensor, labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    first, second = split_positions(labels[part], [share, 1 - share], seed)
    return part[first], part[second]


def write_splits(path: Path, bundle: Bundle) -> None:
    """Store which sample is in which part, by its id and by what it holds; data without such names store nothing."""
    if bundle.contents is None:
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADER)
    for part, data in zip(SPLITS, (bundle.train, bundle.val, bundle.test)):
        rows.writerows((k, part, bundle.contents[k]) for k in ids_of(data).tolist())
    write_text(path, text.getvalue())


def read_splits(path: str | Path, contents: Sequence[str], notes: list[str]) -> list[str | None]:
    """Return the stored part of every sample, ``None`` for one that the file does not name.

    A sample is found by its id where that still holds the same content, else by content alone, so that rows may have
    been added or put into another order.

    Args:
        path: a file of :func:`write_splits`.
        contents: what every sample of the source holds, by :func:`content_of`.
        notes: says which file was used.

    Raises:
        DistilError: the file is missing or damaged, or names samples that the data do not have.
    """
    path = Path(path).expanduser()
    stored = _stored(path)
    parts: list[str | None] = [None] * len(contents)
    elsewhere = []
    for k, part, content in stored:
        if k < len(contents) and contents[k] == content and parts[k] is None:
            parts[k] = part
        else:
            elsewhere.append((k, part, content))
    free: dict[str, list[int]] = defaultdict(list)
    for position in reversed(range(len(contents))):
        if parts[position] is None:
            free[contents[position]].append(position)
    lost = []
    for k, part, content in elsewhere:
        if free[content]:
            parts[free[content].pop()] = part
        else:
            lost.append(k)
    if lost:
        raise DistilError(
            f"the splits in {str(path)!r} name {len(lost)} samples that the data do not hold (the first has id "
            f"{lost[0]}): the data were changed since. Give the data they were made from, or other splits."
        )
    notes.append(f"the splits are those stored in {path.name}.")
    return parts


def _stored(path: Path) -> list[tuple[int, str, str]]:
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise DistilError(f"the splits {str(path)!r} cannot be read ({error}); correct the path.") from error
    if not lines or lines[0] != _HEADER:
        raise DistilError(f"{str(path)!r} holds no splits; expected a table with the columns {', '.join(_HEADER)}.")
    found = []
    for number, row in enumerate(lines[1:], 2):
        if len(row) != 3 or not row[0].isdecimal() or row[1] not in SPLITS:
            raise DistilError(
                f"line {number} of the splits {str(path)!r} is {','.join(row)!r}; expected an id, one of "
                f"{', '.join(SPLITS)}, and a content hash."
            )
        found.append((int(row[0]), row[1], row[2]))
    return found


def count_copies(
    keys: Sequence[Hashable],
    labels: Tensor,
    parts: Sequence[Tensor],
    notes: list[str],
    *,
    drop: bool = False,
    what: str = "exact copies",
) -> list[Tensor]:
    """Note copies inside the parts and leaks between them; return the parts, without leaked training samples on demand.

    Args:
        keys: what each sample is compared by; equal keys are copies.
        labels: ``[N]``; copies that disagree on them are counted.
        parts: positions of train, val and test.
        notes: what was found is added here.
        drop: leave the samples of train that also stand in val or test out of train.
        what: what a copy is called.
    """
    first: dict[Hashable, int] = {}
    copies = disagree = 0
    for k in torch.cat(list(parts)).sort().values.tolist():
        original = first.setdefault(keys[k], k)
        copies += original != k
        disagree += bool(labels[original] != labels[k])
    if not copies:
        return list(parts)
    sets = [{keys[k] for k in part.tolist()} for part in parts]
    inside = [len(part) - len(own) for part, own in zip(parts, sets)]
    notes.append(
        f"duplicates: {copies} samples are {what} of others ({disagree} of them with another label); inside train, val "
        f"and test there are {inside[0]}, {inside[1]} and {inside[2]}."
    )
    train, val, test = sets
    leaks = [sum(keys[k] in train for k in part.tolist()) for part in parts[1:]]
    between = sum(keys[k] in val for k in parts[2].tolist())
    if not any((*leaks, between)):
        return list(parts)
    said = f"LEAK: {leaks[0]} of val and {leaks[1]} of test also stand in train, and {between} of test in val"
    leaked = torch.tensor([keys[k] in val or keys[k] in test for k in parts[0].tolist()], dtype=torch.bool)
    if not drop:
        notes.append(f"{said}: such scores are too good. drop_leaks=true leaves these samples out of train.")
        return list(parts)
    notes.append(f"{said}; the {int(leaked.sum())} samples of train concerned were left out (drop_leaks).")
    return [parts[0][~leaked], *parts[1:]]
