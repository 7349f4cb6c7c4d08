"""Predictions of a bundle: faces in images, folders, videos and cameras; rows of a table.

`predict_faces` is a chain of bounded steps: decode, detect, follow, network, smooth, draw and write.
"""

from taskloom.predict.faces import PredictSettings
from taskloom.predict.frames import open_source
from taskloom.predict.pipeline import Summary, predict_faces
from taskloom.predict.rows import predict_table

__all__ = ["PredictSettings", "Summary", "open_source", "predict_faces", "predict_table"]
