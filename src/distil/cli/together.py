"""The command line under a launcher: many processes type the same words, and a person hears one of them."""

from __future__ import annotations

import os
import sys

from distil.errors import DistilError

__all__ = ["TOGETHER", "check_verb", "complains", "launched", "leave", "silence", "speaks"]

TOGETHER = ("run", "train", "compare")
"""The verbs that many processes do together; the others belong to one."""


def launched() -> bool:
    """Say whether a launcher (``accelerate launch``, ``torchrun``) started this process among others."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def speaks() -> bool:
    """Say whether this process prints and writes; of a launch, the first does."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def silence() -> None:
    """Keep this process from printing where another speaks for all."""
    if not speaks():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.modules["distil.cli.session"].console.quiet = True


def complains() -> bool:
    """Say whether this process tells of its mistake: of all that made one, only the first does."""
    if not launched():
        return True
    from distil.engine.processes import first_to_fail

    return first_to_fail()


def check_verb(words: list[str], verbs: object) -> None:
    """Refuse to have many processes do what one does."""
    if launched() and words[0] not in TOGETHER and words[0] in verbs:  # type: ignore[operator]
        raise DistilError(
            f"'distil {words[0]}' runs as one process; start it without the launcher. Many processes share "
            f"{', '.join(TOGETHER[:-1])} and {TOGETHER[-1]}."
        )


def leave() -> None:
    """Take leave of the other processes, where they had met."""
    if launched() and "torch" in sys.modules:
        from distil.engine.processes import leave as close

        close()
