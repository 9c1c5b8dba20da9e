"""No formula in ``systems/``, and the rule that says so."""

from __future__ import annotations

import pytest

from architecture.formulas import formulas
from architecture.source import SOURCE, modules


def test_no_formula_in_systems() -> None:
    found = {
        name: broken
        for name, file in modules().items()
        if name.startswith("distil.systems.") and (broken := formulas(file.read_text(encoding="utf-8")))
    }
    assert found == {}
    assert (SOURCE / "systems").is_dir()


HEAD = """import torch
import torch.nn.functional as F
from torch import Tensor, nn, zeros
from torch.nn import functional
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = torch.softmax(y, -1)", "calls torch.softmax"),
        ("x = F.kl_div(a, b)", "calls torch.nn.functional.kl_div"),
        ("x = functional.mse_loss(a, b)", "calls torch.nn.functional.mse_loss"),
        ("x = torch.linalg.norm(a)", "calls torch.linalg.norm"),
        ("x = torch.nn.init.normal_(w)", "calls torch.nn.init.normal_"),
        ("x = student.logits.softmax(-1)", "calls .softmax() on a value"),
        ("x = a @ b", "a matrix product"),
        ("x = torch.zeros(3) + 1", "arithmetic on a tensor"),
        ("x = zeros(3)\ny = 2 * x", "arithmetic on a tensor"),
        ("def f():\n    x = torch.stack(a)\n    x -= 1", "arithmetic on a tensor"),
        ("x = torch.cat(a)[0] / 2", "arithmetic on a tensor"),
        ("y = -torch.ones(2)", "arithmetic on a tensor"),
        ("x = torch.tensor(a).view(-1)\nz = x[0] - 1", "arithmetic on a tensor"),
        ("f = lambda a: torch.exp(a)", "calls torch.exp"),
        ("if (x := torch.arange(3)) is not None:\n    y = x + 1", "arithmetic on a tensor"),
    ],
)
def test_a_formula_is_found(code: str, says: str) -> None:
    assert [found.partition(": ")[2] for found in formulas(HEAD + code)] == [says]


@pytest.mark.parametrize(
    "code",
    [
        "x = nn.Sequential(nn.Linear(3, 4), torch.nn.BatchNorm1d(4))",
        "def f(x: Tensor, d: torch.device) -> torch.Tensor:\n    with torch.no_grad():\n        return torch.cat([x])",
        "g = torch.Generator()\no = torch.optim.AdamW(p, lr=0.1 * 2)",
        "whole = 0.9 * KD() + (1 - lam) * HighFrequency()",
        "n = len(batch) + 1\nshare = steps / total",
        "width = nn.Linear(3, 4).out_features * 2",
        "from distil.functional.ranking import plackett_luce\nx = plackett_luce(a, b, c)",
        "counted = (batch['labels'] >= 0).sum()",
        "import math\nx = math.log(3) * 2",
        "def f():\n    x = torch.zeros(3)\n    return x\ndef g(x):\n    return x + 1",
        "loader = torch.utils.data.DataLoader(data)",
    ],
)
def test_wiring_is_left_alone(code: str) -> None:
    assert formulas(HEAD + code) == []
