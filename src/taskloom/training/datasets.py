"""Whether what is handed to training and evaluation is a data set."""

from __future__ import annotations

from typing import Any

from taskloom.errors import ConfigError

_NEEDED = ("tasks", "labels", "groups", "__len__", "__getitems__")


def check_is_dataset(dataset: Any) -> None:
    """Refuses an array, a list or a plain PyTorch data set by a sentence that says what is expected.

    Raises:
        ConfigError: Something that a `TaskDataset` has is missing there.

    Example:
        >>> check_is_dataset(np.zeros((3, 2)))
        Traceback (most recent call last):
            ...
        taskloom.errors.ConfigError: a data set of taskloom expected (a part of what `tl.data.table`, ...
    """
    missing = [name for name in _NEEDED if not hasattr(dataset, name)]
    if missing:
        raise ConfigError(
            "a data set of taskloom expected (a part of what `tl.data.table`, `tl.data.images` or a reader "
            "gives, or an object with the methods of `taskloom.data.batch.TaskDataset`), found "
            f"{type(dataset).__name__} without `{missing[0]}`."
        )
