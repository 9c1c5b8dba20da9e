"""Training from stored answers: five epochs beside a file for each sample, and an epoch beside one without a teacher.

The peer imitates torchdistill's ``CacheableDataset`` (up to release 0.3; 1.x has no cache to run): in the first epoch
the teacher is asked and ``{"teacher_outputs", "extracted_outputs"}`` of every sample is saved with ``torch.save`` under
``DDDD/INDEX.pt``; later epochs load it with ``torch.load`` as each sample is read. None of its code runs. Both sides
train the same student with the same loss and order by the same plain loop; ours asks the teacher in a pass of its own
first, which is counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from distil.cache import CachedTeacher, TeacherCache
from distil.data import Batches, DictDataset, epoch_order
from distil.functional import kl
from distil.models.fresh import fresh_copy as _unused  # noqa: F401
