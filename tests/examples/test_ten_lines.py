"""The ten-line loop equals plain PyTorch, to the bit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ten_lines.py"


def test_it_runs_and_its_weights_are_those_of_plain_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout == "largest difference between the weights after 20 steps: 0\n"
    assert done.stderr == ""


def test_the_loop_of_the_readme_is_the_one_that_runs() -> None:
    """Line by line: what the README shows stands in the example, but for how long the names are."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    calls = re.findall(r"distiller(?:\.\w+)?\(", block)
    assert calls
    text = EXAMPLE.read_text(encoding="utf-8")
    assert all(call in text for call in calls)
    assert "step.loss.backward()" in block
    assert "step.loss.backward()" in text
