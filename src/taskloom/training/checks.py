"""What is checked before a training starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from taskloom.errors import ConfigError, DataError
from taskloom.sharing.changing import SelfChanging, TakesTurns
from taskloom.tasks import Binary, Labels, Landmarks, Regression, Task, TaskSet

if TYPE_CHECKING:
    from taskloom.balancing import Balancer
    from taskloom.coupling import Coupling
    from taskloom.sharing.network import MultiTaskNetwork
    from taskloom.training.callbacks import Callback
    from taskloom.training.config import TrainingConfig
    from taskloom.training.run import Run


def check_callbacks(run: Run) -> None:
    """Refuses callbacks that do not fit the network or each other, and notes what one of them overrules.

    Raises:
        ConfigError: A task that is not there, two callbacks that both stop tasks, or a callback that may stop
            more tasks than the balancer can do without.
    """
    for callback in run.callbacks:
        callback.check_tasks(run.model.tasks)
    stopping = [callback.called for callback in run.callbacks if callback.stops_tasks]
    if len(stopping) > 1:
        raise ConfigError(
            f"callbacks: {' and '.join(stopping)} both decide when a task stops; leave one out."
        )
    check_changes(run.model, run.config)
    check_stopping(run.balancer, run.callbacks, run.model.tasks)
    if run.config.stop is not None and any(callback.ends_training for callback in run.callbacks):
        run.notes.append("training.stop does not act: a callback decides for every task by itself")


def check_changes(model: MultiTaskNetwork, config: TrainingConfig) -> None:
    """Refuses a network that would change itself after the last epoch, or take turns in several processes.

    Raises:
        ConfigError: Names the setting.
    """
    if isinstance(model, SelfChanging):
        model.check_epochs(config.epochs)
    if config.devices > 1 and isinstance(model, TakesTurns) and len(model.turns()) > 1:
        raise ConfigError(
            f"training.devices: parameters that learn by turns (adashare.alternate) need one process, found "
            f"{config.devices}."
        )


def check_stopping(balancer: Balancer, callbacks: Iterable[Callback], tasks: TaskSet) -> None:
    """Refuses a balancer that needs more tasks in every batch than a callback may leave learning.

    Training ends with the last task that has a weight and is not adversarial, so one of them is always left.

    Args:
        balancer: How many losses become one update.
        callbacks: What acts during training.
        tasks: The network's tasks.

    Raises:
        ConfigError: Names both, and what to do.
    """
    least = balancer.least_tasks(len(tasks))
    for callback in callbacks:
        stopped = callback.may_stop(tasks)
        going_on = [task for name, task in tasks.items() if name not in stopped]
        awaited = any(task.role != "adversarial" and task.weight > 0 for task in going_on)
        left = len(going_on) + (0 if awaited or not stopped else 1)
        if left < least and left < len(tasks):
            raise ConfigError(
                f"balancing.{balancer.called} needs {least} of the {len(tasks)} tasks in every batch, but "
                f"callbacks.{callback.called} may stop all but {left} of them; name fewer in its `tasks`, or "
                "choose another balancing."
            )


def check_coupling(run: Run) -> None:
    """Refuses a coupling that does not fit the network's tasks; after `check_labels`, which may name classes.

    Raises:
        ConfigError: Tasks that are not there or cannot be coupled, or labels that are not those of the table.
    """
    if run.coupling is not None:
        run.coupling.check_tasks(run.model.tasks)
        check_terms(run.coupling, run.balancer, run.model.tasks, run.config.epochs)


def check_terms(coupling: Coupling, balancer: Balancer, tasks: Iterable[str], epochs: int) -> None:
    """Refuses terms balanced as tasks by a method that needs every one, but absent in some epochs.

    Args:
        coupling: The coupling.
        balancer: How many losses become one update.
        tasks: Names of the network's tasks.
        epochs: Epochs of the training, at most.

    Raises:
        ConfigError: Names the method and what to do.
    """
    if not coupling.as_tasks:
        return
    num_tasks = len(list(tasks))
    least = balancer.least_tasks(num_tasks + len(coupling.names))
    acting = min(len(coupling.teaching(epoch)) for epoch in range(epochs))
    if acting < len(coupling.names) and least > num_tasks + acting:
        raise ConfigError(
            f"coupling.as_tasks: balancing.{balancer.called} needs {least} tasks in every batch, but some "
            "terms act in some epochs only; give them a weight without a schedule, or leave as_tasks out."
        )


def check_labels(run: Run) -> None:
    """Refuses labels that cannot train or judge the network, and takes over what the data know of a task.

    A network built from tasks as they were declared knows neither the scale that was fitted on the training
    labels nor classes that were found in them. It gets both here and keeps them, so that it is trained,
    evaluated and bundled as one built from the data's own tasks; other differences are noted.

    Raises:
        DataError: A task without any label in train, or no label of any task in validation.
        ConfigError: A task that is of another kind or width in the data.
    """
    names = run.model.tasks.names
    for name, count in _counts(run.train.labels, names).items():
        if count == 0:
            raise DataError(
                f"task {name} has no label in any of the {len(run.train):,} training rows; leave it "
                "out of the tasks, or choose another split."
            )
    if not any(_counts(run.validation.labels, names).values()):
        raise DataError(
            f"none of the {len(run.validation):,} validation rows has a label of {', '.join(names)}, so no "
            "best epoch can be chosen; choose another split."
        )
    for name, task in run.model.tasks.items():
        if name not in run.train.tasks or run.train.tasks[name] == task:
            continue
        given = run.train.tasks[name]
        if (given.kind, given.width) != (task.kind, task.width):
            raise ConfigError(
                f"task {name}: the network has a {task.kind} head of width {task.width}, the training data "
                f"have a {given.kind} task of width {given.width}; build the network with the data's tasks."
            )
        taken = _settings_to_take(task, given)
        if taken:
            task = dataclasses.replace(task, **taken)
            run.model.tasks = run.model.tasks.replaced(task)
            listed = ", ".join(f"{key} {value}" for key, value in taken.items())
            run.notes.append(f"task {name}: {listed} taken from the training data's task")
        if task != given:
            run.notes.append(
                f"task {name}: the network's settings differ from the training data's; its own are used"
            )


def _settings_to_take(task: Task, given: Task) -> dict[str, Any]:
    """Fitted scale and found classes of the data's task, where the network's is the same but for these."""
    if isinstance(given, Regression | Landmarks) and (given.center, given.scale) != (0.0, 1.0):
        taken: dict[str, Any] = {"center": given.center, "scale": given.scale}
    elif isinstance(given, Binary) and isinstance(task, Binary) and not task.classes:
        taken = {"classes": given.classes}
    else:
        return {}
    return taken if dataclasses.replace(task, **taken) == given else {}


def _counts(labels: Labels, names: tuple[str, ...]) -> dict[str, int]:
    counts = labels.counts()
    return {name: counts.get(name, 0) for name in names}
