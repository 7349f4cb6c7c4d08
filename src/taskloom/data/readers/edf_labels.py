"""Labels of whole recordings: from named groups of the file name, and from one table joined by a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers import ReadRecording
from taskloom.data.tables import Table, read_table
from taskloom.errors import ConfigError, DataError, did_you_mean

_IDENTITY = ("person", "session", "trial")
_FILE_COLUMNS = ("file_name", "file")
_SUFFIXES = (".edf", ".wav")


@dataclass(frozen=True)
class LabelSpec:
    """Where a label comes from: a named group or a column, and names for its values."""

    source: str
    values: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"from": self.source, "values": dict(self.values)}


@dataclass(frozen=True)
class FoundLabels:
    """What is known about one recording."""

    labels: dict[str, Any]
    identity: dict[str, str]


def label_specs(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, LabelSpec]:
    """Reads the `labels` setting.

    Raises:
        ConfigError: An entry without `from`, or with something else than `from` and `values`.

    Example:
        >>> label_specs({"state": {"from": "condition", "values": {1: "rest"}}})["state"].values
        {'1': 'rest'}
    """
    specs = {}
    for name, entry in settings.items():
        for key in entry:
            if key not in ("from", "values"):
                raise ConfigError(
                    f"data.labels.{name}.{key} is not a setting.{did_you_mean(str(key), ('from', 'values'))} "
                    "Settings: from, values."
                )
        if "from" not in entry:
            raise ConfigError(f"data.labels.{name}.from: a group of the file name or a column expected.")
        values = {str(text): str(value) for text, value in (entry.get("values") or {}).items()}
        specs[name] = LabelSpec(str(entry["from"]), values)
    return specs


def layout_settings(layouts: Mapping[str, dict[str, Any]], layout: str | None) -> dict[str, Any]:
    """Settings of a well-known data set by its name; none where `layout` is None.

    Raises:
        ConfigError: No such layout.
    """
    if layout is None:
        return {}
    if layout not in layouts:
        raise ConfigError(
            f"data.layout: `{layout}` is not known.{did_you_mean(layout, layouts)} "
            f"Known: {', '.join(layouts)}."
        )
    return layouts[layout]


@dataclass(frozen=True)
class LabelSettings:
    """Where labels of whole recordings come from; see `EdfReader` for each."""

    file_pattern: str
    table: Path | None
    key: Mapping[str, str]
    specs: Mapping[str, LabelSpec]

    @classmethod
    def choose(
        cls,
        root: Path,
        usual: Mapping[str, Any],
        *,
        file_pattern: str | None,
        table: str | None,
        key: Mapping[str, str] | None,
        labels: Mapping[str, Mapping[str, Any]] | None,
    ) -> Self:
        """The settings given, with what is usual for a layout in place of those that are not."""
        table = table or usual.get("table")
        return cls(
            file_pattern or usual.get("file_pattern", r".+"),
            root / table if table else None,
            dict(key or usual.get("key") or {}),
            label_specs(labels if labels is not None else usual.get("labels", {})),
        )

    def files(self, recordings: Sequence[Path]) -> list[Path]:
        """The recordings and the table."""
        return [*recordings, *([self.table] if self.table else [])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a reader's `parameters`."""
        return {
            "file_pattern": self.file_pattern,
            "key": dict(self.key),
            "labels": {name: spec.to_dict() for name, spec in self.specs.items()},
        }


class RecordingLabels:
    """Labels of every file, read at once from names and table."""

    def __init__(self) -> None:
        self.classes: dict[str, tuple[str, ...]] = {}
        self.notes: list[str] = []
        self._found: dict[str, FoundLabels] = {}

    def of(self, path: Path) -> FoundLabels:
        return self._found[path.name]

    def recording(self, path: Path, samples: NDArray[np.float32]) -> ReadRecording:
        """A file's samples [n, channels] with what is known about them."""
        found = self.of(path)
        return ReadRecording(
            name=path.stem,
            samples=samples,
            labels=found.labels,
            person=found.identity.get("person"),
            session=found.identity.get("session"),
            trial=found.identity.get("trial"),
        )

    @classmethod
    def read(cls, paths: Sequence[Path], settings: LabelSettings) -> RecordingLabels:
        """Joins names and table.

        Raises:
            DataError: A name that does not fit, two different values for one key, two rows for one file, a
                table of other recordings, an unknown value.
            ConfigError: A pattern, key or source that is not there.
        """
        specs, table_path = settings.specs, settings.table
        groups = _named_groups(paths, settings.file_pattern)
        columns: dict[str, dict[str, Any]] = {path.name: {} for path in paths}
        result = cls()
        if table_path is not None:
            rows, join = _table_rows(read_table(table_path), settings.key, groups)
            without = [path.name for path in paths if join(path) not in rows]
            if len(without) == len(paths):
                raise DataError(
                    f"{table_path}: none of its {len(rows)} rows is of a recording that is there; it names "
                    f"{next(iter(rows))}, for example, where {paths[0].name} asks for {join(paths[0])}."
                )
            columns = {path.name: rows.get(join(path), {}) for path in paths}
            if without:
                result.notes.append(
                    f"{len(without)} of {len(paths)} recordings have no row in {table_path.name} "
                    f"({_some(without)}): their labels from the table are missing."
                )
            there = {join(path) for path in paths}
            unused = [owner for owner in rows if owner not in there]
            if unused:
                have = "has" if len(unused) == 1 else "have"
                result.notes.append(
                    f"{len(unused)} of {len(rows)} that {table_path.name} names {have} no recording "
                    f"({_some(unused)}): what it says of them is not used."
                )
        known = {name: None for path in paths for name in (*groups[path.name], *columns[path.name])}
        for name, spec in specs.items():
            if spec.source not in known:
                raise ConfigError(
                    f"data.labels.{name}.from: `{spec.source}` is neither a group of the file names nor "
                    f"a column.{did_you_mean(spec.source, known)} Known: {', '.join(known)}."
                )
        sources = {**{name: LabelSpec(name) for name in known}, **specs}
        for path in paths:
            raw = {**columns[path.name], **groups[path.name]}
            labels = {name: _named(path, name, raw.get(s.source), s) for name, s in sources.items()}
            identity = {name: str(raw[name]) for name in _IDENTITY if raw.get(name) is not None}
            result._found[path.name] = FoundLabels(labels, identity)
        result.classes = {name: result._classes(name, spec) for name, spec in sources.items()}
        return result

    def _classes(self, name: str, spec: LabelSpec) -> tuple[str, ...]:
        """Names in the order of `values`, else what occurs, sorted: numbers by size, before text."""
        if spec.values:
            return tuple(dict.fromkeys(spec.values.values()))
        found = {value for entry in self._found.values() if (value := entry.labels[name]) is not None}
        return tuple(str(value) for value in sorted(found, key=lambda value: (isinstance(value, str), value)))


def _some(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def _named_groups(paths: Sequence[Path], file_pattern: str) -> dict[str, dict[str, Any]]:
    try:
        pattern = re.compile(file_pattern)
    except re.error as error:
        raise ConfigError(f"data.file_pattern: not a regular expression ({error}): {file_pattern}") from error
    groups = {}
    for path in paths:
        match = pattern.fullmatch(path.stem)
        if match is None:
            raise DataError(
                f"{path.name}: the name does not match `data.file_pattern` ({file_pattern}); change the "
                "pattern or move the file away."
            )
        groups[path.name] = match.groupdict()
    return groups


def _table_rows(
    table: Table, key: Mapping[str, str] | None, groups: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], Any]:
    """Values by key, and the function that gives a recording's key."""
    if key:
        if len(key) != 1:
            raise ConfigError(f"data.key: one pair `group: column` expected, found {len(key)}.")
        ((group, column),) = key.items()
        known = next(iter(groups.values()))
        if group not in known:
            raise ConfigError(
                f"data.key: `{group}` is not a named group of `data.file_pattern`."
                f"{did_you_mean(group, known)} Groups: {', '.join(known) or 'none'}."
            )

        def join(path: Path) -> str:
            return str(groups[path.name][group])
    else:
        column = next((name for name in _FILE_COLUMNS if name in table.columns), "file_name")

        def join(path: Path) -> str:
            return path.stem

    table.column_name(column, "`data.key`")
    keys = [text if key else _file_stem(text) for text in table.text(column)]
    if not key:
        _check_one_row_each(table, column, keys)
    rows: dict[str, dict[str, Any]] = {owner: {} for owner in keys}
    first_row: dict[tuple[str, str], int] = {}
    for name in (name for name in table.columns if name != column):
        for row, (owner, value) in enumerate(zip(keys, _column_values(table, name), strict=True)):
            values = rows[owner]
            before = values.get(name)
            if before is not None and value is not None and before != value:
                raise DataError(
                    f"{table.where(row, name)}: {owner} has {value}, but {before} in "
                    f"{table.where(first_row[owner, name], name)}; one value expected."
                )
            if before is None:
                values[name] = value
                first_row[owner, name] = row
    return rows, join


def _check_one_row_each(table: Table, column: str, files: Sequence[str]) -> None:
    """Raises DataError where a file has two rows; a person may have several that agree."""
    seen: dict[str, int] = {}
    for row, file in enumerate(files):
        if file in seen:
            raise DataError(
                f"{table.where(row, column)}: {file} has a row already "
                f"({table.where(seen[file], column)}); one row per file expected."
            )
        seen[file] = row


def _file_stem(text: str) -> str:
    """A file as tables name it, by its path or only its name, with or without a suffix of recordings."""
    file = text.replace("\\", "/").rsplit("/", 1)[-1]
    return file[:-4] if file.lower().endswith(_SUFFIXES) else file


def _column_values(table: Table, name: str) -> list[Any]:
    """Cells as numbers where all of them are, else as text; None where blank."""
    texts = table.text(name)
    if not table.is_numeric(name):
        return [text or None for text in texts]
    numbers = table.numbers(name)
    return [
        None if not text else int(number) if number.is_integer() else float(number)
        for text, number in zip(texts, numbers, strict=True)
    ]


def _named(path: Path, label: str, value: Any, spec: LabelSpec) -> Any:
    """The value under its name."""
    if value is None or not spec.values:
        return value
    if str(value) not in spec.values:
        raise DataError(
            f"{path.name}: `{spec.source}` is {value}, which `data.labels.{label}.values` does not name; it "
            f"names {', '.join(spec.values)}."
        )
    return spec.values[str(value)]
