"""``distil predict``: labels and probabilities from an exported folder."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.session import console
from distil.errors import DistilError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("predict")(predict)


def predict(
    exported: Annotated[Path, typer.Argument(help="A folder that distil export wrote.")],
    files: Annotated[list[str], typer.Argument(help="Pictures, tables (.npz, .csv, .parquet), texts, or folders.")],
    top: Annotated[int, typer.Option(min=1, help="How many labels of each sample.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Also write the answers to this .csv.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Print a label and its probability for every sample; files that cannot be read are named and skipped."""
    if out is not None and out.exists() and not (overwrite and out.is_file()):
        raise DistilError(f"--out {out} is already there; add --overwrite to replace it, or name another file.")
    from distil.ship import Answer, open_export
    from distil.ship import predict as answers_of

    model = open_export(exported)
    answers: list[Any] = []
    skipped: list[Any] = []
    for found in answers_of(model, files, top=min(top, len(model.labels)), batch_size=batch_size):
        if not isinstance(found, Answer):
            skipped.append(found)
            console.print(
                _clean(f"skipped {found.name}: {found.reason}"), markup=False, highlight=False, soft_wrap=True
            )
            continue
        answers.append(found)
        if not as_json:
            pairs = zip(found.labels, found.probabilities, strict=True)
            typer.echo(
                "\t".join(map(_clean, [found.name, *(f"{label} {100 * share:.1f} %" for label, share in pairs)]))
            )
    if not answers:
        first = f"; the first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DistilError(f"none of the {len(skipped)} files could be read{first}")
    if out is not None:
        from distil.files import write_text

        write_text(out, _csv(answers))
    if as_json:
        typer.echo(json.dumps(_document(model, answers, skipped), ensure_ascii=False, allow_nan=False))
    elif skipped:
        console.print(f"{len(answers)} answered, {len(skipped)} files skipped.", markup=False, highlight=False)


def _document(model: Any, answers: list[Any], skipped: list[Any]) -> dict[str, Any]:
    return {
        "engine": model.engine,
        "answers": [
            {
                "name": each.name,
                "label": each.labels[0],
                "probability": each.probabilities[0],
                "top": [{"label": label, "probability": p} for label, p in zip(each.labels, each.probabilities)],
            }
            for each in answers
        ],
        "skipped": [{"name": each.name, "reason": each.reason} for each in skipped],
    }


def _csv(answers: list[Any]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    top = len(answers[0].labels)
    names = ["label", "probability"]
    rows.writerow(["name", *names, *(f"{name}_{k}" for k in range(2, top + 1) for name in names)])
    for each in answers:
        pairs = zip(each.labels, each.probabilities, strict=True)
        rows.writerow([each.name, *(value for pair in pairs for value in pair)])
    return text.getvalue()


def _clean(text: str) -> str:
    # Names of files and classes come from elsewhere; a terminal must not obey what is in them.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
