"""Settings with their defaults written out: two cells that say the same in other words compare as equal.

`hard_sharing: {stages: 4}` and `hard_sharing: {stages: 4, from: input}` are one network. What stands in a
run's record is what the study file says, so whoever looks for cells that differ in one thing alone compares
what these functions return.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from taskloom.balancing import BALANCERS
from taskloom.registry import Registry
from taskloom.sharing import ARCHITECTURES
from taskloom.training import CALLBACKS

PLAIN_SUM: dict[str, Any] = {"weighted_sum": {}}
"""What a cell without `balancing` has."""


def written_out(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of its cell, with every default of its methods in place.

    Names that are not registered (a file of the user's own that was not run) keep the settings they have.

    Args:
        resolved: See `taskloom.study.cells.Cell.resolved`.

    Example:
        >>> short = {"architecture": "hard_sharing", "settings": {"stages": 4}}
        >>> long = {"architecture": "hard_sharing", "settings": {"stages": 4, "from": "input"}}
        >>> written_out(short) == written_out(long)
        True
    """
    return {
        **resolved,
        "settings": all_settings(resolved["architecture"], resolved["settings"]),
        "balancing": of_name(BALANCERS, resolved.get("balancing") or PLAIN_SUM),
        "callbacks": [of_name(CALLBACKS, given) for given in resolved.get("callbacks") or ()],
    }


def all_settings(architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a way of sharing by the names of study files, those that were not given too."""
    if architecture not in ARCHITECTURES:
        return dict(settings)
    known = ARCHITECTURES[architecture]
    function = inspect.unwrap(cast(Callable[..., Any], known))
    declared = list(inspect.signature(function).parameters.values())[2:]
    defaults = {
        written: parameter.default
        for written, parameter in zip(known.settings, declared, strict=False)
        if parameter.default is not parameter.empty
    }
    return {**defaults, **settings}


def of_name(known: Registry[Any], named: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of a `{name: settings}` and all its settings, those that were not given too."""
    ((name, settings),) = named.items()
    written = {("lambda_" if key == "lambda" else key): value for key, value in (settings or {}).items()}
    return name, (with_defaults(known[name], written) if name in known else written)


def with_defaults(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a call with these would have."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return {**defaults, **given}
