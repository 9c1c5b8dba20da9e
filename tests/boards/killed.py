"""A tiny board in a process of its own, which waits to be killed in the middle of an arm's training."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import torch

from distil.boards import board
from distil.loops.lab import Lab
from distil.loops.recipe import prepare_setup, run_recipe

__all__ = ["Waiting", "live"]


class Waiting:
    """A progress that leaves a mark at the fourth step of one arm, and waits there for ever."""

    def __init__(self, arm: str, mark: Path) -> None:
        self.arm, self.mark, self.name = arm, mark, ""

    def begin(self, name: str, total: int | None = None) -> None:
        self.name = name

    def step(self, done: int, total: int) -> None:
        if self.name == self.arm and done == 4 and total > 4:
            self.mark.touch()
            while True:
                time.sleep(1)

    def say(self, text: str) -> None: ...


def live(out: Path, settings: list[str], cache: str, threads: int, arm: str, mark: Path) -> None:
    """Run the board in ``out`` up to the fourth step of an arm, named as its progress is."""
    os.environ["DISTIL_CACHE"] = cache
    torch.set_num_threads(threads)
    try:
        made = board("classification")
        setup = prepare_setup(made, assignments=settings)
        run_recipe(made, setup, out, Lab(out, device="cpu", progress=Waiting(arm, mark)), command="distil run x")
    except BaseException:
        mark.with_suffix(".error").write_text(traceback.format_exc())
        sys.exit(1)
