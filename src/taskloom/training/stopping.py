"""Tasks that stop one by one: early freeze (thesis 001, algorithm 1) and task-wise early stopping.

Tasks of one network do not converge together. What a task that has converged should do while the others go
on is answered in two ways here; see `taskloom.training.freezing` for what exactly is frozen in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.sharing.changing import SelfChanging
from taskloom.tasks import Task, TaskSet
from taskloom.training.callbacks import CALLBACKS, Callback, TrainingState
from taskloom.training.changes import regroup
from taskloom.training.freezing import check_names
from taskloom.training.history import EpochRecord, History, TaskEnd
from taskloom.training.resume import copied
from taskloom.training.trend import has_peaked


@dataclass
class Patience:
    """Counts, for one task, the epochs in which its validation loss was worse than its minimum.

    Args:
        minimum: Lowest loss so far; None before the first.
        epoch: Where it was.
        waited: Epochs since; the counter of algorithm 1.
    """

    minimum: float | None = None
    epoch: int = 0
    waited: int = 0

    def see(self, loss: float | None, epoch: int, min_delta: float) -> bool:
        """Takes the loss of an epoch; returns whether it is no worse than the minimum.

        A task without validation labels (None) never waits: its last epoch counts as its best.
        """
        if loss is not None and self.minimum is not None and loss > self.minimum - min_delta:
            self.waited += 1
            return False
        self.minimum, self.epoch, self.waited = loss, epoch, 0
        return True


class TaskCallback(Callback):
    """What both ways have in common: patience per task, and which tasks are watched.

    Args:
        name: What messages call it.
        patience: Epochs in a row in which a task's validation loss is worse than its minimum; 1 or more.
        min_delta: A loss counts as no worse only if it is at least this much below the minimum.
        tasks: The tasks that are watched; all but adversarial ones where None.
    """

    stops_tasks = True

    def __init__(self, name: str, patience: int, min_delta: float, tasks: Sequence[str] | None) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"{name}.patience: a number of epochs from 1 expected, found {patience!r}.")
        if not _is_number(min_delta) or min_delta < 0:
            raise ConfigError(f"{name}.min_delta: a number of 0 or more expected, found {min_delta!r}.")
        if tasks is not None and (isinstance(tasks, str) or not isinstance(tasks, Sequence) or not tasks):
            raise ConfigError(f"{name}.tasks: a list of task names expected, found {tasks!r}.")
        self.name, self.patience, self.min_delta = name, patience, float(min_delta)
        self.tasks = None if tasks is None else list(tasks)
        self.counters: dict[str, Patience] = {}

    def check_tasks(self, tasks: Iterable[str]) -> None:
        check_names(self.tasks or (), tasks, f"{self.name}.tasks")

    def settings(self) -> dict[str, Any]:
        return {"patience": self.patience, "min_delta": self.min_delta, "tasks": self.tasks}

    def state_dict(self) -> dict[str, Any]:
        return {"counters": {task: asdict(counter) for task, counter in self.counters.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counters = {task: Patience(**counter) for task, counter in state["counters"].items()}

    def watched(self, state: TrainingState) -> list[str]:
        """The tasks that learnt in this epoch and may stop, in the network's order.

        The loss of an adversarial task rises where what is shared forgets it, which is what it is there for
        and no convergence: it is watched only where `tasks` names it.
        """
        tasks = state.model.tasks
        return [task for task in self.learning(state) if self.watches(tasks[task])]

    def watches(self, task: Task) -> bool:
        """Whether the task is one of those that are watched while it learns."""
        return task.role != "adversarial" if self.tasks is None else task.name in self.tasks

    def learning(self, state: TrainingState) -> list[str]:
        """The tasks that learnt in this epoch: not stopped, and of a weight above 0."""
        tasks = state.model.tasks
        return [
            task for task in state.freezing.active if tasks[task].weight > 0 and state.balancer.trains(task)
        ]

    def counter(self, task: str) -> Patience:
        return self.counters.setdefault(task, Patience())


@CALLBACKS.register("early_freeze")
class EarlyFreeze(TaskCallback):
    """Early freeze (thesis 001, section 3.5, algorithm 1): the first task to converge freezes what is shared.

    Before the freeze, after every epoch and for each task i in order: if its validation loss is above its
    minimum, counter i rises by 1, else the loss is the new minimum and counter i is 0. (Algorithm 1 as
    printed never sets a counter back to 0, which its text describes and its line 11 needs.) A task of weight
    0 in the epoch does not count. Nobody counts before all tasks have entered (a curriculum, self-paced
    weights): minima and counters begin with the first epoch in which every task trains, so that what is
    shared neither freezes nor returns to weights that some tasks never trained. Where counter i reaches
    `patience`:

    1. the whole model returns to the weights of the epoch in which counter i was last 0;
    2. everything shared and everything of task i freezes (`taskloom.training.freezing` says what that is for
       each plan), so that its predictions never change again;
    3. the optimiser starts its moments anew, since those it has belong to weights that are gone;
    4. minimum and counter of every other task start at its loss in that epoch: better ones may have
       been seen since, but with shared weights that are gone.

    After the freeze every other task learns on in what belongs to it alone, and stops by the same count; what
    it owns then returns to its best epoch since the freeze, and so do, at the end of training, the tasks
    that never stopped. The monitor decides nothing any more, and `TrainingConfig.stop` does not act.

    Until the freeze, the callback keeps one copy of the weights for each different best epoch of a task, in
    memory and in the checkpoint. After it, what the frozen front gives for each row is computed once and
    kept, if rows are the same whenever they are read and it fits into `features_mb`.

    Args:
        patience: P of algorithm 1, in epochs; 1 or more.
        min_delta: A loss counts as no worse only if it is at least this much below the minimum; algorithm 1
            has 0, where an equal loss is no worse.
        tasks: The tasks whose convergence freezes what is shared; all but adversarial ones where None. After
            the freeze any task may stop; training ends when only adversarial ones are left.
        features_mb: Memory for kept outputs of the frozen front, training and validation together, in MiB;
            0 computes them anew in every epoch.

    Raises:
        ConfigError: A setting out of range; at the start of training, a task that is not there.

    Example:
        >>> EarlyFreeze(patience=5).settings()
        {'patience': 5, 'min_delta': 0.0, 'tasks': None, 'features_mb': 1024.0}
    """

    ends_training = True

    def __init__(
        self,
        patience: int = 5,
        min_delta: float = 0.0,
        tasks: Sequence[str] | None = None,
        features_mb: float = 1024.0,
    ) -> None:
        super().__init__("early_freeze", patience, min_delta, tasks)
        if not _is_number(features_mb) or features_mb < 0:
            raise ConfigError(f"early_freeze.features_mb: MiB from 0 expected, found {features_mb!r}.")
        self.features_mb = float(features_mb)
        self.snapshots: dict[int, dict[str, Tensor]] = {}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "features_mb": self.features_mb}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "snapshots": self.snapshots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.snapshots = {epoch: dict(weights) for epoch, weights in state["snapshots"].items()}

    def fit_start(self, state: TrainingState) -> None:
        state.freezing.features_bytes = int(self.features_mb * 2**20)

    def epoch_end(self, state: TrainingState) -> None:
        record = state.history.epochs[-1]
        if state.freezing.shared:
            self._after_the_freeze(state, record)
        else:
            self._before_the_freeze(state, record)
        if record.epoch == state.config.epochs and state.stop_reason is None:
            self._note_the_end(state)

    def _before_the_freeze(self, state: TrainingState, record: EpochRecord) -> None:
        if state.awaited:
            self.counters, self.snapshots = {}, {}
            return
        watched = self.watched(state)
        better = [
            self.counter(task).see(record.validation_loss[task], record.epoch, self.min_delta)
            for task in watched
        ]
        if any(better):
            self.snapshots[record.epoch] = copied(state.model)
        wanted = {self.counter(task).epoch for task in watched}
        self.snapshots = {epoch: kept for epoch, kept in self.snapshots.items() if epoch in wanted}
        for task in watched:
            if self.counter(task).waited >= self.patience:
                self._freeze(state, task, record.epoch)
                break

    def _freeze(self, state: TrainingState, task: str, epoch: int) -> None:
        """The first task has converged."""
        back_to, history = self.counter(task).epoch, state.history
        weights = self.snapshots[back_to]
        self.snapshots = {}
        state.model.load_state_dict(weights)
        if isinstance(state.model, SelfChanging):  # it may have had other parameters then
            regroup(state.optimizer, state.model, {}, state.balancer.parameters())
            history.num_parameters = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
        state.freezing.stop(task, with_shared=True)
        state.freezing.forget_moments()
        state.best.compose(weights, back_to)
        history.best_epoch, history.shared_frozen = back_to, epoch
        losses = history.epochs[back_to - 1].validation_loss
        self.counters = {other: Patience(losses[other], back_to) for other in state.freezing.active}
        history.task_ends[task] = TaskEnd(back_to, epoch)
        history.notes.append(
            f"early freeze: task {task} converged in epoch {back_to}; after epoch {epoch} the model went "
            "back to it, and everything shared froze. Going on: "
            f"{', '.join(state.freezing.active) or 'no task'}"
        )
        stop_without_tasks(state)

    def _after_the_freeze(self, state: TrainingState, record: EpochRecord) -> None:
        for task in self.learning(state):
            counter = self.counter(task)
            names = state.freezing.own_entries(task)
            if counter.see(record.validation_loss[task], record.epoch, self.min_delta):
                state.best.take(state.model, names, record.epoch)
                state.history.best_epoch = record.epoch
            elif counter.waited >= self.patience:
                state.best.load_entries_into(state.model, names)
                state.freezing.stop(task)
                state.history.task_ends[task] = TaskEnd(counter.epoch, record.epoch)
                state.history.notes.append(
                    f"early freeze: task {task} converged in epoch {counter.epoch} and stopped after epoch "
                    f"{record.epoch}"
                )
        stop_without_tasks(state)

    def _note_the_end(self, state: TrainingState) -> None:
        """Says what became of tasks that never stopped."""
        history = state.history
        if not state.freezing.shared:
            why = f"no task waited {self.patience} epochs within {state.config.epochs}"
            if state.awaited:
                why = f"{', '.join(state.awaited)} never entered within {state.config.epochs} epochs"
            history.notes.append(f"early freeze: {why}; nothing froze")
            return
        for task in state.freezing.active:
            best = self.counter(task).epoch
            history.task_ends[task] = TaskEnd(best, None)
            history.notes.append(f"early freeze: task {task} learnt to the end and is best in epoch {best}")


@CALLBACKS.register("task_stopping")
class TaskStopping(TaskCallback):
    """Task-wise early stopping: a task that has converged leaves the sum of losses, the others go on.

    Zhang et al. 2014 halt a task so that it does not hurt the others once it has peaked; thesis 001, section
    5.2, compares it with early freeze. Nothing returns to older weights. What the stopped task alone reads
    (its head, its own stages) stays as it is, so that momentum and weight decay do not move it blindly; its
    predictions still change with what it shares, and its loss stays part of the monitor that chooses the best
    epoch. Training ends when no task is left, or by `TrainingConfig.stop`.

    When a task has peaked is a matter of the `criterion`:

    - "patience": its validation loss was worse than its minimum in `patience` epochs in a row, as for early
      freeze;
    - "trend", Zhang et al.'s own (equation 5): with training losses E and validation loss V of the task,

          k med E(t-k..t) / (sum E(t-k..t) - k med E(t-k..t))
              * (V(t) - min E) / (importance min E) > threshold,

      that is, the training loss has become flat *and* validation lies far above training. Their k and
      threshold are not known to us: the defaults are ours. The importance is a setting here, not learned.

    Args:
        patience: Epochs in a row in which a task's validation loss is worse than its minimum, 1 or more; 5
            with the criterion "patience" where None.
        min_delta: A loss counts as no worse only if it is at least this much below the minimum.
        tasks: The tasks that may stop; all but adversarial ones where None. Zhang et al. stop auxiliary tasks
            only.
        criterion: "patience" or "trend".
        strip: k of "trend", in epochs, 1 or more; 5 where None.
        threshold: Of "trend", above 0; 1 where None.
        importance: lambda of "trend" per task, above 0; 1 where a task is not named.

    Raises:
        ConfigError: A setting out of range, or of the other criterion; at the start of training, a task that
            is not there.

    Example:
        >>> TaskStopping(patience=3, tasks=["smiling"]).settings()
        {'patience': 3, 'min_delta': 0.0, 'tasks': ['smiling']}
    """

    def __init__(
        self,
        patience: int | None = None,
        min_delta: float = 0.0,
        tasks: Sequence[str] | None = None,
        criterion: Literal["patience", "trend"] = "patience",
        strip: int | None = None,
        threshold: float | None = None,
        importance: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__("task_stopping", 5 if patience is None else patience, min_delta, tasks)
        if criterion not in ("patience", "trend"):
            raise ConfigError(f"task_stopping.criterion: patience or trend expected, found {criterion!r}.")
        self.criterion = criterion
        of_trend = {"strip": strip, "threshold": threshold, "importance": importance}
        of_patience = {"patience": patience, "min_delta": min_delta or None}
        for key, value in (of_trend if criterion == "patience" else of_patience).items():
            if value is not None:
                raise ConfigError(f"task_stopping.{key}: this is no setting of `criterion: {criterion}`.")
        self.strip, self.threshold = 5 if strip is None else strip, 1.0 if threshold is None else threshold
        if isinstance(self.strip, bool) or not isinstance(self.strip, int) or self.strip < 1:
            raise ConfigError(f"task_stopping.strip: a number of epochs from 1 expected, found {strip!r}.")
        if importance is not None and not isinstance(importance, Mapping):
            raise ConfigError(f"task_stopping.importance: a number per task expected, found {importance!r}.")
        self.importance = dict(importance or {})
        numbers = {f"importance.{task}": value for task, value in self.importance.items()}
        for key, value in {"threshold": self.threshold, **numbers}.items():
            if not _is_number(value) or value <= 0:
                raise ConfigError(f"task_stopping.{key}: a number above 0 expected, found {value!r}.")

    def check_tasks(self, tasks: Iterable[str]) -> None:
        tasks = list(tasks)
        super().check_tasks(tasks)
        check_names(self.importance, tasks, "task_stopping.importance")

    def may_stop(self, tasks: TaskSet) -> tuple[str, ...]:
        return tuple(task for task in tasks if self.watches(tasks[task]))

    def settings(self) -> dict[str, Any]:
        if self.criterion == "patience":
            return super().settings()
        names = ("criterion", "strip", "threshold", "importance", "tasks")
        return {name: getattr(self, name) for name in names}

    def epoch_end(self, state: TrainingState) -> None:
        record = state.history.epochs[-1]
        for task in self.watched(state):
            counter = self.counter(task)
            counter.see(record.validation_loss[task], record.epoch, self.min_delta)
            if self._has_peaked(state.history, task):
                stop_task(state, task, counter.epoch, "task-wise early stopping")

    def _has_peaked(self, history: History, task: str) -> bool:
        if self.criterion == "patience":
            return self.counter(task).waited >= self.patience
        return has_peaked(
            history.curve("train_loss", task),
            history.epochs[-1].validation_loss[task],
            strip=self.strip,
            threshold=self.threshold,
            importance=self.importance.get(task, 1.0),
        )


def stop_task(state: TrainingState, task: str, converged: int, why: str) -> None:
    """Takes a task out of the sum of losses after this epoch, and says so in the history."""
    epoch = state.epoch
    state.freezing.stop(task)
    state.history.task_ends[task] = TaskEnd(converged, epoch)
    state.history.notes.append(
        f"{why}: task {task} converged in epoch {converged} and stopped after epoch {epoch}"
    )
    stop_without_tasks(state)


def stop_without_tasks(state: TrainingState) -> None:
    """Ends training once every task has stopped that has a weight; one of weight 0 never learns.

    Adversarial tasks are there for the others: alone they do not go on.
    """
    tasks = state.model.tasks
    weights = (
        tasks[task].weight * state.balancer.weight(task)
        for task in state.freezing.active
        if tasks[task].role != "adversarial"
    )
    if not any(weight > 0 for weight in weights):
        state.stop("all tasks converged")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
