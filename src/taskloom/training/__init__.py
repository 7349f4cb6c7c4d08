"""Training and evaluation: a short loop, its settings, callbacks, checkpoints and record."""

from taskloom.training.allocator import keep_freed_memory
from taskloom.training.callbacks import CALLBACKS, Callback, EarlyStopping, ProgressBar, TrainingState
from taskloom.training.config import TrainingConfig
from taskloom.training.evaluation import Evaluation, evaluate, resample_groups
from taskloom.training.history import EpochRecord, History, TaskEnd
from taskloom.training.loop import fit
from taskloom.training.reproducibility import environment, seed_everything
from taskloom.training.stopping import EarlyFreeze, TaskStopping

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
