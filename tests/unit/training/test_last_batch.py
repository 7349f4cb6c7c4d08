"""Training rows one above a multiple of the batch: batch normalisation has no variance over a single row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

import taskloom as tl
from taskloom.data.batch import EpochBatchSampler
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.mixing_batches import MixRule, RowMix
from taskloom.data.tables import TableDataset
from taskloom.errors import TrainingError
from taskloom.training.callbacks import Callback, TrainingState
from taskloom.training.last_batch import last_batch_note, least_last_rows, single_rows_told

TASKS = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))


def rows(count: int) -> TableDataset:
    draw = torch.Generator().manual_seed(0)
    values = {name: torch.randint(0, 2, (count,), generator=draw) for name in TASKS}
    labels = tl.Labels(values, {name: torch.ones(count, dtype=torch.bool) for name in TASKS})
    inputs = torch.randn(count, 4, generator=draw).numpy()
    return TableDataset(FeatureRows(inputs), np.arange(count), TASKS, labels)


def network(*layers: nn.Module) -> tl.sharing.MultiTaskNetwork:
    torch.manual_seed(0)
    encoder = tl.encoders.from_modules([nn.Sequential(nn.Linear(4, 8), *layers)], (4,))
    return tl.sharing.hard_sharing(encoder, TASKS, stages=1)


class Steps(Callback):
    """Counts training steps."""

    def __init__(self) -> None:
        self.count = 0

    def batch_end(self, state: TrainingState) -> None:
        self.count += 1
        assert state.step <= state.steps_per_epoch


def trained(count: int, model: tl.sharing.MultiTaskNetwork) -> tuple[float, list[str]]:
    """Training steps per epoch, and the notes."""
    steps = Steps()
    settings = {"epochs": 2, "batch": 8, "device": "cpu"}
    history = tl.fit(model, rows(count), rows(6), callbacks=[steps], progress=False, **settings)
    assert history.finished
    return steps.count / 2, [note for note in history.notes if "last batch" in note]


@pytest.mark.parametrize(("count", "steps"), [(9, 1), (10, 2), (16, 2), (17, 2), (7, 1)])
def test_a_lone_row_is_left_out_and_said_to_be(count: int, steps: int) -> None:
    found, notes = trained(count, network(nn.BatchNorm1d(8)))
    assert found == steps
    assert notes == last_batch_note(count % 8 if count in (9, 17) else 0)


def test_networks_without_batch_normalisation_take_every_row() -> None:
    assert trained(9, network(nn.LayerNorm(8))) == (2, [])
    assert least_last_rows(network(nn.LayerNorm(8))) == 1
    assert least_last_rows(network(nn.BatchNorm1d(8)), processes=2) == 4  # each has its share of a batch


def test_batches_of_one_row_are_told_in_our_words() -> None:
    with pytest.raises(TrainingError, match=r"single row, and training\.batch is 1 over 1 process; give"):
        tl.fit(network(nn.BatchNorm1d(8)), rows(4), rows(6), epochs=1, batch=1, device="cpu", progress=False)
    with pytest.raises(ValueError, match="another"), single_rows_told("run", 1, 1):
        raise ValueError("another")


def batches(sampler: EpochBatchSampler) -> Sequence[list[int]]:
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_only_the_rest_is_left_out_and_another_one_every_epoch() -> None:
    left = set()
    for epoch in range(20):
        sampler = EpochBatchSampler(9, 4, shuffle=True, seed=0, least_last=2)
        sampler.set_epoch(epoch)
        taken = [row for batch in batches(sampler) for row in batch]
        assert len(taken) == len(set(taken)) == 8
        left |= set(range(9)) - set(taken)
    assert len(left) > 4
    assert EpochBatchSampler(9, 4, shuffle=True, seed=0, least_last=2).too_few == 1
    assert EpochBatchSampler(9, 4, shuffle=True, seed=0, least_last=2, drop_last=True).too_few == 0


def test_the_only_batch_stays_and_mixed_batches_are_whole() -> None:
    assert batches(EpochBatchSampler(1, 4, shuffle=False, seed=0, least_last=2)) == [[0]]
    mix = RowMix(MixRule("equal"), ("one", "two"), np.repeat([0, 1], [4, 5]))
    mixed = EpochBatchSampler(9, 4, shuffle=True, seed=0, least_last=2, mix=mix)
    assert [len(batch) for batch in batches(mixed)] == [4, 4, 4]
