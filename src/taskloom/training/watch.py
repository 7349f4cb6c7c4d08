"""Adds up the losses of an epoch and notices when one stops being a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.data.batch import Batch
from taskloom.errors import TrainingError
from taskloom.losses import SumCount
from taskloom.tasks import TaskSet
from taskloom.training.evaluation import check_inputs, stack_losses
from taskloom.training.history import Values
from taskloom.training.processes import reduced

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Steps between two looks at the losses on a GPU, where every look waits for the device.
_STEPS_PER_LOOK = 50


class LossWatch:
    """Sums and counts per task over one epoch, in double precision; one division at its end.

    Args:
        fabric: Where the losses are.
        tasks: The tasks, in the order of the losses.
        name: What messages call the run.
        epoch: Number of the epoch.
        batches: All batches, to look for the cause on a GPU, where it lies some steps back.
        terms: Names of further losses, which stand after those of the tasks.
    """

    def __init__(
        self,
        fabric: Fabric,
        tasks: TaskSet,
        name: str,
        epoch: int,
        batches: Iterable[Batch],
        terms: Sequence[str] = (),
    ) -> None:
        self.fabric, self.tasks, self.name, self.epoch = fabric, tasks, name, epoch
        self.batches = batches
        self.names = (*tasks, *terms)
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=fabric.device)
        self.counts = torch.zeros(len(self.names), dtype=torch.int64, device=fabric.device)
        self._unseen: list[tuple[int, Tensor, Tensor | None]] = []
        self._steps_per_look = 1 if fabric.device.type == "cpu" else _STEPS_PER_LOOK

    def add(self, losses: Mapping[str, SumCount], total: Tensor | None, batch: Batch, step: int) -> None:
        """Takes the losses of a step.

        Args:
            losses: Losses per task and term.
            total: What the gradient was taken of, where the balancer says so.
            batch: The batch, to look for the cause.
            step: Number of the step in its epoch.

        Raises:
            TrainingError: A loss, or the total, is NaN or infinite; on a GPU up to 50 steps later.
            DataError: The cause are inputs that are NaN.
        """
        sums, counts = stack_losses(losses)
        self.sums += sums
        self.counts += counts
        self._unseen.append((step, sums, total))
        if len(self._unseen) >= self._steps_per_look:
            self.look(batch)

    def look(self, batch: Batch | None = None) -> None:
        """Looks at the losses since the last look; raises as `add` does."""
        totals = [total for _, _, total in self._unseen if total is not None]
        summed = float(self.sums.sum()) + (float(sum(totals)) if totals else 0.0)
        if not math.isfinite(summed):
            for suspect in self.batches if self._steps_per_look > 1 or batch is None else [batch]:
                check_inputs(suspect)
            for step, sums, total in self._unseen:
                self._check(step, sums, total)
        self._unseen.clear()

    def means(self) -> Values:
        """Mean loss per task and term over the epoch and all processes; None where nothing was present."""
        self.look()
        # Counts are joined already; sums were scaled by the number of processes.
        sums = self.sums if self.fabric.world_size == 1 else reduced(self.fabric, self.sums, "mean")
        pairs = zip(self.names, sums.tolist(), self.counts.tolist(), strict=True)
        return {task: total / count if count else None for task, total, count in pairs}

    def _check(self, step: int, sums: Tensor, total: Tensor | None) -> None:
        what, found = "", 0.0
        for name, value in zip(self.names, sums.tolist(), strict=True):
            if not what and not math.isfinite(value):
                what = f"loss of task {name}" if name in self.tasks else f"term {name}"
                found = value
        if not what and total is not None and not math.isfinite(float(total)):
            what, found = "sum of losses and penalty", float(total)
        if what:
            raise TrainingError(
                f"{self.name}: the {what} became {found} in epoch {self.epoch}, step {step}; "
                "a smaller learning rate or `training.clip` may help."
            )
