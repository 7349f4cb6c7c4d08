"""Which tasks help each other's training: cosines of gradients, and inter-task affinity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from taskloom.data.batch import Batch
from taskloom.errors import ConfigError, DataError
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.training.evaluation import in_evaluation_mode

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskAffinity:
    """Means over batches; NaN where no batch has labels of both tasks. A row receives, a column gives.

    Args:
        tasks: Names, in the order of both axes.
        cosine: Cosine of the two tasks' gradients in the shared parameters, [T, T], symmetric, -1..1.
        conflicts: Share of batches in which it is negative, [T, T].
        affinity: Inter-task affinity, [T, T]: the share by which a step on the column's loss alone, in the
            shared parameters, lowers the row's loss; negative where it raises it.
        batches: How many batches were looked at.
    """

    tasks: tuple[str, ...]
    cosine: Floats
    conflicts: Floats
    affinity: Floats
    batches: int


def task_affinity(
    model: MultiTaskNetwork, loader: Iterable[Batch], *, lr: float = 0.01, max_batches: int | None = None
) -> TaskAffinity:
    """Measures how the tasks' training steps act on each other, at the weights that the network has now.

    Of batch t, g_i is the gradient of task i's mean loss in the shared parameters s. Inter-task affinity
    (Fifty et al. 2021, equation 1) is 1 - L_j(s - lr g_i) / L_j(s), on the same batch and with the heads as
    they are; it is averaged over batches (their section 4). The step is one of plain gradient descent.

    The network runs in evaluation mode and is not changed. Penalties are left out.

    Args:
        model: A network that shares parameters.
        loader: Batches, as `taskloom.data.batch.make_loader` gives them.
        lr: Length of the step in units of the gradient, above 0.
        max_batches: How many batches are looked at; all where None.

    Raises:
        ConfigError: Nothing is shared, fewer than two tasks, or `lr` is not above 0.
        DataError: No batch at all.

    Example:
        >>> from taskloom.data.batch import Batch
        >>> tasks = tl.TaskSet(tl.Regression("a"), tl.Regression("b"))
        >>> values, there = torch.ones(4), torch.ones(4, dtype=torch.bool)
        >>> labels = tl.Labels({"a": values, "b": -values}, {"a": there, "b": there})
        >>> encoder = tl.encoders.mlp((3,), hidden=[5])
        >>> model = tl.sharing.build("hard_sharing", encoder, tasks, stages=1)
        >>> found = task_affinity(model, [Batch(torch.rand(4, 3), labels, torch.arange(4))])
        >>> found.cosine.shape, found.batches
        ((2, 2), 1)
    """
    shared = _shared(model)
    if not lr > 0:
        raise ConfigError(f"task_affinity: lr above 0 expected, found {lr!r}.")
    names = model.tasks.names
    sums = np.zeros((3, len(names), len(names)))
    counts = np.zeros((2, len(names), len(names)))
    looked_at = 0
    with in_evaluation_mode(model), torch.inference_mode(False):
        for batch in loader:
            if max_batches is not None and looked_at == max_batches:
                break
            looked_at += 1
            _add_batch(model, batch, shared, lr, sums, counts)
    if looked_at == 0:
        raise DataError("task_affinity: the loader gave no batch.")
    with np.errstate(invalid="ignore"):
        cosine, conflicts = sums[0] / counts[0], sums[1] / counts[0]
        affinity = sums[2] / counts[1]
    return TaskAffinity(names, cosine, conflicts, affinity, looked_at)


def _shared(model: MultiTaskNetwork) -> dict[str, Tensor]:
    """The shared parameters by name."""
    wanted = {id(parameter) for parameter in model.shared_parameters()}
    found: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if id(parameter) in wanted
    }
    if len(model.tasks) < 2 or not found:
        raise ConfigError(
            "task_affinity: a network in which at least two tasks share parameters expected, found "
            f"{len(model.tasks)} task{'s' if len(model.tasks) != 1 else ''} and {len(found)} shared "
            "parameters."
        )
    return found


def _add_batch(
    model: MultiTaskNetwork, batch: Batch, shared: dict[str, Tensor], lr: float, sums: Floats, counts: Floats
) -> None:
    losses = per_task(model(batch.inputs), batch.labels, model.tasks)
    there = [number for number, name in enumerate(model.tasks) if int(losses[name].count) > 0]
    gradients: dict[int, list[Tensor]] = {
        number: list(
            torch.autograd.grad(
                losses[model.tasks.names[number]].mean,
                list(shared.values()),
                retain_graph=True,
                materialize_grads=True,
            )
        )
        for number in there
    }
    before = {number: float(losses[model.tasks.names[number]].mean.detach()) for number in there}
    for giver in there:
        after = _after_step(model, batch, shared, gradients[giver], lr)
        for receiver in there:
            cosine = _cosine(gradients[receiver], gradients[giver])
            if cosine is not None:
                sums[0, receiver, giver] += cosine
                sums[1, receiver, giver] += cosine < 0
                counts[0, receiver, giver] += 1
            if before[receiver] != 0:
                sums[2, receiver, giver] += 1 - after[receiver] / before[receiver]
                counts[1, receiver, giver] += 1


def _after_step(
    model: MultiTaskNetwork, batch: Batch, shared: dict[str, Tensor], gradient: list[Tensor], lr: float
) -> dict[int, float]:
    """Every task's loss after a step of the shared parameters."""
    with torch.no_grad():
        moved = {name: old - lr * g for (name, old), g in zip(shared.items(), gradient, strict=True)}
        losses = per_task(functional_call(model, moved, (batch.inputs,)), batch.labels, model.tasks)
    return {number: float(losses[name].mean) for number, name in enumerate(model.tasks)}


def _cosine(first: list[Tensor], second: list[Tensor]) -> float | None:
    """None where one of the two is 0."""
    with torch.no_grad():
        product, one, other = (
            float(sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True)))
            for left, right in ((first, second), (first, first), (second, second))
        )
    if one == 0 or other == 0:
        return None
    return float(product / np.sqrt(one * other))
