"""What a trained network does on a data set: outputs, losses, metrics, and intervals clustered by group."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from taskloom.data.batch import Batch, TaskDataset, make_loader
from taskloom.errors import DataError
from taskloom.losses import SumCount, per_task
from taskloom.metrics import METRICS, Summaries, label_counts, summarize_all, values
from taskloom.metrics.texts import bounds, with_unit
from taskloom.tasks import Labels, TaskSet
from taskloom.training.datasets import check_is_dataset
from taskloom.training.devices import choose_device
from taskloom.training.history import Values, or_none

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from taskloom.sharing.network import MultiTaskNetwork

Forward = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """Outputs and metrics of a network on a data set.

    Args:
        tasks: The network's tasks.
        outputs: Head outputs per task, [N, width] (or [N, width, W]), on the CPU; `Task.decode` reads them.
        losses: Mean loss per task over the labels present; None where there is none.
        summaries: Per task and metric, its summary by group of the data set; see `taskloom.metrics`.
        num_groups: Number of groups, G.
    """

    tasks: TaskSet
    outputs: dict[str, Tensor]
    losses: dict[str, float | None]
    summaries: Summaries
    num_groups: int

    def value(self, task: str, metric: str | None = None) -> float:
        """Value of a metric (the primary one unless named), in the task's unit; NaN where undefined."""
        metric = metric or self.tasks[task].primary_metric
        return METRICS[metric].evaluate(self._summary(task, metric))

    def count(self, task: str, metric: str | None = None) -> int:
        """Number of labels that the metric rests on."""
        metric = metric or self.tasks[task].primary_metric
        return int(METRICS[metric].label_counts(self._summary(task, metric)).sum())

    def interval(
        self,
        task: str,
        metric: str | None = None,
        *,
        level: float = 0.95,
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> tuple[float, float]:
        """Percentile interval of a metric by the cluster bootstrap: whole groups are drawn with replacement.

        Groups without a label of the task are left out of the draw. Resamples in which the metric is
        undefined (an AUC without one of its classes) are left out of the interval.

        Args:
            task: The task.
            metric: The metric; the task's primary one unless named.
            level: Probability that the interval is to hold.
            num_resamples: Number of bootstrap resamples.
            seed: Seed of the draw.

        Returns:
            Lower and upper end, in the task's unit; both NaN with fewer than two labelled groups.
        """
        metric = metric or self.tasks[task].primary_metric
        summary = self._summary(task, metric)
        weights = resample_groups(METRICS[metric].label_counts(summary), num_resamples, seed)
        if weights is None:
            return math.nan, math.nan
        resampled = METRICS[metric].evaluate(summary, weights)
        resampled = resampled[~np.isnan(resampled)]
        if not len(resampled):
            return math.nan, math.nan
        low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def table(self, *, level: float = 0.95) -> Table:
        """One line per task and metric: value, interval, number of labels; "–" where there is no label."""
        table = Table("task", "metric", "value", f"{100 * level:g} % interval", "labels")
        for column in table.columns[2:]:
            column.justify = "right"
        for task, by_metric in self.summaries.items():
            for metric in by_metric:
                low, high = self.interval(task, metric, level=level)
                value = self.value(task, metric)
                text = with_unit(value, metric, METRICS[metric].unit(self.tasks[task]))
                interval = bounds(low, high, metric, value)
                line = (task, metric, text, interval, f"{self.count(task, metric):,}")
                table.add_row(*map(Text, line))  # names and units in brackets are not markup
        return table

    def __str__(self) -> str:
        console = Console(width=110, file=None, color_system=None)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()

    def values(self) -> dict[str, dict[str, float]]:
        """Every metric of every task; NaN where undefined."""
        return values(self.summaries)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of labels that each metric rests on."""
        return label_counts(self.summaries)

    def _summary(self, task: str, metric: str) -> dict[str, NDArray[Any]]:
        by_metric = self.summaries[self.tasks[task].name]
        if metric not in by_metric:
            raise KeyError(f"`{metric}` is not a metric of task {task}; it has {', '.join(by_metric)}")
        return by_metric[metric]


def evaluate(
    model: MultiTaskNetwork, dataset: TaskDataset, *, batch: int = 1024, device: str | None = None
) -> Evaluation:
    """Runs a network over a data set, in evaluation mode and without gradients.

    Args:
        model: The network; its modes and its device are put back afterwards.
        dataset: Rows with labels, in row order; a task without labels gets outputs and undefined metrics.
        batch: Rows per step.
        device: "cpu", "cuda" or "auto"; None leaves the network where it is.

    Raises:
        DataError: NaN or infinity in the inputs (names the row), or no rows at all.
        ConfigError: A device that is not there.
    """
    check_is_dataset(dataset)
    if len(dataset) == 0:
        raise DataError("evaluate: the data set has no rows.")
    before = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    target = before if device is None else torch.device(choose_device(device)[0])
    try:
        model.to(target)
        loader = make_loader(dataset, batch)
        predictions = predict(model, loader, num_rows=len(dataset), tasks=model.tasks, device=target)
    finally:
        model.to(before)
    groups = dataset.groups
    num_groups = int(groups.max()) + 1
    return Evaluation(
        tasks=model.tasks,
        outputs=predictions.outputs,
        losses=predictions.mean_losses(),
        summaries=summarize_all(model.tasks, predictions.outputs, dataset.labels, groups, num_groups),
        num_groups=num_groups,
    )


@dataclass
class Predictions:
    """Outputs and loss sums of a pass over a data set.

    Args:
        outputs: Head outputs per task, [N, width] (or [N, width, W]), on the CPU. Rows this process did not
            see are zero.
        index: Rows this process saw.
        sums, counts: Loss sums and label counts per task, [T], on the CPU.
        tasks: The tasks.
    """

    outputs: dict[str, Tensor]
    index: Tensor
    sums: Tensor
    counts: Tensor
    tasks: TaskSet

    def mean_losses(self) -> dict[str, float | None]:
        """Mean loss per task; None where no label is present, NaN where the network gives NaN."""
        return {
            task: float(total / count) if count > 0 else None
            for task, total, count in zip(self.tasks, self.sums, self.counts, strict=True)
        }


def predict(
    model: torch.nn.Module,
    loader: DataLoader[Batch],
    *,
    num_rows: int,
    tasks: TaskSet,
    device: torch.device,
    precision: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Predictions:
    """Runs a network over a loader's rows in evaluation mode; losses are summed batch by batch.

    Args:
        model: The network, or what runs it; its modes are put back afterwards.
        loader: Batches; each row's place in the outputs is `Batch.index`.
        num_rows: Number of rows of the data set.
        tasks: The tasks, for the losses.
        device: Where the network is.
        precision: Gives the context of the forward pass, for mixed precision.
    """
    outputs: dict[str, Tensor] = {}
    indices: list[Tensor] = []
    sums = torch.zeros(len(tasks), dtype=torch.float64)
    counts = torch.zeros(len(tasks), dtype=torch.int64)
    with in_evaluation_mode(model):
        # Batches are read outside the inference mode: what a data set keeps must stay fit for training.
        for batch in loader:
            check_inputs(batch)
            with torch.inference_mode():
                moved = batch.to(device, non_blocking=True)
                with precision():
                    predictions = model(moved.inputs)
                batch_sums, batch_counts = stack_losses(per_task(predictions, moved.labels, tasks))
                predictions = {task: output.float().cpu() for task, output in predictions.items()}
            sums += batch_sums.cpu()
            counts += batch_counts.cpu()
            indices.append(batch.index)
            for task, output in predictions.items():
                if task not in outputs:
                    outputs[task] = torch.zeros(num_rows, *output.shape[1:])
                outputs[task][batch.index] = output
    index = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.int64)
    return Predictions(outputs, index, sums, counts, tasks)


def epoch_metrics(predictions: Predictions, labels: Labels) -> dict[str, Values]:
    """Every metric of every task, over all rows as one group: intervals are for evaluations, not for epochs.

    Args:
        predictions: Outputs of all rows.
        labels: Labels of all rows.

    Returns:
        Per task and metric, the value in the task's unit; None where it is undefined.
    """
    groups = np.zeros(len(next(iter(predictions.outputs.values()))), dtype=np.int64)
    metrics = values(summarize_all(predictions.tasks, predictions.outputs, labels, groups, 1))
    return {
        task: {metric: or_none(value) for metric, value in by_metric.items()}
        for task, by_metric in metrics.items()
    }


def stack_losses(losses: Mapping[str, SumCount]) -> tuple[Tensor, Tensor]:
    """Detached loss sums [T], float64, and label counts [T], on the device of the losses."""
    with torch.no_grad():
        sums = torch.stack([loss.sum for loss in losses.values()])
    return sums.double(), torch.stack([loss.count for loss in losses.values()])


def check_inputs(batch: Batch) -> None:
    """Raises DataError if an input is NaN or infinite; names the row."""
    inputs = batch.inputs
    # One sum is quicker than a test of every element, and no NaN or infinity gets past it.
    if not inputs.is_floating_point() or math.isfinite(float(inputs.sum())):
        return
    wrong = ~torch.isfinite(inputs).flatten(1).all(dim=1)
    if wrong.any():
        rows = batch.index[wrong.cpu()].tolist()
        raise DataError(
            f"inputs: finite numbers expected, found NaN or infinity in row {rows[0]}"
            f"{f' and {len(rows) - 1} more of its batch' if len(rows) > 1 else ''} (rows count from 0); "
            "fill or drop it where the data set is built."
        )


@contextlib.contextmanager
def in_evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each submodule's own mode afterwards (a frozen part stays as it was)."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def resample_groups(
    label_counts: NDArray[np.int64], num_resamples: int, seed: int
) -> NDArray[np.float64] | None:
    """Multiplicities of groups drawn with replacement among those that have a label.

    Args:
        label_counts: Labels per group, [G].
        num_resamples: Number of resamples, B.
        seed: Seed of the draw.

    Returns:
        Multiplicities [B, G]; each line sums to the number of labelled groups. None if that is below two.

    Example:
        >>> resample_groups(np.array([3, 0, 2]), 4, seed=0).sum(axis=1)
        array([2., 2., 2., 2.])
    """
    labelled = np.flatnonzero(label_counts)
    if len(labelled) < 2:
        return None
    weights = np.zeros((num_resamples, len(label_counts)))
    draw = np.random.default_rng(seed)
    shares = np.full(len(labelled), 1 / len(labelled))
    weights[:, labelled] = draw.multinomial(len(labelled), shares, size=num_resamples)
    return weights
