"""How the teacher's passes were made cheap, in words: what was kept, how close it is, what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distil.report.text import duration, fixed, is_number, millis, size
from distil.report.view import View, part

__all__ = ["passes"]


def passes(view: View) -> list[tuple[str, str]]:
    """Return (arm, words) for every arm whose teacher's passes were made otherwise than plainly.

    The words are those of the first seed; where another seed kept something else, they say so.
    """
    found = []
    for arm in view.arms:
        seeds = arm.get("teacher_forward")
        seeds = [seed for seed in seeds if isinstance(seed, Mapping)] if isinstance(seeds, list) else []
        for name, first in seeds[0].items() if seeds else ():
            words = _words(first) if isinstance(first, Mapping) else ""
            kept = [part(seed, name, "kept") for seed in seeds]
            words += " Other seeds kept other ways." if words and any(each != kept[0] for each in kept) else ""
            label = view.label(arm["name"]) + (f", teacher {name}" if len(seeds[0]) > 1 else "")
            found += [(label, words)] if words else []
    return found


def _words(one: Mapping[str, Any]) -> str:
    kept = [str(name) for name in one.get("kept") or []]
    said = []
    if kept == ["truncate"] and not is_number(one.get("speedup")):
        last = one.get("last")
        said.append(f"Stopped after {last}, the last layer that is read." if last else "Stopped after the last tap.")
    elif kept:
        said.append(f"Kept: {', '.join(kept)}.")
    elif one.get("asked") != "truncate":
        said.append("None of the ways was kept: the plain pass.")
    said += [_close(one), _speed(one)]
    if is_number(one.get("copy_bytes")) and one["copy_bytes"]:
        said.append(f"A copy of the weights takes {size(one['copy_bytes'])} more.")
    dropped = one.get("dropped")
    if isinstance(dropped, Mapping) and dropped:
        said.append(f"Dropped: {'; '.join(f'{name} ({reason})' for name, reason in dropped.items())}.")
    for key, words in (
        ("reruns", "Whole passes made again for an unlisted output"),
        ("visits", "Visits to the device"),
    ):
        said += [f"{words}: {fixed(one[key], 0)}."] if is_number(one.get(key)) and one[key] else []
    return " ".join(each for each in said if each)


def _close(one: Mapping[str, Any]) -> str:
    cosines = one.get("cosine")
    known = {k: v for k, v in cosines.items() if is_number(v)} if isinstance(cosines, Mapping) else {}
    if not known:
        return ""
    shown = ", ".join(f"{place} {value:.6f}" for place, value in list(known.items())[:6])
    batch = f" of {fixed(one['batch'], 0)}" if is_number(one.get("batch")) and one["batch"] else ""
    return f"Lowest cosine with the plain pass over the samples{batch}: {shown}{', …' if len(known) > 6 else ''}."


def _speed(one: Mapping[str, Any]) -> str:
    plain, now = one.get("plain_seconds"), one.get("seconds")
    if not (is_number(one.get("speedup")) and is_number(plain) and is_number(now)):
        return ""
    times = f"{millis(1000 * plain)} ms plain, {millis(1000 * now)} ms so"  # type: ignore[operator]
    trying = f"trying took {duration(one.get('checking_seconds'))} of the training time"
    return f"A pass at {fixed(one['speedup'], 2)} times the speed ({times}); {trying}."
