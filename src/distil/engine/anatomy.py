"""Find what a model computes on the way, by meaning or by path, from one dry run.

A *tap* is a named intermediate output. Methods ask for meanings (``logits, emb, map, stages, tokens, head``); a user
may name a path instead. The dry run watches every module once, so a wrong name is refused before training with the
names and shapes that exist.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from distil.engine.grid import TokenGrid
from distil.engine.layout import CHANNELS_LAST, layouts
from distil.errors import DistilError, nearest
from distil.tasks.base import evaluating

__all__ = ["MEANINGS", "Anatomy", "Location", "ModuleRecord", "Tap", "anatomy", "first_tensor", "unwrapped"]

Seen = tuple[str, nn.Module, Tensor | None, Tensor | None]
"""One module call: its path, the module, the first tensor of its input and of its output."""

MEANINGS = {
    "logits": "the class scores",
    "emb": "the input of the last linear layer",
    "map": "the last feature map before pooling",
    "stages": "the last feature map at each resolution (or four depths of a transformer)",
    "depths": "where early exits go: the last four stages, or of n >= 8 equal blocks numbers 1, 3, n-3 and n-1",
    "tokens": "the last token sequence",
    "head": "the classifier itself",
}
MANY = ("stages", "depths")  # the meanings that stand for several places


@dataclass(frozen=True)
class Location:
    """One place in a model: a module's path and which side of it, and how a map lies there (see `engine.layout`)."""

    path: str
    side: str = "out"
    layout: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return self.path + (":in" if self.side == "in" else "")


@dataclass(frozen=True)
class Tap:
    """A resolved tap: its places, whether it yields a tuple, and how tokens lie there, or why that is not known."""

    name: str
    locations: tuple[Location, ...]
    many: bool
    grid: TokenGrid | str = ""
    square_images: bool = False  # as far as they were seen

    @property
    def square(self) -> bool:
        """Whether there are as many patches down as across, as far as the model or its images tell."""
        return self.grid.height == self.grid.width if isinstance(self.grid, TokenGrid) else self.square_images


@dataclass(frozen=True)
class ModuleRecord:
    """What the dry run saw of one module."""

    path: str
    kind: str
    calls: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    layouts: tuple[str, str] = ("", "")  # of input and output

    def location(self, side: str = "out") -> Location:
        """Return one side of the module as a place."""
        return Location(self.path, side, self.layouts[side != "in"])


@dataclass(frozen=True)
class Anatomy:
    """What a model computes on the way: every module called, and the places found by meaning."""

    model: str
    records: Mapping[str, ModuleRecord]
    meanings: Mapping[str, tuple[Location, ...]]

    def resolve(self, spec: str, *, role: str = "model", overrides: Mapping[str, str] | None = None) -> Tap:
        """Turn ``spec`` into places.

        Args:
            spec: a meaning, ``stages.2`` (one of several), a module path, ``path:in``, or a wild-card such as
                ``layer*:in``.
            role: how an error calls the model.
            overrides: the user's paths for meanings, e.g. ``{"emb": "avgpool"}``.

        Raises:
            DistilError: nothing of that name was called; names the nearest paths.
        """
        if not spec:  # the path of the whole model, which a name that was left out must not mean
            raise DistilError(
                f"A tap of the {role} ({self.model}) has an empty name, '', which says no place; name a meaning "
                f"({', '.join(MEANINGS)}) or a module's path. It calls: {self._sketch()}"
            )
        base, _, index = spec.partition(".")
        chosen = (overrides or {}).get(spec) or ((overrides or {}).get(base) if base in MEANINGS else None)
        if chosen is not None and chosen != spec:
            return Tap(spec, self._by_path(chosen, role), many="*" in chosen)
        if base in MEANINGS:
            return self._by_meaning(spec, base, index, role)
        return Tap(spec, self._by_path(spec, role), many="*" in spec)

    def _by_meaning(self, spec: str, base: str, index: str, role: str) -> Tap:
        places = self.meanings.get(base, ())
        if not places and base != "logits":
            maps = base in ("map", "stages")
            other = ", or use a method on logits or embeddings (kd, dkd, dist, rkd, pkt)" if maps else ""
            raise DistilError(
                f"The {role} ({self.model}) has no tap '{base}' ({MEANINGS[base]}) that a dry run could find; "
                f"name one with taps={{'{base}': 'path'}}{other}. It calls: {self._sketch()}"
            )
        if not index:
            return Tap(spec, places, many=base in MANY)
        try:
            return Tap(spec, (places[int(index)],), many=False)
        except (ValueError, IndexError):
            raise DistilError(
                f"The {role} ({self.model}) has {len(places)} {base} ({', '.join(map(str, places))}); "
                f"'{spec}' is not one of them."
            ) from None

    def _by_path(self, spec: str, role: str) -> tuple[Location, ...]:
        path, _, side = spec.partition(":")
        if side not in ("", "in", "out"):
            raise DistilError(f"Tap '{spec}': after the colon comes 'in' or nothing, not '{side}'.")
        paths = [p for p in self.records if fnmatch.fnmatchcase(p, path)] if "*" in path else [path]
        if not paths or paths[0] not in self.records:
            raise DistilError(
                f"Tap '{spec}' does not exist in the {role} ({self.model}), or is not called on this batch; "
                f"{nearest(path, [*filter(None, self.records), *MEANINGS])} It calls: {self._sketch()}"
            )
        return tuple(self.records[p].location(side or "out") for p in paths)

    def _sketch(self, limit: int = 10) -> str:
        shapes = [f"{r.path} {list(r.output_shape or ())}" for r in self.records.values() if r.path]
        return ", ".join(shapes[:limit]) + (
            f", … ({len(shapes)} in all; `distil taps` lists them)" if len(shapes) > limit else ""
        )


def anatomy(
    model: nn.Module, call: Callable[[nn.Module], Any], *, logits: Callable[[Any], Tensor] | None = None
) -> Anatomy:
    """Watch one forward pass of ``model`` and say what it computes where.

    The pass runs in eval mode without gradient; training flags are restored and no hook stays.

    Args:
        model: any module; a compiled one is looked through.
        call: runs the model on an example, e.g. ``lambda m: task.call(m, batch)``.
        logits: picks the class scores out of the output (default: the first tensor in it).

    Returns:
        An :class:`Anatomy`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> anatomy(net, lambda m: m(torch.zeros(1, 4))).meanings["emb"]
    (Location(path='3', side='in'),)
    """
    model = unwrapped(model)
    seen: list[Seen] = []
    with watched(model, seen), evaluating(model), torch.no_grad():
        output = call(model)
    scores = logits(output) if logits is not None else first_tensor(output)
    calls: dict[str, int] = {}
    for path, *_ in seen:
        calls[path] = calls.get(path, 0) + 1
    laid = layouts(entry[1:] for entry in seen)
    records = {}
    for path, module, before, after in seen:
        shapes = _shape(before), _shape(after)
        sides = laid(shapes[0]), laid(shapes[1])
        records[path] = ModuleRecord(path, type(module).__name__, calls[path], *shapes, sides)
    once = [entry for entry in seen if calls[entry[0]] == 1 and entry[0]]
    found = _meanings(once, scores, lambda shape: shape[1:3] if laid(shape) == CHANNELS_LAST else shape[2:])
    depths = _listed(model, [entry[0] for entry in once])
    if depths:
        found["depths"] = tuple(map(Location, depths))
    meanings = {name: tuple(records[at.path].location(at.side) for at in places) for name, places in found.items()}
    return Anatomy(type(model).__name__, records, meanings)


Sides = Callable[[tuple[int, ...]], tuple[int, ...]]
"""From the shape of a map to its height and width."""


def _meanings(seen: list[Seen], scores: Tensor | None, sides: Sides) -> dict[str, tuple[Location, ...]]:
    found: dict[str, tuple[Location, ...]] = {}
    head = _head(seen, scores)
    if head is not None:
        found["head"] = (Location(head),)
        found["emb"] = (Location(head, "in"),)
    tokens = [e for e in seen if e[3] is not None and e[3].ndim == 3 and e[3].shape[1] > 1 and e[0] != head]
    tokens = [e for e in tokens if not _same(e[3], scores)]
    maps = _maps(seen, tokens, scores, sides)
    if maps:
        found["map"] = (Location(_outermost(maps, len(maps) - 1)[0]),)
        found["stages"] = tuple(Location(path) for path in _stages(maps, sides))
        found["depths"] = found["stages"][-4:]
    if tokens:
        found["tokens"] = (Location(_outermost(tokens, len(tokens) - 1)[0]),)
        if not maps or len(found["stages"]) < 2:
            row = _row(tokens)
            found["stages"] = tuple(Location(row[i]) for i in _quarters(len(row))) or found["tokens"]
            found["depths"] = tuple(Location(row[i]) for i in _ends(len(row))) or found["tokens"]
    return found


def _maps(seen: list[Seen], tokens: list[Seen], scores: Tensor | None, sides: Sides) -> list[Seen]:
    """Every call that gave a feature map ``[N, C, H, W]``; not an attention's heads, nor what only cuts patches."""
    sequences = {tuple(e[3].shape[1:]) for e in tokens if e[3] is not None}
    maps = []
    for entry in seen:
        after = entry[3]
        if after is None or after.ndim != 4 or _same(after, scores):
            continue
        if scores is not None and scores.ndim and after.shape[0] != scores.shape[0]:
            continue  # made from no sample, such as a table of positions
        _, heads, count, width = after.shape
        split = (count, heads * width) in sequences and not _has_parts(entry)
        if count * width > 1 and not split:
            maps.append(entry)
    if maps and tokens and len(_stages(maps, sides)) < 2 and seen.index(maps[-1]) < seen.index(tokens[0]):
        return []
    return maps


def _head(seen: list[Seen], scores: Tensor | None) -> str | None:
    """The last leaf with a weight matrix that made the scores, else the last linear layer of that many outputs."""
    leaves = [e for e in seen if next(e[1].children(), None) is None and getattr(e[1], "weight", None) is not None]
    for path, module, _, after in reversed(leaves):
        if _same(after, scores) and module.get_parameter("weight").ndim >= 2:
            return path
    for path, module, _, after in reversed(leaves):
        if (
            isinstance(module, nn.Linear)
            and scores is not None
            and after is not None
            and after.shape[-1] == scores.shape[-1]
        ):
            return path
    return None


def _stages(maps: list[Seen], sides: Sides) -> list[str]:
    """The last map of each run of equal resolution; single layers before and after are left out where blocks exist."""
    ends, last = [], -1
    for i, (_, _, _, after) in enumerate(maps):
        assert after is not None
        following = maps[i + 1][3] if i + 1 < len(maps) else None
        if following is None or sides(tuple(following.shape)) != sides(tuple(after.shape)):
            ends.append(_outermost(maps, i))
            last, start = i, last + 1
    blocks = [entry for entry in ends if _has_parts(entry)]
    if len(blocks) < 2:
        return [entry[0] for entry in ends]
    if blocks[-1] is not ends[-1]:  # a norm or an activation after the last block
        blocks += [_outermost(maps, i) for i in range(start, last) if _has_parts(maps[i])][-1:]
    return [entry[0] for entry in blocks]


def _has_parts(entry: Seen) -> bool:
    return next(entry[1].children(), None) is not None


def _row(tokens: list[Seen]) -> list[str]:
    """The longest row of sibling blocks (``blocks.0 … blocks.11``)."""
    rows: dict[str, list[str]] = {}
    for entry in tokens:
        path = entry[0]
        parent, _, last = path.rpartition(".")
        if last.isdigit() and _has_parts(entry):
            rows.setdefault(parent, []).append(path)
    return max(rows.values(), key=len, default=[])


def _quarters(count: int) -> list[int]:
    """Four evenly spaced members of a row."""
    return sorted({max(0, round(count * quarter / 4) - 1) for quarter in (1, 2, 3, 4)}) if count else []


def _ends(count: int) -> list[int]:
    """Two members early and two late: where the stages of a net with blocks 2, 2, n - 6, 2 end."""
    return [1, 3, count - 3, count - 1] if count >= 8 else _quarters(count)


def _listed(model: nn.Module, called: list[str]) -> list[str]:
    """The last four stages that a timm model lists itself, where it has several resolutions."""
    listed = getattr(model, "feature_info", None)
    stages = [s for s in listed if isinstance(s, dict) and s.get("module")] if isinstance(listed, list) else []
    paths = [str(stage["module"]) for stage in stages]
    several = len({stage.get("reduction") for stage in stages}) == len(stages) > 1
    return paths[-4:] if several and set(paths[-4:]) <= set(called) else []


def _outermost(entries: list[Seen], i: int) -> Seen:
    """The enclosing module that hands on the very same tensor: children finish before their parents."""
    best = entries[i]
    for entry in entries[i + 1 :]:
        if _same(entry[3], best[3]) and best[0].startswith(entry[0] + "."):
            best = entry
    return best


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and a.data_ptr() == b.data_ptr()


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in a module's input or output, whatever its container."""
    if isinstance(value, Tensor):
        return value
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((t for t in map(first_tensor, members) if t is not None), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that the user wrote, under ``torch.compile`` or a parallel wrapper."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def watched(model: nn.Module, seen: list[Seen]) -> Iterator[None]:
    """Note every module call of ``model`` in ``seen``, in the order in which calls finish."""

    def note(path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = first_tensor(args)
            seen.append((path, module, before if before is not None else first_tensor(kwargs), first_tensor(output)))

        return hook

    hooks = [m.register_forward_hook(note(path), with_kwargs=True) for path, m in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
