"""What the cells of a study are called: short names for people, longer ones where two would be alike."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskloom.study.choices import Choice, human
from taskloom.study.couplings import describe_coupling

if TYPE_CHECKING:
    from taskloom.study.cells import Cell


def name_of(
    architecture: str,
    settings: Mapping[str, Any],
    title: str | None,
    varied: Sequence[str],
    entry: Mapping[str, Any],
    beside: Sequence[Choice],
) -> str:
    """A name for people: the given one, or the architecture with what matters of its settings.

    Args:
        architecture: Name in `taskloom.sharing.ARCHITECTURES`.
        settings: The cell's settings of it.
        title: The entry's `name`, if it has one.
        varied: Settings that differ between the cells of the entry.
        entry: The entry, as the study file has it.
        beside: The cell's choice of balancing and of callbacks.

    Example:
        >>> name_of("cross_stitch", {"units": 2, "per": "channel"}, None, [], {}, [])
        'cross-stitch 2 per channel'
        >>> name_of("hard_sharing", {"stages": 2}, "trunk", ["stages"], {}, [])
        'trunk stages 2'
    """
    if title is not None:
        own = [f"{human(name)} {human(settings[name])}" for name in varied]
        return " ".join([title, *own, *(words for choice in beside for words in choice.differs)])
    words = " + ".join(
        [_short_name(architecture, settings), *(words for choice in beside for words in choice.words)]
    )
    if entry.get("warm_start") is not None:
        words += " + warm start"
    return words


def _short_name(architecture: str, settings: Mapping[str, Any]) -> str:
    if architecture == "hard_sharing":
        end = settings.get("from")
        groups = f" of {human(settings['groups'])}" if settings.get("groups") else ""
        return f"hard sharing {human(settings['stages'])}" + (f" from {end}" if end else "") + groups
    if architecture == "cross_stitch":
        end = f" from {settings['from']}" if "from" in settings else ""
        units = f" {human(settings['units'])}{end}" if "units" in settings else ""
        return f"cross-stitch{units}" + (f" per {settings['per']}" if "per" in settings else "")
    if architecture == "soft_sharing" and "tie" in settings:
        weight = settings.get("weight")
        return human(settings["tie"]) + ("" if weight is None else f" {human(weight)}")
    return _full_name(architecture, settings)


def _full_name(architecture: str, settings: Mapping[str, Any]) -> str:
    return " ".join([human(architecture), *(f"{human(key)} {human(settings[key])}" for key in settings)])


def _name_with_all_settings(cell: Cell) -> str:
    beside = [cell.balancing] if cell.balancing else []
    extras = [
        _full_name(name, given) for named in (*beside, *cell.callbacks) for name, given in named.items()
    ]
    if cell.coupling is not None:
        extras.append(describe_coupling(cell.coupling))
    extras += ["warm start"] if cell.warm_start else []
    if cell.teachers is not None:
        numbers = [f"{key} {human(value)}" for key, value in cell.teachers.items() if key != "from"]
        extras.append(" ".join(["teachers", *numbers]))
    return " + ".join([_full_name(cell.architecture, cell.settings), *extras])


def with_unique_names(cells: Sequence[Cell]) -> list[Cell]:
    """Names that stand twice are told apart: by all settings, by tasks, at last by number."""
    longer: tuple[Callable[[Cell], str], ...] = (
        _name_with_all_settings,
        lambda cell: f"{cell.name} on {', '.join(cell.tasks)}",
        lambda cell: f"{cell.name} ({cell.id[:4]})",
    )
    named = list(cells)
    for name in longer:
        counts = Counter(cell.name for cell in named)
        named = [
            dataclasses.replace(cell, name=name(cell)) if counts[cell.name] > 1 else cell for cell in named
        ]
    return named
