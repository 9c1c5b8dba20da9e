"""Run every block of a page in order, in the folder it is started in: python run_page.py PAGE SITE.

A block whose first line is ``# path`` is a file; other Python blocks share one namespace; lines of ``sh`` blocks are
run by this interpreter, what is installed going to the folder SITE. Prints how many blocks of each kind there were.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

OFFLINE = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")


def main(page: Path, site: Path) -> None:
    sys.path[:0] = [str(site), str(Path.cwd())]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    names: dict[str, Any] = {"__name__": "page"}
    seen = {"file": 0, "python": 0, "sh": 0}
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.S | re.M):
        language, body = found.groups()
        line = text[: found.start()].count("\n") + 2
        named = re.match(r"# (\S+\.(?:py|toml))\n", body)
        if named:
            file = Path(named[1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body, encoding="utf-8")
            seen["file"] += 1
        elif language == "python":
            exec(compile("\n" * (line - 1) + body, page.name, "exec"), names)
            seen["python"] += 1
        elif language == "sh":
            for command in body.splitlines():
                run(shlex.split(command), site)
            seen["sh"] += 1
        else:
            raise SystemExit(f"{page.name}:{line}: a block of {language} that nothing runs")
    print(seen)


def run(words: list[str], site: Path) -> None:
    extra = (*OFFLINE, "--target", str(site)) if words[:2] == ["pip", "install"] else ()
    done = subprocess.run([sys.executable, "-m", *words, *extra], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
