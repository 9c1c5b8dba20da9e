"""What the pages share: the template engine, the style sheet, and text set for reading.

Every text comes from data or models and is escaped by the template engine; only the drawings (made here, from escaped
text), the style sheet and a page's own script go in as they are.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from distil.report.text import MISSING
from distil.report.verdict import HELPED, HURT, NONE

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["WORDS", "count_of", "date_of", "page", "pairs", "plain"]

_HERE = Path(__file__).parent
#: An outcome's class on the page, and how it is headed.
WORDS = {HELPED: ("helped", "Helped"), NONE: ("none", "No difference seen"), HURT: ("hurt", "Hurt")}


@functools.cache
def _engine() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    engine = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters["drawing"] = Markup  # only for what `svg.finish` made
    engine.filters["words"] = _words
    return engine


def page(
    template: str, document: Mapping[str, Any], name: str, *, sheet: str = "", script: str = "", **context: Any
) -> str:
    """Return a self-contained page.

    Args:
        template: a file beside this module.
        document: embedded as JSON, for machines, in the element called ``name``.
        sheet: style rules beside those of every page; no text from data.
        script: the page's own script, the only one that its policy lets run; no text from data.
        context: what the template reads.
    """
    rules = (_HERE / "page.css").read_text(encoding="utf-8") + sheet
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    policy += f"; script-src 'sha256-{digest}'" if script else ""
    shared = {"sheet": Markup(rules), "script": Markup(script), "policy": policy}
    embedded = {"embedded": Markup(_embedded(document)), "embedded_name": name}
    return str(_engine().get_template(template).render(**shared, **embedded, **context))


def _words(text: str) -> Markup:
    """Set a sentence: what it claims in bold, numbers not torn from their units; its text stays what it was."""
    claim, colon, rest = text.partition(": ")
    parts = [Markup("<b>{}{}</b>").format(claim, colon[:1]), colon[1:]] if colon else [claim]
    for i, piece in enumerate(re.split(r"([+\u2212]?[\d.,]+ (?:%|points))", rest)):
        parts.append(Markup('<span class="nb">{}</span>').format(piece) if i % 2 else escape(piece))
    return Markup("").join(parts)


def _embedded(report: Mapping[str, Any]) -> str:
    """Return the report as JSON that cannot end the element it stands in."""
    text = json.dumps(report, ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def pairs(holder: object) -> list[tuple[str, str]]:
    """Return a mapping as (name, written value)."""
    if not isinstance(holder, Mapping):
        return []
    return [(str(key), MISSING if value is None else plain(value)) for key, value in holder.items()]


def plain(value: object) -> str:
    """Write a value of JSON for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(each) for each in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def count_of(number: int, thing: str) -> str:
    """Write how many of a thing there are.

    >>> count_of(1, "seed"), count_of(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {thing}{'s' * (number != 1)}"


def date_of(created: object) -> str:
    """Write an ISO 8601 date as a person would; what is none stays as it is.

    >>> date_of("2026-11-22T16:20:00+00:00")
    '22 November 2026, 16:20 UTC'
    """
    try:
        moment = datetime.datetime.fromisoformat(str(created))
    except ValueError:
        return str(created or "")
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
