"""Lists that multiply: the choices that a study file's settings give for one cell."""

from __future__ import annotations

import inspect
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.balancing import BALANCERS, build
from taskloom.errors import ConfigError, MissingExtraError
from taskloom.registry import Registry
from taskloom.study.extras import Named, read_callbacks
from taskloom.study.multiply import depth_of_type, depth_of_value
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.training import CALLBACKS


@dataclass(frozen=True)
class Choice:
    """One of the balancings, or of the lists of callbacks, that an entry's cells have.

    Args:
        named: `{name: settings}` each; none where nothing is named.
        words: Each of them in words, with the settings that vary within the entry.
        differs: What tells the choice from the entry's others, in words.
    """

    named: tuple[Named, ...] = ()
    words: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


def balancing_choices(value: Any, path: KeyPath) -> list[Choice]:
    """Reads the `balancing` of an entry: a name, `{name: settings}`, or a list of such; lists multiply.

    Args:
        value: What the study file says; None is a plain sum.
        path: Where it stands.

    Raises:
        ConfigError: An unknown name or setting, a value out of range, an empty list; begins with the
            setting's path.
        MissingExtraError: A method needs a package that is not installed.

    Example:
        >>> found = balancing_choices({"learned_weights": {"lambda": [0.01, 0.1]}}, ("balancing",))
        >>> [choice.named for choice in found]
        [({'learned_weights': {'lambda': 0.01}},), ({'learned_weights': {'lambda': 0.1}},)]
    """
    if value is None:
        return [Choice()]
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise _empty(path)
    choices: list[Choice] = []
    for number, entry in enumerate(entries):
        at: KeyPath = (*path, number) if isinstance(value, list) else path
        name, settings = _name_and_settings(entry, at)
        for given, varied in _expanded(BALANCERS, name, settings, at):
            _check_balancer(name, given, at)
            words = " ".join([human(name), *varied])
            differs = (words,) if len(entries) > 1 else varied
            choices.append(Choice(({name: given},), (words,), differs))
    return choices


def callback_choices(value: Any, tasks: Sequence[str], path: KeyPath) -> list[Choice]:
    """Reads the `callbacks` of an entry; lists in their settings multiply.

    Args:
        value: What the study file says: a list of names or `{name: settings}`, all of which a cell has.
        tasks: The cell's tasks.
        path: Where it stands.

    Raises:
        ConfigError: See `read_callbacks`.

    Example:
        >>> found = callback_choices([{"early_freeze": {"patience": [3, 5]}}], ["age"], ("callbacks",))
        >>> [choice.named for choice in found]
        [({'early_freeze': {'patience': 3}},), ({'early_freeze': {'patience': 5}},)]
    """
    if not isinstance(value, list) or not all(_is_named(entry) for entry in value):
        return [Choice(read_callbacks(value, tasks, path))]  # which says what is wrong, if anything is
    alternatives = []
    for number, entry in enumerate(value):
        name, settings = _name_and_settings(entry, (*path, number))
        found = _expanded(CALLBACKS, name, settings, (*path, number))
        alternatives.append([({name: given}, varied) for given, varied in found])
    return [
        Choice(
            read_callbacks([named for named, _ in picked], tasks, path),
            tuple(" ".join([human(next(iter(named))), *varied]) for named, varied in picked),
            tuple(words for _, varied in picked for words in varied),
        )
        for picked in itertools.product(*alternatives)
    ]


def human(value: Any) -> str:
    """A name or a setting's value in the words of a cell's name.

    Example:
        >>> human("learned_weights"), human([1e-3, {"age": 2.0}])
        ('learned weights', '0.001 age 2')
    """
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(f"{human(key)} {human(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return {2: " ", 3: ", "}.get(depth_of_value(value), " ").join(map(_human_item, value))
    return str(value).replace("_", " ").strip()


def _human_item(value: Any) -> str:
    """An item of a list; a group of tasks is joined by "+"."""
    return "+".join(map(human, value)) if depth_of_value(value) == 1 else human(value)


def _is_named(entry: Any) -> bool:
    return isinstance(entry, str) or (
        isinstance(entry, Mapping)
        and len(entry) == 1
        and all(settings is None or isinstance(settings, Mapping) for settings in entry.values())
    )


def _name_and_settings(entry: Any, path: KeyPath) -> tuple[str, dict[str, Any]]:
    if not _is_named(entry):
        raise ConfigError(f"{dotted(path)}: one name with its settings expected, found {entry!r}.")
    if isinstance(entry, str):
        return entry, {}
    ((name, settings),) = entry.items()
    return str(name), dict(settings or {})


def _expanded(
    known: Registry[Any], name: str, settings: Mapping[str, Any], path: KeyPath
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """The combinations of listed settings, and in words what varies; what is a list by nature stays one."""
    by_nature = _list_depths(known[name]) if name in known else {}
    values: dict[str, list[Any]] = {}
    for key, value in settings.items():
        depth = by_nature.get("lambda_" if key == "lambda" else key)
        listed = depth is not None and depth_of_value(value) > depth
        if listed and not value:
            raise _empty((*path, name, key))
        values[key] = value if listed else [value]
    varied = [key for key, listed in values.items() if len(listed) > 1]
    return [
        (given, tuple(f"{human(key)} {human(given[key])}" for key in varied))
        for given in (
            dict(zip(values, picked, strict=True)) for picked in itertools.product(*values.values())
        )
    ]


def _list_depths(factory: Callable[..., Any]) -> dict[str, int]:
    """Per setting, how deeply lists nest in it by nature, from the annotations of the function or class."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(function)
    return {name: depth_of_type(hints.get(name, Any)) for name in inspect.signature(factory).parameters}


def _check_balancer(name: str, settings: Mapping[str, Any], path: KeyPath) -> None:
    try:
        build(name, settings)
    except ConfigError as error:
        # A balancer's message begins with its name: "balancing.cagrad.c: ...".
        message = str(error)
        begins = message.startswith(f"balancing.{name}")
        place = dotted(path) + message.removeprefix("balancing") if begins else f"{dotted(path)}: {message}"
        raise ConfigError(place) from error
    except MissingExtraError as error:
        raise error.at(dotted((*path, name))) from error
    except TypeError as error:
        raise ConfigError(f"{dotted((*path, name))}: {error}.") from error


def _empty(path: KeyPath) -> ConfigError:
    return ConfigError(f"{dotted(path)}: at least one value expected, found an empty list.")
