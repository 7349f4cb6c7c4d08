"""What a balancer refuses: settings that do not fit, losses that it was not told of or cannot learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from taskloom.errors import ConfigError, TrainingError, did_you_mean

if TYPE_CHECKING:  # only methods of both are called: importing them would be for the type checker alone
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork


def check_number(
    where: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float = torch.inf,
) -> float:
    """Returns a setting as a float.

    Args:
        where: What the message calls the setting.
        value: What was given.
        above: The value must be larger than this.
        least: The value must be this or larger.
        most: The value must be this or smaller.

    Raises:
        ConfigError: It is no finite number or out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < torch.inf
    fits = number and (above is None or value > above) and (least is None or value >= least)  # type: ignore[operator]
    if not fits or value > most:  # type: ignore[operator]
        wanted = "a number"
        if above is not None:
            wanted += f" above {above:g}"
        if least is not None:
            wanted += f" of {least:g} or more"
        if most < torch.inf:
            wanted += f", at most {most:g}"
        raise ConfigError(f"{where}: {wanted} expected, found {value!r}.")
    return float(value)  # type: ignore[arg-type]


def check_count(where: str, value: object, *, least: int = 1) -> int:
    """Returns a setting as an int of at least `least`; raises ConfigError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{where}: a whole number of {least} or more expected, found {value!r}.")
    return value


def check_per_task(where: str, value: object) -> dict[str, Any]:
    """Returns a setting that is a number per task; raises ConfigError where it is no mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: a number per task expected, as {{age: 1}}, found {value!r}.")
    return dict(value)


def check_names(where: str, names: Iterable[str], tasks: Collection[str]) -> None:
    """Raises ConfigError if a setting names a task that is not there."""
    for task in names:
        if task not in tasks:
            raise ConfigError(
                f"{where}.{task}: there is no such task.{did_you_mean(task, tasks)} "
                f"Tasks: {', '.join(tasks)}."
            )


def check_known(losses: Iterable[str], names: Collection[str]) -> None:
    """Refuses a loss of which the balancer was not told.

    Raises:
        ConfigError: It is neither a task's nor a term's.
    """
    for name in losses:
        if name not in names:
            raise ConfigError(
                f"balancing: the loss {name} belongs to none of {', '.join(names)}; name further losses by "
                "balancer.with_terms(coupling.names) before balancer.start(model), or pass their sum as "
                "`beside`."
            )


def check_gradients(losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> None:
    """Refuses a loss from which nothing can be learned.

    A task whose own parameters are all frozen may have a loss without gradient: it is judged, not trained.

    Raises:
        TrainingError: A loss has no gradient although its task has parameters to train.
    """
    for task, loss in losses.items():
        if loss.sum.requires_grad or task not in model.tasks:
            continue
        if not any(p.requires_grad for p in model.task_parameters(task)):
            continue
        raise TrainingError(
            f"balancing: the loss of task {task} has no gradient; it must be computed from the network's "
            "outputs without detach(), item() or torch.no_grad()."
        )
