"""A batch, the datasets that give it, and the loader: rows are gathered a whole batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from taskloom.data.mixing_batches import MixedOrder, RowMix
from taskloom.errors import ConfigError
from taskloom.tasks import Labels, TaskSet


@dataclass
class Batch:
    """N rows of inputs with their labels.

    Args:
        inputs: Feature rows [N, F], windows [N, window_samples, channels] or images [N, C, H, W].
        labels: Labels of the same N rows.
        index: Position of each row in its dataset, [N] int64.
    """

    inputs: Tensor
    labels: Labels
    index: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        return Batch(
            self.inputs.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.index,
        )

    def pin_memory(self) -> Batch:
        """Called by the DataLoader when it pins memory for a GPU."""
        return Batch(self.inputs.pin_memory(), self.labels.pin_memory(), self.index)


@runtime_checkable
class TaskDataset(Protocol):
    """What training and evaluation need of a dataset; every reader's dataset has it."""

    @property
    def tasks(self) -> TaskSet: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row's input, without the batch axis."""
        ...

    @property
    def labels(self) -> Labels:
        """Labels of all rows, in row order, without touching the inputs."""
        ...

    @property
    def groups(self) -> NDArray[np.int64]:
        """Cluster of every row, [N], 0..G-1: rows of one person, trial or molecule belong together.

        Intervals are clustered by it.
        """
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


@dataclass
class DataSplits:
    """The three parts of a prepared data set, and what a report says about them.

    Args:
        train, validation, test: Datasets over one TaskSet. Its regressions are standardised on train.
        about: Plain values for the report and the run record: source files with checksums, split rule,
            label counts, notes on holes. JSON-serialisable.
        preprocessing: What was fitted on training data and must travel with a model (normaliser), as plain
            values; JSON-serialisable.
    """

    train: TaskDataset
    validation: TaskDataset
    test: TaskDataset
    about: dict[str, Any]
    preprocessing: dict[str, Any]

    @property
    def tasks(self) -> TaskSet:
        return self.train.tasks

    def __repr__(self) -> str:
        """Rows of the parts, inputs and tasks; what is in `about` would fill pages."""
        rows = ", ".join(f"{part} {len(getattr(self, part)):,}" for part in ("train", "validation", "test"))
        return f"DataSplits({rows}; inputs {list(self.train.input_shape)}; tasks {', '.join(self.tasks)})"


class EpochBatchSampler(Sampler[list[int]]):
    """Index batches whose order follows from seed and epoch alone, so that a resumed run sees the same ones.

    Under DDP every rank takes its equal share of each joined batch (the last ones may be uneven), so that
    two processes see together what one process sees alone.

    Args:
        num_rows: Rows in the dataset.
        batch_size: Rows of one joined batch over all ranks.
        shuffle: Whether rows are permuted anew each epoch.
        seed: Seed of the permutation.
        drop_last: Whether an incomplete last batch is left out (never the only one).
        rank: This process.
        world_size: Number of processes.
        row_weights: Chance of every row to be drawn, [N], up to a factor: an epoch then is N draws with
            replacement. None takes every row once.
        mix: How rows of several data sets are mixed; see `taskloom.data.mixing_batches`; only shuffled
            rows are.
        least_last: An incomplete last batch of fewer rows is left out too (never the only one).

    Raises:
        ConfigError: Both `row_weights` and a `mix` that is not proportional.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        row_weights: NDArray[np.float64] | None = None,
        mix: RowMix | None = None,
        least_last: int = 1,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} is below the number of processes {world_size}")
        self.num_rows, self.batch_size = num_rows, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.world_size, self.least_last = rank, world_size, least_last
        self.chances = None if row_weights is None else row_weights / row_weights.sum()
        self.epoch = 0
        self.mixed: MixedOrder | None = None
        quotas = mix.quotas(batch_size) if mix is not None and shuffle else None
        if mix is not None and quotas is not None:
            if row_weights is not None:
                raise ConfigError(
                    "training.balanced_sampling: draws rows of all data sets by class, which `data.batches` "
                    "already draws by data set; leave one out."
                )
            self.mixed = MixedOrder(mix, quotas, seed=seed, drop_last=drop_last)
            self.num_rows = self.mixed.num_batches * batch_size  # its last batch is a whole one

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def too_few(self) -> int:
        """Rows of a last batch that is left out for `least_last` alone; 0 where none is."""
        rest = self.num_rows % self.batch_size
        return 0 if self.drop_last or self.num_rows < self.batch_size or rest >= self.least_last else rest

    def __len__(self) -> int:
        whole = self.num_rows // self.batch_size
        if whole > 0 and (self.drop_last or self.too_few):
            return whole
        return math.ceil(self.num_rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.mixed is not None:
            for joined in self.mixed.batches(self.epoch):
                yield joined[self.rank :: self.world_size].tolist()
            return
        if self.chances is not None:
            random = np.random.default_rng((self.seed, self.epoch))
            order = random.choice(self.num_rows, self.num_rows, p=self.chances)
        elif self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_rows)
        else:
            order = np.arange(self.num_rows)
        for position in range(len(self)):
            joined = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield joined[self.rank :: self.world_size].tolist()


def make_loader(
    dataset: TaskDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
    row_weights: NDArray[np.float64] | None = None,
    least_last: int = 1,
) -> DataLoader[Batch]:
    """Builds a loader that gathers whole batches; call `loader.batch_sampler.set_epoch(epoch)` each epoch.

    Args:
        dataset: Where the rows come from.
        batch_size: Rows per step over all processes.
        shuffle, seed, drop_last, rank, world_size, row_weights, least_last: See `EpochBatchSampler`.
        num_workers: Loader processes; 0 reads in this one.
        pin_memory: Whether batches are put into page-locked memory, for a GPU.
    """
    sampler = EpochBatchSampler(
        len(dataset),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
        row_weights=row_weights,
        mix=getattr(dataset, "mix", None),
        least_last=least_last,
    )
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # a TaskDataset is a map-style dataset with __getitems__
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    """__getitems__ has already gathered the batch."""
    return batch
