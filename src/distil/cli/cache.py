"""``distil cache``: a teacher's answers on disk, for runs that need not ask it again."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from distil.cli.options import Device, Pretrained, Weights
from distil.cli.session import SETTINGS, Display, open_out, resumable
from distil.errors import DistilError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command("cache")(cache)


def cache(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    data: Annotated[str | None, typer.Option(help="Images, texts or a graph, as distil train takes them.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher, as distil train takes it.")] = None,
    teacher_weights: Weights = None,
    pretrained: Pretrained = False,
    codec: Annotated[
        str,
        typer.Option(
            help="dense16 (for every method), dense8, dense32; for kd alone topk64, topk64x8 (8 bits), sampled50, "
            "topk64@4 (at temperature 4)."
        ),
    ] = "dense16",
    views: Annotated[
        int | None, typer.Option(min=1, help="Store so many random views of each training image, and their records.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="What a view may change: crop,flip by default; colour, mixup, cutmix.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Also store these taps of the teacher: emb,stages, or module paths.")
    ] = None,
    features_codec: Annotated[str, typer.Option(help="How features are stored: features16 or int8.")] = "features16",
    part: Annotated[
        str | None, typer.Option(help="Write one share of the samples, 2/4; other processes write the others at once.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 256,
    precision: Annotated[str, typer.Option(help="Of the teacher: fp32 or bf16.")] = "fp32",
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the data: size=64. May be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the cache in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the cache in --out.")] = False,
    device: Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say the size, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Store what a teacher says of your data; use it with `distil train --teacher cache:FOLDER`."""
    from distil.files import write_text
    from distil.loops.own import task_of
    from distil.loops.own_cache import Wanted, plan_own, room_for, write_own
    from distil.loops.own_run import OwnRun
    from distil.loops.settings import from_yaml, override, to_yaml, update

    shared = _part(part)
    settings = from_yaml(OwnRun(), out / SETTINGS) if resume and (out / SETTINGS).is_file() else OwnRun()
    given = {
        "data": data,
        "teacher": teacher,
        "teacher_weights": None if teacher_weights is None else str(teacher_weights),
        "pretrained": pretrained or None,
        "views": _views(views, augment),
    }
    settings = override(update(settings, {k: v for k, v in given.items() if v is not None}), assign or ())
    if not settings.student:
        settings = update(settings, {"student": settings.teacher})
    taps = tuple(name.strip() for name in features.split(",") if name.strip()) if features else ()
    wanted = Wanted(codec, taps, features_codec, precision, batch_size, shared)
    if dry_run:
        with Display(quiet=as_json) as display:
            display.begin(f"reading {settings.data} and {settings.teacher}")
            facts = plan_own(settings, out, task_of, wanted, device=device).facts()
        typer.echo(json.dumps(facts) if as_json else f"Everything fits. {_planned(facts)} Nothing was written.")
        return
    joins = part is not None and not overwrite and (out / SETTINGS).is_file()  # another process has begun it
    folder = open_out(out, "cache", resume=resume or joins, overwrite=overwrite)
    words = ["cache", "--codec", codec, "--precision", precision, *(["--device", device] if device else [])]
    words += ["--features", features, "--features-codec", features_codec] if features else []
    words += ["--part", part] if part else []
    with Display(quiet=as_json) as display, resumable(folder, words):
        display.begin(f"reading {settings.data} and {settings.teacher}")
        plan = plan_own(settings, folder, task_of, wanted, device=device)
        room_for(plan, folder)
        display.say(_planned(plan.facts()))
        write_text(folder / SETTINGS, to_yaml(settings))
        display.begin(f"caching {plan.samples} samples", plan.samples)
        facts = write_own(plan, folder, progress=display.step)
    typer.echo(json.dumps(facts) if as_json else _done(facts))


def _part(text: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if found is None:
        raise DistilError(f"--part {text} cannot be read; write 2/4 for the second of four.")
    return int(found[1]), int(found[2])


def _views(count: int | None, augment: str | None) -> dict[str, Any] | None:
    if augment is not None and count is None:
        raise DistilError("--augment needs --views: how many random views of each image are stored, e.g. --views 8.")
    kinds = [kind.strip() for kind in augment.split(",") if kind.strip()] if augment is not None else None
    return None if count is None else {"count": count, **({} if kinds is None else {"kinds": kinds})}


def _planned(facts: dict[str, Any]) -> str:
    what = f"{facts['samples']} samples of {facts['data']}"
    if facts["views"]:
        what += f" in {facts['answers']} answers, {facts['views']['count']} views of each training image,"
    return f"{what} at {facts['bytes_per_sample']} bytes each: {facts['bytes'] / 1e6:.2f} MB."


def _done(facts: dict[str, Any]) -> str:
    seen, folder = facts["check"], facts["out"]
    lines = [
        f"Cached {facts['stored']} samples in {facts['bytes'] / 1e6:.2f} MB, teacher {facts['teacher']}.",
        f"{seen['samples']} of them compared with the live teacher: cosine at least {seen['cosine']:.6f}, largest "
        f"difference {seen['difference']:.2g} ({seen['bound']:.2g} is allowed).",
    ]
    codec = facts["codec"]["logits"]
    method = "" if codec["name"].startswith("dense") else f" --method 'kd(temperature={codec['temperature']:g})'"
    lines.append(f"Use it: distil train --data … --teacher {shlex.quote(f'cache:{folder}')} --student …{method}")
    return "\n".join(lines)
