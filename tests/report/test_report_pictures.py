"""Sheets of images in a report: what they hold, that names are escaped, that nothing else can stand in their place."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distil.errors import DistilError
from distil.report import render, validate
from distil.report.pictures import contact_sheet


def decoded(source: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_a_sheet_holds_every_image_at_its_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6)) / 255
    sheet = decoded(contact_sheet(images, columns=3, gap=2))
    assert sheet.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 4)
    for k in range(5):
        top, left = (k // 3) * 6, (k % 3) * 8
        cell = sheet[top : top + 4, left : left + 6]
        np.testing.assert_array_equal(cell[..., :3], (images[k] * 255).round().transpose(1, 2, 0))
        assert (cell[..., 3] == 255).all()
    assert (sheet[4:6, :, 3] == 0).all()  # the gap lets the page through


def test_grey_images_and_differences_are_shown() -> None:
    assert decoded(contact_sheet(np.full((1, 1, 2, 2), 0.5)))[0, 0].tolist() == [128, 128, 128, 255]
    low_to_high = np.array([-3.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    assert decoded(contact_sheet(low_to_high, stretch=True))[0, :, 0].tolist() == [0, 255]
    assert decoded(contact_sheet(np.zeros((1, 1, 2, 2)), stretch=True))[0, 0, 0] == 0


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 2, 2, 2), (3, 2, 2)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DistilError, match="takes images"):
        contact_sheet(np.zeros(shape))


def report(**sheet: Any) -> dict[str, Any]:
    each = {"name": "<b>cat</b>", "source": contact_sheet(np.zeros((1, 1, 2, 2))), **sheet}
    metric = {"name": "accuracy", "higher_is_better": True}
    arm = {"name": "a", "role": "reference", "metrics": {"accuracy": {"last": [1.0]}}}
    pictures = [{"title": "The set", "note": "as <they> are", "sheets": [each]}]
    return {
        "kind": "comparison", "version": 1, "title": "T", "metric": metric, "seeds": [0], "arms": [arm],
        "pictures": pictures,
    }  # fmt: skip


def test_a_page_shows_sheets_and_escapes_their_names() -> None:
    page = render(report())
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "<b>cat" not in page
    assert page.count("data:image/png;base64,") == 1  # not a second time among the data for machines
    assert 'href="#pictures"' in page


@pytest.mark.parametrize(
    "source", ["https://example.org/a.png", "data:text/html;base64,AAAA", 'data:image/png;base64,AA" onerror="x', None]
)
def test_a_report_that_holds_another_source_is_refused(source: Any) -> None:
    with pytest.raises(DistilError, match="no embedded PNG"):
        validate(report(source=source))
