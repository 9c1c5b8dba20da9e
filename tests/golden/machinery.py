"""What a golden case is, and what it means to agree with one.

A file ``SLUG.npz`` holds cases: ``caseN/fn`` names what was run, ``caseN/{hp,inp,weight}/…`` what went in,
``caseN/{out,grad}/…`` what the authors' (or a named peer's) code gave. An *adapter* renames the keys of one kind of
case and calls public functions; here every figure it returns is compared, and every one it leaves out is an error.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-3}
NOISE = 16  # figures below this many machine epsilons are rounding noise around an exact zero

Answer = dict[str, Any]


class Group(dict):
    """The arrays of one group, by key or by attribute: ``case.inp.labels``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the case holds no {name!r}; it holds {sorted(self)}") from None


@dataclass
class Case:
    """One golden case: numbers in ``hp``, tensors in ``inp`` and ``weight``, arrays in ``expected``."""

    slug: str
    name: str
    kind: str | None
    hp: Group = field(repr=False)
    inp: Group = field(repr=False)
    weight: Group = field(repr=False)
    expected: dict[str, np.ndarray] = field(repr=False)

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the state dict whose keys start with ``prefix``, without it."""
        return {k.removeprefix(prefix): v for k, v in self.weight.items() if k.startswith(prefix)}

    def gradient(self, loss: torch.Tensor, name: str) -> torch.Tensor:
        """Return d loss / d ``inp[name]``, zeros where the loss does not depend on it."""
        source = self.inp[name]
        return torch.autograd.grad(loss, source, retain_graph=True, materialize_grads=True)[0]

    def answer(self, loss: torch.Tensor, **outputs: Any) -> Answer:
        """Return the loss, further outputs, and the loss's gradient for each input whose gradient is expected."""
        wanted = [key.removeprefix("grad/") for key in self.expected if key.startswith("grad/")]
        return {
            "out/loss": loss,
            **{f"out/{key}": value for key, value in outputs.items()},
            **{f"grad/{name}": self.gradient(loss, name) for name in wanted if name in self.inp},
        }

    def precision(self, expected: np.ndarray) -> str:
        """Return the precision a figure can have: that of its type, or of what it was made from."""
        made_from = [t for t in (*self.inp.values(), *self.weight.values()) if t.is_floating_point()]
        if expected.dtype == np.float64 and made_from and not any(t.dtype == torch.float64 for t in made_from):
            return "float32"
        return expected.dtype.name if expected.dtype.name in TOLERANCE else "float64"


Adapter = Callable[[Case], Answer]
ADAPTERS: dict[tuple[str, str], Adapter] = {}
ROUNDED: dict[tuple[str, str], dict[str, int]] = {}


def adapter(slug: str, *kinds: str, rounded: Mapping[str, int] | None = None) -> Callable[[Adapter], Adapter]:
    """Register the function that answers these kinds; ``rounded`` gives the decimals of keys published rounded."""

    def register(function: Adapter) -> Adapter:
        for kind in kinds:
            ADAPTERS[slug, kind] = function
            ROUNDED[slug, kind] = dict(rounded or {})
        return function

    return register


def load_adapters() -> None:
    """Import every ``adapters*.py`` beside this file."""
    for path in sorted(HERE.glob("adapters*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")


@dataclass(frozen=True)
class Plan:
    """What may be skipped, and why: the reviewed list ``planned.toml``."""

    entries: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path = HERE / "planned.toml") -> Plan:
        return cls(tomllib.loads(path.read_text(encoding="utf-8")))

    def kind(self, slug: str, kind: str | None) -> str | None:
        """Return why cases of this kind are skipped, or None."""
        entry = self.entries.get(slug, {})
        return entry.get("reason", "planned") if kind in entry.get("kinds", []) else None

    def key(self, slug: str, kind: str | None, key: str) -> bool:
        """Say whether one key of a kind that does run is left for later."""
        return any(
            entry["kind"] == kind and any(fnmatchcase(key, pattern) for pattern in entry["keys"])
            for entry in self.entries.get(slug, {}).get("partial", [])
        )


def read_file(path: Path) -> list[Case]:
    """Return the cases of one file, in the order of their numbers."""
    with np.load(path, allow_pickle=False) as arrays:
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in arrays.files:
            name, _, rest = key.partition("/")
            found.setdefault(name, {})[rest] = arrays[key]
    order = sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    return [_case(path.stem, name, found[name]) for name in order]


def _case(slug: str, name: str, arrays: dict[str, np.ndarray]) -> Case:
    def group(prefix: str, convert: Callable[[np.ndarray], Any]) -> Group:
        return Group({k[len(prefix) :]: convert(v) for k, v in arrays.items() if k.startswith(prefix)})

    return Case(
        slug,
        name,
        kind=str(arrays["fn"]) if "fn" in arrays else None,
        hp=group("hp/", lambda a: a.item() if a.ndim == 0 else a.tolist()),
        inp=group("inp/", _input),
        weight=group("weight/", _tensor),
        expected={k: v for k, v in arrays.items() if k.startswith(("out/", "grad/"))},
    )


def _tensor(array: np.ndarray) -> Any:
    return array.tolist() if array.dtype.kind in "US" else torch.from_numpy(array.copy())


def _input(array: np.ndarray) -> Any:
    return _tensor(array).requires_grad_() if array.dtype.kind == "f" else _tensor(array)


def problems(case: Case, plan: Plan) -> list[str]:
    """Return everything in which the project disagrees with a case; an empty list is agreement."""
    where = (case.slug, str(case.kind))
    if case.kind is None:
        return ["the case has no fn key, so nobody knows what was run"]
    if where not in ADAPTERS:
        return [f"no adapter and no entry in planned.toml for the kind {case.kind!r}"]
    if plan.kind(*where) is not None:
        return [f"{case.kind!r} has an adapter and is still listed as planned; take it off the list"]
    torch.manual_seed(0)
    given = ADAPTERS[where](case)
    return _disagreements(case, given, plan)


def _disagreements(case: Case, given: Answer, plan: Plan) -> list[str]:
    found = [] if case.expected else ["the case expects nothing"]
    for key, expected in case.expected.items():
        planned = plan.key(case.slug, case.kind, key)
        if key not in given:
            found += [] if planned else [f"{key}: expected, but the adapter leaves it unchecked"]
        elif planned:
            found.append(f"{key}: computed and still listed as planned; take it off the list")
        else:
            decimals = ROUNDED[case.slug, str(case.kind)].get(key)
            found += disagreement(key, given[key], expected, case.precision(expected), decimals)
    return found


def disagreement(key: str, given: Any, expected: np.ndarray, precision: str, decimals: int | None = None) -> list[str]:
    """Return how ``given`` differs from ``expected`` beyond what its precision allows, as at most one sentence."""
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if array.shape != expected.shape:
        return [f"{key}: shape {array.shape}, expected {expected.shape}"]
    if expected.dtype.kind not in "fc":
        return [] if np.array_equal(array, expected) else [f"{key}: {array.tolist()!r}, expected {expected.tolist()!r}"]
    expected, array = expected.astype(np.float64), array.astype(np.float64)
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    noise = NOISE * float(np.finfo(precision).eps)
    rtol, atol = TOLERANCE[precision], 1e-6 * scale if scale > noise else noise
    if decimals is not None:
        atol = 1.01 * 10.0**-decimals
    close = np.isclose(array, expected, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return []
    worst = float(np.abs(array - expected)[~close].max())
    return [f"{key}: {int((~close).sum())} of {close.size} figures differ, by up to {worst:.3g} at scale {scale:.3g}"]
