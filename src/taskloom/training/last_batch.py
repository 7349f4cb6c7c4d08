"""A last batch that is too small for batch normalisation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
