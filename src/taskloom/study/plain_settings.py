"""Settings of a study from a program or a notebook, in place of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from taskloom.data.file_names import refuse_frame
from taskloom.errors import ConfigError
from taskloom.study.yaml_lines import Document, KeyPath, dotted


def document_of(settings: Mapping[Any, Any]) -> Document:
    """The settings as a study file's document: a copy of plain values, whose messages name no file.

    Args:
        settings: Text, numbers, lists and settings by name; paths and NumPy's numbers are taken too.

    Raises:
        ConfigError: Something else, a DataFrame for example, with its place and what to do.

    Example:
        >>> document_of({"repeats": np.int64(3), "encoder": {"hidden": (4, 4)}}).value
        {'repeats': 3, 'encoder': {'hidden': [4, 4]}}
    """
    value = _plain(settings, ())
    return Document("settings", value)


def _plain(value: Any, path: KeyPath) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, (*path, str(key))) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, (*path, position)) for position, entry in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    refuse_frame(value, dotted(path))
    raise ConfigError(
        f"{dotted(path)}: text, a number, a list or settings by name expected, found a "
        f"{type(value).__name__}."
    )
