"""Drawings that belong to their page: matplotlib's SVG with the page's colours, letters and names.

Shapes are drawn in placeholder colours, which become CSS variables afterwards, so that one drawing serves light and
dark mode; text stays text, in the page's own font. The output depends on nothing but the data.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "GRID",
    "INK",
    "MARKED",
    "MUTED",
    "OUTCOME",
    "SERIES",
    "SURFACE",
    "WIDTH",
    "canvas",
    "css",
    "dash",
    "finish",
]
__all__ += ["series", "style", "write"]

#: Every drawing is this many pixels wide: readable when a phone shrinks it, calm in two columns on a desk.
WIDTH = 360

INK, MUTED, GRID, SURFACE = "#fb0001", "#fb0002", "#fb0003", "#fb0004"
OUTCOME = {"helped": "#fb0005", "no difference seen": "#fb0006", "hurt": "#fb0007"}
#: A shape drawn with this and a number as its gid gets the two as its class, which a style sheet may point at.
MARKED = "arm-"
SERIES = tuple(f"#fc00{i:02x}" for i in range(8))
DASHES: tuple[Any, ...] = ("solid", (0, (4.5, 1.8)), (0, (1.2, 1.5)), (0, (6, 1.6, 1.2, 1.6)))

_CSS = {INK: "--ink", MUTED: "--muted", GRID: "--line", SURFACE: "--surface"}
_CSS |= {OUTCOME["helped"]: "--helped", OUTCOME["no difference seen"]: "--none", OUTCOME["hurt"]: "--hurt"}
_CSS |= {color: f"--s{i}" for i, color in enumerate(SERIES)}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.unicode_minus": True,
    "path.simplify": False,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def series(index: int) -> str:
    """Return the colour of the index-th thing in a drawing; they repeat after eight, with other `dash`es."""
    return SERIES[index % len(SERIES)]


def dash(index: int) -> Any:
    """Return the line style of the index-th thing."""
    return DASHES[index // len(SERIES) % len(DASHES)]


def css(color: str) -> str:
    """Return the CSS variable that a placeholder colour becomes.

    >>> css(INK)
    'var(--ink)'
    """
    return f"var({_CSS[color]})"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw inside this: matplotlib's defaults and this module's style, whatever the user has configured."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the measuring font lacks is drawn by the reader's own
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def canvas(height: float, *, width: float = WIDTH, left: float = 36, bottom: float = 32) -> tuple[Figure, Axes]:
    """Return an empty figure and axes of a size in pixels, in the page's style: one rule below, fine lines across."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    right, top = 10, 8
    box = (left / width, bottom / height, (width - left - right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, length=0, pad=5, labelsize=10)
    axes.set_axisbelow(True)
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write text that comes from data: never read as mathematics, and not clipped."""
    options.setdefault("color", INK)
    options.setdefault("fontsize", 10.5)
    if options.pop("boxed", False):  # what lies behind stays out of the letters
        options["bbox"] = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1}
    axes.text(x, y, text, parse_math=False, clip_on=False, **options)


def finish(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as an SVG element to stand inside HTML.

    Args:
        figure: drawn in the placeholder colours.
        name: unique on the page; prefixes every id.
        title: the accessible name.
        description: what a reader who cannot see it should know.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        blank = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=blank, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    _rename(root, name)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if "style" in element.attrib:
            element.attrib["style"] = _style(element.attrib["style"])
        for key in ("d", "x", "y", "transform"):
            if key in element.attrib:
                element.attrib[key] = _round(element.attrib[key])
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "role": "img",
            "aria-labelledby": f"{name}-t {name}-d",
        }
    )
    for i, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag[0]}"})
        element.text = text
        root.insert(i, element)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _strip(root: ElementTree.Element) -> None:
    """Drop what would reach beyond the drawing (a style sheet for the whole page) and what nobody reads."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep only the ids that something refers to, with a prefix that makes them unique on the page."""
    used = set()
    for element in root.iter():
        if _LINK in element.attrib:
            target = element.attrib.pop(_LINK)
            element.attrib["href"] = f"#{name}-{target[1:]}"
            used.add(target[1:])
        for key, value in element.attrib.items():
            for target in re.findall(r"url\(#([^)]+)\)", value):
                used.add(target)
                element.attrib[key] = value.replace(f"#{target}", f"#{name}-{target}")
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own is not None and own.startswith(MARKED):
            element.attrib["class"] = own
        if own in used:
            element.attrib["id"] = f"{name}-{own}"


def _style(text: str) -> str:
    text = re.sub(r"#f[bc]00[0-9a-f]{2}", lambda match: css(match.group()), text)
    text = re.sub(r"font-family: [^;]*;? ?", "", text)  # the page's own font
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match.group()):.2f}", text)


def _round(text: str) -> str:
    text = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match.group()):.2f}", text)
    text = re.sub(r"rotate\(-?0 [^)]*\)", "", text)
    return re.sub(r"\s+", " ", text).strip()
