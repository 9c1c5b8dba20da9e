"""Trackers: what a run logs, epoch by epoch, for TensorBoard or Weights & Biases, through accelerate's own classes.

Nothing leaves the machine unasked: TensorBoard writes files, and wandb writes an offline run unless the user has set
``WANDB_MODE``. All files of a run lie in one folder, ``FOLDER/RUN``.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from distil.engine.processes import is_first
from distil.errors import DistilError, nearest

__all__ = ["Tracking", "Tracks", "check_trackers", "tracking_of"]

#: What each needs to be installed; the name of the package is the name of its module.
TRACKERS = ("tensorboard", "wandb")
PROJECT = "distil"


@dataclass(frozen=True)
class Tracking:
    """Where a run is tracked.

    Attributes:
        trackers: names ("tensorboard", "wandb"), or accelerate's ``GeneralTracker`` objects for anything else.
        folder: the folder that holds a folder for each run.
        run: the name of this run.
    """

    trackers: tuple[Any, ...]
    folder: Path
    run: str = "run"

    @property
    def place(self) -> Path:
        """The folder of this run."""
        return self.folder / self.run


def tracking_of(trackers: Sequence[Any] | Tracking, out: Path | None) -> Tracking | None:
    """Return where ``fit(trackers=…, out=…)`` logs to; None where nothing is tracked."""
    if isinstance(trackers, Tracking):
        check_trackers(trackers.trackers)
        return trackers if trackers.trackers else None
    if not trackers:
        return None
    if isinstance(trackers, str):
        raise DistilError(f"trackers='{trackers}' is one text; give a list of names: trackers=['{trackers}'].")
    check_trackers(trackers)
    if out is None:
        raise DistilError(f"trackers={list(trackers)} write files; give out=, the folder to write them to.")
    return Tracking(tuple(trackers), out / "trackers")


def check_trackers(trackers: Sequence[Any]) -> None:
    """Refuse a tracker that is unknown, or whose library is not installed."""
    for each in trackers:
        if isinstance(each, GeneralTracker):
            continue
        if each not in TRACKERS:
            raise DistilError(f"The tracker '{each}' is unknown; {nearest(str(each), TRACKERS)}")
        if find_spec(each) is None:
            raise DistilError(f"The tracker '{each}' needs a library that is not installed; run: pip install {each}")


class Tracks:
    """The open trackers of one run; without a `Tracking` every call does nothing.

    Args:
        tracking: where to log.
        config: the run's settings, plain values.

    Used as a context manager, it opens at the start and is closed whatever ends the run.
    """

    def __init__(self, tracking: Tracking | None, config: Mapping[str, Any]) -> None:
        tracking = tracking if is_first() else None  # one process logs
        self._tracking, self._config = tracking, {key: _plain(value) for key, value in config.items()}
        self._open: list[GeneralTracker] = []

    def __enter__(self) -> Tracks:
        if self._tracking is None:
            return self
        self._tracking.place.mkdir(parents=True, exist_ok=True)
        for each in self._tracking.trackers:
            tracker = _made(each, self._tracking)
            try:
                if hasattr(tracker, "start"):
                    tracker.start()
            except Exception as error:  # whatever the library, or the service behind it, has against starting
                self.__exit__(None, None, None)
                raise DistilError(f"The tracker '{tracker.name}' could not start: {error}") from error
            self._open.append(tracker)
            if tracker.name == "tensorboard":  # its hparams would be runs of their own, named by the clock
                rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in self._config.items())
                tracker.log({"config": f"| setting | value |\n|---|---|\n{rows}"}, step=0)
            else:
                tracker.store_init_configuration(self._config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._open:
            tracker.finish()
        self._open = []

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers and texts as they are."""
        for tracker in self._open:
            tracker.log(dict(values), step=step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log one record of a run's history: loss, terms, their shares of the gradient, validation, learning rate."""
        values = {name: record[name] for name in ("loss", "lr", "epoch") if name in record}
        parts = {"terms": "term", "shares": "share", "cosines": "cosine", "val": "val"}
        values |= {f"{short}/{n}": v for part, short in parts.items() for n, v in (record.get(part) or {}).items()}
        self.log({name: float(value) for name, value in values.items()}, int(record["step"]))

    def finish(
        self, scores: Mapping[str, Mapping[str, float]], cost: Mapping[str, float], history: Sequence[Mapping[str, Any]]
    ) -> None:
        """Log what the run came to: test scores of the last and the best epoch, and what it cost."""
        values = {f"test/{which}/{name}": v for which, metrics in scores.items() for name, v in metrics.items()}
        values |= {f"cost/{name}": value for name, value in cost.items()}
        numbers = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self.log(numbers, int(history[-1]["step"]) if history else 0)


def _made(tracker: Any, tracking: Tracking) -> GeneralTracker:
    if isinstance(tracker, GeneralTracker):
        return tracker
    if tracker == "tensorboard":
        return TensorBoardTracker(tracking.run, logging_dir=str(tracking.folder))
    import wandb

    if "WANDB_MODE" not in os.environ:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # an offline run reports its own crashes nowhere
    key = hashlib.sha256(str(tracking.place.absolute()).encode()).hexdigest()[:12]
    return WandBTracker(
        PROJECT,
        name=tracking.run,
        id=key,
        group=tracking.folder.parent.name,
        resume="allow",
        dir=str(tracking.place),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
