"""The relatedness that a study file names: a shipped table, a file, or the training labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.coupling.estimate import from_labels
from taskloom.coupling.relatedness import Relatedness
from taskloom.coupling.tables import SHIPPED, read_table
from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks import Labels, TaskSet

FROM_LABELS = "from_labels"
_ESTIMATE_SETTINGS = ("smoothing", "minimum_support", "below_minimum", "empty_classes")


def choose_relatedness(
    source: str | Mapping[str, Any],
    labels: Labels,
    tasks: TaskSet,
    *,
    classes: str | Sequence[str],
    attributes: str | Sequence[str],
    folder: Path | None = None,
) -> Relatedness:
    """Finds the table for a coupling of these tasks.

    Args:
        source: The name of a shipped table, a file (.json, .csv, .yaml), `from_labels`, or
            `{from_labels: {smoothing: ..., minimum_support: ..., below_minimum: ..., empty_classes: ...}}`.
        labels: Training labels, for `from_labels`.
        tasks, classes, attributes: See `Coupling`.
        folder: What a relative path starts at; the working directory where None.

    Raises:
        ConfigError: A name that is neither shipped nor a file's, or an unknown setting.
        DataError: A table or labels that `read_table` or `from_labels` refuses.

    Example:
        >>> tasks = tl.TaskSet(tl.Multiclass("face", 6), tl.Multilabel("units", 17))
        >>> none, sides = tl.Labels.empty(tasks, 0), {"classes": "face", "attributes": "units"}
        >>> table = choose_relatedness("expression_action_units", none, tasks, **sides)
        >>> table.classes[:2]
        ('happiness', 'sadness')
    """
    settings: Mapping[str, Any] = {}
    if isinstance(source, Mapping):
        if list(source) != [FROM_LABELS] or not isinstance(source[FROM_LABELS], Mapping):
            raise ConfigError(
                f"coupling.relatedness: a name, a file or {{{FROM_LABELS}: settings}} expected, "
                f"found {dict(source)!r}."
            )
        settings = source[FROM_LABELS]
        for key in settings:
            if key not in _ESTIMATE_SETTINGS:
                raise ConfigError(
                    f"coupling.relatedness.{FROM_LABELS}.{key} is not a setting."
                    f"{did_you_mean(str(key), _ESTIMATE_SETTINGS)} Settings: {', '.join(_ESTIMATE_SETTINGS)}."
                )
        source = FROM_LABELS
    if source == FROM_LABELS:
        return from_labels(
            labels, tasks, classes=classes, attributes=attributes, source="the training labels", **settings
        )
    if source in SHIPPED:
        return SHIPPED[source]
    if Path(source).suffix.lower() in (".json", ".csv", ".yaml", ".yml"):
        return read_table((folder or Path()) / source)
    known = (FROM_LABELS, *SHIPPED)
    raise ConfigError(
        f"coupling.relatedness: `{source}` is neither a shipped table nor a file (.json, .csv, .yaml)."
        f"{did_you_mean(source, known)} Known: {', '.join(known)}."
    )
