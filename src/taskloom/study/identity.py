"""Which training settings tell one run from another: those that decide its result, and differ from usual."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from taskloom.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig

# How rows are fetched, and how many at a time are evaluated, changes no result; `device`, `devices`,
# `precision` and `threads` may, if only by rounding.
_DECIDE_NOTHING = ("num_workers", "evaluation_batch", "resident")


def deciding_settings(training: TrainingConfig) -> dict[str, Any]:
    """Returns the training settings that belong to a run's identity, as plain values.

    Settings at their default are left out: studies done before a setting was added stay done. Whoever changes
    a default must raise `taskloom.study.runs.RUN_FORMAT`.

    Example:
        >>> deciding_settings(TrainingConfig(epochs=20, batch=8, num_workers=2))
        {'batch': 8}
        >>> deciding_settings(TrainingConfig(optimizer={"adam": {"lr": 0.01}}))
        {'optimizer': {'adam': {'lr': 0.01}}}
    """
    usual = TrainingConfig()
    plain = {
        name: _plain(getattr(training, name))
        for name in type(training).model_fields
        if name not in _DECIDE_NOTHING
    }
    return {name: value for name, value in plain.items() if value != _plain(getattr(usual, name))}


def _plain(value: Any) -> Any:
    if isinstance(value, OptimizerConfig | ScheduleConfig):
        return {value.name: value.settings.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return value
