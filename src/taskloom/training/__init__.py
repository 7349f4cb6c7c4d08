"""Training and evaluation: a short loop, its settings, callbacks, checkpoints and record."""

from taskloom.training.callbacks import Callback, EarlyStopping, ProgressBar, TrainingState
from taskloom.training.config import TrainingConfig
from taskloom.training.evaluation import Evaluation, evaluate, resample_groups
from taskloom.training.history import EpochRecord, History
from taskloom.training.loop import fit
from taskloom.training.reproducibility import environment, seed_everything

__all__ = [
    "Callback",
    "EarlyStopping",
    "EpochRecord",
    "Evaluation",
    "History",
    "ProgressBar",
    "TrainingConfig",
    "TrainingState",
    "environment",
    "evaluate",
    "fit",
    "resample_groups",
    "seed_everything",
]
