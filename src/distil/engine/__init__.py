"""The engine: terms, model handles, methods, the Distiller, and the loop that trains it."""

from distil.engine.anatomy import Anatomy, anatomy
from distil.engine.context import Context
from distil.engine.distiller import Distiller, Step, Totals
from distil.engine.fit import Result, fit
from distil.engine.frozen import TeacherForward
from distil.engine.gradient import gradient_shares
from distil.engine.method import Method, Sum
from distil.engine.optim import RatedGroup
from distil.engine.own_optimizer import OwnOptimizer
from distil.engine.regime import Regime
from distil.engine.schedule import Schedule, cosine, during, ramp, step_decay
from distil.engine.trace import ModelHandle, Trace
from distil.engine.track import Tracking
from distil.functional.reduction import Term

__all__ = [
    "Anatomy",
    "Context",
    "Distiller",
    "Method",
    "ModelHandle",
    "OwnOptimizer",
    "RatedGroup",
    "Regime",
    "Result",
    "Schedule",
    "Step",
    "Sum",
    "TeacherForward",
    "Term",
    "Totals",
    "Trace",
    "Tracking",
    "anatomy",
    "cosine",
    "during",
    "fit",
    "gradient_shares",
    "ramp",
    "step_decay",
]
