"""The record of a training run: one entry per epoch, curves per task, what it cost."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Values = dict[str, float | None]
"""A value per name; None where it is undefined (no label), never NaN, so that JSON can hold it."""


@dataclass
class EpochRecord:
    """What one epoch did.

    Args:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss per task over the labels present in training, measured while it trained.
        penalty: `model.penalty()` after the epoch.
        validation_loss: Mean loss per task on validation, after the epoch.
        validation_metrics: Per task, per metric, its value on validation, in the task's unit.
        monitor: The value that decides the best epoch; see `TrainingConfig.monitor`.
        lr: Learning rate per parameter group, as used in this epoch.
        seconds_training: Wall time of the training steps, in seconds.
        seconds_evaluation: Wall time of the validation after them, in seconds.
        mixing: Mixing matrices per stage after the epoch, as nested lists [T][T] or [C][T][T].
        balancing: What the balancer did in the epoch, see `Balancer.report_state`: weights per task,
            cosines and conflicts between the tasks' gradients.
        coupling: Mean of each coupling term that acted in the epoch, its weight in it, per row it counted.
        test_metrics: As `validation_metrics`, on the test rows, where curves of them were asked for.
    """

    epoch: int
    train_loss: Values
    penalty: float
    validation_loss: Values
    validation_metrics: dict[str, Values]
    monitor: float | None
    lr: dict[str, float]
    seconds_training: float
    seconds_evaluation: float
    mixing: dict[str, list[Any]] = field(default_factory=dict)
    balancing: dict[str, float] = field(default_factory=dict)
    coupling: Values = field(default_factory=dict)
    test_metrics: dict[str, Values] = field(default_factory=dict)


@dataclass
class TaskEnd:
    """When a task stopped learning before the others.

    Args:
        converged: Epoch of its lowest validation loss. After an early freeze the model has what belongs to
            this task alone from that epoch.
        stopped: Epoch after which it stopped, some epochs of patience later; None: it learnt to the end.
    """

    converged: int
    stopped: int | None


@dataclass
class History:
    """The record of a training run; `to_json` and `from_json` round-trip it exactly.

    Args:
        monitor: "loss" or "metric".
        seed: Seed of batch order and dropout.
        device: Device it ran on, for example "cpu" or "cuda:0".
        precision: "32", "bf16-mixed" or "16-mixed".
        num_processes: Number of training processes.
        num_parameters: Trainable parameters of the network.
        epochs: One record per epoch, in order.
        best_epoch: Number of the epoch whose weights the model has; 0 before the first.
        stopped_early: Whether a callback ended training before its last epoch.
        finished: Whether training has come to its end.
        peak_memory_bytes: Most memory in use during training; what it counts stands in `peak_memory_of`.
        peak_memory_of: "cuda" (tensors on the GPU), "process" (resident memory of this process during
            training) or "process lifetime" (where the system cannot reset its high-water mark).
        task_ends: By task, when it converged and stopped, where tasks stop one by one (early freeze,
            task-wise early stopping).
        shared_frozen: Epoch after which everything shared froze; None where it did not. The tasks then have
            weights of different epochs, and `best_epoch` is the last one that gave some.
        resumed_after: Epochs after which the run was taken up again from its checkpoint.
        notes: Decisions taken for the user, in words, such as what device "auto" became.

    Example:
        >>> history = History("loss", seed=0)
        >>> History.from_json(history.to_json()) == history
        True
    """

    monitor: Literal["loss", "metric"]
    seed: int
    device: str = "cpu"
    precision: str = "32"
    num_processes: int = 1
    num_parameters: int = 0
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    finished: bool = False
    peak_memory_bytes: int = 0
    peak_memory_of: str = "process"
    task_ends: dict[str, TaskEnd] = field(default_factory=dict)
    shared_frozen: int | None = None
    resumed_after: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        """Epochs and losses of the best one; every epoch's record would fill pages."""
        found = f"{len(self)} epochs, {self.seconds:.1f} s"
        if not 0 < self.best_epoch <= len(self):
            return f"History({found})"
        losses = (f"{task} {_short(loss)}" for task, loss in self.best.validation_loss.items())
        return f"History({found}; best {self.best_epoch}, validation loss {', '.join(losses)})"

    @property
    def best(self) -> EpochRecord:
        """Record of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    @property
    def seconds_training(self) -> float:
        """Wall time of all training steps, in seconds; time lost to a killed epoch is not in it."""
        return sum(record.seconds_training for record in self.epochs)

    @property
    def seconds_evaluation(self) -> float:
        """Wall time of all validations, in seconds."""
        return sum(record.seconds_evaluation for record in self.epochs)

    @property
    def seconds(self) -> float:
        """Training and validation time together, in seconds."""
        return self.seconds_training + self.seconds_evaluation

    def is_better(self, monitor: float | None, than: float | None, *, min_delta: float = 0.0) -> bool:
        """Whether a monitor value is better than another by more than `min_delta`; None never is."""
        if monitor is None:
            return False
        if than is None:
            return True
        return monitor < than - min_delta if self.monitor == "loss" else monitor > than + min_delta

    def curve(self, kind: Literal["train_loss", "validation_loss"], task: str) -> list[float | None]:
        """One value per epoch."""
        return [getattr(record, kind)[task] for record in self.epochs]

    def metric_curve(self, task: str, metric: str) -> list[float | None]:
        """Validation metric of a task, one value per epoch."""
        return [record.validation_metrics[task][metric] for record in self.epochs]

    def without_seconds(self) -> dict[str, Any]:
        """What two runs of the same settings have in common: no times, no memory, no interruption."""
        plain = self.to_dict()
        for name in ("peak_memory_bytes", "peak_memory_of", "resumed_after"):
            del plain[name]
        for record in plain["epochs"]:
            del record["seconds_training"], record["seconds_evaluation"]
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Plain values; see `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Takes what `to_dict` gave."""
        records = [EpochRecord(**record) for record in plain["epochs"]]
        ends = {task: TaskEnd(**end) for task, end in plain.get("task_ends", {}).items()}
        return cls(**{**plain, "epochs": records, "task_ends": ends})

    def to_json(self) -> str:
        """One JSON object; no NaN in it."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Takes what `to_json` gave."""
        return cls.from_dict(json.loads(text))


def or_none(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
