"""One run: what may decide its best epoch, and what becomes of a run in which something breaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from _small_study import NUM_RUNS, Watcher, read, run, write_table
from taskloom import Labels
from taskloom.data.batch import Batch, DataSplits, TaskDataset
from taskloom.study import pool, worker
from taskloom.study.results import RunRecord
from taskloom.study.runner import plan_study
from taskloom.study.runs import RunSpec
from taskloom.study.worker import execute
from taskloom.training import fit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_table(tmp_path)


class Poisoned:
    """A dataset whose labels are other rows', and whose inputs are noise."""

    def __init__(self, dataset: TaskDataset) -> None:
        self._dataset, self._order = dataset, np.random.default_rng(7).permutation(len(dataset))
        self.tasks, self.input_shape, self.groups = dataset.tasks, dataset.input_shape, dataset.groups

    @property
    def labels(self) -> Labels:
        return self._dataset.labels[torch.tensor(self._order)]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self._dataset.__getitems__(indices)
        noise = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(len(indices)))
        return Batch(noise, self.labels[torch.tensor(indices)], batch.index)


class Fixed:
    """Gives these data, whatever is asked for."""

    def __init__(self, splits: DataSplits) -> None:
        self._splits = splits

    def get(self, request: object) -> DataSplits:
        return self._splits


def specs_of(folder: Path, out: str, *overrides: str) -> list[RunSpec]:
    return plan_study(read("repeats=1", *overrides), folder / out, data=folder).specs


def trained(record: RunRecord) -> tuple[object, ...]:
    """What training and validation said, without the clock."""
    epochs = [
        {name: value for name, value in epoch.items() if "seconds" not in name}
        for epoch in record.history["epochs"]
    ]
    return epochs, record.best_epoch, record.epochs, part(record, "validation")


def part(record: RunRecord, name: str) -> dict[tuple[str, str], float]:
    return {(m.task, m.metric): m.value for m in record.metrics if m.part == name}


@pytest.mark.parametrize("monitor", ["loss", "metric"])
def test_nothing_of_the_test_part_reaches_training_or_the_choice_of_the_epoch(
    folder: Path, monitor: str
) -> None:
    settings = (f"training.monitor={monitor}", "training.epochs=6", "training.stop={patience: 2}")
    settings += ("training.optimizer.adam.lr=0.3",)  # so rough that the best epoch is not simply the last
    for clean_spec, spec in zip(
        specs_of(folder, "clean", *settings), specs_of(folder, "poisoned", *settings), strict=True
    ):
        splits = spec.data.load()
        poisoned = dataclasses.replace(splits, test=Poisoned(splits.test))
        clean, other = execute(clean_spec, Fixed(splits)), execute(spec, Fixed(poisoned))
        assert (clean.status, other.status) == ("done", "done"), other.message
        assert trained(other) == trained(clean)
        assert part(other, "test") != part(clean, "test")


@pytest.mark.parametrize("error", [IndexError, AttributeError, NotImplementedError, StopIteration])
def test_any_defect_ends_its_run_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(network: object, *arguments: object, **options: object) -> object:
        if len(network.tasks) == 2:
            raise error("list index out\nof range")
        return fit(network, *arguments, **options)

    monkeypatch.setattr(worker, "fit", broken)
    outcome = run(folder, "repeats=1")
    assert (outcome.done, outcome.failed) == (2, 2)
    expected = f"{error.__name__}: list index out of range"
    assert all(f"{expected} (traceback in " in line for line in outcome.summary["failed"])


def test_a_lack_of_memory_is_said_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: object, **options: object) -> object:
        raise MemoryError

    monkeypatch.setattr(worker, "fit", greedy)
    outcome = run(folder, "repeats=1")
    assert outcome.failed == NUM_RUNS // 2
    assert "the memory was not enough" in outcome.summary["failed"][0]


def test_ctrl_c_is_no_failed_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "fit", stopped)
    watcher = Watcher()
    with pytest.raises(KeyboardInterrupt):
        run(folder, progress=watcher)
    assert watcher.ended == []


class Closed:
    """The pipe of a parent that was killed: what it had not read yet makes it a reset, not an end."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    def recv(self) -> object:
        if not self._answers:
            raise ConnectionResetError(104, "Connection reset by peer")
        return self._answers.pop(0)

    def send(self, record: object) -> None:
        del record
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("received", [(), ("a run",)])
def test_a_worker_ends_quietly_where_its_parent_was_killed(
    received: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("signal.signal", "threading.Thread", "torch.set_num_threads", "keep_freed_memory"):
        monkeypatch.setattr(f"taskloom.study.pool.{name}", Mock())
    monkeypatch.setattr("taskloom.study.pool.execute", Mock())
    pool._work(Closed(*received), 1)  # type: ignore[arg-type]
