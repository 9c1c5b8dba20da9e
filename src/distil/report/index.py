"""Many runs on one page: every report under a folder, and what lies there that is none."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distil.errors import DistilError
from distil.files import write_text
from distil.report.check import clean
from distil.report.document import load
from distil.report.pieces import WORDS, count_of, date_of, page
from distil.report.text import fixed, heading, with_unit
from distil.report.view import View, part

__all__ = ["find_runs", "render_index", "write_index"]

_DEPTH = 4
#: What a run keeps beside its report; no run is looked for inside.
_OWN = ("stages", "checkpoints", "students", "trackers")

#: Sorts a table by a column when its heading is pressed; without it the table stands as it was written.
_SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells]
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim()
  heads.forEach((head, column) => {
    const button = document.createElement("button")
    button.type = "button"
    button.append(...head.childNodes)
    head.append(button)
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending"
      heads.forEach(each => each.removeAttribute("aria-sort"))
      head.setAttribute("aria-sort", down ? "descending" : "ascending")
      const rows = [...body.rows].sort((a, b) =>
        key(a, column).localeCompare(key(b, column), "en", {numeric: true, sensitivity: "base"}))
      body.append(...(down ? rows.reverse() : rows))
    })
  })
}
"""


def find_runs(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read every report under a folder, newest first.

    Args:
        folder: holds the folders of runs, side by side or deeper.

    Returns:
        ``kind`` (``"index"``), ``version``, ``folder``, ``runs`` (each with ``folder``, ``title``, ``created``,
        ``outcome``, ``verdict``, ``metric``, ``best``, ``arms``, ``seeds``, ``command``, ``page``) and ``skipped``:
        folders that hold no report that can be read, each with the reason.

    Raises:
        DistilError: there is no run at all.
    """
    root, runs, skipped = Path(folder), [], []
    for path, found in _search(root, _DEPTH):
        place = path.relative_to(root).as_posix()
        if isinstance(found, str):
            skipped.append({"folder": place, "why": found})
        else:
            runs.append(_entry(found, place, path))
    if not runs:
        seen = f"; it holds {skipped[0]['folder']}: {skipped[0]['why']}" if skipped else ""
        raise DistilError(
            f"{root} holds no run of distil{seen}. Give a run's folder, its report.json, or a folder of runs."
        )
    runs.sort(key=lambda run: run["folder"])
    runs.sort(key=lambda run: run["created"], reverse=True)
    made: dict[str, Any] = clean({"kind": "index", "version": 1, "folder": str(root), "runs": runs, "skipped": skipped})
    return made


def _search(folder: Path, depth: int) -> Iterator[tuple[Path, Mapping[str, Any] | str]]:
    """Yield (folder, report) for runs, and (folder, reason) for what is none."""
    try:
        children = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        yield folder, f"it cannot be read ({error.strerror})"
        return
    for child in children:
        if (child / "report.json").is_file():
            try:
                yield child, load(child)
            except DistilError as error:
                yield child, str(error).replace(f"{child / 'report.json'}: ", "").replace(f"{child}{os.sep}", "")
        elif (child / "settings.yaml").is_file() or (child / "stages").is_dir():
            yield child, "the run has not finished: it has no report.json yet"
        elif child.name not in _OWN:
            below = list(_search(child, depth - 1)) if depth > 1 else []
            if any(not isinstance(found, str) for _, found in below):
                yield from below
            else:  # nothing in it: one line for the whole of it, the reason of a broken run first
                reasons = [each for each in below if str(each[1]) != _FOREIGN]
                yield from reasons or [(child, _FOREIGN)]


_FOREIGN = "there is no report.json in it"


def _entry(report: Mapping[str, Any], place: str, path: Path) -> dict[str, Any]:
    view = View(report)
    first = view.verdicts[0] if view.verdicts else None
    rows = view.rows()
    best = None
    if rows and (mean := view.mean(view.arms[view.index[rows[0].name]], view.score)):
        best = {
            "arm": rows[0].label,
            "mean": mean.mean,
            "written": with_unit(fixed(mean.mean, view.decimals), view.unit),
        }
    return {
        "folder": place,
        "title": report["title"],
        "system": report.get("system"),
        "created": str(report.get("created") or ""),
        "data": part(report, "data", "name"),
        "outcome": first["outcome"] if first else None,
        "verdict": first["text"] if first else "",
        "metric": view.metric,
        "best": best,
        "arms": len(view.arms),
        "seeds": len(view.seeds),
        "command": str(report.get("command") or ""),
        "page": "report.html" if (path / "report.html").is_file() else None,
    }


def render_index(index: Mapping[str, Any], *, base: str = ".") -> str:
    """Return the index as a self-contained HTML page; its one script sorts the table.

    Args:
        index: what `find_runs` returned.
        base: the way from where the page will lie to the folder of runs.
    """
    rows = []
    for run in index["runs"]:
        place = posixpath.join(base, run["folder"])
        kind, word = WORDS.get(run["outcome"], ("none", "No verdict"))
        if run["outcome"] and run["verdict"].startswith("Too few seeds"):
            word = "Too few seeds to say"
        link = "./" + quote(posixpath.normpath(posixpath.join(place, run["page"] or "report.json")))
        shown = {"link": link, "date": date_of(run["created"]), "kind": kind, "word": word}
        rows.append({**run, **shown, "metric": heading(run["metric"])})
    title = f"{count_of(len(rows), 'run')} in {index['folder']}{'' if index['folder'].endswith('/') else '/'}"
    context = {"title": title, "meta": ["newest first"], "rows": rows, "skipped": index["skipped"]}
    return page("index.html.j2", index, "index-json", script=_SORT, **context)


def write_index(index: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``index.html`` into a folder, whole or not at all; return its path."""
    folder = Path(folder)
    base = os.path.relpath(index["folder"], folder).replace(os.sep, "/")
    return write_text(folder / "index.html", render_index(index, base=base))
