"""Run the recipes under their evidence settings and store what was seen, one JSON for each system and each board.

    python tools/evidence.py                    every system with a recipe, and the boards that run on a processor
    python tools/evidence.py pld classification    these
    python tools/evidence.py classification:vid,nst    a further part of a board: KD and these methods

Runs live in ``runs/evidence`` and are resumed after an interruption; ``evidence/SLUG.json`` is written when all of a
system's settings are done, ``evidence/boards/NAME.json`` and its page beside it when a board is. A part of a board
stands beside it under a number: methods that came later, where ``runs/`` is gone and all would be trained anew.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distil import catalog
from distil.boards import BOARDS, board
from distil.cli.session import Display
from distil.files import write_text
from distil.loops.lab import Lab, methods_of
from distil.loops.recipe import load_recipe, run_recipe
from distil.loops.settings import update
from distil.report import load, render

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("name", "role", "label", "expression", "metrics", "parameters", "bytes", "latency", "agreement", "cost")
KEPT += ("budget", "diagnostics")
ON_A_GPU = ("classification-resnet56", "classification-wrn40")


def main(wanted: list[str]) -> None:
    """Make the evidence of the systems named, or of all that have a recipe."""
    systems = [slug for slug, card in catalog.systems().items() if (card.folder / "recipe.py").is_file()]
    for slug in wanted or [*systems, *(name for name in BOARDS if name not in ON_A_GPU)]:
        name, _, methods = slug.partition(":")
        if name in BOARDS:
            one_board(name, [method for method in methods.split(",") if method])
            continue
        recipe: Any = load_recipe(slug)
        before = catalog.evidence_hash(slug)
        runs = [one_run(recipe, slug, i, dict(changes), system=slug) for i, changes in enumerate(recipe.EVIDENCE)]
        if catalog.evidence_hash(slug) != before:
            raise SystemExit(f"The code of {slug} changed while its evidence was made; run it again.")
        document = {"slug": slug, "hash": before, "runs": runs}
        path = write_text(ROOT / "evidence" / f"{slug}.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(f"{path.relative_to(ROOT)}: {len(runs)} settings")


def one_run(
    recipe: Any, slug: str, index: int, changes: dict[str, Any], *, system: str | None
) -> dict[str, Any]:  # fmt: skip
    """Run one setting and return the part of its report that is kept."""
    setup = update(recipe.Setup(), changes)
    folder = ROOT / "runs" / "evidence" / f"{slug}-{index}"
    words = ["distil", "run", slug, *(w for a in assignments(changes) for w in ("--set", a))]
    with Display() as display:
        report = run_recipe(
            recipe, setup, folder, Lab(folder, progress=display), command=shlex.join(words), system=system
        )
    kept = {k: report[k] for k in ("title", "created", "command", "setting", "seeds", "metric", "data", "teacher")}
    kept["settings"] = asdict(setup)
    kept["arms"] = [{k: arm.get(k) for k in KEPT} for arm in report["arms"]]
    if report.get("tables"):
        kept["tables"] = report["tables"]
    return {**kept, **{k: report[k] for k in ("verdicts", "versions", "machine")}}


def one_board(name: str, methods: list[str]) -> None:
    """Run a board, or a part of it, and store its figures, the code behind each method, and its page."""
    source = ROOT / "src" / "distil"
    written = [*source.glob("methods/*.py"), *source.glob("systems/*/method.py")]
    before = catalog.maths_hash(written)
    own = {text.partition(":")[0].strip(): text for text in board(name).start.methods}  # some are "name: expression"
    changes = {"methods": ["kd", *(own.get(method, method) for method in methods)]} if methods else {}
    made = one_run(board(name), name, 0, changes, system=None)
    if catalog.maths_hash(written) != before:
        raise SystemExit(f"The methods changed while the board {name} was run; run it again.")
    for arm in made["arms"]:
        arm["hash"] = catalog.maths_hash(methods_of(arm["expression"]))
    folder = ROOT / "evidence" / "boards"
    number = next(n for n in itertools.count(2) if not (folder / f"{name}.{n}.json").is_file())
    stored = f"{name}.{number}" if methods else name
    if methods:
        made["title"] += f": part {number}"
    document = json.dumps({"board": name, "run": made}, indent=1, ensure_ascii=False)
    path = write_text(folder / f"{stored}.json", document + "\n")
    whole = load(ROOT / "runs" / "evidence" / f"{name}-0")
    write_text(folder / f"{stored}.html", render({**whole, "title": made["title"]}))
    print(f"{path.relative_to(ROOT)} and its page")


def assignments(changes: dict[str, Any], path: str = "") -> list[str]:
    """Return nested changes as ``a.b=value`` words."""
    found: list[str] = []
    for key, value in changes.items():
        where = f"{path}{key}"
        found += assignments(value, f"{where}.") if isinstance(value, dict) else [f"{where}={value}"]
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
