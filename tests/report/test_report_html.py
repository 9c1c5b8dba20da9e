"""The page: what it says, what it escapes, and that no missing part breaks it."""

from __future__ import annotations

import copy
import html
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distil.errors import DistilError
from distil.report import build, load, render, write
from distil.report.text import count, duration, fixed, signed, size
from distil.report.verdict import paired_interval
from report.sample import sample_report

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> javascript:alert(3) $\\frac{1}{ $ &amp; {{ 7 * 7 }}"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collect elements, ids and text; fail on an element that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.inside: list[tuple[str, int]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
            if "id" in values:
                self.inside.append((values["id"], len(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.inside = [(name, depth) for name, depth in self.inside if depth <= len(self.open)]

    def handle_data(self, data: str) -> None:
        for name, _ in self.inside:
            self.text[name] = self.text.get(name, "") + data

    def all(self, name: str) -> list[dict[str, str]]:
        return [values for tag, values in self.tags if tag == name]


def visible(page: str) -> str:
    """Return the words of a page without its embedded report and style sheet."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return sample_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return render(report)


def test_verdict_text_is_the_reports(report: dict[str, Any], page: str) -> None:
    parsed = Page(page)
    for i, entry in enumerate(report["verdicts"]):
        assert parsed.text[f"verdict-text-{i}"] == entry["text"]
    assert json.loads(parsed.text["report-json"]) == report


def test_every_figure_is_on_the_page(report: dict[str, Any], page: str) -> None:
    words = visible(page)
    for arm in report["arms"]:
        mean = paired_interval(arm["metrics"]["accuracy"]["last"])
        wanted = [f"{fixed(mean.mean, 1)} ± {fixed(mean.half, 1)}", arm["label"], arm["role"], arm["expression"]]
        wanted += [fixed(value, 2) for value in arm["metrics"]["accuracy"]["last"]]
        wanted += [count(arm["parameters"]), size(arm["bytes"]), "1.84", "2.31", "17,400"]
        wanted += [duration(sum(arm["cost"]["seconds"]) / 5), f"{fixed(100 * arm['cost']['teacher_share'], 0)} %"]
        wanted.append(f"{fixed(paired_interval(arm['agreement']).mean, 1)} ± ")
        wanted.append(f"ECE {fixed(paired_interval(arm['metrics']['ece']['last']).mean, 3)}")
        assert [each for each in wanted if each not in words] == []
    for entry in report["verdicts"]:
        gap = entry["difference"]
        assert signed(gap["mean"], 1) in words
        assert f"{signed(gap['low'], 1)} to {signed(gap['high'], 1)}" in words
    facts = [report["command"], *report["warnings"], report["data"]["fingerprint"], report["teacher"]["fingerprint"]]
    facts += [*report["setting"].values(), *report["versions"].values(), *report["data"]["classes"], "91.2", "8.5 min"]
    assert [each for each in facts if each not in words] == []


def test_same_report_same_page(report: dict[str, Any], page: str) -> None:
    assert render(report) == page
    assert render(json.loads(json.dumps(report))) == page


def test_page_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    ids = [values["id"] for _, values in parsed.tags if "id" in values]
    assert len(ids) == len(set(ids))
    for tag, values in parsed.tags:
        assert not [key for key in values if key.startswith("on") or key in ("src", "srcset", "action")]
        if "href" in values and tag != "link":
            assert values["href"][0] == "#"
            assert values["href"][1:] in ids
    assert [values.get("href") for values in parsed.all("link")] == ["data:,"]
    assert [values["type"] for values in parsed.all("script")] == ["application/json"]
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_drawings_have_names_and_the_pages_colours(page: str) -> None:
    drawings = re.findall(r'<svg [^>]*role="img".*?</svg>', page, flags=re.S)
    assert len(drawings) >= 13
    for drawing in drawings:
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", drawing)
        assert not re.findall(r"#f[bc]00[0-9a-f]{2}", drawing)
        assert "font-family" not in drawing
        for target in re.findall(r'(?:url\(|href=")#([^)"]+)', drawing):
            assert f'id="{target}"' in drawing


def test_hostile_text_is_only_text() -> None:
    report = sample_report(arms=3, seeds=3, epochs=3)

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    keep = {"kind", "version", "metric", "seeds", "verdicts"}
    for key in report.keys() - keep - {"arms"}:
        report[key] = poison(report[key])
    report["setting"] = {HOSTILE: HOSTILE}
    report["versions"] = {HOSTILE: HOSTILE}
    report["metric"] = {"name": HOSTILE, "higher_is_better": True, "unit": HOSTILE}
    for number, arm in enumerate(report["arms"]):
        arm |= {"label": HOSTILE, "expression": HOSTILE, "name": f"{HOSTILE}{number}"}
        arm["metrics"] = {HOSTILE: arm["metrics"]["accuracy"], "ece": arm["metrics"]["ece"]}
        arm["diagnostics"] = {HOSTILE: [1.0, 2.0, 3.0]}
        for seed in arm["curves"]:
            seed["val"] = {HOSTILE: seed["val"]["accuracy"]}
        for seed in arm["terms"]:
            for what in ("loss", "share", "cosine"):
                seed[what] = {f"{HOSTILE}{i}": line for i, line in enumerate(seed[what].values())}
    names = {"alone": f"{HOSTILE}0", "kd": f"{HOSTILE}1", "pld": f"{HOSTILE}2"}
    for entry in report["verdicts"]:
        entry |= {"arm": names[entry["arm"]], "against": names[entry["against"]], "text": f"{HOSTILE}: {HOSTILE}"}
    text = render(report)
    parsed = Page(text)
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == []
    assert not [values for _, values in parsed.tags if any(key.startswith("on") for key in values)]
    assert not [values for _, values in parsed.tags if "javascript:" in values.get("href", "")]
    assert parsed.text["verdict-text-0"] == f"{HOSTILE}: {HOSTILE}"
    assert json.loads(parsed.text["report-json"])["setting"] == {HOSTILE: HOSTILE}
    assert "49" not in parsed.text["command"]


@pytest.mark.parametrize(
    ("arms", "seeds", "epochs"), [(1, 1, 1), (1, 5, 3), (2, 1, 3), (2, 2, 2), (12, 3, 3), (0, 0, 1)]
)
def test_sizes(arms: int, seeds: int, epochs: int) -> None:
    text = render(sample_report(arms=arms, seeds=seeds, epochs=epochs))
    parsed = Page(text)
    assert sum(name.startswith("verdict-text-") for name in parsed.text) == max(arms - 1, 0)
    if arms < 2:
        assert "Nothing was compared" in visible(text)
    elif seeds < 3:
        assert "Too few seeds to say" in visible(text)


def test_only_what_is_required() -> None:
    least = {"kind": "comparison", "version": 1, "title": "Least", "seeds": [0]}
    least |= {"metric": {"name": "nll", "higher_is_better": False}, "arms": [{"name": "a"}]}
    words = visible(render(least))
    assert "Least" in words
    assert "Learning curves" not in words
    assert "nan" not in words.lower().split()
    assert "None" not in words


def test_values_that_are_missing() -> None:
    report = sample_report(epochs=4)
    first = report["arms"][0]
    first["metrics"]["accuracy"]["last"][2] = None
    first["curves"][1] = None
    first["curves"][2]["train_loss"] = [math.nan] * 4
    first["agreement"] = [None] * 5
    first["terms"][0]["share"] = None
    report["arms"][1]["metrics"] = None
    report["arms"][2]["terms"][0]["loss"]["pld"] = [math.inf] * 5
    report["verdicts"][0]["difference"] = None
    words = visible(render(report))
    assert "(4 of 5 seeds)" in words
    assert not {"nan", "inf", "none", "undefined"} & set(words.lower().replace(",", " ").split())


def test_all_values_missing() -> None:
    roles = {"a": "reference", "b": "method"}
    missing = {"accuracy": {"last": [math.nan] * 3}}
    arms = [{"name": name, "role": role, "metrics": missing} for name, role in roles.items()]
    metric = {"name": "accuracy", "higher_is_better": True, "unit": "%"}
    words = visible(render(build(title="t", metric=metric, seeds=[0, 1, 2], arms=arms)))
    assert "No arm could be judged; the warnings say why." in words


def test_zero_variance_and_huge_and_tiny_values() -> None:
    for level in (0.0, 50.0, 1e-9, 1e12):
        report = sample_report(arms=2, seeds=3, epochs=2)
        for arm in report["arms"]:
            arm["metrics"]["accuracy"] = {"last": [level] * 3, "best": [level] * 3}
            arm["cost"] = {"seconds": [0.0] * 3, "teacher_seconds": [0.0] * 3}
        given = {key: report[key] for key in ("title", "metric", "seeds", "arms", "teacher")}
        built = build(**given)
        assert built["verdicts"][0]["outcome"] == "no difference seen"
        Page(render(built))


def test_long_and_foreign_names_stay_inside() -> None:
    report = sample_report(arms=3, seeds=3, epochs=2)
    report["arms"][0]["label"] = "x" * 400
    report["arms"][1]["label"] = "知識蒸留の実験" * 20 + " \U0001f9ea"
    text = render(report)
    drawn = re.search(r'<svg [^>]*aria-labelledby="results-t.*?</svg>', text, flags=re.S)
    assert drawn is not None
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn.group())
    assert max(len(label) for label in labels) <= 36
    assert "x" * 400 in text


def test_adjusted_intervals_say_their_level() -> None:
    words = visible(render(sample_report(adjust=True, epochs=2)))
    assert "Difference 98.33 % interval" in words
    assert "to the right of 0; 98.33 % intervals." in words


def test_unequal_budgets_are_said() -> None:
    report = sample_report(arms=2, epochs=2)
    assert "Every arm had the same budget: 4,680 updates, 128 per batch" in visible(render(report))
    report["arms"][1]["budget"]["trials"] = 40
    words = visible(render(report))
    assert "did not have the same budget" in words
    assert "Every arm" not in words


def paths(value: Any, *, depth: int, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places in a report, one element standing for each list."""
    if depth == 0:
        return
    entries = value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else []
    for key, item in entries:
        yield (*start, key)
        yield from paths(item, depth=depth - 1, start=(*start, key))


def changed(whole: dict[str, Any], place: tuple[Any, ...], value: object) -> dict[str, Any]:
    report = copy.deepcopy(whole)
    holder: Any = report
    for key in place[:-1]:
        holder = holder[key]
    if value == "gone" and isinstance(holder, dict):
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return report


def test_any_part_may_be_missing_or_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dots", "curves", "shares", "reliability", "times"):  # drawn in the next test
        monkeypatch.setattr(f"distil.report.figures.{name}", lambda name, title, *_, **__: "<svg></svg>")
    whole = sample_report(arms=2, seeds=3, epochs=2)
    places = list(paths(whole, depth=6))
    assert len(places) > 80
    refused = 0
    for place in places:
        for value in (None, "word", [], {}, "gone"):
            try:
                Page(render(changed(whole, place, value)))
            except DistilError:
                refused += 1
    assert 0 < refused < len(places) * 5 / 2


@pytest.mark.parametrize("part", ["metrics", "curves", "terms", "agreement", "reliability", "cost"])
def test_drawings_live_with_missing_values(part: str) -> None:
    whole = sample_report(arms=2, seeds=2, epochs=2)
    for place in paths(whole["arms"][1][part], depth=4):
        assert "<svg" in render(changed(whole, ("arms", 1, part, *place), None))


def test_write_makes_both_files(tmp_path: Path, report: dict[str, Any], page: str) -> None:
    path = write(report, tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    assert path.read_text(encoding="utf-8") == page
    assert load(tmp_path / "out") == report
    assert sorted(each.name for each in path.parent.iterdir()) == ["report.html", "report.json"]


def test_render_refuses_what_is_not_a_report() -> None:
    with pytest.raises(DistilError, match="of kind 'plan'"):
        render({"kind": "plan", "version": 1})
