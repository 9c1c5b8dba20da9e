"""What leaves the house: a trained student with all it takes to use it elsewhere, checked against the trained one."""

from __future__ import annotations

from distil.ship.card import ModelCard
from distil.ship.export import ExportResult, export
from distil.ship.folder import Exported, open_export
from distil.ship.predict import Answer, predict
from distil.ship.student import Student, read_student, write_student

__all__ = [
    "Answer",
    "ExportResult",
    "Exported",
    "ModelCard",
    "Student",
    "export",
    "open_export",
    "predict",
    "read_student",
    "write_student",
]
