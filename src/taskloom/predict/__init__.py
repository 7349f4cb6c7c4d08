"""Predictions of a bundle: faces in images, folders, videos and cameras; rows of a table; recordings.

`predict_faces` is a chain of bounded steps: decode, detect, follow, network, smooth, draw and write.
"""

from taskloom.predict.faces import PredictSettings
from taskloom.predict.frames import open_source
from taskloom.predict.people import Persons
from taskloom.predict.pipeline import Summary, predict_faces
from taskloom.predict.recordings import RecordingSummary, predict_recordings
from taskloom.predict.rows import predict_table

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
