"""The one exception a user's mistake raises, and the nearest-name hint that every refusal of a name carries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DistilError", "Diverged", "nearest"]


class DistilError(Exception):
    """A mistake that the user can mend.

    The message is one or two sentences that name the object, what was seen, what was expected and the fix. The command
    line prints it alone and exits with 2; in Python it is an ordinary exception.
    """


class Diverged(DistilError):
    """A run whose loss is no longer finite. Where runs are only tried, such a try is the worst there is."""


def nearest(name: str, options: Iterable[str], *, limit: int = 3) -> str:
    """Return a hint such as ``"did you mean 'kd' or 'dkd'?"``, or the list of what exists when nothing is near.

    >>> nearest("kdd", ["kd", "dkd", "at"])
    "did you mean 'dkd' or 'kd'?"
    """
    names = sorted(set(options))
    close = difflib.get_close_matches(name.lower(), names, n=limit, cutoff=0.55)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    if not names:
        return "there is none."
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}."
