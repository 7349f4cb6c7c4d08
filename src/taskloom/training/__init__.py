"""Training and evaluation: a short loop, its settings, callbacks, checkpoints and record."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.training.allocator import keep_freed_memory
    from taskloom.training.callbacks import CALLBACKS, Callback, EarlyStopping, ProgressBar, TrainingState
    from taskloom.training.config import TrainingConfig
    from taskloom.training.evaluation import Evaluation, evaluate, resample_groups
    from taskloom.training.history import EpochRecord, History, TaskEnd
    from taskloom.training.loop import fit
    from taskloom.training.reproducibility import environment, seed_everything
    from taskloom.training.stopping import EarlyFreeze, TaskStopping

# Imported when first used: who loads a bundle to predict does not wait for balancing, coupling, statistics.
# `stopping` adds callbacks of its own to those of `callbacks`.
_HOMES = {
    "CALLBACKS": "stopping",
    "Callback": "callbacks",
    "EarlyFreeze": "stopping",
    "EarlyStopping": "callbacks",
    "EpochRecord": "history",
    "Evaluation": "evaluation",
    "History": "history",
    "ProgressBar": "callbacks",
    "TaskEnd": "history",
    "TaskStopping": "stopping",
    "TrainingConfig": "config",
    "TrainingState": "callbacks",
    "environment": "reproducibility",
    "evaluate": "evaluation",
    "fit": "loop",
    "keep_freed_memory": "allocator",
    "resample_groups": "evaluation",
    "seed_everything": "reproducibility",
}

__all__ = [
    "CALLBACKS",
    "Callback",
    "EarlyFreeze",
    "EarlyStopping",
    "EpochRecord",
    "Evaluation",
    "History",
    "ProgressBar",
    "TaskEnd",
    "TaskStopping",
    "TrainingConfig",
    "TrainingState",
    "environment",
    "evaluate",
    "fit",
    "keep_freed_memory",
    "resample_groups",
    "seed_everything",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"taskloom.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'taskloom.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
