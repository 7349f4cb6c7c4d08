"""What a cell adds to plain training: callbacks by name, learning rates by task; checked before any run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskloom.errors import ConfigError, did_you_mean
from taskloom.study.locate import unknown_setting
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.training import CALLBACKS, Callback, TrainingConfig
from taskloom.training.optimizers import SHARED_GROUPS

Named = dict[str, Any]
"""`{name: settings}`."""


def read_callbacks(value: Any, tasks: Sequence[str], path: KeyPath) -> tuple[Named, ...]:
    """Reads the `callbacks` of a cell: a list of names, or of `{name: settings}`.

    Args:
        value: What the study file says; None is no callback.
        tasks: The cell's tasks.
        path: Where it stands.

    Raises:
        ConfigError: Not such a list, an unknown name or setting, a value out of range, a task that the cell
            does not have, two callbacks that both stop tasks; begins with the setting's path.

    Example:
        >>> read_callbacks([{"early_freeze": {"patience": 5}}], ["age"], ("cells", 0, "callbacks"))
        ({'early_freeze': {'patience': 5}},)
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigError(f"{dotted(path)}: a list of callbacks expected, found {value!r}.")
    named = tuple(_named(entry, (*path, number)) for number, entry in enumerate(value))
    built: list[Callback] = []
    for number, entry in enumerate(named):
        ((name, settings),) = entry.items()
        at: KeyPath = (*path, number)
        if name not in CALLBACKS:
            raise ConfigError(
                f"{dotted(at)}: `{name}` is not a known callback.{did_you_mean(name, CALLBACKS)} "
                f"Known: {', '.join(CALLBACKS)}."
            )
        known = list(inspect.signature(CALLBACKS[name]).parameters)
        for key in settings:
            if key not in known:
                raise ConfigError(unknown_setting((*at, name, key), known))
        built.append(_built(name, settings, tasks, at))
    stopping = [callback.called for callback in built if callback.stops_tasks]
    if len(stopping) > 1:
        raise ConfigError(
            f"{dotted(path)}: {' and '.join(stopping)} both decide when a task stops; leave one out."
        )
    return named


def build_callbacks(named: Iterable[Mapping[str, Any]]) -> list[Callback]:
    """Builds the callbacks of a cell.

    Raises:
        ConfigError: There is no such callback, or a setting does not fit.
    """
    return [CALLBACKS[name](**settings) for entry in named for name, settings in entry.items()]


def training_of(
    training: TrainingConfig, known: Iterable[str], tasks: Iterable[str], path: KeyPath
) -> TrainingConfig:
    """The training settings of a cell: learning rates and sampling by tasks it has not are left out.

    Args:
        training: As the study file gives them, for all its tasks.
        known: The study's tasks.
        tasks: The cell's tasks.
        path: Where they stand.

    Raises:
        ConfigError: A learning rate for what is neither a task nor a parameter group, sampling by no task.
    """
    rates, tasks, known = training.lr_multipliers, list(tasks), list(known)
    names = [*known, *SHARED_GROUPS]
    for name in rates:
        if name not in names:
            raise ConfigError(
                f"{dotted((*path, 'lr_multipliers', name))} is neither a task nor a parameter group."
                f"{did_you_mean(name, names)} Known: {', '.join(names)}."
            )
    task = training.balanced_sampling
    if task is not None and task not in known:
        raise ConfigError(
            f"{dotted((*path, 'balanced_sampling'))}: `{task}` is not a task of this study."
            f"{did_you_mean(task, known)} Tasks: {', '.join(known)}."
        )
    if task is not None and task not in tasks:
        training = training.with_settings(balanced_sampling=None)
    kept = {name: rate for name, rate in rates.items() if name in tasks or name in SHARED_GROUPS}
    return training if kept == rates else training.with_settings(lr_multipliers=kept)


def _named(entry: Any, path: KeyPath) -> Named:
    if isinstance(entry, str):
        return {entry: {}}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        if settings is None or isinstance(settings, Mapping):
            return {str(name): dict(settings or {})}
    raise ConfigError(f"{dotted(path)}: one name with its settings expected, found {entry!r}.")


def _built(name: str, settings: Mapping[str, Any], tasks: Sequence[str], path: KeyPath) -> Callback:
    try:
        (callback,) = build_callbacks([{name: settings}])
        callback.check_tasks(tasks)
    except ConfigError as error:
        # A callback's message begins with its name: "early_freeze.patience: ...".
        raise ConfigError(f"{dotted(path)}.{error}") from error
    return callback
