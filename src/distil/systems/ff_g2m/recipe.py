"""FF-G2M's experiment: a graph network, and an MLP that must do without the edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from distil.data import LabelsThenTeacher, hide_nodes, load
from distil.data.bundle import Bundle
from distil.data.inductive import graph_of
from distil.engine.distiller import Distiller
from distil.errors import DistilError, nearest
from distil.functional.node_features import propagated_features
from distil.loops.lab import Arm, Lab, Outcome, Role
from distil.loops.nodes import (
    NodeAnswers,
    NodeTraining,
    featured,
    frequency_diagnostics,
    noisy,
    rows_of,
    without_edges,
)
from distil.loops.recipe import Experiment
from distil.loops.serving import serving_table
from distil.loops.training import Teacher, Training, build_model, distil, teacher_arm, train_teacher
from distil.systems.ff_g2m.tuned import TUNED, Tuned

__all__ = ["EVIDENCE", "Setup", "experiment"]

TEN = tuple(range(10))
EVIDENCE: tuple[Mapping[str, Any], ...] = (
    {"data": "cora", "hidden": 0, "seeds": TEN},
    {"data": "citeseer", "hidden": 0, "seeds": TEN},
    {"data": "amazon-photo", "seeds": TEN},
    {"data": "cora", "variants": True},
    *(
        {"data": data, "teacher": teacher}
        for data in ("cora", "citeseer", "amazon-photo")
        for teacher in ("gat", "sage")
    ),
    {"data": "cora", "inductive": True},
)
"""A GCN teaches on three graphs, ten seeds: at the authors' width on Cora and CiteSeer, at 128 on Amazon Photo (theirs:
2,048). Then three seeds at 128: further rivals, GAT and GraphSAGE on the three, and hidden nodes."""

SPARSE = ("cora", "citeseer")
SPARSELY = ", sparse_inputs=true"
EXTRA = {"gcn": "", "gat": ", input_dropout={dropout}", "sage": ", self_loops=2"}
"""What the authors' layers do besides: GAT drops out features too, SAGE counts a node twice."""


def _teacher_training() -> Training:
    return Training(
        epochs=500, lr=0.01, weight_decay=5e-4, optimizer="adam", schedule="constant", patience=50, ties="last"
    )


@dataclass(frozen=True)
class Setup:
    """The recipe's settings; teacher and students share the number of layers and the width.

    ``hidden=0`` takes the authors' width. Every seed has its own teacher, and its arms share it. ``inductive`` hides a
    fifth of the test nodes and their edges from teacher and students, and scores those nodes. ``noise`` is the share of
    N(0, 1) in every feature. ``variants`` adds GLNN in two turns, GLNN on features propagated ``hops`` times, and a
    graph network taught by the graph network.
    """

    data: str = "cora"
    teacher: str = "gcn"
    hidden: int = 128
    inductive: bool = False
    noise: float = 0.0
    variants: bool = False
    hops: int = 2
    teacher_training: Training = field(default_factory=_teacher_training)
    seeds: tuple[int, ...] = (0, 1, 2)


def experiment(setup: Setup, lab: Lab) -> Experiment:
    """Return the arms: MLP on labels, GLNN, LFD, HFD, both (FF-G2M); the graph network itself is a bound."""
    made = _Made(setup, lab)
    tuned, share = made.tuned, f"{1 - made.tuned.lam:g}"
    glnn = f"{tuned.lam:g}*supervised + {share}*glnn"
    whole = f"ff_g2m(lam={tuned.lam:g}, tau={tuned.tau:g})"
    arms = {
        "mlp": made.arm("reference", "MLP on labels", "supervised", phrase="the MLP on labels alone"),
        "ff-g2m": made.arm("method", "FF-G2M", whole, served=True),
        "glnn": made.arm("rival", "GLNN", glnn),
        "lfd": made.arm("ablation", "low frequency only", f"ff_g2m(lam={tuned.lam:g}, high=false)"),
        "hfd": made.arm("ablation", "high frequency only", f"ff_g2m(lam={tuned.lam:g}, tau={tuned.tau:g}, low=false)"),
    }
    if setup.variants:
        arms |= {
            "glnn-turns": made.arm("bound", "GLNN, labels and teacher in turn", glnn, turns=True),
            "glnn-hops": made.arm("bound", f"GLNN, features of {setup.hops} hops", glnn, hops=setup.hops),
            "gnn-kd": made.arm(
                "bound", f"{setup.teacher.upper()} taught with edges", "supervised + kd(temperature=1)", edges=True
            ),
        }
    arms[setup.teacher] = made.teacher_arm(f"{setup.teacher.upper()} with edges (the teacher)")
    where = " on hidden nodes" if setup.inductive else ""
    title = f"FF-G2M on {made.bundle.name}{where}: {setup.teacher.upper()} taught to an MLP"
    return Experiment(title, made.bundle, arms, None, made.setting(), closing=lambda report: [made.serving()])


class _Made:
    """The data, models and runs of one experiment."""

    def __init__(self, setup: Setup, lab: Lab) -> None:
        for name, place in (("data", 0), ("teacher", 1)):
            given, known = getattr(setup, name), dict.fromkeys(key[place] for key in TUNED)
            if given not in known:
                raise DistilError(f"ff-g2m({name}='{given}') has no tuned setting; {nearest(given, known)}")
        if setup.hops < 1:
            raise DistilError(f"ff-g2m(hops={setup.hops}): features travel at least one hop; give 1 or more.")
        self.setup, self.lab = setup, lab
        self.tuned: Tuned = TUNED[setup.data, setup.teacher]
        self.bundle = self._bundle()
        self.plain = without_edges(self.bundle)
        width = setup.hidden or self.tuned.hidden
        sparse = SPARSELY if setup.data in SPARSE and not setup.noise else ""
        extra = EXTRA[setup.teacher].format(dropout=self.tuned.teacher_dropout)
        shape = f"hidden={width}, layers={self.tuned.layers}, dropout="
        self.network = f"distil:{setup.teacher}({shape}{self.tuned.teacher_dropout}{extra}{sparse})"
        self.student = f"distil:mlp({shape}{self.tuned.student_dropout}{sparse})"
        self.dense = f"distil:mlp({shape}{self.tuned.student_dropout})"
        given = {name: getattr(setup.teacher_training, name) for name in setup.teacher_training.__dataclass_fields__}
        self.training = NodeTraining(**{**given, "lr": self.tuned.student_lr})
        self._answers: dict[str, NodeAnswers] = {}

    def _bundle(self) -> Bundle:
        bundle = load(self.setup.data)
        if self.setup.noise:
            bundle = noisy(bundle, self.setup.noise)
        return hide_nodes(graph_of(bundle)).bundle() if self.setup.inductive else bundle

    def teacher(self, seed: int) -> Teacher:
        name = f"{self.setup.teacher}-{self.setup.data}"
        return train_teacher(self.lab, self.network, self.bundle, self.setup.teacher_training, seed=seed, name=name)

    def answers(self, seed: int) -> Teacher:
        """Return the teacher of a seed as what it says of every node."""
        teacher = self.teacher(seed)
        if teacher.fingerprint not in self._answers:
            self._answers = {teacher.fingerprint: NodeAnswers(teacher.module, self.bundle)}
        return replace(teacher, module=self._answers[teacher.fingerprint])

    def teacher_arm(self, label: str) -> Arm:
        return Arm("bound", teacher_arm(self.teacher, self.bundle), label=label, expression="supervised")

    def arm(
        self, role: Role, label: str, method: str, *, phrase: str = "", served: bool = False, turns: bool = False,
        hops: int = 0, edges: bool = False,
    ) -> Arm:  # fmt: skip
        """Return a student's arm: ``turns``, ``hops`` and ``edges`` say in what it is unlike the others."""

        def run(seed: int) -> Outcome:
            bundle, student, train = self.plain, self.student, None
            if edges:
                bundle, student = self.bundle, self.network
            if hops:
                bundle = without_edges(featured(self.bundle, partial(propagated_features, hops=hops)))
                student = self.dense
            if turns:
                train, student = LabelsThenTeacher(bundle.train.batch, seed=seed), self.dense
            if method == "supervised":  # of the other nodes nothing is asked
                train = rows_of(bundle.train)
            read = frequency_diagnostics(bundle)
            keeps = served and seed == self.setup.seeds[0]
            return distil(
                self.lab, method, student, self.answers(seed), bundle, self.training, seed=seed, train=train,
                diagnostics=(lambda made: self._kept(made, read)) if keeps else read,
            )  # fmt: skip

        return Arm(role, run, label=label, phrase=phrase or label, expression=method)

    def _kept(self, distiller: Distiller, read: Callable[[Distiller], Mapping[str, float]]) -> Mapping[str, float]:
        """Store the trained MLP, which :meth:`serving` asks questions, and read its diagnostics."""
        self._served(lambda: {name: value.cpu() for name, value in distiller.deployed().state_dict().items()})
        return read(distiller)

    def _served(self, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        settings = {name: value for name, value in asdict(self.setup).items() if name != "seeds"}
        stage = self.lab.stage(
            "served", make, seed=self.setup.seeds[0], data=self.bundle.fingerprint, settings=settings
        )
        state: dict[str, Tensor] = stage.value
        return state

    def serving(self) -> dict[str, Any]:
        """Return the table of accuracy and latency of the first seed's FF-G2M beside its teacher."""
        seed = self.setup.seeds[0]

        def missing() -> dict[str, Tensor]:
            raise DistilError(
                f"{self.lab.out} lost the student of seed {seed}; run the experiment into another folder."
            )

        trained = ((self.network, self.teacher(seed).module.state_dict()), (self.student, self._served(missing)))
        models = []
        for spec, state in trained:
            model = build_model(spec.replace(SPARSELY, ""), self.bundle, seed=seed)  # one row is not worth compressing
            model.load_state_dict(state)
            models.append(model.eval())
        return serving_table(models[0], models[1], self.bundle)

    def setting(self) -> dict[str, str]:
        """Return what a reader must know."""
        tuned, training, setup, bundle = self.tuned, self.training, self.setup, self.bundle
        width = f"width {setup.hidden}, the authors' {tuned.hidden}" if setup.hidden else "the authors' width"
        said = {
            "Data": f"{bundle.name}: {len(bundle.test.batch['inputs'])} nodes, {', '.join(bundle.notes)}",
            "Teacher": f"{self.network}, one for each seed, shared by its arms",
            "Student": f"{self.student}, features alone",
            "Budget": f"at most {training.epochs} full-batch steps of Adam, learning rate {training.lr:g}, weight "
            f"decay 5e-4, patience {training.patience}; the latest of equally good epochs is kept",
            "Weights": f"lambda {tuned.lam:g}, tau {tuned.tau:g}: the authors' for this graph and teacher; {width}",
            "Diagnostics": "cosine: mean of student and teacher outputs over nodes; distances: KL of their distances "
            "over edges, nats; share: of the gradient on the shipped weights, %",
        }
        if setup.inductive:
            said["Hidden"] = "a fifth of the test nodes and their edges reach no training; those nodes are scored"
        if setup.variants:
            said["Bounds"] = (
                "GLNN in turn makes a step for every 512 nodes; on propagated features a node's neighbours must be "
                "known; the graph network taught keeps its edges"
            )
        return said
