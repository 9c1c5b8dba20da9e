"""``distil list`` and ``distil show``: the catalogue, read from files alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from distil import catalog
from distil.boards import BOARDS
from distil.catalog import Card, State
from distil.errors import DistilError, nearest

__all__ = ["register"]

STATES = ("planned", "golden", "works", "stale")
STYLES = {"planned": "dim", "golden": "yellow", "works": "green"}


def register(app: typer.Typer) -> None:
    """Add the two verbs to ``app``."""
    app.command("list")(list_systems)
    app.command("show")(show)


def list_systems(
    field: Annotated[str | None, typer.Option(help="Only the systems of this field, e.g. classification.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state: planned, golden, works or stale.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the systems, with what each needs and how far it is proven."""
    rows = [(made, catalog.state(slug)) for slug, made in catalog.systems().items()]
    for sentence in catalog.broken().values():
        Console(stderr=True).print(Text(f"note: {sentence}"), soft_wrap=True)
    if field is not None:
        _known("field", field, {made.field for made, _ in rows})
        rows = [(made, at) for made, at in rows if made.field == field]
    if state is not None:
        _known("state", state, STATES)
        rows = [(made, at) for made, at in rows if state == at.name or (state == "stale" and at.stale)]
    if as_json:
        typer.echo(json.dumps([_row(made, at) for made, at in rows], indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(_systems(rows))
    if field is None and state is None and catalog.rivals():
        console.print(_rivals(catalog.rivals()))
        console.print(Text(f"\nLeaderboards, for distil run: {', '.join(BOARDS)}"))


def show(
    slug: Annotated[str, typer.Argument(help="The short name of a system or method, as `distil list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show one system: what it does, what it needs, how it differs from its code, and what was seen."""
    if slug.lower() in catalog.rivals():
        name, told = slug.lower(), catalog.rival_text(slug.lower())
        home = f"distil.methods.{catalog.rivals()[name].partition(':')[2]}"
        if as_json:
            typer.echo(json.dumps({"name": name, "class": home, "text": told}, indent=2, ensure_ascii=False))
        else:
            head = Text(f"{home}, `{name}` in an expression", style="bold")
            Console().print(Panel(head, title=Text(f"{name}: a standard method"), title_align="left"), Text(told))
        return
    made = catalog.card(slug)
    at, stored = catalog.state(made.slug), catalog.evidence(made.slug)
    if as_json:
        typer.echo(json.dumps(_whole(made, at, stored), indent=2, ensure_ascii=False))
        return
    Console().print(_page(made, at, stored))


def _known(what: str, value: str, options: Iterable[str]) -> None:
    names = list(options)
    if value not in names:
        raise DistilError(f"There is no {what} '{value}'; {nearest(value, names)}")


# ---- for machines


def _row(made: Card, at: State) -> dict[str, Any]:
    return {
        "slug": made.slug,
        "name": made.name,
        "field": made.field,
        "state": at.name,
        "stale": at.stale,
        "needs": _plain(made.needs),
        "paper": {"title": made.title, "venue": made.venue, "year": made.year, "arxiv": made.arxiv},
        "number": made.number,
        "origin": made.origin,
    }


def _whole(made: Card, at: State, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    facts = {key: value for key, value in _plain(made).items() if key not in ("folder", "package")}
    return {**facts, **_row(made, at), "why": at.why, "evidence": stored}


def _plain(value: Any) -> Any:
    """Return cards and their parts as what JSON knows."""
    if hasattr(value, "__dataclass_fields__"):
        return {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__ if key != "folder"}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# ---- for people; every text of a card goes through Text, so that nothing in it is read as markup


def _systems(rows: list[tuple[Card, State]]) -> RenderableType:
    title = f"{len(rows)} systems" if len(rows) != 1 else "1 system"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=title, title_justify="left")
    table.add_column("no", no_wrap=True, justify="right")
    table.add_column("slug", no_wrap=True)
    for name, width in (("name", 7), ("field", 14), ("state", 7), ("needs", 7), ("paper", 7)):
        table.add_column(name, min_width=width, overflow="fold")
    for made, at in rows:
        labels = {"all": "labels", "some": "some labels", "none": "no labels"}[made.needs.labels]
        table.add_row(
            *(Text(text) for text in (str(made.number or "+"), made.slug, made.name, made.field)),
            Text(str(at), style=STYLES[at.name]),
            Text(f"{labels}; {', '.join(made.needs.teacher)}"),
            Text(f"{made.venue} {made.year}"),
        )
    return table


def _rivals(rivals: Mapping[str, str]) -> RenderableType:
    table = Table(
        box=None, padding=(0, 2, 0, 0), header_style="bold", title="Standard methods beside them", title_justify="left"
    )
    table.add_column("name in an expression", no_wrap=True)
    table.add_column("class", no_wrap=True)
    for name, home in sorted(rivals.items()):
        table.add_row(Text(name), Text(f"distil.methods.{home.partition(':')[2]}"))
    return table


def _page(made: Card, at: State, stored: Mapping[str, Any] | None) -> RenderableType:
    head = Text(made.title, style="bold")
    where = f"{made.venue} {made.year}" + (f" · arXiv {made.arxiv}" if made.arxiv else "")
    number = f"no {made.number} · " if made.number else ""
    head.append(f"\n{where}\n{number}{made.field} · {made.kind}", style="dim")
    head.append(f" · {at}", style=STYLES[at.name])
    head.append(f" ({at.why})", style="dim")
    if not made.has_code:
        head.append("\nNothing below is built yet: what it says of this project is what will be built.", style="dim")
    needs, proof, plan = made.needs, made.proof, made.experiment
    parts: list[RenderableType] = [Panel(head, title=Text(f"{made.slug}: {made.name}"), title_align="left")]
    parts += _section("For whom", [made.summary]) + _section("How it works", [made.what])
    parts += _pairs(
        "Needs",
        {
            "labels": needs.labels,
            "taps": ", ".join(needs.taps) or "none",
            "teacher": ", ".join(needs.teacher),
            "streams": ", ".join(needs.streams),
            "own parts": ", ".join(needs.trains) or "none",
            "hooks": ", ".join(needs.hooks) or "forward alone",
            "student": "rebuilt before training" if made.rebuilt else "as it is",
            "task loss": "inside the method" if made.contains_task else "added by Supervised",
            "ships": made.ships,
        },
    )
    parts += _pairs("Components and what each switches", made.components)
    parts += _pairs("Defaults of the paper", made.defaults)
    parts += _section("Where paper and code differ", made.differs, bullet=True)
    parts += _section("This project's reading (the paper does not say)", made.reading, bullet=True)
    parts += _section("What the paper reports", [made.headline])
    parts += _section("What cannot be promised", made.limits, bullet=True)
    parts += _pairs(
        "The smallest honest experiment",
        {"task": plan.task, "data": plan.data, "models": plan.models, "arms": ", ".join(plan.arms)},
    )
    parts += _section("Not run here", made.not_run, bullet=True)
    parts += _pairs(
        "Checked against",
        {"golden file": proof.golden, "oracle": proof.oracle, "official code": made.code or "none found"},
    )
    parts += _pairs("Not at rest at student = teacher", proof.at_equality)
    if stored is not None:
        parts += _evidence(stored, stale=at.stale)
    return Group(*parts)


def _evidence(stored: Mapping[str, Any], *, stale: bool) -> list[RenderableType]:
    """What the stored runs say in words: the verdicts of each setting, and the command that repeats it."""
    parts: list[RenderableType] = []
    for run in stored.get("runs") or []:
        title = "What was seen" + (" (the code has changed since)" if stale else "") + f": {run.get('title', '')}"
        texts = [str(verdict.get("text", "")) for verdict in run.get("verdicts") or []]
        parts += _section(title, texts or ["No verdict was reached."], bullet=True)
        parts += _pairs("Its run", {key: run.get(key) for key in ("created", "seeds", "command")})
    return parts


def _section(title: str, texts: Iterable[str], *, bullet: bool = False) -> list[RenderableType]:
    lines = [text for text in texts if text]
    if not lines:
        return []
    body = Text("\n").join(Text(f"• {line}" if bullet else line) for line in lines)
    return [Text(title, style="bold"), Padding(body, (0, 0, 1, 2))]


def _pairs(title: str, pairs: Mapping[str, Any]) -> list[RenderableType]:
    shown = {key: value for key, value in pairs.items() if value not in ("", None)}
    if not shown:
        return []
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    for key, value in shown.items():
        table.add_row(Text(key), Text(_words(value)))
    return [Text(title, style="bold"), table, Text()]


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(item) for item in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_words(item)}" for key, item in value.items())
    return textwrap.dedent(str(value)).strip()
