"""Numbers as people read them: one place for decimals, signs, units and what a missing value looks like."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from statistics import fmean, stdev

__all__ = [
    "MINUS",
    "MISSING",
    "cell",
    "count",
    "decimals_for",
    "duration",
    "fixed",
    "heading",
    "is_number",
    "millis",
    "over_seeds",
    "shorten",
    "signed",
    "size",
    "with_unit",
]

MINUS = "\u2212"
MISSING = "\u2014"


def is_number(value: object) -> bool:
    """Say whether ``value`` is a finite number (a truth value is not a number)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value: object, decimals: int = 1) -> str:
    """Write a number with a fixed count of decimals, thousands apart, a true minus, and no negative zero.

    >>> fixed(12345.678, 1), fixed(None), fixed(-0.001, 1)
    ('12,345.7', '—', '0.0')
    """
    if not is_number(value):
        return MISSING
    text = f"{float(value):,.{decimals}f}"  # type: ignore[arg-type]
    if text.startswith("-"):
        digits = text[1:]
        return MINUS + digits if any(digit in "123456789" for digit in digits) else digits
    return text


def over_seeds(values: Sequence[float]) -> str:
    """Write figures of several seeds as their mean and sample deviation; one figure has none.

    >>> over_seeds([60.0, 62.0, 64.0]), over_seeds([60.0])
    ('62.0 ± 2.0', '60.0')
    """
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def signed(value: object, decimals: int = 1) -> str:
    """Write a difference: always with its sign, except for a zero.

    >>> signed(4.91, 1), signed(-0.25, 2), signed(0.0, 1)
    ('+4.9', '−0.25', '0.0')
    """
    text = fixed(value, decimals)
    if text == MISSING or text.startswith(MINUS) or not any(digit in "123456789" for digit in text):
        return text
    return "+" + text


def decimals_for(*values: float | None, half: float | None, unit: str = "", most: int = 6) -> int:
    """Choose the decimals that show a result as exactly as its interval allows.

    A percentage gets one decimal unless its interval is narrower than that shows; any other unit gets one significant
    digit of the half-width, two where it begins with 1 or 2. Decimals are then added until no value that is not 0
    reads as 0.

    Args:
        values: the numbers that will be written with these decimals.
        half: half the width of the interval, or None when it is unknown.
        unit: the unit of the metric; ``"%"`` is a percentage.
        most: the largest answer.

    >>> decimals_for(4.9, 3.6, 6.2, half=1.3, unit="%"), decimals_for(-0.049, half=0.011)
    (1, 3)
    """
    known = [abs(float(value)) for value in values if value is not None and math.isfinite(value)]
    if half is not None and math.isfinite(half) and half > 0:
        order = math.floor(math.log10(half))
        decimals = max(1, -order) if unit == "%" else max(0, -order + (half < 3 * 10.0**order))
    elif unit == "%" or not known or max(known) == 0:
        decimals = 1
    else:
        decimals = max(0, 3 - math.floor(math.log10(max(known))))
    decimals = min(decimals, most)
    while decimals < most and any(0 < value < 0.5 * 10.0**-decimals for value in known):
        decimals += 1
    return decimals


def with_unit(text: str, unit: str) -> str:
    """Put the unit after a written number, unless there is no number or no unit."""
    return text if text == MISSING or not unit else f"{text} {unit}"


def cell(value: object) -> str:
    """Write a cell of a table: whole numbers whole, others with four digits, text as it is.

    >>> cell(12345), cell(-0.123456), cell(None), cell("(1, 3)")
    ('12,345', '−0.1235', '—', '(1, 3)')
    """
    if isinstance(value, str):
        return value
    if not is_number(value):
        return MISSING
    number = float(value)  # type: ignore[arg-type]
    return fixed(number, 0 if number == int(number) else decimals_for(number, half=None))


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for limit, name in steps:
        if abs(value) >= limit:
            scaled = value / limit
            return f"{fixed(scaled, 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2)} {name}"
    return fixed(value, 0)


def count(value: object) -> str:
    """Write how many there are.

    >>> count(270_000), count(11_200_000), count(None)
    ('270 k', '11.2 M', '—')
    """
    if not is_number(value):
        return MISSING
    number = float(value)  # type: ignore[arg-type]
    if abs(number) < 10_000:
        return fixed(number, 0 if number == int(number) else 1)
    return _scaled(number, ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")))


def size(value: object) -> str:
    """Write a number of bytes in decimal units.

    >>> size(1_080_000), size(512)
    ('1.08 MB', '512 B')
    """
    if not is_number(value):
        return MISSING
    number = float(value)  # type: ignore[arg-type]
    if abs(number) < 1000:
        return f"{fixed(number, 0)} B"
    return _scaled(number, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def millis(value: object) -> str:
    """Write milliseconds: two decimals, three where two would round most of it away.

    >>> millis(1.84), millis(0.0183), millis(None)
    ('1.84', '0.018', '—')
    """
    return fixed(value, 2 if not is_number(value) or abs(float(value)) >= 0.1 else 3)  # type: ignore[arg-type]


def duration(value: object) -> str:
    """Write seconds in the unit a person would use.

    >>> duration(41.27), duration(754), duration(9000), duration(0.25)
    ('41.3 s', '12.6 min', '2.5 h', '0.25 s')
    """
    if not is_number(value):
        return MISSING
    seconds = float(value)  # type: ignore[arg-type]
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 1:
        return f"{fixed(seconds, 2)} s"
    if abs(seconds) < 120:
        return f"{fixed(seconds, 1)} s"
    if abs(seconds) < 7200:
        return f"{fixed(seconds / 60, 1)} min"
    return f"{fixed(seconds / 3600, 1)} h"


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a name wider than ``width`` columns (a wide character counts two); names differ at ends.

    >>> shorten("a name much too long (T = 4)", 16), shorten("short", 7)
    ('a name m…(T = 4)', 'short')
    """
    if _columns(text) <= width:
        return text
    tail = text[-1:]
    while len(tail) < len(text) and _columns(text[-len(tail) - 1 :]) <= (width - 1) * 7 // 15:
        tail = text[-len(tail) - 1 :]
    head = ""
    while _columns(head + text[len(head)]) + _columns(tail) < width:
        head += text[len(head)]
    return head.rstrip() + "…" + tail.lstrip()


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def heading(metric: str) -> str:
    """Write a metric's name as a heading begins; an abbreviation in capitals.

    >>> heading("accuracy"), heading("nll"), heading("mIoU")
    ('Accuracy', 'NLL', 'mIoU')
    """
    if not metric.islower():
        return metric
    return metric.upper() if len(metric) <= 3 else metric[0].upper() + metric[1:]
