"""Batches, their order and the loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import taskloom as tl
from taskloom.data.batch import Batch, DataSplits, EpochBatchSampler, TaskDataset, make_loader

TASKS = tl.TaskSet(tl.Binary("y"))


class _Counting:
    """Row i has the input [i, i] and a label where i is even; remembers how it was asked."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.asked: list[list[int]] = []

    tasks = TASKS
    input_shape = (2,)

    @property
    def labels(self) -> tl.Labels:
        return self.__getitems__(range(self.num_rows)).labels

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(self.num_rows)

    def __len__(self) -> int:
        return self.num_rows

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        self.asked.append(list(indices))
        index = torch.tensor(list(indices))
        labels = tl.Labels({"y": index % 2}, {"y": index % 2 == 0})
        return Batch(index[:, None].expand(-1, 2).float(), labels, index)


def _order(sampler: EpochBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("num_rows", [1, 5, 12, 13])
@pytest.mark.parametrize("batch_size", [1, 4, 20])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_has_every_row_once(num_rows: int, batch_size: int, drop_last: bool) -> None:
    sampler = EpochBatchSampler(num_rows, batch_size, shuffle=True, seed=0, drop_last=drop_last)
    batches = _order(sampler, 0)
    assert len(batches) == len(sampler)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(num_rows))
    if drop_last and num_rows >= batch_size:
        assert {len(batch) for batch in batches} == {batch_size}
        assert len(rows) == num_rows - num_rows % batch_size
    else:
        assert len(rows) == num_rows


def test_order_follows_from_seed_and_epoch_alone() -> None:
    one = EpochBatchSampler(50, 8, shuffle=True, seed=1)
    _order(one, 0)
    _order(one, 1)
    resumed = EpochBatchSampler(50, 8, shuffle=True, seed=1)
    assert _order(one, 2) == _order(resumed, 2)
    assert _order(one, 2) == _order(one, 2)
    assert _order(one, 2) != _order(one, 3)
    assert _order(one, 2) != _order(EpochBatchSampler(50, 8, shuffle=True, seed=2), 2)


def test_without_shuffling_rows_come_in_order() -> None:
    sampler = EpochBatchSampler(10, 4, shuffle=False, seed=0)
    assert _order(sampler, 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_joined_batches(world_size: int) -> None:
    joined = _order(EpochBatchSampler(29, 6, shuffle=True, seed=4), 7)
    shares = [
        _order(EpochBatchSampler(29, 6, shuffle=True, seed=4, rank=rank, world_size=world_size), 7)
        for rank in range(world_size)
    ]
    for batch, parts in zip(joined, zip(*shares, strict=True), strict=True):
        assert sorted(row for part in parts for row in part) == sorted(batch)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_batch_needs_a_row_for_every_rank() -> None:
    with pytest.raises(ValueError, match="batch_size 1 is below the number of processes 2"):
        EpochBatchSampler(10, 1, shuffle=False, seed=0, world_size=2)


def test_the_loader_asks_once_per_batch() -> None:
    dataset = _Counting(10)
    assert isinstance(dataset, TaskDataset)
    dataset.asked.clear()  # isinstance reads the properties
    batches = list(make_loader(dataset, 4, shuffle=True, seed=3))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert dataset.asked == _order(EpochBatchSampler(10, 4, shuffle=True, seed=3), 0)
    for batch in batches:
        assert torch.equal(batch.inputs[:, 0].long(), batch.index)
        assert torch.equal(batch.labels.present["y"], batch.index % 2 == 0)


def test_the_loaders_sampler_takes_the_epoch() -> None:
    loader = make_loader(_Counting(10), 10, shuffle=True, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        orders.append(next(iter(loader)).index.tolist())
    assert orders[0] == orders[2] != orders[1]


def test_a_batch_moves_whole() -> None:
    batch = _Counting(3).__getitems__([0, 1, 2]).to("meta")
    assert batch.inputs.device.type == "meta"
    assert batch.labels.values["y"].device.type == "meta"
    assert batch.labels.present["y"].device.type == "meta"
    assert batch.index.device.type == "cpu"  # positions are for the host


def test_splits_take_their_tasks_from_train() -> None:
    part = _Counting(3)
    assert DataSplits(part, part, part, about={}, preprocessing={}).tasks is TASKS
