"""What else computes the closed forms: Triton's kernels (in its interpreter) and torch.compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import distil.functional as D
from distil.errors import DistilError
from distil.functional import _closed, _kernels, closed_form

from .oracles import normal

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_tritons_kernels_are_the_plain_losses() -> None:
    """The interpreter is chosen when triton is imported, hence a process of its own."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("triton_parity.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    kinds, runs, worst, plain = said.stdout.split()
    assert kinds == "jsd,kl,reverse"
    assert int(runs) == 3 * 3 * 2 * 2
    assert float(worst) < 1e-6 + 2 * float(plain) < 1e-4  # what float32 itself costs


@needs_triton
def test_tritons_kernels_refuse_a_cpu() -> None:
    with D.backend("triton"), pytest.raises(DistilError, match="runs on CUDA and the tensors are on cpu"):
        closed_form.kl(normal(2, 3).float(), normal(2, 3, seed=1).float())


def test_a_missing_triton_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with D.backend("triton"), pytest.raises(DistilError, match="needs triton, which is not installed"):
        closed_form.reverse_kl(normal(2, 3).float(), normal(2, 3, seed=1).float())


def test_what_triton_has_no_kernel_for_runs_in_torch() -> None:
    student, teacher = normal(2, 3).float(), normal(2, 3, seed=1).float()
    with D.backend("triton"):
        value = closed_form.total_variation(student, teacher)
        exact = closed_form.kl(student.double(), teacher.double())
    torch.testing.assert_close(value, D.total_variation(student, teacher))
    torch.testing.assert_close(exact, D.kl(student.double(), teacher.double()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_are_the_plain_losses() -> None:
    student, teacher = normal(7, 40).float(), normal(7, 40, seed=1).float()
    student[:, 3], teacher[:, 3] = -torch.inf, -torch.inf
    found = []
    for function, how in ((closed_form.reverse_kl, "compile"), (D.reverse_kl, "auto")):
        leaf = student.clone().requires_grad_()
        with D.backend(how):
            value = function(leaf, teacher, temperature=2.0, reduction="none")
        value.cumsum(0).sum().backward()
        found.append((value.detach(), leaf.grad))
    assert _kernels.reverse in _closed.COMPILED
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
