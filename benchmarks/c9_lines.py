"""C9: how many lines a user writes for one experiment: a teacher trained, a student taught with KD at T = 4, the same
student alone, both scored on test data.

Each file of ``users/`` is written for its tool and run here, on the same images with the same networks (``given.py``,
which no count includes), before its lines are counted: no blank lines, comments and docstrings; once with imports and
once without. A tool's own configuration file counts as it stands. A tool that is not installed is left out.

    python benchmarks/c9_lines.py       # writes benchmarks/results/C9.json
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from side_by_side import write

USERS = Path(__file__).resolve().parent / "users"
OURS = "distil_kd"
PEERS = {"plain_torch": "torch", "hf_trainer_kd": "transformers", "torchdistill_kd": "torchdistill"}
MOST = 8


def main() -> None:
    """Run, count and write."""
    scores, lines = {}, {}
    for name in (OURS, *(peer for peer, package in PEERS.items() if find_spec(package))):
        scores[name] = run(USERS / f"{name}.py")
        files = [USERS / f"{name}.py", *USERS.glob(f"{name}.yaml")]
        lines[name] = [sum(counted(file, imports=with_them) for file in files) for with_them in (False, True)]
    rows = []
    for peer in (name for name in lines if name != OURS):
        for k, what in enumerate(("without imports", "with imports")):
            ours, theirs = lines[OURS][k], lines[peer][k]
            rows.append(
                {
                    "what": f"lines {what}, beside {peer}", "ours": ours, "peer": theirs, "ratio": theirs / ours,
                    "target": f"<= {MOST}" if k == 0 else "told for completeness",
                    "met": ours <= MOST if k == 0 else None,
                }
            )  # fmt: skip
    write("C9", rows, {"accuracy, alone and taught": scores, "networks and data": "benchmarks/users/given.py"})


def run(file: Path) -> dict[str, float]:
    """Run a file and return what it printed last of either student: accuracy on the test images, in %."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode:
        raise SystemExit(f"{file.name} ended with {done.returncode}:\n{done.stderr}")
    said = [line.split() for line in done.stdout.splitlines() if line.startswith(("alone ", "taught "))]
    found = {name: float(value) for name, value in said}
    if set(found) != {"alone", "taught"}:
        raise SystemExit(f"{file.name} did not score both students:\n{done.stdout}")
    return found


def counted(file: Path, *, imports: bool) -> int:
    """Return the lines that hold something a user has to write."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    if file.suffix != ".py":
        return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)
    tree, left_out = ast.parse(text), set()
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node)
        spans: list[Any] = [node.body[0]] if documented else []  # type: ignore[attr-defined]
        if not imports and isinstance(node, (ast.Import, ast.ImportFrom)):
            spans.append(node)
        for span in spans:
            left_out |= set(range(span.lineno, span.end_lineno + 1))
    kept = (line.strip() for k, line in enumerate(lines, start=1) if k not in left_out)
    return sum(bool(line) and not line.startswith("#") for line in kept)


if __name__ == "__main__":
    main()
