"""A bundle on recordings that were not its own: windows normalised as the bundle's were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.data.batch import DataSplits
from taskloom.data.normalize import Normalizer
from taskloom.data.windows import WindowDataset
from taskloom.deploy import Bundle
from taskloom.errors import DataError

_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_READ_ALIKE = ("units", "baseline")
"""What readers say of their files that decides what a sample means."""


def windows_as_trained(
    bundle: Bundle, windows: WindowDataset, splits: DataSplits, place: Path
) -> tuple[WindowDataset, list[str]]:
    """The same windows under the normalisation of the bundle, and what is to be noted.

    Where the bundle was normalised person by person, everybody is normalised by his own windows here.

    Args:
        bundle: The bundle.
        windows: A part of the other data.
        splits: The other data.
        place: The study file, for messages.

    Raises:
        DataError: Recordings that the bundle was made with, or that were prepared in another way.
    """
    if json.loads(json.dumps(splits.preprocessing)) == bundle.preprocessing:
        return windows, []
    own, theirs = bundle.about.get("data", {}), splits.about
    shared = next((name for name in _recordings(theirs) if theirs["sources"][name] in _sums(own)), None)
    if shared is not None:
        raise DataError(
            f"{place}: {shared} is a file of the bundle's own data, whose split or preparation is another "
            "here, so that rows of its training would be tested; evaluate it with the study file of its "
            "training, or on other recordings."
        )
    _check_alike(_meaning(bundle.preprocessing, own), _meaning(splits.preprocessing, theirs), place)
    known = bundle.preprocessing["normalizer"]
    fitted = None if known is None else Normalizer.from_dict(known)
    if fitted is None or not fitted.persons:
        return windows.with_normalizer(fitted), []
    own_people = Normalizer.fit(windows, per="person", clip=fitted.clip)
    note = "Everybody was normalised by the mean and deviation of his own windows here."
    return windows.with_normalizer(own_people), [note]


def _recordings(data: Mapping[str, Any]) -> list[str]:
    """Names of the source files that are recordings: a table may go with other recordings too."""
    tables = data["store"]["parameters"].get("tables")
    return [
        name
        for name in data["sources"]
        if (Path(name).suffix.lower() not in _TABLES if tables is None else name not in tables)
    ]


def _sums(data: Mapping[str, Any]) -> set[str]:
    return set(data.get("sources", {}).values())


def _meaning(known: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What must be alike for a window to mean the same."""
    signals = {name: value for name, value in known.get("signals", {}).items() if name != "native_rate_hz"}
    read = data.get("store", {}).get("parameters", {})
    return {
        "reader": known.get("reader"),
        "channels": list(known.get("channels", ())),
        "rate_hz": known.get("rate_hz"),
        "window.samples": known.get("window", {}).get("samples"),
        **{name: read[name] for name in _READ_ALIKE if name in read},
        "signal steps": signals,
    }


def _check_alike(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: Path) -> None:
    for name, expected in ours.items():
        if theirs.get(name) != expected:
            raise DataError(
                f"{place}: {name} {_short(expected)} expected, as the bundle was trained on, found "
                f"{_short(theirs.get(name))}; prepare the recordings alike."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
