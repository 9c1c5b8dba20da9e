"""Tasks: how a model is called on a batch, what its labels cost, how it is scored, and what chance would score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distil.errors import DistilError, nearest
from distil.tasks.base import Prediction, Task
from distil.tasks.classification import ClassificationTask
from distil.tasks.features import FeatureTask
from distil.tasks.nodes import NodeTask
from distil.tasks.preflight import Preflight, teacher_above_chance
from distil.tasks.scores import all_labelled, check_labels
from distil.tasks.segmentation import SegmentationTask
from distil.tasks.text import TextTask

__all__ = [
    "ClassificationTask",
    "FeatureTask",
    "NodeTask",
    "Prediction",
    "Preflight",
    "SegmentationTask",
    "Task",
    "TextTask",
    "all_labelled",
    "check_labels",
    "get_task",
    "teacher_above_chance",
]

_TASKS: dict[str, Callable[..., Task]] = {
    task.name: task for task in (ClassificationTask, NodeTask, TextTask, SegmentationTask, FeatureTask)
}


def get_task(task: str | Task, **options: Any) -> Task:
    """Return a task by name, or the task itself if one is given.

    Args:
        task: ``"classification"``, ``"node-classification"``, ``"text-classification"``, ``"segmentation"``,
            ``"features"`` or an instance.
        options: passed to the task that is made.

    >>> get_task("classification").metric
    'accuracy'
    """
    if isinstance(task, Task):
        return task
    if task not in _TASKS:
        raise DistilError(f"the task {task!r} is unknown; {nearest(str(task), _TASKS)}")
    return _TASKS[task](**options)
