"""Losses per task on the labels that are present: sums and counts, divided once at the end.

Mask first, then any loss: outputs and targets of absent labels are replaced by zeros *before* the loss sees
them, and their losses are left out of the sum. So whatever stands where no label is (NaN, infinity, garbage)
reaches neither the value nor the gradient. The masking is `torch.where` over the whole batch rather than an
index selection, because a selection has a size that a GPU would have to report to the CPU at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.registry import Registry
from taskloom.tasks import (
    Binary,
    Labels,
    Landmarks,
    Multiclass,
    Multilabel,
    Ordinal,
    Regression,
    StageOutput,
    Task,
    TaskSet,
)

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: Registry[Loss] = Registry("loss")
"""Losses by name. Each takes outputs and targets and returns one loss per element, without any reduction;
further axes may stand before, as tasks that are alike are computed as one stack."""


@dataclass(frozen=True)
class SumCount:
    """A sum of losses and the number of labels in it, both scalars on the device of the outputs.

    Args:
        sum: Sum of the losses, floating point; 0 (with a zero gradient) where no label is present.
        count: Number of labels in the sum, int64: rows, for multilabel elements, for landmarks points,
            for labels per sample the samples; with class weights, every label as many times as its class
            weighs, in steps of which the largest weight has `WEIGHT_STEPS`.

    Example:
        >>> SumCount(torch.tensor(6.0), torch.tensor(4)).mean
        tensor(1.5000)
    """

    sum: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss per label; 0 where there is none."""
        return self.sum / self.count.clamp(min=1)


def per_task(predictions: Mapping[str, Tensor], labels: Labels, tasks: TaskSet) -> dict[str, SumCount]:
    """Computes every predicted task's loss over the labels that are present.

    Outputs of half precision are raised to float32 first, and autocast is off inside: a sum over a batch in
    float16 would lose the small losses.

    Args:
        predictions: Head outputs per task, [N, width], or [N, width, W] for labels per sample. Outputs at
            lower stages (`StageOutput`) add their weighted loss to their task's.
        labels: Labels of the same N rows. A task without labels gets sum 0 and count 0.
        tasks: The tasks; each brings its loss (`Task.default_loss`) and its standardisation.

    Returns:
        Per predicted task, in the order of `tasks`, the sum of losses and the number of labels.

    Raises:
        ValueError: A prediction for an unknown task, or outputs, values and presence of shapes that do not
            fit each other; the message names the task, what was expected and what was found.

    Example:
        >>> tasks = tl.TaskSet(tl.Regression("age"), tl.Binary("gender"))
        >>> labels = tl.Labels(
        ...     {"age": torch.tensor([3.0, 0.0]), "gender": torch.tensor([1, 0])},
        ...     {"age": torch.tensor([True, False]), "gender": torch.tensor([True, True])},
        ... )
        >>> outputs = {"age": torch.tensor([[1.0], [9.0]]), "gender": torch.zeros(2, 1)}
        >>> losses = per_task(outputs, labels, tasks)
        >>> losses["age"].mean, losses["gender"].count
        (tensor(4.), tensor(2))
    """
    deep = [name for name in predictions if isinstance(name, StageOutput)]
    unknown = [name for name in predictions if name not in tasks and not isinstance(name, StageOutput)]
    if unknown:
        raise ValueError(f"predictions name `{unknown[0]}`, which is not among the tasks {', '.join(tasks)}")
    if not predictions:
        return {}
    predicted = [task for name, task in tasks.items() if name in predictions]
    device = predictions[predicted[0].name].device
    with torch.autocast(device.type, enabled=False):
        prepared = {task.name: _prepare(task, predictions[task.name], labels) for task in predicted}
        prepared |= {name: _prepare(tasks[name.task], predictions[name], labels) for name in deep}
        losses: dict[str, SumCount] = {}
        for alike in _alike(prepared):
            loss = LOSSES[prepared[alike[0]].loss]
            losses |= zip(alike, _masked_together(loss, [prepared[name] for name in alike]), strict=True)
        for name in deep:
            own = losses[name.task]
            losses[name.task] = SumCount(own.sum + name.weight * losses[name].sum, own.count)
    return {task.name: losses[task.name] for task in predicted}


def weighted(losses: Mapping[str, SumCount], tasks: TaskSet) -> dict[str, SumCount]:
    """The losses with those of auxiliary and adversarial tasks times their `Task.weight`, for a balancer.

    Args:
        losses: What `per_task` gave; terms of another name stay as they are.
        tasks: The tasks.

    Example:
        >>> tasks = tl.TaskSet(tl.Regression("age"), tl.Binary("hat", role="auxiliary", weight=0.1))
        >>> one = SumCount(torch.tensor(2.0), torch.tensor(1))
        >>> {name: loss.mean.item() for name, loss in weighted({"age": one, "hat": one}, tasks).items()}
        {'age': 2.0, 'hat': 0.20000000298023224}
    """
    return {
        name: loss
        if name not in tasks or tasks[name].weight == 1
        else SumCount(tasks[name].weight * loss.sum, loss.count)
        for name, loss in losses.items()
    }


def masked(loss: Loss, output: Tensor, target: Tensor, present: Tensor) -> SumCount:
    """Sums a loss over what is present; what is absent never reaches it.

    Args:
        loss: Any loss without reduction. What it returns has the axes of `present`, or more: the mean is
            taken over the further ones.
        output: Outputs; the first axes are those of `present`, logits of several classes have one more.
        target: Targets; the first axes are those of `present`.
        present: Which targets are there, bool.

    Example:
        >>> garbage = torch.tensor([1.0, torch.nan])
        >>> masked(mae, torch.tensor([3.0, torch.inf]), garbage, torch.tensor([True, False]))
        SumCount(sum=tensor(2.), count=tensor(1))
    """
    return SumCount(_masked_losses(loss, output, target, present).sum(), present.sum())


@LOSSES.register("binary_cross_entropy")
def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits against 0 or 1, element by element; any shape.

    -y log p - (1 - y) log(1 - p) with p = sigmoid(output): thesis 001, equations 3.1 and 3.3, which print
    1 - log p for the last logarithm. That has no lower bound where y is 0, and their text says cross-entropy.
    Paper 003, equation 1, averages over the labels of an image first, then over images; here each label that
    is present counts once, which is the same where all images have equally many.
    """
    return F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")


@LOSSES.register("coral")
def coral(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every "above level k?" of CORAL, element by element; its mean is taken later."""
    return binary_cross_entropy(output, target)


@LOSSES.register("dex")
@LOSSES.register("cross_entropy")
def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits [..., C] against codes [...]; shaped like the codes.

    -log p of the true class, p = softmax(output): thesis 001, equation 3.4; thesis 002, equation 3.2.
    """
    return F.cross_entropy(output.movedim(-1, 1), target, reduction="none")


@LOSSES.register("mse")
def mse(output: Tensor, target: Tensor) -> Tensor:
    """Squared difference of standardised values, element by element.

    Thesis 001, equation 3.2, has half of it, in years / 40, and report 004, equations 2 and 8, its sum over a
    row's coordinates: see `Regression` and `Landmarks`.
    """
    return (output - target).square()


@LOSSES.register("mae")
def mae(output: Tensor, target: Tensor) -> Tensor:
    """Absolute difference, element by element."""
    return (output - target).abs()


@LOSSES.register("huber")
def huber(output: Tensor, target: Tensor) -> Tensor:
    """Huber loss with its knee at one standardised unit: d^2 / 2 where |d| <= 1, else |d| - 1/2."""
    return F.huber_loss(output, target, reduction="none", delta=1.0)


def check_shapes(task: Task, output: Tensor, values: Tensor, present: Tensor) -> None:
    """Refuses outputs, values and presence of one task that do not fit each other.

    Args:
        task: The task they belong to.
        output: Head outputs, [N, width], or [N, width, W] for labels per sample.
        values: Values of its labels.
        present: Which of them are there.

    Raises:
        ValueError: Names the task, the shape that was expected and the one that was found.
    """
    per_sample = isinstance(task, Binary | Multiclass) and output.ndim == 3
    samples = tuple(output.shape[2:]) if per_sample else ()
    rows = (len(values),)
    for what, tensor, expected in (
        ("outputs", output, (*rows, task.width, *samples)),
        ("values", values, (*rows, *task.value_shape, *samples)),
        ("presence", present, (*rows, *task.presence_shape, *samples)),
    ):
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"task {task.name} ({task.kind}): {what} of shape {list(expected)} expected, "
                f"found {list(tensor.shape)}"
            )
    if present.dtype != torch.bool:
        raise ValueError(
            f"task {task.name} ({task.kind}): presence of type bool expected, found {present.dtype}"
        )


def labels_of(task: Task, labels: Labels, output: Tensor) -> tuple[Tensor, Tensor]:
    """The task's values and presence; where the labels do not know the task, ones with nothing present.

    Args:
        task: The task.
        labels: Labels of N rows.
        output: Head outputs of the same rows, which decide the number of rows, of samples, and the device.
    """
    if task.name in labels.values:
        return labels.values[task.name], labels.present[task.name]
    # Zeros rather than a loose constant: the head then gets a zero gradient, as in an all-absent batch.
    samples = output.shape[2:] if isinstance(task, Binary | Multiclass) else ()
    rows = len(output)
    return (
        torch.zeros(rows, *task.value_shape, *samples, dtype=task.value_dtype, device=output.device),
        torch.zeros(rows, *task.presence_shape, *samples, dtype=torch.bool, device=output.device),
    )


@dataclass(frozen=True)
class _Prepared:
    """One task's part of a batch in the shapes the losses take."""

    loss: str
    output: Tensor
    target: Tensor
    present: Tensor
    class_weights: tuple[float, ...] = ()


def _prepare(task: Task, output: Tensor, labels: Labels) -> _Prepared:
    values, present = labels_of(task, labels, output)
    check_shapes(task, output, values, present)
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()
    output, target = _aligned(task, output, values)
    weights = task.class_weights if isinstance(task, Multiclass) else ()
    if isinstance(weights, tuple):
        return _Prepared(task.default_loss, output, target, present, weights)
    raise ValueError(
        f"task {task.name}: class_weights are not numbers yet; take the tasks of `TaskSet.fit(labels)`"
    )


def _alike(prepared: Mapping[str, _Prepared]) -> list[list[str]]:
    """Names of tasks whose losses can be computed as one: same loss, shapes and types."""
    groups: dict[object, list[str]] = {}
    for name, part in prepared.items():
        tensors = (part.output, part.target, part.present)
        key = (part.loss, len(part.class_weights), *((tensor.shape, tensor.dtype) for tensor in tensors))
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _masked_together(loss: Loss, parts: Sequence[_Prepared]) -> list[SumCount]:
    """`masked` of every part; small tasks cost calls, not arithmetic, and so are stacked into one."""
    if parts[0].class_weights:
        return _masked_and_weighted(loss, parts)
    if len(parts) == 1:
        (part,) = parts
        return [masked(loss, part.output, part.target, part.present)]
    present = torch.stack([part.present for part in parts])
    output = torch.stack([part.output for part in parts])
    target = torch.stack([part.target for part in parts])
    losses = _masked_losses(loss, output, target, present)
    sums, counts = losses.flatten(1).sum(dim=1), present.flatten(1).sum(dim=1)
    return [SumCount(total, count) for total, count in zip(sums.unbind(), counts.unbind(), strict=True)]


def _masked_and_weighted(loss: Loss, parts: Sequence[_Prepared]) -> list[SumCount]:
    """As `_masked_together`, every label as often as its class weighs; a label of weight 0 is none."""
    present = torch.stack([part.present for part in parts])
    output = torch.stack([part.output for part in parts])
    target = torch.where(present, torch.stack([part.target for part in parts]), 0)
    weights = _whole_weights(tuple(part.class_weights for part in parts), output.device)
    times = torch.where(present, weights.gather(1, target.flatten(1)).reshape(target.shape), 0)
    losses = _masked_losses(loss, output, target, present) * times
    sums, counts = losses.flatten(1).sum(dim=1), times.flatten(1).sum(dim=1)
    return [SumCount(total, count) for total, count in zip(sums.unbind(), counts.unbind(), strict=True)]


def class_counts(task: Task, device: torch.device) -> Tensor | None:
    """How often a label of each class counts, whole numbers [C]; None where every label counts once.

    What is added to a loss that `per_task` gave must count by the same measure.

    Example:
        >>> class_counts(tl.Multiclass("a", 2, class_weights=(1.0, 0.5)), torch.device("cpu")).tolist()
        [1048576, 524288]
    """
    weights = task.class_weights if isinstance(task, Multiclass) else ()
    return _whole_weights((weights,), device)[0] if weights and isinstance(weights, tuple) else None


def counts_of_labels(task: Task, values: Tensor, present: Tensor) -> Tensor:
    """How often each label counts, int64, shaped like `present`: 0 where none is, else as its class does."""
    weights = class_counts(task, present.device)
    if weights is None:
        return present.long()
    return torch.where(present, weights[torch.where(present, values, 0)], 0)


WEIGHT_STEPS = 2**20
"""Steps into which the largest class weight of a task is divided."""


@lru_cache(maxsize=64)
def _whole_weights(weights: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Class weights [T, C] as whole numbers of labels, so that counts stay counts.

    A weighted mean has the sum of weights below its line. In whole steps these sums add up exactly over
    batches and processes, and one label of any weight but 0 is a count of at least 1.
    """
    steps = [[round(weight / max(row) * WEIGHT_STEPS) for weight in row] for row in weights]
    whole = [
        [max(1, step) if weight > 0 else 0 for step, weight in zip(step_row, row, strict=True)]
        for step_row, row in zip(steps, weights, strict=True)
    ]
    return torch.tensor(whole, dtype=torch.int64, device=device)


def _masked_losses(loss: Loss, output: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """Losses shaped like `present`, 0 where nothing is present."""
    output = torch.where(_spread(present, output), output, 0)
    target = torch.where(_spread(present, target), target, 0)
    losses = loss(output, target)
    if losses.ndim > present.ndim:
        losses = losses.flatten(present.ndim).mean(dim=-1)
    # Zeroed outputs and targets have a loss of their own (log 2 for a logit): it is taken out again here.
    return torch.where(present, losses, 0)


def _aligned(task: Task, output: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets in the shapes the losses take: presence axes first, the rest behind."""
    match task:
        case Binary():
            return output.squeeze(1), values
        case Multiclass():
            return output.movedim(1, -1), values
        case Multilabel():
            return output, values
        case Ordinal():
            return output, task.targets(values).to(
                torch.int64 if task.default_loss == "dex" else output.dtype
            )
        case Regression():
            return output, task.standardize(values).reshape(output.shape).to(output.dtype)
        case Landmarks():
            target = task.standardize(values).to(output.dtype)
            return output.reshape(target.shape), target
        case _:
            raise TypeError(f"task {task.name}: no loss is known for tasks of kind `{task.kind}`")


def _spread(present: Tensor, tensor: Tensor) -> Tensor:
    """Presence with axes of length one behind it, so that it broadcasts over `tensor`."""
    return present.reshape(*present.shape, *(1,) * (tensor.ndim - present.ndim))
