"""Lists in an architecture's settings multiply; those that it takes by nature do not."""

from __future__ import annotations

import collections.abc
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from taskloom.errors import ConfigError
from taskloom.sharing import ARCHITECTURES, Architecture
from taskloom.study.locate import unknown_setting
from taskloom.study.yaml_lines import Document, KeyPath, dotted


def multiply(
    architecture: str, given: Mapping[str, Any], document: Document, path: KeyPath
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Returns every combination of the listed values of an architecture's settings.

    Args:
        architecture: Name in `ARCHITECTURES`.
        given: Its settings as the study file gives them.
        document: For file and line in messages.
        path: Where the settings stand.

    Returns:
        Per combination, the settings by the names of the architecture's parameters, and the names of those
        that vary between combinations.
    """
    parameters = _parameters(ARCHITECTURES[architecture])
    choices: dict[str, list[Any]] = {}
    for key, value in given.items():
        if key not in parameters:
            raise ConfigError(
                f"{document.where((*path, key))}: {unknown_setting((*path, key), list(parameters))}"
            )
        listed = parameters[key].lists(value)
        if listed and not value:
            raise ConfigError(
                f"{document.where((*path, key))}: {dotted((*path, key))}: at least one value expected, "
                "found an empty list."
            )
        choices[key] = value if listed else [value]
    missing = [name for name, parameter in parameters.items() if parameter.required and name not in choices]
    if missing:
        raise ConfigError(f"{document.where(path)}: {dotted((*path, missing[0]))} is missing.")
    varied = tuple(name for name, values in choices.items() if len(values) > 1)
    return [
        (dict(zip(choices, values, strict=True)), varied) for values in itertools.product(*choices.values())
    ]


@dataclass(frozen=True)
class _Parameter:
    """A setting of an architecture.

    Args:
        list_depth: How deeply lists nest in it by nature.
        required: Whether it must be given.
        mapping: Whether it may be a mapping.
    """

    list_depth: int = 0
    required: bool = False
    mapping: bool = False

    def lists(self, value: Any) -> bool:
        """Whether a value is a list of values: deeper than by nature, or made of mappings."""
        if depth_of_value(value) > self.list_depth:
            return True
        return self.mapping and isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _parameters(architecture: Architecture) -> dict[str, _Parameter]:
    """The settings of an architecture, by the names that study files use.

    `Architecture.settings` names them in the order of the function's parameters after encoder and tasks, and
    after those such as `copies` that every architecture has.
    """
    function = inspect.unwrap(cast(Callable[..., Any], architecture))
    hints = typing.get_type_hints(function)
    declared = list(inspect.signature(function).parameters.values())[2:]
    found: dict[str, _Parameter] = {}
    for written, parameter in itertools.zip_longest(architecture.settings, declared):
        if written is None:
            break
        if parameter is None:
            found[written] = _Parameter()
        else:
            hint = hints.get(parameter.name, Any)
            required = parameter.default is parameter.empty
            found[written] = _Parameter(depth_of_type(hint), required, _may_be_mapping(hint))
    return found


def _may_be_mapping(annotation: Any) -> bool:
    """Whether a mapping, or one of the types of a union, is among a setting's types."""
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    choices = typing.get_args(annotation) if is_union else (annotation,)
    origins = [typing.get_origin(choice) or choice for choice in choices]
    return any(isinstance(kind, type) and issubclass(kind, Mapping) for kind in origins)


def depth_of_value(value: Any) -> int:
    """How deeply lists are nested: 0 for 3, 1 for [3], 2 for [[3], 4]."""
    return 1 + max(map(depth_of_value, value), default=0) if isinstance(value, list) else 0


def depth_of_type(annotation: Any) -> int:
    """How deeply a value of this type nests lists; the deepest of a union."""
    origin = typing.get_origin(annotation) or annotation
    inner = max((depth_of_type(part) for part in typing.get_args(annotation)), default=0)
    if not isinstance(origin, type):
        return inner
    if issubclass(origin, str | bytes | collections.abc.Mapping):
        return 0  # the values of a mapping may be lists, it is none
    return inner + issubclass(origin, collections.abc.Sequence | collections.abc.Set)
