"""Which branches belong together: affinity of tasks by their errors, and the grouping with the least loss.

Source: Lu et al. 2017, "Fully-adaptive feature sharing in multi-task networks", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.errors import ConfigError
from taskloom.tasks import (
    Binary,
    Labels,
    Landmarks,
    Multiclass,
    Multilabel,
    Ordinal,
    Regression,
    Task,
    TaskSet,
)

Grouping = tuple[tuple[int, ...], ...]
"""Groups of branch numbers, by their smallest member."""

MOST_TRIED = 8
"""Branches up to which every grouping is tried: 4,140 of them."""


def error_margins(task: Task, output: Tensor, labels: Labels) -> Tensor:
    """Every row's error margin, the distance between target and prediction; NaN where there is no label.

    Of a class it is 1 minus the probability of the right one, of several labels, values, points or samples in
    a row the mean over those that are present, of levels the distance to the expected one, in steps.

    Args:
        task: The task.
        output: Its head's outputs, [N, width] (or [N, width, W]).
        labels: Labels of the same rows.

    Returns:
        [N], float64.

    Example:
        >>> labels = tl.Labels({"a": torch.tensor([1, 0])}, {"a": torch.tensor([True, False])})
        >>> error_margins(tl.Binary("a"), torch.zeros(2, 1), labels).tolist()
        [0.5, nan]
    """
    values, present = labels.values[task.name], labels.present[task.name]
    output = output.double()
    match task:
        case Binary():
            margins = (values - output.squeeze(1).sigmoid()).abs()
        case Multiclass():
            right = values.clamp(0, task.width - 1).unsqueeze(1)
            margins = 1.0 - output.softmax(dim=1).gather(1, right).squeeze(1)
        case Multilabel():
            margins = (values - output.sigmoid()).abs()
        case Ordinal():  # a regression too, whose outputs are levels or the questions about them
            right = task.codes(values)
            shares = task.probabilities(output)
            found = shares.sum(dim=1) if task.default_loss == "coral" else shares @ _levels(task, output)
            margins = (right - found).abs()
        case Regression() | Landmarks():
            margins = (task.standardize(values).reshape(output.shape) - output).abs()
        case _:
            raise ConfigError(f"adaptive_branching: no error margin is known for a {task.kind} task.")
    margins = margins.reshape(*present.shape, -1).mean(dim=-1)
    there = present.flatten(1) if present.dim() > 1 else present.unsqueeze(1)
    margins = torch.where(there, margins.reshape(there.shape), 0.0)
    return margins.sum(dim=1) / torch.where(there.any(dim=1), there.sum(dim=1).double(), torch.nan)


def _levels(task: Ordinal, output: Tensor) -> Tensor:
    return torch.arange(task.num_levels, dtype=output.dtype, device=output.device)


def task_affinity(margins: Mapping[str, Tensor]) -> Tensor:
    """Probability that two tasks find a row both hard or both easy (Lu et al. 2017).

    With e_i = 1 where the margin of task i is at least its mean, A(i, j) = E[e_i e_j + (1 - e_i)(1 - e_j)],
    over the rows with labels of both. Tasks that have no row in common count as independent ones: the same
    formula with e_i and e_j drawn apart.

    Args:
        margins: Per task its error margins [N], NaN without a label; see `error_margins`.

    Returns:
        [T, T], float64, symmetric, 1 on the diagonal.

    Example:
        >>> margins = torch.tensor([0.1, 0.9, 0.8, 0.2])
        >>> task_affinity({"a": margins, "b": 2 * margins, "c": 1 - margins})[0].tolist()
        [1.0, 1.0, 0.0]
    """
    table = torch.stack(list(margins.values()))
    there = ~table.isnan()
    hard = (table >= table.nanmean(dim=1, keepdim=True)) & there
    easy = ~hard & there
    counts = there.double() @ there.double().T
    alike = hard.double() @ hard.double().T + easy.double() @ easy.double().T
    share = hard.sum(dim=1).double() / there.sum(dim=1).clamp(min=1)
    apart = share[:, None] * share + (1 - share[:, None]) * (1 - share)
    affinity = torch.where(counts > 0, alike / counts.clamp(min=1), apart)
    return affinity.fill_diagonal_(1.0)


def branch_affinity(affinity: Tensor, branches: Sequence[Sequence[int]]) -> Tensor:
    """Affinity of branches that several tasks use (Lu et al. 2017).

    A(k, l) is the mean of two directions: the mean over the tasks of one branch of their smallest affinity
    to a task of the other.

    Args:
        affinity: Of the tasks, [T, T].
        branches: The tasks of each branch, by number.

    Returns:
        [number of branches, number of branches], 1 on the diagonal.

    Example:
        >>> affinity = torch.tensor([[1.0, 0.9, 0.4], [0.9, 1.0, 0.6], [0.4, 0.6, 1.0]])
        >>> round(branch_affinity(affinity, [[0, 1], [2]])[0, 1].item(), 6)  # of 0.5 and 0.4
        0.45
    """
    size = len(branches)
    found = torch.ones(size, size, dtype=affinity.dtype)
    for one in range(size):
        for other in range(one):
            block = affinity[list(branches[one])][:, list(branches[other])]
            both = (block.min(dim=1).values.mean() + block.min(dim=0).values.mean()) / 2
            found[one, other] = found[other, one] = both
    return found


def separation(affinity: Tensor, grouping: Grouping) -> float:
    """What it costs that dissimilar branches share: the mean over groups of 1 - mean_k min_l A(k, l).

    Source: Lu et al. 2017; k and l are branches of one group, and A(k, k) = 1.

    Example:
        >>> affinity = torch.tensor([[1.0, 0.75, 0.5], [0.75, 1.0, 0.5], [0.5, 0.5, 1.0]])
        >>> separation(affinity, ((0, 1), (2,))), separation(affinity, ((0, 1, 2),))
        (0.125, 0.5)
    """
    costs = []
    for group in grouping:
        block = affinity[list(group)][:, list(group)]
        costs.append(1.0 - block.min(dim=1).values.mean().item())
    return sum(costs) / len(costs)


def best_grouping(affinity: Tensor, cost: float) -> Grouping:
    """The grouping with the least (number of groups - 1) * cost + separation (Lu et al. 2017).

    Up to `MOST_TRIED` branches every grouping is tried; beyond, spectral clustering proposes one per number
    of groups, as in the paper. Of equal ones the one with fewer groups is taken.

    Args:
        affinity: Of the branches, [c, c].
        cost: Of one more branch.

    Example:
        >>> affinity = torch.tensor([[1.0, 0.9, 0.5], [0.9, 1.0, 0.5], [0.5, 0.5, 1.0]])
        >>> best_grouping(affinity, 0.2), best_grouping(affinity, 0.5), best_grouping(affinity, 0.01)
        (((0, 1), (2,)), ((0, 1, 2),), ((0,), (1,), (2,)))
    """
    size = len(affinity)
    proposed = groupings(size) if size <= MOST_TRIED else spectral_groupings(affinity)

    def loss(grouping: Grouping) -> tuple[float, int]:
        total = (len(grouping) - 1) * cost + separation(affinity, grouping)
        return round(total, 12), len(grouping)  # rounding errors break no ties

    return min(proposed, key=loss)


def groupings(size: int) -> Iterator[Grouping]:
    """All set partitions of 0..size-1.

    Example:
        >>> list(groupings(2)), sum(1 for _ in groupings(4))
        ([((0, 1),), ((0,), (1,))], 15)
    """
    if size == 0:
        yield ()
        return
    last = size - 1
    for rest in groupings(last):
        for place in range(len(rest)):
            yield (*rest[:place], (*rest[place], last), *rest[place + 1 :])
        yield (*rest, (last,))


def spectral_groupings(affinity: Tensor) -> Iterator[Grouping]:
    """One grouping per number of groups, by spectral clustering of the affinity; the same at every call."""
    from sklearn.cluster import spectral_clustering  # takes a second to import, and few need it

    size = len(affinity)
    yield (tuple(range(size)),)
    for number in range(2, size):
        found = spectral_clustering(affinity.numpy(), n_clusters=number, random_state=0)
        yield grouping_of(cast(NDArray[np.int64], found).tolist())
    yield tuple((index,) for index in range(size))


def grouping_of(numbers: Sequence[int]) -> Grouping:
    """Groups from each member's group number, in the order of their smallest members.

    Example:
        >>> grouping_of([2, 0, 2])
        ((0, 2), (1,))
    """
    groups: dict[int, list[int]] = {}
    for member, number in enumerate(numbers):
        groups.setdefault(number, []).append(member)
    return tuple(tuple(group) for group in groups.values())


def affinity_of(tasks: TaskSet, outputs: Mapping[str, Tensor], labels: Labels) -> Tensor:
    """`task_affinity` of a network's outputs on labelled rows, [T, T]."""
    return task_affinity({name: error_margins(task, outputs[name], labels) for name, task in tasks.items()})
