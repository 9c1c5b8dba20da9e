"""The page in a real browser: it says what the JSON says, asks for nothing, fits a phone, works light and dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distil.report import write
from report.sample import sample_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def awkward() -> dict[str, Any]:
    """Return a report with long words, many arms, hostile names, a hurt verdict and unequal budgets."""
    report = sample_report(arms=12, seeds=3, epochs=4)
    report["arms"][1]["label"] = "unbreakable" * 30
    report["arms"][1]["expression"] = "a" * 300
    report["arms"][2]["label"] = "<script>document.title='hacked'</script>"
    report["arms"][3]["budget"]["trials"] = 12
    report["verdicts"][0] |= {"outcome": "hurt", "text": "<b onclick='x()'>Words</b>: " + "long" * 100}
    report["setting"]["Path"] = "/very/long/" * 40
    report["command"] = "distil run " + "--set a.b=1 " * 30
    report["data"]["fingerprint"] = "f" * 256
    report["metric"]["name"] = "accuracy"
    return report


REPORTS = {
    "usual": sample_report,
    "awkward": awkward,
    "one arm": lambda: sample_report(arms=1, seeds=1),
}


@pytest.fixture(scope="module", params=list(REPORTS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(REPORTS[request.param](), tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page(browser: Browser, written: Path, scheme: Any, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
    page.goto(written.as_uri())
    page.wait_for_load_state("networkidle")
    assert asked == [written.as_uri()]
    assert said == []

    report = json.loads(written.with_name("report.json").read_text(encoding="utf-8"))
    assert json.loads(page.locator("#report-json").text_content() or "") == report
    assert not report["verdicts"] or page.locator("#verdict-text-0").is_visible()
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    for i, entry in enumerate(report["verdicts"]):
        assert page.locator(f"#verdict-text-{i}").text_content() == entry["text"]
        assert page.locator(f"#verdict-text-{i}").is_visible()
    assert page.locator("#verdict-text-999").count() == 0
    assert "hacked" not in page.title()

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """width => [...document.querySelectorAll('h1, h2, h3, p, dd, figure, pre, .card, .legend')]
        .filter(e => e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(outside, width) == []

    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in ground[4:-1].split(",")) > 384
    assert light == (scheme == "light")
    context.close()


def test_text_in_drawings_is_readable_in_both_schemes(browser: Browser, tmp_path: Path) -> None:
    path = write(sample_report(epochs=3), tmp_path)
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(path.as_uri())
        ratio = """() => {
          const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          const lum = c => rgb(c).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
          const card = lum(getComputedStyle(document.querySelector('figure.card')).backgroundColor)
          return [...document.querySelectorAll('figure.card svg text')].map(e => {
            const own = lum(getComputedStyle(e).fill)
            return (Math.max(own, card) + .05) / (Math.min(own, card) + .05) }) }"""
        ratios = page.evaluate(ratio)
        assert len(ratios) > 20
        assert min(ratios) >= 4.5
        context.close()


def test_prints_on_paper(browser: Browser, tmp_path: Path) -> None:
    path = write(sample_report(epochs=3), tmp_path)
    page = browser.new_page(color_scheme="dark")
    page.goto(path.as_uri())
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()
