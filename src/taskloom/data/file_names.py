"""What is handed over where the name of a file belongs: frames and arrays, which have none."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import torch

from taskloom.errors import ConfigError

_SO_THAT = "so that every process and every later sitting reads the same rows"


def refuse_frame(value: Any, where: str) -> None:
    """Says how a frame, or arrays, become a file that every process and every later sitting reads.

    Raises:
        ConfigError: It is a DataFrame, an array or a tensor.
    """
    if isinstance(value, pd.DataFrame):
        raise ConfigError(
            f"{where}: the name of a file expected, found a DataFrame; write it with "
            f'`frame.to_parquet("table.parquet", index=False)` and name that file, {_SO_THAT}.'
        )
    if isinstance(value, np.ndarray | torch.Tensor):
        raise ConfigError(
            f"{where}: the name of a file expected, found an array of shape {list(value.shape)}; write the "
            'labels as a table (`frame.to_parquet("labels.parquet", index=False)`), the array beside it '
            f'(`np.save("features.npy", array)`), and name the table, {_SO_THAT}.'
        )


def check_file_name(value: Any, where: str) -> None:
    """Refuses what is no name of a file.

    Raises:
        ConfigError: It is a frame, an array, or anything else that is neither text nor a path.
    """
    refuse_frame(value, where)
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{where}: the name of a file expected, found {type(value).__name__}.")
