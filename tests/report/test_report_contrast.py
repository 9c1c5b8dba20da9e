"""The colours of the style sheet: text meets WCAG's AA (4.5 to 1) and lines its 3 to 1, light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import distil.report

SHEET = (Path(distil.report.__file__).parent / "page.css").read_text(encoding="utf-8")
TONES = ("helped-ground", "hurt-ground", "none-ground")
#: Which colours of text stand on which grounds.
TEXT = {
    "ink": ("ground", "surface", "well", "warn-ground", *TONES),
    "soft": ("ground", "surface", "well", *TONES),
    "muted": ("ground", "surface", "well", "warn-ground"),
    "helped": ("surface", "helped-ground", "warn-ground"),
    "hurt": ("ground", "surface", "hurt-ground", "warn-ground"),
    "none": ("surface", "none-ground", "warn-ground"),
    "warn-ink": ("warn-ground",),
    "link": ("surface",),
}


def variables(scheme: str) -> dict[str, str]:
    light, _, rest = SHEET.partition("@media screen and (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", rest.partition("* {")[0]))
    if scheme == "print":
        printed = SHEET.partition("@media print")[2]
        found |= {k: "#ffffff" if v == "#fff" else v for k, v in re.findall(r"--([\w-]+): (#[0-9a-f]+)", printed)}
    return found


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_ratio_is_wcags() -> None:
    assert ratio("#000000", "#ffffff") == pytest.approx(21)
    assert ratio("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_lines_are_strong_enough(scheme: str) -> None:
    colors = variables(scheme)
    weak = {
        f"{text} on {ground}": round(ratio(colors[text], colors[ground]), 2)
        for text, grounds in TEXT.items()
        for ground in grounds
        if ratio(colors[text], colors[ground]) < 4.5
    }
    weak |= {f"s{i}": r for i in range(8) if (r := ratio(colors[f"s{i}"], colors["surface"])) < 3}
    assert weak == {}


def test_dark_and_print_are_schemes_of_their_own() -> None:
    light, dark, printed = (luminance(variables(scheme)["ground"]) for scheme in ("light", "dark", "print"))
    assert dark < 0.05 < 0.9 < light <= printed == 1
