"""The model card: what a student was taught, from what, how well it does, what it needs and where it ends."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distil.report.text import count, fixed, size
from distil.ship.scripts import needs_of

__all__ = ["ModelCard", "fenced", "markdown", "write_card"]


@dataclass(frozen=True)
class ModelCard:
    """What a card says of where a model comes from; every text in it is escaped when the card is written.

    Attributes:
        title: what the model is.
        facts: label → text: the method, the teacher, the data, …
        results: sentences: the verdict, and how it was reached.
        table: the header, then the rows, of the figures behind them.
        limits: sentences.
        command: the command that trained it.
    """

    title: str = "An exported model"
    facts: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    limits: Sequence[str] = ()
    command: str = ""


def markdown(text: object) -> str:
    """Return text that Markdown and HTML show as it is: no markup, no link, no line of its own.

    >>> print(markdown("<b>a|b</b> [x](y)"))
    &lt;b&gt;a\\|b&lt;/b&gt; \\[x\\](y)
    """
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = html.escape(" ".join(line.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#!|~$])", r"\\\1", line).replace("://", ":\u200b//").replace("@", "&#64;")


def fenced(text: str, language: str = "") -> str:
    """Return text as a code block that nothing in it can close."""
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def write_card(
    card: ModelCard, *, config: Mapping[str, Any], sizes: Mapping[str, int], report: Mapping[str, Any]
) -> str:
    """Return the card as Markdown.

    Args:
        card: where the model comes from.
        config: the content of ``config.json``.
        sizes: bytes by file name.
        report: the ``checked`` and ``latency`` of ``export.json``.
    """
    parts = [f"# {markdown(card.title)}"]
    if card.results:
        parts += ["## Results", "\n".join(f"- {markdown(line)}" for line in card.results)]
    if card.table:
        parts.append(_table(card.table))
    facts = {"Classes": _classes(config["classes"]), "Inputs": _inputs(config), **card.facts}
    facts["Parameters"] = count(config["parameters"])
    facts["Fingerprint"] = config["fingerprint"]
    parts += ["## What it is", _table([("", ""), *facts.items()])]
    parts += ["## Size and speed", _table([("file", "size"), *((name, size(each)) for name, each in sizes.items())])]
    parts += [_speed(report), _checked(report)]
    parts += ["## Use", *_use(config, sizes)]
    limits = [*card.limits, "It answers one of its classes whatever it is shown."]
    parts += ["## Limits", "\n".join(f"- {markdown(line)}" for line in limits)]
    if card.command:
        parts += ["## Trained by", fenced(card.command, "sh")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in (head, *body)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def _classes(names: Sequence[str], most: int = 12) -> str:
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}: {', '.join(names[:most])}{more}"


def _inputs(config: Mapping[str, Any]) -> str:
    made = config["preprocessing"]
    if made["kind"] == "image":
        height, width = made["size"]
        inside = " The mean and std of training are subtracted inside model.onnx." if "mean" in made else ""
        colour = "grey" if made["channels"] == 1 else "RGB"
        return f"{colour} images of {width} × {height} pixels (others are cropped and resized), values in 0..1.{inside}"
    if made["kind"] == "text":
        return f"text, at most {made['max_length']} tokens of the tokenizer in this folder."
    if made["kind"] == "tensors":
        return "tensors by name: " + ", ".join(each["name"] for each in config["inputs"]) + "."
    if made["kind"] == "table":
        names = [column["name"] for column in made["columns"]]
        how = "are refused" if made["missing"] == "refuse" else "count as the training mean, or as no category"
        return (
            f"rows of a table with the columns {', '.join(names[:12])}{', …' if len(names) > 12 else ''}, encoded as "
            f"preprocessing.json says into {made['shape'][0]} numbers; empty cells {how}, and a category that training "
            "did not have counts as none."
        )
    edges = ", and the edges of the graph" if made.get("edges") else ""
    return f"rows of {' × '.join(map(str, made['shape']))} numbers, prepared as in training{edges}."


def _speed(report: Mapping[str, Any]) -> str:
    rows = [("batch", "runs on", "p50 ms", "p95 ms")]
    for name, engines in (report.get("latency") or {}).items():
        rows += [(name, each, fixed(t["p50_ms"], 3), fixed(t["p95_ms"], 3)) for each, t in engines.items()]
    return _table(rows) if len(rows) > 1 else ""


def _checked(report: Mapping[str, Any]) -> str:
    checked = report.get("checked") or {}
    if not checked:
        return ""
    worst = max(each["relative"] for each in checked.values())
    return markdown(
        f"model.onnx was run beside the trained model on {report['checked_on']} ({', '.join(checked)}): the answers "
        f"differ by at most {worst:.1e} of the largest."
    )


def _use(config: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    made, found = config["preprocessing"], []
    usage = {
        "image": "photo.png", "text": "'some text'", "features": "features.npz", "table": "table.csv",
        "tensors": "inputs.npz",
    }[made["kind"]]  # fmt: skip
    if "model.onnx" in sizes:
        install = f"pip install {' '.join(needs_of(made))}"
        found.append(fenced(f"{install}\npython predict.py {usage}", "sh"))
    if config.get("model"):
        spec = repr(config["model"])
        lines = [
            "import distil",
            "from safetensors.torch import load_model",
            f"model = distil.load_model({spec}, classes={len(config['classes'])}, input_shape={config['input_shape']})",
            'load_model(model, "model.safetensors")',
        ]
        if "mean" in made:
            lines.append(f"# it takes (x - mean) / std with mean={made['mean']}, std={made['std']}")
        if config.get("plain", True) and "model.safetensors" in sizes:
            found.append(fenced("\n".join(lines), "python"))
    return found
