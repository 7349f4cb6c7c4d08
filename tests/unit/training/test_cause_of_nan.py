"""Where losses are looked at some steps later, as on a GPU, the batch that spoilt them is still found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from taskloom.data.batch import Batch
from taskloom.errors import DataError, TrainingError
from taskloom.losses import SumCount
from taskloom.training.watch import LossWatch

TASKS = tl.TaskSet(tl.Regression("age"))


def batch_of(first: int, value: float) -> Batch:
    inputs = torch.full((2, 3), value)
    return Batch(inputs, tl.Labels({}, {}), torch.arange(first, first + 2))


def watched(batches: list[Batch], losses: list[Tensor]) -> None:
    """Steps with these losses, looked at after the last."""
    fabric: Any = SimpleNamespace(device=torch.device("cpu"), world_size=1)
    watch = LossWatch(fabric, TASKS, "run", 1, batches)
    watch._steps_per_look = len(batches)
    for step, (batch, loss) in enumerate(zip(batches, losses, strict=True), start=1):
        watch.add({"age": SumCount(loss, torch.tensor(2))}, None, batch, step)


@pytest.mark.parametrize("spoilt", [0, 1, 2])
def test_the_row_is_named_though_the_last_batch_is_sound(spoilt: int) -> None:
    batches = [batch_of(2 * step, torch.nan if step == spoilt else 1.0) for step in range(3)]
    with pytest.raises(DataError, match=f"in row {2 * spoilt} and 1 more of its batch"):
        watched(batches, [batch.inputs.sum() for batch in batches])


def test_without_a_cause_among_the_inputs_the_step_is_named() -> None:
    batches = [batch_of(2 * step, 1.0) for step in range(3)]
    with pytest.raises(TrainingError, match="loss of task age became inf in epoch 1, step 2"):
        watched(batches, list(torch.tensor([1.0, torch.inf, 1.0])))
