"""Data: bundles of dict items with stable ids, deterministic loading, and readers for images, texts and graphs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from distil.data.bundle import NO_LABEL, Bundle, DictDataset, View, as_dict, collate, ids_of, indexed, labels_of
from distil.data.fingerprint import fingerprint
from distil.data.loading import (
    Batches,
    BatchSource,
    FullBatch,
    PlainBatches,
    Streams,
    as_batches,
    epoch_order,
    mix_seed,
)

# The readers come with their first use; they bring PIL, tables and graphs with them.
_LATER = {
    "GraphData": "graphs",
    "Inductive": "inductive",
    "LabelsThenTeacher": "turns",
    "TextDataset": "text",
    "ImageViews": "twin",
    "TwoViews": "twin",
    "Viewed": "views",
    "Views": "views",
    "Mirrored": "dense",
    "Neighbours": "neighbours",
    "NodeBatches": "node_batches",
    "class_thirds": "imbalance",
    "hide_labels": "select",
    "hide_nodes": "inductive",
    "load": "sources",
    "read_columns": "columns",
    "long_tail": "imbalance",
    "read_graph": "graph_files",
    "read_images": "images",
    "read_text": "text",
    "regrouped": "regroup",
    "replay": "views",
    "split": "select",
    "take_per_class": "select",
    "tokenised": "tokens",
}

__all__ = [
    "NO_LABEL",
    "BatchSource",
    "Batches",
    "Bundle",
    "DictDataset",
    "FullBatch",
    "GraphData",
    "ImageViews",
    "Inductive",
    "LabelsThenTeacher",
    "Mirrored",
    "Neighbours",
    "NodeBatches",
    "PlainBatches",
    "Streams",
    "TextDataset",
    "TwoViews",
    "View",
    "Viewed",
    "Views",
    "as_batches",
    "as_dict",
    "class_thirds",
    "collate",
    "epoch_order",
    "fingerprint",
    "hide_labels",
    "hide_nodes",
    "ids_of",
    "indexed",
    "labels_of",
    "load",
    "long_tail",
    "mix_seed",
    "read_columns",
    "read_graph",
    "read_images",
    "read_text",
    "regrouped",
    "replay",
    "split",
    "take_per_class",
    "tokenised",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'distil.data' has no attribute {name!r}")
    return getattr(import_module(f"distil.data.{_LATER[name]}"), name)
