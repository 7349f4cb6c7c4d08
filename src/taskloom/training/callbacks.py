"""Hooks into training: a callback acts at fixed moments, and its state travels in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.optim import Optimizer

from taskloom.balancing import Balancer
from taskloom.registry import Registry
from taskloom.training.config import TrainingConfig
from taskloom.training.freezing import Freezing
from taskloom.training.history import History
from taskloom.training.resume import BestWeights

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork
    from taskloom.tasks import TaskSet


@dataclass
class TrainingState:
    """What a callback sees and may change.

    Args:
        model: The network itself, never a wrapper.
        optimizer: The optimiser; its groups carry the `names` of `model.parameter_groups()`.
        balancer: What turns losses into gradients.
        config: The run's settings.
        history: The record so far; in `epoch_end` its last entry is the epoch that just ended.
        steps_per_epoch: Steps in one epoch.
        epoch: Number of the running epoch, from 1.
        step: Number of the step just done in this epoch, from 1.
        losses: Losses per task of the last batch.
        stop_reason: Why training ends after this epoch; None where it goes on.
        best: The weights that the model will have at the end.
        freezing: Which tasks have stopped learning, and what is frozen for it; its `stop` stops one more.
    """

    model: MultiTaskNetwork
    optimizer: Optimizer
    balancer: Balancer
    config: TrainingConfig
    history: History
    steps_per_epoch: int = 0
    epoch: int = 0
    step: int = 0
    losses: Mapping[str, SumCount] = field(default_factory=dict)
    stop_reason: str | None = None
    best: BestWeights = field(default_factory=BestWeights)
    freezing: Freezing = field(init=False)

    def __post_init__(self) -> None:
        self.freezing = Freezing(self.model, self.optimizer)

    @property
    def awaited(self) -> list[str]:
        """Tasks that did not train in the epoch that just ended and enter later (`Balancer.enters`)."""
        tasks = self.model.tasks
        return [
            task for task in self.freezing.active if tasks[task].weight > 0 and self.balancer.enters(task)
        ]

    def stop(self, reason: str) -> None:
        """Ends training after this epoch; the reason stands in `History.notes`."""
        self.stop_reason = reason


class Callback:
    """Five hooks that do nothing; override what is needed.

    A callback with state returns it from `state_dict` as tensors and plain values, or a resumed run will not
    equal one that was never interrupted.

    Attributes:
        stops_tasks: Whether it decides when single tasks stop learning; one callback at most may.
        ends_training: Whether it decides when training ends, so that `TrainingConfig.stop` does not act.
    """

    stops_tasks = False
    ends_training = False

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Called once before training. Raises ConfigError if the callback names a task that is not there."""

    @property
    def called(self) -> str:
        """What messages call it: its name in a study file, that of its class where it has none."""
        return CALLBACKS.name_of(type(self))

    def may_stop(self, tasks: TaskSet) -> tuple[str, ...]:
        """The tasks that it may stop while what is shared goes on learning; none unless overridden."""
        del tasks
        return ()

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run that goes on from it, as plain values."""
        return {}

    def fit_start(self, state: TrainingState) -> None:
        """Before the first epoch of this call, also of a resumed one (after its state was loaded)."""

    def epoch_start(self, state: TrainingState) -> None:
        """Before the first batch of an epoch; the model is in training mode."""

    def batch_end(self, state: TrainingState) -> None:
        """After the optimiser's step on a batch."""

    def epoch_end(self, state: TrainingState) -> None:
        """After validation, before the checkpoint."""

    def fit_end(self, state: TrainingState) -> None:
        """After the last epoch; the model has the weights of the best one. Not called after an error."""

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""


CALLBACKS: Registry[Callable[..., Callback]] = Registry("callback")
"""Callbacks that a study file may name; each entry is called with the settings of its name."""


class EarlyStopping(Callback):
    """Ends training when the monitor has not improved for a while.

    Epochs in which a task is still to enter (a curriculum) are not counted.

    Args:
        patience: Epochs without improvement after which training ends; 1 or more.
        min_delta: An improvement counts if it is larger than this.

    Example:
        >>> EarlyStopping(patience=5).state_dict()
        {'best': None, 'waited': 0}
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.waited = 0

    def epoch_end(self, state: TrainingState) -> None:
        monitor = state.history.epochs[-1].monitor
        if state.history.is_better(monitor, self.best, min_delta=self.min_delta):
            self.best, self.waited = monitor, 0
            return
        self.waited = 0 if state.awaited else self.waited + 1
        if self.waited >= self.patience:
            state.stop(f"the monitor did not improve for {self.waited} epochs")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class ProgressBar(Callback):
    """One bar over all steps, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._bar = TaskID(0)

    def fit_start(self, state: TrainingState) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._progress.start()
        done = len(state.history) * state.steps_per_epoch
        total = state.config.epochs * state.steps_per_epoch
        self._bar = self._progress.add_task("training", total=total, completed=done)

    def batch_end(self, state: TrainingState) -> None:
        # Once in a while is enough for the eye.
        if self._progress and (state.step % 10 == 0 or state.step == state.steps_per_epoch):
            done = (state.epoch - 1) * state.steps_per_epoch + state.step
            self._progress.update(self._bar, completed=done)

    def epoch_end(self, state: TrainingState) -> None:
        if self._progress:
            best = state.history.best
            text = f"epoch {state.epoch}, best {best.epoch}"
            if best.monitor is not None:
                text += f" ({state.history.monitor} {best.monitor:.4g})"
            self._progress.update(self._bar, description=text)

    def fit_end(self, state: TrainingState) -> None:
        del state
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen; also after an error."""
        if self._progress:
            self._progress.stop()
            self._progress = None
