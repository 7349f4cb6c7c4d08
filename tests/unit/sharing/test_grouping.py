"""Affinity of tasks and groupings of branches: against loops over rows, over all partitions, and by order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import taskloom as tl
from taskloom.sharing.modules.grouping import (
    MOST_TRIED,
    best_grouping,
    branch_affinity,
    error_margins,
    grouping_of,
    groupings,
    separation,
    spectral_groupings,
    task_affinity,
)

NAN = math.nan


def drawn_affinity(size: int, seed: int = 0) -> Tensor:
    found = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((found + found.T) / 2).fill_diagonal_(1.0)


def test_affinity_is_the_share_of_rows_that_are_alike() -> None:
    draw = torch.Generator().manual_seed(1)
    margins = {name: torch.rand(40, generator=draw, dtype=torch.float64) for name in "abc"}
    for table in margins.values():
        table[torch.rand(40, generator=draw) < 0.3] = NAN
    found = task_affinity(margins)
    for (i, one), (j, other) in itertools.product(enumerate(margins.values()), repeat=2):
        alike = []
        for x, y in zip(one.tolist(), other.tolist(), strict=True):
            if not math.isnan(x) and not math.isnan(y):
                alike.append((x >= np.nanmean(one)) == (y >= np.nanmean(other)))
        assert found[i, j].item() == pytest.approx(np.mean(alike))


def test_tasks_without_a_row_in_common_count_as_independent() -> None:
    margins = {"a": torch.tensor([1.0, 0.0, 0.0, 0.0, NAN, NAN]), "b": torch.tensor([NAN] * 4 + [0.0, 1.0])}
    # a is hard in a quarter of its rows, b in half of them.
    assert task_affinity(margins)[0, 1].item() == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)


def test_margins_of_every_kind_of_task() -> None:
    present = torch.tensor([True, False, True])
    both = torch.tensor([[True, False], [False, False], [True, True]])
    tasks = tl.TaskSet(
        tl.Binary("binary"),
        tl.Multiclass("multiclass", 3),
        tl.Multilabel("multilabel", ("x", "y")),
        tl.Regression("regression", center=1.0, scale=2.0),
        tl.Landmarks("landmarks", 2, center=0.0, scale=1.0),
        tl.Ordinal("coral", range=(10, 30), step=10),
        tl.Ordinal("dex", range=(10, 30), step=10, loss="dex"),
    )
    labels = tl.Labels(
        {
            "binary": torch.tensor([1, 0, 0]),
            "multiclass": torch.tensor([2, 0, 1]),
            "multilabel": torch.tensor([[1, 0], [0, 0], [0, 1]]),
            "regression": torch.tensor([3.0, 0.0, 5.0]),
            "landmarks": torch.arange(12.0).reshape(3, 2, 2),
            "coral": torch.tensor([30.0, 0.0, 10.0]),
            "dex": torch.tensor([30.0, 0.0, 10.0]),
        },
        {
            "binary": present,
            "multiclass": present,
            "multilabel": both,
            "regression": present,
            "landmarks": both,
            "coral": present,
            "dex": present,
        },
    )
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    soft = math.exp(1.0) / (math.exp(1.0) + 2)
    expected = {
        "binary": [1 - sigmoid(2.0), NAN, sigmoid(-1.0)],
        "multiclass": [1 - soft, NAN, 1 - soft],
        "multilabel": [1 - sigmoid(2.0), NAN, (sigmoid(0.0) + 1 - sigmoid(1.0)) / 2],
        "regression": [abs(1.0 - 0.5), NAN, abs(2.0 + 1.0)],
        # Points 0 and 1 of row 0, of which only the first is there: (0 + 1) / 2; of row 2 all four numbers.
        "landmarks": [0.5, NAN, (8 + 9 + 10 + 11) / 4],
        # Levels 2 and 0 of three, against the number of levels that are expected to be passed.
        "coral": [2 - sigmoid(2.0) - sigmoid(-1.0), NAN, sigmoid(1.0) + sigmoid(0.0)],
        "dex": [2 - (0 + 1 + 2 * math.e) / (2 + math.e), NAN, (0 + math.e + 2) / (2 + math.e)],
    }
    outputs = {
        "binary": torch.tensor([[2.0], [0.0], [-1.0]]),
        "multiclass": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "multilabel": torch.tensor([[2.0, 9.0], [0.0, 0.0], [0.0, 1.0]]),
        "regression": torch.tensor([[0.5], [0.0], [-1.0]]),
        "landmarks": torch.zeros(3, 4),
        "coral": torch.tensor([[2.0, -1.0], [0.0, 0.0], [1.0, 0.0]]),
        "dex": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    }
    for name, task in tasks.items():
        found = error_margins(task, outputs[name], labels)
        torch.testing.assert_close(
            found, torch.tensor(expected[name], dtype=torch.float64), equal_nan=True, rtol=1e-6, atol=1e-7
        )


def test_margins_of_labels_per_sample_are_the_mean_over_samples() -> None:
    task = tl.Binary("a")
    labels = tl.Labels(
        {"a": torch.tensor([[1, 0], [1, 1]])}, {"a": torch.tensor([[True, True], [True, False]])}
    )
    output = torch.tensor([[[0.0, 2.0]], [[1.0, 5.0]]])
    first = (0.5 + torch.sigmoid(torch.tensor(2.0))) / 2
    second = 1 - torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(error_margins(task, output, labels), torch.stack([first, second]).double())


@pytest.mark.parametrize("cost", [0.0, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_the_best_of_all_groupings(cost: float) -> None:
    """Every assignment of five branches to five numbers, one by one."""
    affinity = drawn_affinity(5)
    least = math.inf
    for numbers in itertools.product(range(5), repeat=5):
        groups = [[i for i in range(5) if numbers[i] == number] for number in set(numbers)]
        apart = np.mean(
            [1 - np.mean([min(affinity[k, j].item() for j in group) for k in group]) for group in groups]
        )
        least = min(least, (len(groups) - 1) * cost + float(apart))
    found = best_grouping(affinity, cost)
    assert (len(found) - 1) * cost + separation(affinity, found) == pytest.approx(least)


def test_number_of_groupings_is_bells() -> None:
    assert [sum(1 for _ in groupings(size)) for size in range(1, 8)] == [1, 2, 5, 15, 52, 203, 877]


def test_order_of_the_branches_does_not_matter() -> None:
    affinity, order = drawn_affinity(6, seed=3), [4, 0, 5, 2, 1, 3]
    turned = affinity[order][:, order]
    for cost in (0.05, 0.15, 0.3):
        found = {frozenset(group) for group in best_grouping(affinity, cost)}
        again = {frozenset(order[place] for place in group) for group in best_grouping(turned, cost)}
        assert found == again


def test_many_branches_are_grouped_as_planted() -> None:
    """Beyond the exhaustive search: four groups of four, by spectral clustering."""
    size = 2 * MOST_TRIED
    affinity = torch.full((size, size), 0.45, dtype=torch.float64)
    for start in range(4):
        affinity[start::4, start::4] = 0.9
    affinity.fill_diagonal_(1.0)
    expected = tuple(tuple(range(start, size, 4)) for start in range(4))
    assert best_grouping(affinity, 0.03) == expected
    proposed = list(spectral_groupings(affinity))
    assert len(proposed[0]) == 1
    assert all(sorted(itertools.chain(*grouping)) == list(range(size)) for grouping in proposed)
    assert list(spectral_groupings(affinity)) == proposed


def test_branches_of_one_task_have_the_tasks_affinity() -> None:
    affinity = drawn_affinity(4)
    assert torch.equal(branch_affinity(affinity, [[0], [1], [2], [3]]), affinity)
    assert grouping_of([3, 1, 3, 0]) == ((0, 2), (1,), (3,))


def test_affinity_of_larger_branches_against_a_loop_over_their_tasks() -> None:
    affinity = drawn_affinity(6)
    branches = [[0, 4, 5], [1], [2, 3]]
    found = branch_affinity(affinity, branches)
    for first, one in enumerate(branches):
        for second, other in enumerate(branches):
            there = sum(min(affinity[i, j].item() for j in other) for i in one) / len(one)
            back = sum(min(affinity[i, j].item() for i in one) for j in other) / len(other)
            expected = 1.0 if first == second else (there + back) / 2
            assert math.isclose(found[first, second].item(), expected, rel_tol=1e-12)
            assert first == second or not math.isclose(there, back)  # both directions count
