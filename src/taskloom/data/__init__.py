"""From files to batches: tables, images, recordings and lazy windows, splits, readers, simulators."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.data.batch import Batch, DataSplits, TaskDataset, make_loader
    from taskloom.data.image_source import images
    from taskloom.data.recordings import RecordingStore, RecordingWriter
    from taskloom.data.table_source import table
    from taskloom.data.windows import WindowDataset

# Imported when first used: a table needs no OpenCV, a command line no PyTorch.
_HOMES = {
    "Batch": "batch",
    "DataSplits": "batch",
    "RecordingStore": "recordings",
    "RecordingWriter": "recordings",
    "TaskDataset": "batch",
    "WindowDataset": "windows",
    "images": "image_source",
    "make_loader": "batch",
    "table": "table_source",
}

__all__ = [
    "Batch",
    "DataSplits",
    "RecordingStore",
    "RecordingWriter",
    "TaskDataset",
    "WindowDataset",
    "images",
    "make_loader",
    "table",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"taskloom.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'taskloom.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
