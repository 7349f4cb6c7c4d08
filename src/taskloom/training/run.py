"""What a run is given: everything that `fit` hands to the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.balancing import Balancer, WeightedSum
from taskloom.coupling import Coupling
from taskloom.data.batch import TaskDataset
from taskloom.training.callbacks import Callback
from taskloom.training.config import TrainingConfig
from taskloom.training.teaching import SoftLabels

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

_DECIDE_NOTHING = {"num_workers", "evaluation_batch", "resident"}
"""How rows are fetched: a run may go on with others."""


@dataclass
class Run:
    """Everything `fit` was given; what travels to the processes of a run that has several."""

    model: MultiTaskNetwork
    train: TaskDataset
    validation: TaskDataset
    config: TrainingConfig
    seed: int = 0
    folder: Path | None = None
    callbacks: list[Callback] = field(default_factory=list)
    balancer: Balancer = field(default_factory=WeightedSum)
    coupling: Coupling | None = None
    resume: bool = True
    notes: list[str] = field(default_factory=list)
    test: TaskDataset | None = None
    soft_labels: SoftLabels | None = None

    @property
    def name(self) -> str:
        """What error messages call the run."""
        return f"run {self.folder.name}" if self.folder else "this run"

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on with a run that goes on from it."""
        return {
            "training": self.config.model_dump(mode="json", exclude=_DECIDE_NOTHING),
            "seed": self.seed,
            "tasks": {name: _plain(task.to_dict()) for name, task in self.model.tasks.items()},
            "balancer": type(self.balancer).__name__,
            "weights": {task: self.balancer.weight(task) for task in self.model.tasks},
            "balancing": _plain(self.balancer.settings()),
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "callback_settings": [_plain(callback.settings()) for callback in self.callbacks],
            # Left out where there is none: a checkpoint without is what it was before there were any.
            **({"coupling": _plain(self.coupling.settings())} if self.coupling else {}),
            **({"teachers": _plain(self.soft_labels.settings())} if self.soft_labels else {}),
            "parameters": {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()},
            "rows": {"train": len(self.train), "validation": len(self.validation)},
        }


def _plain(value: Any) -> Any:
    """Tuples as lists, as they come back from a checkpoint's comparison."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
