"""What an epoch is judged by: losses and metrics on validation, and the value that decides the best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.data import DataLoader

from taskloom.data.batch import Batch, TaskDataset
from taskloom.errors import DataError, TrainingError
from taskloom.training.evaluation import Predictions, epoch_metrics, predict
from taskloom.training.history import Values, or_none
from taskloom.training.processes import gather_rows, share_buffers

if TYPE_CHECKING:
    from taskloom.training.trainer import Trainer


def validate(trainer: Trainer) -> tuple[Values, dict[str, Values]]:
    """Losses and metrics on validation, the same on every rank.

    Raises:
        TrainingError: A loss is NaN or infinite; names task and epoch.
    """
    share_buffers(trainer.fabric, trainer.model)
    rows = trainer.run.validation
    predictions = predicted(trainer, trainer.part or trainer.model, trainer.validation_loader, rows)
    losses = predictions.mean_losses()
    for task, loss in losses.items():
        if loss is not None and or_none(loss) is None:
            raise TrainingError(
                f"{trainer.run.name}: the validation loss of task {task} became {loss} in epoch "
                f"{trainer.state.epoch}; a smaller learning rate or `training.clip` may help."
            )
    return losses, epoch_metrics(predictions, rows.labels)


def look_at_test(trainer: Trainer) -> dict[str, Values]:
    """Metrics on the test rows for curves alone, {} unless asked for; nothing is decided by them."""
    rows = trainer.run.test
    if rows is None or trainer.test_loader is None:
        return {}
    return epoch_metrics(predicted(trainer, trainer.model, trainer.test_loader, rows), rows.labels)


def predicted(
    trainer: Trainer, network: nn.Module, loader: DataLoader[Batch], rows: TaskDataset
) -> Predictions:
    """The outputs of a network on all rows, the same in every process.

    Args:
        trainer: Whose run it is.
        network: What predicts: the whole network, or what is left of it behind a frozen front.
        loader: This process's share of the rows, or of what stands for them.
        rows: All of them.
    """
    found = predict(
        network,
        loader,
        num_rows=len(rows),
        tasks=trainer.tasks,
        device=trainer.fabric.device,
        precision=trainer.fabric.autocast,
    )
    return gather_rows(trainer.fabric, found)


def monitor(trainer: Trainer, losses: Values, metrics: Mapping[str, Values]) -> float:
    """The value that decides the best epoch; see `TrainingConfig.monitor`.

    Raises:
        DataError: No main task has one on validation.
    """
    tasks, chosen = trainer.tasks, trainer.config.monitor
    judged = [name for name, task in tasks.items() if task.judged] or list(tasks)
    found: list[float] = []
    for name in judged:
        task = tasks[name]
        if chosen == "loss":
            value, factor = losses[name], trainer.balancer.weight(name)
        else:
            value, factor = metrics[name][task.primary_metric], 1.0 if task.higher_is_better else -1.0
        if value is not None:
            found.append(factor * value)
    if not found:
        raise DataError(
            f"{trainer.run.name}: no main task has a defined {chosen} on validation, so no best epoch can be "
            "chosen; validation needs labels of a main task (an AUC: of both classes)."
        )
    return sum(found) if chosen == "loss" else sum(found) / len(found)
