"""Trains in a process of its own, for the test that kills it.

FOLDER EPOCH STEP, where it kills itself, and settings beside the usual ones as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

from _training import TinyNetwork, rows_with_holes
from taskloom.training import Callback, TrainingState, fit

SETTINGS = {
    "epochs": 6,
    "batch": 8,
    "optimizer": {"adam": {"lr": 0.02}},
    "schedule": {"plateau": {"factor": 0.5, "patience": 0}},
    "stop": {"patience": 5},
    "clip": 1.0,
    "device": "cpu",
}


class Kill(Callback):
    """Ends the process as kill -9 does, in the middle of an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def batch_end(self, state: TrainingState) -> None:
        if (state.epoch, state.step) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    fit(
        TinyNetwork(),
        rows_with_holes(41, seed=1),
        rows_with_holes(30, seed=2),
        folder=Path(sys.argv[1]),
        seed=3,
        callbacks=[Kill(int(sys.argv[2]), int(sys.argv[3]))],
        **{**SETTINGS, **json.loads(sys.argv[4])},  # type: ignore[arg-type]
    )
