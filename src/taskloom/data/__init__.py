"""From files to batches: tables, images, recordings and lazy windows, splits, readers, simulators."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.data.batch import Batch, DataSplits, TaskDataset, make_loader
    from taskloom.data.image_source import images
    from taskloom.data.recordings import RecordingStore, RecordingWriter
    from taskloom.data.rows_source import RowsSource
    from taskloom.data.sources import SOURCES
    from taskloom.data.table_source import table
    from taskloom.data.windows import WindowDataset

# Imported when first used: a table needs no OpenCV, a command line no PyTorch.
_HOMES = {
    "SOURCES": "sources",
    "Batch": "batch",
    "DataSplits": "batch",
    "RecordingStore": "recordings",
    "RecordingWriter": "recordings",
    "RowsSource": "rows_source",
    "TaskDataset": "batch",
    "WindowDataset": "windows",
    "images": "image_source",
    "make_loader": "batch",
    "table": "table_source",
}

__all__ = [
    "SOURCES",
    "Batch",
    "DataSplits",
    "RecordingStore",
    "RecordingWriter",
    "RowsSource",
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
