"""One model, many tasks, holes in the labels, and evidence whether sharing helped.

Names are imported when they are first used: `taskloom --help` need not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from taskloom.version import __version__

if TYPE_CHECKING:
    from taskloom import (
        balancing,
        coupling,
        data,
        deploy,
        encoders,
        explain,
        losses,
        metrics,
        report,
        sharing,
        study,
        training,
    )
    from taskloom.tasks import (
        Binary,
        Labels,
        Landmarks,
        Multiclass,
        Multilabel,
        Ordinal,
        Regression,
        Reversal,
        Task,
        TaskSet,
    )
    from taskloom.training import evaluate, fit

_ROOMS = (
    "balancing",
    "coupling",
    "data",
    "deploy",
    "encoders",
    "explain",
    "losses",
    "metrics",
    "predict",
    "report",
    "sharing",
    "study",
    "training",
)
_HOMES = {
    **dict.fromkeys(
        (
            "Binary",
            "Labels",
            "Landmarks",
            "Multiclass",
            "Multilabel",
            "Ordinal",
            "Regression",
            "Reversal",
            "Task",
            "TaskSet",
        ),
        "taskloom.tasks",
    ),
    **dict.fromkeys(("evaluate", "fit"), "taskloom.training"),
}

__all__ = [
    "Binary",
    "Labels",
    "Landmarks",
    "Multiclass",
    "Multilabel",
    "Ordinal",
    "Regression",
    "Reversal",
    "Task",
    "TaskSet",
    "__version__",
    "balancing",
    "coupling",
    "data",
    "deploy",
    "encoders",
    "evaluate",
    "explain",
    "fit",
    "losses",
    "metrics",
    "predict",
    "report",
    "sharing",
    "study",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"taskloom.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'taskloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
