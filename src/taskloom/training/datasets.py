"""Whether what is handed to training and evaluation is a data set, and the one the network was built for."""

from __future__ import annotations

from typing import Any

from taskloom.errors import ConfigError
from taskloom.tasks import Binary, Multiclass, Regression, Task, TaskSet

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


def check_dataset(dataset: Any, tasks: TaskSet) -> None:
    """Refuses rows whose labels mean something else to the network than to those who loaded them.

    Args:
        dataset: Rows to train or to validate on.
        tasks: The network's.

    Raises:
        ConfigError: No data set; classes in another order; or a regression that the data standardise, by
            their mean and deviation, in a network that was built without knowing them.
    """
    check_is_dataset(dataset)
    for name, task in tasks.items():
        if name in dataset.tasks:
            _check_task(task, dataset.tasks[name])


def _check_task(task: Task, loaded: Task) -> None:
    way_out = "build it with the tasks of the loaded data (`data.tasks`)"
    if isinstance(task, Regression) and isinstance(loaded, Regression):
        knows_none = (task.center, task.scale) == (0.0, 1.0)
        if knows_none and (loaded.center, loaded.scale) != (0.0, 1.0):
            raise ConfigError(
                f"tasks.{task.name}: the network does not know the scale of the data (mean "
                f"{loaded.center:.4g}, deviation {loaded.scale:.3g} in train), by which values are "
                f"standardised; {way_out}."
            )
    ours, theirs = (one.classes if isinstance(one, Binary | Multiclass) else () for one in (task, loaded))
    if ours and theirs and task.class_names != loaded.class_names:
        raise ConfigError(
            f"tasks.{task.name}: the network's classes ({', '.join(task.class_names[:8])}) are not those "
            f"of the data ({', '.join(loaded.class_names[:8])}); {way_out}."
        )
