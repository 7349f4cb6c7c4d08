"""Batches that are too small for batch normalisation: the last one of an epoch, or all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from taskloom.errors import TrainingError


def least_last_rows(model: nn.Module, processes: int = 1) -> int:
    """Rows that an epoch's last batch must have for the network's batch normalisation.

    Over a single row there is no variance: after fully connected layers PyTorch refuses it, after
    convolutions it takes that of the row's pixels. Each process normalises its own share of a batch.

    Args:
        model: The network.
        processes: Number of processes.

    Example:
        >>> least_last_rows(nn.BatchNorm1d(4)), least_last_rows(nn.Linear(4, 4))
        (2, 1)
    """
    normalises = any(isinstance(module, _BatchNorm) for module in model.modules())
    return 2 * processes if normalises else 1


def last_batch_note(rows: int) -> list[str]:
    """What the record says of a last batch that is left out; nothing where none is.

    Example:
        >>> last_batch_note(1)
        ['the last batch of an epoch, of 1 row, is left out: too few rows for batch normalisation']
    """
    what = "1 row" if rows == 1 else f"{rows} rows"
    note = f"the last batch of an epoch, of {what}, is left out: too few rows for batch normalisation"
    return [note] if rows else []


@contextmanager
def single_rows_told(run: str, batch: int, processes: int) -> Iterator[None]:
    """Says in our words what PyTorch's batch normalisation says of a batch of one row.

    Args:
        run: What the message calls the run.
        batch: Rows per step, over all processes.
        processes: Number of processes.

    Raises:
        TrainingError: In place of PyTorch's ValueError.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"{run}: batch normalisation cannot run on a single row, and training.batch is {batch} over "
            f"{processes} process{'es' if processes > 1 else ''}; give every process 2 rows or more."
        ) from error
