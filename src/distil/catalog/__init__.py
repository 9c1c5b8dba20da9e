"""The catalogue: which systems there are, how far each is proven, and what a name in an expression means.

Everything is computed from files: cards, code, the golden plan and the evidence. Nothing here imports torch or the code
of a system, so that ``distil list`` answers at once and answers even where torch is broken.

>>> card("pld").title
'PLD: A Choice-Theoretic List-Wise Knowledge Distillation'
"""

from __future__ import annotations

from distil.catalog.cards import Card, Experiment, Needs, Proof, read_card
from distil.catalog.names import (
    Target,
    UnknownName,
    adopt,
    broken,
    card,
    export,
    export_names,
    import_code,
    resolve,
    rival_text,
    rivals,
    systems,
)
from distil.catalog.proof import State, code_behind, evidence, evidence_hash, maths_hash, state

__all__ = [
    "Card",
    "Experiment",
    "Needs",
    "Proof",
    "State",
    "Target",
    "UnknownName",
    "adopt",
    "broken",
    "card",
    "code_behind",
    "evidence",
    "evidence_hash",
    "export",
    "export_names",
    "import_code",
    "maths_hash",
    "read_card",
    "resolve",
    "rival_text",
    "rivals",
    "state",
    "systems",
]
