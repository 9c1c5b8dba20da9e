"""Pictures in a report: sheets of small images, each one embedded PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distil.errors import DistilError

__all__ = ["check_pictures", "contact_sheet", "pictures"]

_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
_LARGEST = 16 << 20  # characters of one picture


def contact_sheet(images: Any, *, columns: int = 10, gap: int = 1, stretch: bool = False) -> str:
    """Return images side by side as one PNG in a data URI.

    Args:
        images: ``[n, C, H, W]`` in [0, 1], one or three channels; anything numpy reads.
        columns: at most so many in a row.
        gap: transparent pixels between them.
        stretch: bring each image's own lowest and highest value to 0 and 1, as for differences of images.

    >>> contact_sheet(np.zeros((3, 1, 2, 2)))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    held = np.asarray(images, dtype=np.float64)
    if held.ndim != 4 or held.shape[1] not in (1, 3) or not len(held):
        raise DistilError(f"a contact sheet takes images [n, 1 or 3, H, W], and these are {held.shape}.")
    if stretch:
        low, high = (getattr(held, name)(axis=(1, 2, 3), keepdims=True) for name in ("min", "max"))
        held = (held - low) / np.where(high > low, high - low, 1)
    pixels = (np.nan_to_num(held).clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    count, height, width, _ = pixels.shape
    across = min(columns, count)
    down = -(-count // across)
    sheet = np.zeros((down * (height + gap) - gap, across * (width + gap) - gap, 4), np.uint8)
    for k, image in enumerate(pixels):
        top, left = (k // across) * (height + gap), (k % across) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = image
        sheet[top : top + height, left : left + width, 3] = 255
    stream = io.BytesIO()
    Image.fromarray(sheet, "RGBA").save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def check_pictures(groups: Any) -> None:
    """Refuse pictures that are no embedded PNG under a name.

    A report holds ``pictures``: a list of ``{"title", "note", "sheets": [{"name", "source"}]}``; ``source`` is a data
    URI.
    """
    for i, group in enumerate(groups):
        sheets = group.get("sheets") if isinstance(group, Mapping) else None
        if not isinstance(sheets, list) or not isinstance(group.get("title"), str):
            raise DistilError(f"pictures[{i}] is no object with a title and sheets.")
        for k, sheet in enumerate(sheets):
            source = sheet.get("source") if isinstance(sheet, Mapping) else None
            if not isinstance(source, str) or len(source) > _LARGEST or not _PNG.fullmatch(source):
                raise DistilError(f"pictures[{i}].sheets[{k}] is no embedded PNG (data:image/png;base64,…).")
            if not isinstance(sheet.get("name"), str):
                raise DistilError(f"pictures[{i}].sheets[{k}] has no name.")


def pictures(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return a report's pictures with what the page needs of each."""
    return [
        {
            "title": group["title"],
            "note": group.get("note") or "",
            "sheets": [{"name": s["name"], "source": s["source"]} for s in group["sheets"]],
        }
        for group in report.get("pictures") or []
    ]
