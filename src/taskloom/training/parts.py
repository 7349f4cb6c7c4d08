"""Gradient accumulation: a batch in parts, forward and backward one after the other, for memory's sake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.balancing import Balancer
from taskloom.errors import ConfigError
from taskloom.losses import SumCount, per_task
from taskloom.tasks import Labels, TaskSet
from taskloom.training.augment_config import AugmentConfig

if TYPE_CHECKING:
    from taskloom.training.config import TrainingConfig


def check_parts(config: TrainingConfig, balancer: Balancer, *, beside: bool) -> None:
    """Refuses what cannot be right in parts, before training.

    Args:
        config: How it is trained.
        balancer: How tasks are balanced.
        beside: Whether there are a coupling or teachers.

    Raises:
        ConfigError: Several processes; a balancer that looks at the losses of the whole batch; rows blended
            with other rows; terms that are no loss of a task's own labels.
    """
    if config.accumulate == 1:
        return
    where = f"training.accumulate: {config.accumulate}"
    if config.devices > 1:
        # The shares of a batch differ in rows, so the processes might differ in their number of parts.
        raise ConfigError(f"{where}: several processes divide the batch already; leave one of the two out.")
    try:
        balancer.check_parts()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    augment = config.augment or AugmentConfig()
    if augment.mixup is not None or augment.mixaugment is not None:
        raise ConfigError(
            f"{where}: mixup and MixAugment blend rows of the whole batch; leave one of them out."
        )
    if beside:
        raise ConfigError(
            f"{where}: coupling and teachers add losses of the whole batch; leave them or the parts out."
        )


def parts_of(inputs: Tensor, labels: Labels, num_parts: int) -> Iterator[tuple[Tensor, Labels]]:
    """Parts of a batch [N, ...], as equal as can be; never one of a single row unless the batch is one.

    Example:
        >>> labels = Labels({"age": torch.zeros(7)}, {"age": torch.ones(7, dtype=torch.bool)})
        >>> [len(part) for part, _ in parts_of(torch.zeros(7, 2), labels, 3)]
        [3, 2, 2]
    """
    num_rows = len(inputs)
    # Batch normalisation cannot run on a single row.
    rows = torch.tensor_split(torch.arange(num_rows), max(1, min(num_parts, num_rows // 2)))
    for part in rows:
        span = slice(int(part[0]), int(part[-1]) + 1)
        yield inputs[span], labels[span]


def whole_counts(predictions: Mapping[str, Tensor], labels: Labels, tasks: TaskSet) -> dict[str, Tensor]:
    """Label counts of a batch, by which the losses of its parts are divided.

    Counts depend on the labels alone, so that outputs of zeros give them.

    Args:
        predictions: Of any part, for their shapes.
        labels: Of the whole batch.
        tasks: The tasks.
    """
    num_rows = next(len(present) for present in labels.present.values())
    zeros = {
        name: output.new_zeros(()).expand(num_rows, *output.shape[1:]) for name, output in predictions.items()
    }
    with torch.no_grad():
        return {name: loss.count for name, loss in per_task(zeros, labels, tasks).items()}


def added(losses: Mapping[str, SumCount], more: Mapping[str, SumCount]) -> dict[str, SumCount]:
    """Sums of two parts, detached; the counts are the whole batch's in both."""
    if not losses:
        return {name: SumCount(loss.sum.detach(), loss.count) for name, loss in more.items()}
    return {name: SumCount(losses[name].sum + loss.sum.detach(), loss.count) for name, loss in more.items()}
