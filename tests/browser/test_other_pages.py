"""Pages of many arms, of many runs and of two runs in a real browser: quiet, narrow, by keyboard, dark and on paper."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distil.report import difference, find_runs, save, write, write_difference, write_index
from report.sample import sample_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LONG = "unbreakable" * 12
HOSTILE = "<script>document.title='hacked'</script>"


def many() -> dict[str, Any]:
    report = sample_report(arms=14, seeds=3, epochs=3, adjust=True, rivals=True)
    report["arms"][1]["label"] = LONG
    report["arms"][2]["label"] = HOSTILE
    for arm in report["arms"]:
        arm["cost"] |= {"validation_seconds": [2.0] * 3, "diagnosis_seconds": [1.0] * 3, "prepare_seconds": [3.0] * 3}
    return report


def runs(folder: Path) -> Path:
    for i, title in enumerate(("Tenth run", LONG, HOSTILE)):
        created = f"2026-11-{20 + i}T10:00:00+00:00"
        save(
            sample_report(arms=2 + 7 * i, seeds=3, epochs=2, title=title, created=created), folder / f"r{i}/report.json"
        )
    (folder / LONG / "x").mkdir(parents=True)
    return write_index(find_runs(folder), folder)


def two(folder: Path) -> Path:
    first = sample_report(seeds=3, epochs=2, title=LONG)
    second = copy.deepcopy(first) | {"seeds": [3, 4, 5], "setting": {LONG: LONG, "Budget": HOSTILE}}
    second["arms"][1]["label"] = HOSTILE
    second["verdicts"][0]["outcome"] = "hurt"
    return write_difference(difference(first, second, names=(LONG, HOSTILE)), folder / "against.html")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "many arms": write(many(), folder / "many"),
        "index": runs(folder / "runs"),
        "difference": two(folder),
    }


@pytest.mark.parametrize("kind", ["many arms", "index", "difference"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1200, "light"), (1200, "dark")])
def test_quiet_narrow_and_readable(
    browser: Browser, pages: dict[str, Path], kind: str, width: int, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
    page.goto(pages[kind].as_uri())
    page.wait_for_load_state("networkidle")
    assert asked == [pages[kind].as_uri()]
    assert said == []
    assert page.title() != "hacked"
    for opened in (False, True):
        page.evaluate("open => document.querySelectorAll('details').forEach(each => { each.open = open })", opened)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = """width => [...document.querySelectorAll('h1,h2,h3,p,dt,dd,figure,pre,summary,.card,.legend')]
            .filter(e => e.checkVisibility() && !e.closest('.scroll table'))
            .filter(e => e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 80))"""
        assert page.evaluate(outside, width) == []
    assert weak(page) == []
    context.close()


def weak(page: Page) -> list[str]:
    """Every visible text whose contrast to what lies behind it is below 4.5 to 1."""
    found: list[str] = page.evaluate(
        """() => {
      const rgba = c => (c.match(/[\\d.]+/g) || []).map(Number)
      const lum = c => c.slice(0, 3).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
      const behind = e => {
        for (; e; e = e.parentElement) {
          const c = rgba(getComputedStyle(e).backgroundColor)
          if (c.length === 3 || c[3] === 1) return lum(c)
        }
        return 1
      }
      const texts = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&
        !e.closest('script') && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
      return texts.map(e => {
        const own = lum(rgba(getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color'])), ground = behind(e)
        return [(Math.max(own, ground) + .05) / (Math.min(own, ground) + .05), e.outerHTML.slice(0, 90)]
      }).filter(pair => pair[0] < 4.5).map(pair => pair.join(' '))
    }"""
    )
    return found


def test_arms_open_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["many arms"].as_uri())
    detail = page.locator("#arms details").nth(2)
    assert detail.get_attribute("open") is None
    detail.locator("summary").focus()
    page.keyboard.press("Enter")
    assert detail.get_attribute("open") is not None
    assert detail.locator("figure svg").first.is_visible()
    reached = set()
    page.locator("body").press("Home")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"SUMMARY.", "A."} <= reached
    page.close()


def test_pointing_at_a_name_leaves_its_line_alone(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["many arms"].as_uri())
    page.evaluate("document.querySelector('details.lines').open = true")
    opacity = (
        "n => [...document.querySelectorAll(`.lines figure svg .arm-${n}`)].map(e => +getComputedStyle(e).opacity)"
    )
    assert set(page.evaluate(opacity, 3)) == {1}
    page.locator(".lines li.arm-2").hover()
    page.wait_for_timeout(300)
    assert set(page.evaluate(opacity, 2)) == {1}
    assert max(page.evaluate(opacity, 3)) < 0.2
    page.close()


def test_the_index_sorts_and_leads_to_its_runs(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["index"].as_uri())
    arms = "[...document.querySelectorAll('tbody tr')].map(r => parseInt(r.cells[3].innerText.match(/\\d+/)))"
    assert page.evaluate(arms) == [16, 9, 2]
    head = page.get_by_role("button", name="Arms")
    head.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(arms) == [2, 9, 16]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    head.click()
    assert page.evaluate(arms) == [16, 9, 2]
    links = page.locator("tbody a")
    places = [links.nth(i).evaluate("e => e.href") for i in range(links.count())]
    root = pages["index"].parent
    assert sorted(places) == [(root / f"r{i}" / "report.json").as_uri() for i in range(3)]
    page.close()


@pytest.mark.parametrize("kind", ["many arms", "index", "difference"])
def test_on_paper_nothing_is_cut_and_all_is_light(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    page = browser.new_page(color_scheme="dark", viewport={"width": 718, "height": 1000})
    page.goto(pages[kind].as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = """() => [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility())
        .filter(e => getComputedStyle(e).overflowX !== 'visible' || e.scrollWidth > e.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(cut) == []
    kept = "[...document.querySelectorAll('figure')].every(e => getComputedStyle(e).breakInside === 'avoid')"
    assert page.evaluate(kept)
    assert weak(page) == []
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
