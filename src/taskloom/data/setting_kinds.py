"""What a setting of a reader must be before the reader looks at it: text, a list, a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from taskloom.errors import ConfigError


def check_kinds(section: str, settings: Mapping[str, Any]) -> None:
    """Refuses a setting of `KINDS` that is something else; None, and settings of other names, pass.

    Args:
        section: Where the settings stand in the study file, for the message.
        settings: Settings by name.

    Raises:
        ConfigError: Names the setting, what is expected and what was found.

    Example:
        >>> check_kinds("data", {"table": "people.csv", "rate_hz": 50})
        >>> check_kinds("data", {"table": True})
        Traceback (most recent call last):
            ...
        taskloom.errors.ConfigError: data.table: text expected, found True.
    """
    for name, value in settings.items():
        if name not in KINDS or value is None:
            continue
        expected, fits = KINDS[name]
        if not fits(value):
            raise ConfigError(f"{section}.{name}: {expected} expected, found {value!r}.")


def is_number(value: Any) -> bool:
    """Whether it is a number, NaN included; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_names(value: Any) -> bool:
    """A name of a set, or a list of names and column numbers."""
    return _is_text(value) or (
        isinstance(value, list | tuple) and all(_is_text(each) or _is_whole(each) for each in value)
    )


def _are_marks(value: Any) -> bool:
    """One text or number, or a list of them; a blank one among them does no harm."""
    marks = value if isinstance(value, list | tuple) else [value]
    return all(each is None or isinstance(each, str | int | float) for each in marks)


def _are_features(value: Any) -> bool:
    return _are_names(value) or _is_mapping(value)


def _are_labels(value: Any) -> bool:
    return _is_mapping(value) and all(
        _is_mapping(entry) and (entry.get("values") is None or _is_mapping(entry["values"]))
        for entry in value.values()
    )


def _are_tracks(value: Any) -> bool:
    if _is_mapping(value):
        return all(classes is None or isinstance(classes, list | tuple) for classes in value.values())
    return isinstance(value, list | tuple) and _are_names(value)


def _is_normalize(value: Any) -> bool:
    return isinstance(value, bool | str) or _is_mapping(value)


_TEXT = ("text", _is_text)
_NUMBER = ("a number", is_number)

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("layout", "files", "file_pattern", "table", "intervals", "time", "time_unit", "group_by"), _TEXT
    ),
    **dict.fromkeys(
        ("rate_hz", "low_hz", "high_hz", "window_seconds", "hop_seconds", "floor_db", "clip"), _NUMBER
    ),
    **dict.fromkeys(("order", "mel_bands"), ("a whole number", _is_whole)),
    "causal": ("true or false", lambda value: isinstance(value, bool)),
    "channels": ("a name, or a list of names", _are_names),
    "exclude": ("a column, or a list of columns", _are_names),
    "features": ("rest, a list of columns, or {npz: file, array: name}", _are_features),
    "missing": ("a list of texts", _are_marks),
    "key": ("one pair {group: column}", _is_mapping),
    "labels": ("{name: {from: group or column, values: {text: name}}}", _are_labels),
    "tracks": ("a list of names, or {name: [classes in order]}", _are_tracks),
    "thresholds": ("numbers by rating", _is_mapping),
    "normalize": ("settings by name, false, or channel or person", _is_normalize),
}
"""Setting -> what is expected, in words, and whether a value is that."""
