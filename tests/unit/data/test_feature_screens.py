"""Features are screened all at once, and what is told of them is what a loop over them tells."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

import taskloom as tl
from taskloom.data import telling_features as module
from taskloom.data.feature_rows import FeatureRows, row_numbers
from taskloom.data.feature_screens import may_keep_order, may_stand_apart
from taskloom.data.telling_features import telling_features


def columns_of(number: NDArray[Any], classes: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """Columns made of the labels with more and more noise, of few values, constant, of chance; with holes."""
    rng = np.random.default_rng(seed)
    num_rows = len(number)
    columns = [np.full(num_rows, 2.0), rng.integers(0, 3, num_rows), rng.normal(size=num_rows)]
    for noise in (0.0, 1e-3, 0.02, 0.04, 0.05, 0.1, 0.3):
        columns.append(-number + noise * rng.normal(size=num_rows))
        columns.append(np.round((number + noise * rng.normal(size=num_rows)) * 30))
        columns.append(rng.permutation(5)[classes] + noise * rng.normal(size=num_rows))
        columns.append((classes == 1) + noise * (rng.random(num_rows) < 0.01))
    table = np.stack(columns, axis=1).astype(np.float32)
    holes = rng.random(table.shape) < rng.choice([0.0, 0.0, 0.2, 0.9, 1.0], size=table.shape[1])
    table[holes] = np.nan
    return table


def labels_of(num_rows: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    number = rng.normal(size=num_rows)
    if seed % 3 == 1:
        number = np.round(number * 4)  # ties
    return number, np.digitize(number, [-1.0, 0.0, 1.2]).astype(np.int64)


def cuts(values: NDArray[Any], number: NDArray[Any]) -> bool:
    """Whether a few values each have a stretch of the numbers to themselves, as bins of them do."""
    of_value = [number[values == value] for value in np.unique(values)]
    stretches = sorted((found.min(), found.max()) for found in of_value)
    apart = all(one[1] < other[0] for one, other in itertools.pairwise(stretches))
    return 1 < len(stretches) <= 12 and apart


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("least", [0.9, 0.99, 0.999])
def test_no_feature_of_that_rank_correlation_is_held_back(seed: int, least: float) -> None:
    """SciPy's Spearman correlation over the rows that are there, ties and holes among them."""
    number, classes = labels_of(90, seed)
    block = columns_of(number, classes, seed)
    passed = may_keep_order(block, number, least)
    reached = np.zeros(len(passed), dtype=np.bool_)
    for position, values in enumerate(block.T):
        there = ~np.isnan(values)
        if there.sum() > 2 and len(set(values[there])) > 1 and len(set(number[there])) > 1:
            reached[position] = abs(spearmanr(values[there], number[there]).statistic) >= least
    assert reached.any()
    assert passed[reached].all()


def test_a_thousand_features_of_chance_are_held_back() -> None:
    rng = np.random.default_rng(0)
    number = rng.normal(size=256)
    block = rng.normal(size=(256, 1000)).astype(np.float32)
    block[:, :500] += number[:, None].astype(np.float32)  # a correlation of 0.7 is much, and not all
    assert not may_keep_order(block, number, 0.99).any()
    assert not may_stand_apart(block, (number > 0).astype(np.int64), undecided=False).any()


@pytest.mark.parametrize("undecided", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_classes_stand_apart_as_a_loop_finds(seed: int, undecided: bool) -> None:
    number, classes = labels_of(70, seed)
    block = columns_of(number, classes, seed)
    expected = []
    for values in block.T:
        there = ~np.isnan(values)
        parts = [values[there & (classes == code)].tolist() for code in range(4)]
        parts = [part for part in parts if part]
        if len(parts) < 2 or len(set(values[there])) < 2:
            expected.append(undecided)
            continue
        apart = all(
            max(first) < min(second) or max(second) < min(first)
            for first, second in itertools.combinations(parts, 2)
        )
        of_one = any(
            len(set(part)) == 1 and len({v for other in parts if other is not part for v in other}) == 1
            for part in parts
        )
        expected.append(apart or (of_one and len(set(values[there])) == 2))
    assert 0 < sum(expected) < len(expected)
    assert may_stand_apart(block, classes, undecided=undecided).tolist() == expected


@pytest.mark.parametrize("block_values", [1, 500, 2**20])
@pytest.mark.parametrize("num_rows", [200, 900])
def test_what_is_told_does_not_depend_on_how_many_features_are_read_at_once(
    num_rows: int, block_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is what the tests find that look at one feature, over all rows and over those of the glance."""
    monkeypatch.setattr(module, "_BLOCK_VALUES", block_values)
    monkeypatch.setattr(module, "_MOST_NAMED", 99)
    number, classes = labels_of(num_rows, 5)
    block = columns_of(number, classes, 5)
    present = np.random.default_rng(1).random(num_rows) < 0.8
    known = {"number": torch.from_numpy(number), "class": torch.from_numpy(classes)}
    tasks = tl.TaskSet(tl.Regression("number"), tl.Multiclass("class", classes=("a", "b", "c", "d")))
    labels = tl.Labels(known, dict.fromkeys(known, torch.from_numpy(present)))
    found = telling_features(FeatureRows(block), labels, tasks)
    rows = np.flatnonzero(present)
    few = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 256)).astype(np.int64))]
    for task, wanted, tells in (("number", number, module._same_order), ("class", classes, module._apart)):
        told = []
        for position, values in enumerate(block.T):
            all_there, few_there = rows[~np.isnan(values[rows])], few[~np.isnan(values[few])]
            glance = len(few_there) < 20 or tells(values[few_there], wanted[few_there], 0)
            bins = task == "number" and cuts(values[all_there], wanted[all_there])
            if bins or (glance and tells(values[all_there], wanted[all_there], block.shape[1])):
                told.append(f"`{position}`")
        assert len(told) >= 3
        (text,) = [text for text in found if f"task `{task}`" in text]
        assert f"each of the features {', '.join(told)} tells" in text


def test_row_numbers_are_looked_for_beyond_the_first_rows() -> None:
    order = np.arange(200.0)
    late = np.where(order < 150, order, 150)  # rises, and then stays
    columns = np.stack([order, late, order[::-1], order[::-1], order / 7], axis=1).astype(np.float32)
    found = row_numbers(FeatureRows(columns, ["a", "b", "c", "id", "d"]))
    assert [text.split("`")[1] for text in found] == ["a", "id"]


@pytest.mark.parametrize("rows", [256, 2001])
@pytest.mark.parametrize("least", [0.99, 0.999])
def test_plateaus_up_to_the_correlation_that_is_asked_for(rows: int, least: float) -> None:
    """A number that stands still in the middle uses the bound up: pairs there tie, as near as can be."""
    numbers = np.arange(rows, dtype=np.float64)
    steps = np.abs(numbers - (rows - 1) / 2)
    widths = np.linspace(0, 0.5, 60) * rows / 2
    block = np.where(steps[:, None] <= widths, (rows - 1) / 2, numbers[:, None]).astype(np.float32)
    correlations = np.array([spearmanr(feature, numbers).statistic for feature in block.T])
    kept = may_keep_order(np.concatenate([block, -block], axis=1), numbers, least)
    assert 2 < (correlations >= least).sum() < 58
    assert kept[:60][correlations >= least].all()
    assert kept[60:][correlations >= least].all()
    assert not kept[:60][correlations < least - 2 * (1 - least)].any()
