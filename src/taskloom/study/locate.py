"""From an error about a setting to one sentence with file and line."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from taskloom.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from taskloom.study.yaml_lines import Document, KeyPath, dotted


@contextmanager
def located(document: Document) -> Iterator[None]:
    """Puts file and line before the message of an error about a setting of `document`.

    A message that begins with a setting's path ("split.test: ...", "tasks.age.unit is not ...") is about it.

    Example:
        >>> from taskloom.study.yaml_lines import parse_document
        >>> with located(parse_document("split: {test: 2}", "a.yaml")):
        ...     raise ConfigError("split.test: a share below 1 expected, found 2.")
        Traceback (most recent call last):
            ...
        taskloom.errors.ConfigError: a.yaml:1: split.test: a share below 1 expected, found 2.
    """
    try:
        yield
    except MissingExtraError as error:
        path = leading_path(error.where, document.value)
        if path:
            raise error.at(document.say(path, error.where)) from error
        raise
    except (ConfigError, DataError) as error:
        path = leading_path(str(error), document.value)
        if path:
            raise type(error)(document.say(path, str(error))) from error
        raise


_WHOLE, _NUMBER, _FLAG = "a whole number", "a number", "true or false"
_LIST, _SETTINGS, _TEXT = "a list", "settings by name (`{name: value}`)", "text"
_IN_WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _FLAG),
    **dict.fromkeys(("list_type", "tuple_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _SETTINGS),
    "string_type": _TEXT,
}
"""What was expected, by the type of pydantic's error: "a valid dictionary" is Python's word, not a user's."""


def leading_path(message: str, value: Any) -> KeyPath:
    """Returns the key path of `value` that a message begins with, () where it begins with none.

    Example:
        >>> leading_path("tasks.NR-AR.unit: ...", {"tasks": {"NR-AR": {}}})
        ('tasks', 'NR-AR')
        >>> leading_path("data loaders are slow", {"data": {}})
        ()
    """
    path: KeyPath = ()
    rest = message
    while True:
        step = _next_key(rest, value)
        if step is None:
            return path if path and (len(path) > 1 or rest[:1] in (":", ".")) else ()
        key, rest = step
        value = value[key]
        path = (*path, key)
        if rest[:1] == "." and _next_key(rest[1:], value) is not None:
            rest = rest[1:]


def _next_key(text: str, value: Any) -> tuple[str | int, str] | None:
    if isinstance(value, Mapping):
        names = sorted((str(key) for key in value), key=len, reverse=True)
        for name in names:
            after = text[len(name) : len(name) + 1]
            if text.startswith(name) and not (after.isalnum() or after in ("_", "-")):
                return name, text[len(name) :]
    elif isinstance(value, Sequence) and not isinstance(value, str) and text.startswith("["):
        index, bracket, rest = text[1:].partition("]")
        if bracket and index.isdigit() and int(index) < len(value):
            return int(index), rest
    return None


def explain(error: ValidationError, model: type[BaseModel], document: Document, at: KeyPath = ()) -> str:
    """Writes the first thing pydantic found wrong as one sentence with file and line.

    An unknown setting comes before a missing one: where `naem` stands, `name` is missing only because of it.

    Args:
        error: What pydantic raised.
        model: The model it was validating.
        document: Where the settings came from.
        at: Where the model's settings stand in the document.
    """
    rank = {"extra_forbidden": 0, "missing": 2}
    every = error.errors(include_url=False)
    first = min(every, key=lambda item: rank.get(item["type"], 1))
    path = (*at, *_real_path(first["loc"], document, at))
    if first["type"] == "extra_forbidden":
        known = _settings_at(model, path[len(at) : -1])
        return document.say(path, unknown_setting(path, known))
    if first["type"] == "missing":
        return document.say(path, f"{dotted(path)} is missing.")
    place = _real_path(first["loc"], document, at)
    same = [item["type"] for item in every if _real_path(item["loc"], document, at) == place]
    if all(kind in _IN_WORDS for kind in same):
        words = " or ".join(dict.fromkeys(_IN_WORDS[kind] for kind in same))
        return document.say(path, f"{dotted(path)}: {words} expected, found {_shown(first['input'])}.")
    expected = re.sub(r"^(Value error, |Input |List |Dictionary |Tuple |String )", "", str(first["msg"]))
    expected = re.sub(r" after validation, not \d+", "", expected).rstrip(".")
    return document.say(path, f"{dotted(path)} {expected}, found {_shown(first['input'])}.")


def unknown_setting(path: KeyPath, known: Sequence[str]) -> str:
    """Returns "encoder.naem is not a setting. Did you mean `name`? Settings of encoder: ..." ."""
    section = dotted(path[:-1])
    of = f" of {section}" if section else ""
    suggestion = did_you_mean(str(path[-1]), known)
    return f"{dotted(path)} is not a setting.{suggestion} Settings{of}: {', '.join(known)}."


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _real_path(location: Sequence[str | int], document: Document, at: KeyPath) -> KeyPath:
    """Drops what pydantic adds to a location (names of union members), by what stands in the document."""
    value: Any = document.value
    for key in at:
        value = value[key]
    path: list[str | int] = []
    for position, key in enumerate(location):
        named = isinstance(value, Mapping) and key in value
        if named or (isinstance(value, list) and isinstance(key, int) and key < len(value)):
            value = value[key]
        elif position < len(location) - 1 or not isinstance(value, Mapping):
            continue
        path.append(key)
    return tuple(path)


def _settings_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the settings that a model knows below a path."""
    models: list[type[BaseModel]] = [model]
    for key in path:
        found: list[type[BaseModel]] = []
        for candidate in models:
            for name, info in candidate.model_fields.items():
                if key in (name, info.alias):
                    found += _models_in(info.annotation)
        models = found or models  # a mapping or list in between: its items are of the models already found
    return list(
        dict.fromkeys(info.alias or name for each in models for name, info in each.model_fields.items())
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
