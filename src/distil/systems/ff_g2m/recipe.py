"""FF-G2M's experiment: a graph network, and an MLP that must do without the edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distil.data import load
from distil.errors import DistilError, nearest
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.recipe import Experiment
from distil.loops.training import Teacher, Training, distil, teacher_arm, train_teacher

__all__ = ["EVIDENCE", "TUNED", "Setup", "experiment"]


@dataclass(frozen=True)
class Tuned:
    """The authors' settings for a data set with a GCN teacher; dropouts named for whom they serve."""

    layers: int
    hidden: int
    student_dropout: float
    teacher_dropout: float
    tau: float
    lam: float
    student_lr: float = 0.01


TUNED = {
    "cora": Tuned(3, 512, 0.6, 0.5, 1.5, 0.4),
    "citeseer": Tuned(2, 256, 0.5, 0.5, 1.5, 0.1),
    "amazon-photo": Tuned(3, 2048, 0.5, 0.6, 1.3, 0.1, student_lr=0.001),
}

EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {"data": "cora"},
    {"data": "citeseer"},
    {"data": "amazon-photo"},
    {"data": "cora", "hidden": 0, "seeds": [0]},
)
"""The three graphs at width 128, and one seed of the authors' tuned Cora setting (width 512)."""


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; teacher and students share the number of layers and the width.

    ``hidden=0`` takes the authors' width. Every seed has its own teacher, and its arms share it.
    """

    data: str = "cora"
    hidden: int = 128
    teacher_training: Training = field(
        default_factory=lambda: Training(
            epochs=500, lr=0.01, weight_decay=5e-4, optimizer="adam", schedule="constant", patience=50, ties="last"
        )
    )
    seeds: tuple[int, ...] = (0, 1, 2)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: MLP on labels, GLNN, LFD, HFD, both (FF-G2M); the graph network itself is a bound."""
    if setup.data not in TUNED:
        raise DistilError(f"ff-g2m(data='{setup.data}') has no tuned setting; {nearest(setup.data, TUNED)}")
    tuned, bundle = TUNED[setup.data], load(setup.data)
    width = setup.hidden or tuned.hidden
    teacher_spec = f"distil:gcn(hidden={width}, layers={tuned.layers}, dropout={tuned.teacher_dropout})"
    student = f"distil:mlp(hidden={width}, layers={tuned.layers}, dropout={tuned.student_dropout})"
    training = Training(**{**setup.teacher_training.options(), "lr": tuned.student_lr})

    def teacher(seed: int) -> Teacher:
        return train_teacher(lab, teacher_spec, bundle, setup.teacher_training, seed=seed, name=f"gcn-{setup.data}")

    def arm(role: Role, label: str, method: str, phrase: str = "") -> Arm:
        def run(seed: int) -> Outcome:
            return distil(lab, method, student, teacher(seed), bundle, training, seed=seed)

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    share = f"{1 - tuned.lam:g}"
    arms = {
        "mlp": arm("reference", "MLP on labels", "supervised", "the MLP on labels alone"),
        "ff-g2m": arm("method", "FF-G2M", f"ff_g2m(lam={tuned.lam:g}, tau={tuned.tau:g})", "FF-G2M"),
        "glnn": arm("rival", "GLNN", f"{tuned.lam:g}*supervised + {share}*glnn"),
        "lfd": arm("ablation", "low frequency only", f"ff_g2m(lam={tuned.lam:g}, high=false)"),
        "hfd": arm("ablation", "high frequency only", f"ff_g2m(lam={tuned.lam:g}, tau={tuned.tau:g}, low=false)"),
        "gcn": Arm(
            "bound", teacher_arm(teacher, bundle), label="GCN with edges (the teacher)", expression="supervised"
        ),
    }
    setting = {
        "Data": f"{bundle.name}: {bundle.train.batch['inputs'].shape[0]} nodes, {', '.join(bundle.notes)}",
        "Teacher": f"{teacher_spec}, one for each seed, shared by its arms",
        "Student": f"{student}, features alone",
        "Budget": f"at most {training.epochs} full-batch steps of Adam, learning rate {training.lr:g}, weight decay "
        f"5e-4, patience {training.patience}",
        "Weights": f"lambda {tuned.lam:g}, tau {tuned.tau:g}: the authors' for this graph with a GCN",
    }
    return Experiment(f"FF-G2M on {bundle.name}: a graph network taught to an MLP", bundle, arms, None, setting)
