"""The standard rivals that belong to no system, and the one lazy look-up of every method by its class name.

``distil.methods.KD`` is a rival; ``distil.methods.PLD`` is found through the card of the system that exports it, so
nothing here has to be edited when a system is added.
"""

from __future__ import annotations

from typing import Any

from distil import catalog

RIVALS = {
    "supervised": "supervised:Supervised",
    "kd": "kd:KD",
    "dkd": "dkd:DKD",
    "dist": "dist:DIST",
    "fitnets": "fitnets:FitNets",
    "at": "at:AT",
    "rkd": "rkd:RKD",
    "vid": "vid:VID",
    "fsp": "fsp:FSP",
    "reviewkd": "reviewkd:ReviewKD",
    "simkd": "simkd:SimKD",
    "catkd": "catkd:CATKD",
    "glnn": "glnn:GLNN",
    "mse": "mse:MSE",
    "cwd": "cwd:CWD",
    "maskd": "maskd:MasKD",
    "lskd": "lskd:LSKD",
    "sp": "sp:SP",
    "cc": "cc:CC",
    "pkt": "pkt:PKT",
    "nst": "nst:NST",
    "crd": "crd:CRD",
    "mlld": "mlld:MLLD",
}
"""Name in an expression → ``module:class`` under this package; a literal: the catalogue reads it without import."""


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'distil.methods' has no attribute {name!r}")
    return catalog.export(name)


def __dir__() -> list[str]:
    return [*catalog.export_names(), "RIVALS"]
