"""Predictions of a bundle: faces in images, folders, videos and cameras; rows of a table; recordings.

`predict_faces` is a chain of bounded steps: decode, detect, follow, network, smooth, draw and write.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.predict.faces import PredictSettings
    from taskloom.predict.frames import open_source
    from taskloom.predict.people import Persons
    from taskloom.predict.pipeline import Summary, predict_faces
    from taskloom.predict.recordings import RecordingSummary, predict_recordings
    from taskloom.predict.rows import predict_table

# Imported when first used: a face needs neither pandas nor the readers of recordings.
_HOMES = {
    "Persons": "people",
    "PredictSettings": "faces",
    "RecordingSummary": "recordings",
    "Summary": "pipeline",
    "open_source": "frames",
    "predict_faces": "pipeline",
    "predict_recordings": "recordings",
    "predict_table": "rows",
}

__all__ = [
    "Persons",
    "PredictSettings",
    "RecordingSummary",
    "Summary",
    "open_source",
    "predict_faces",
    "predict_recordings",
    "predict_table",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"taskloom.predict.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'taskloom.predict' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
