"""Every method that makes small sets: what it makes can be kept, read, trained on and shown, within its budget."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distil.data.condensed import load_condensed
from distil.loops.condense import condense
from distil.loops.condensed import StudentTraining, train_on
from distil.loops.condensed_show import sheets_of, storage_table
from distil.loops.condensers import CONDENSERS
from distil.loops.order import Order, imported

from .test_condense import Eye, bundle

# Whatever a method has of these, so that it is quick.
QUICK = {
    "iterations": 2, "steps": 2, "experts": 1, "expert_epochs": 2, "epochs": 2, "candidates": 8, "crops": 2, "keep": 1,
    "ahead": 1, "latest": 1, "outer": 1, "inner": 1, "batch": 4, "codes": 4, "view_batch": 4,
}  # fmt: skip
PER_CLASS = 4
CASES = [(name, kind) for name, c in CONDENSERS.items() for kind in ("images", "vectors") if c.inputs in ("any", kind)]


class Sees(nn.Module):
    """Knows the classes of vectors by their first values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)
        with torch.no_grad():
            self.fc.weight.copy_(20 * torch.eye(3, 5))
            self.fc.bias.zero_()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc(inputs)
        return scores


def quick(name: str) -> dict[str, Any]:
    options = CONDENSERS[name].options
    if not options:
        return {}
    made = imported(options)()
    given = {each.name: getattr(made, each.name) for each in fields(made)}
    return {key: QUICK[key] for key, value in given.items() if key in QUICK and not isinstance(value, bool)}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_a_method_makes_is_a_set_from_end_to_end(name: str, kind: str, tmp_path: Path) -> None:
    images = kind == "images"
    data = bundle(shape=(3, 8, 8) if images else (5,))
    needs = CONDENSERS[name].teachers
    teachers: tuple[nn.Module, ...] = ((Eye() if images else Sees()).eval(),) if needs else ()
    small = condense(Order(data, PER_CLASS, seed=1, teachers=teachers, options=quick(name)), name)
    assert small.classes == data.classes
    assert set(small.labels.tolist()) == {0, 1, 2}
    assert small.made["method"] == name
    drawn = getattr(imported(CONDENSERS[name].options)(), "net", None) if CONDENSERS[name].options else None
    assert len(small.made["nets"]) == len(teachers) + (drawn is not None)  # by none of these forms it may be judged
    added = 0 if small.compensators is None else small.compensators.numel()
    assert small.inputs.numel() + added <= PER_CLASS * 3 * small.inputs[0].numel()
    back = load_condensed(small.save(tmp_path / "set"))
    assert (len(back), back.kind, back.storage()) == (len(small), small.kind, small.storage())
    student = nn.Sequential(nn.Flatten(), nn.Linear(small.inputs[0].numel(), 3))
    trained = train_on(back, student, StudentTraining(updates=3, checks=1), teachers=teachers, val=data.val)
    assert trained.history[-1]["step"] == 3
    assert bool(sheets_of(back)) == images
    assert storage_table(back)["rows"][-1][0] == "total"
