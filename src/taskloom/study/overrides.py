"""`--set key=value`: settings from the command line, over those of the study file."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import yaml

from taskloom.errors import ConfigError
from taskloom.study.yaml_lines import Document, KeyPath, dotted, parse_value

_STARTS = tuple("[{\"'")
"""Of a list, a mapping or a text in quotation marks."""


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Returns a document with the settings of `--set` put in.

    Args:
        document: The study file.
        overrides: "key=value" each. A key is a path with dots, positions in lists by number; a value is YAML.

    Raises:
        ConfigError: Names the `--set` that is not of that form or whose path leads nowhere.

    Example:
        >>> from taskloom.study.yaml_lines import parse_document
        >>> document = parse_document("cells: [{hard_sharing: {stages: 1}}]", "a.yaml")
        >>> apply_overrides(document, ["cells.0.hard_sharing.stages=2", "repeats=3"]).value
        {'cells': [{'hard_sharing': {'stages': 2}}], 'repeats': 3}
    """
    changed = Document(
        document.path, copy.deepcopy(document.value), dict(document.lines), set(document.overridden)
    )
    for override in overrides:
        path, value = _parse(override)
        path = _put(changed.value, path, value, override)
        for known in [line for line in changed.lines if line[: len(path)] == path]:
            del changed.lines[known]
        changed.overridden.add(path)
    return changed


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns settings that stand on the command line alone; see `apply_overrides`.

    Example:
        >>> settings_of(["size=32", "coral.train=a.csv"])
        {'size': 32, 'coral': {'train': 'a.csv'}}
    """
    settings: dict[str, Any] = {}
    for override in overrides:
        path, value = _parse(override)
        _put(settings, path, value, override)
    return settings


def _parse(override: str) -> tuple[KeyPath, Any]:
    key, equals, text = override.partition("=")
    parts = re.sub(r"\[(\d+)\]", r".\1", key.strip()).split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: key=value expected, for example training.epochs=5.")
    try:
        value = parse_value(text)
    except yaml.YAMLError:
        quoted = f"--set '{key}=\"{text}\"'"
        advice = f"; a text with such signs stands in two pairs of quotation marks: {quoted}"
        raise ConfigError(
            f"--set {override}: the value is not YAML{'' if text.startswith(_STARTS) else advice}."
        ) from None
    return tuple(int(part) if part.isdigit() else part for part in parts), value


def _put(settings: Any, path: KeyPath, value: Any, override: str) -> KeyPath:
    """Puts the value in; returns the path as it really is (a number may be a position or a key)."""
    target = settings
    real: KeyPath = ()
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(target, list):
            if not isinstance(key, int) or key >= len(target):
                raise ConfigError(
                    f"--set {override}: {dotted(path[:depth])} is a list of {len(target)}; "
                    f"a position from 0 to {len(target) - 1} expected, found `{key}`."
                )
        elif isinstance(target, dict):
            key = str(key)
            if not last and target.get(key) is None:
                target[key] = {}
        else:
            raise ConfigError(
                f"--set {override}: {dotted(path[:depth])} is {target!r} and has no settings below it."
            )
        real = (*real, key)
        if last:
            target[key] = value
        else:
            target = target[key]
    return real
