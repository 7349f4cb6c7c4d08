"""Every column of a table looked at once: how the table is to be read, and what each column is likely for."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from taskloom.data.cell_texts import looks_missing
from taskloom.data.tables import Table
from taskloom.errors import DataError
from taskloom.study.draft.columns import Column, look
from taskloom.study.draft.marks import marks_in, with_decimal
from taskloom.study.draft.roles import find_group, unit_around, why_identifier, words_of
from taskloom.study.draft.sources import Source
from taskloom.study.draft.split_columns import SplitColumn, find_split, names_a_split
from taskloom.study.draft.yaml_text import shown

NO_GROUP = "none"
_LEAST_ROWS = 10
_TARGET_WORDS = frozenset({"target", "label", "outcome", "diagnosis", "response", "class", "y"})
_FEW_TASKS, _MOST_TASKS = 4, 12
"""How many columns are proposed as tasks; the second where so many have holes."""


@dataclass(frozen=True)
class Survey:
    """What was found.

    Args:
        source: The data.
        table: Its table, with the decimal sign and the marks of missing values by which it is read.
        columns: Every column, in the table's order.
        marks: Texts that stand for a missing value -> how often, per column.
        group: The column that says which rows belong together, and how that is told.
        split: The column that names every row's part.
    """

    source: Source
    table: Table
    columns: Mapping[str, Column]
    marks: Mapping[str, Mapping[str, int]]
    group: tuple[str, str] | None
    split: SplitColumn | None

    @property
    def free(self) -> dict[str, Column]:
        """The columns that have no part by themselves: each may be a task or an input."""
        taken = {*self.source.reserved, *([self.split.name] if self.split else [])}
        return {name: column for name, column in self.columns.items() if name not in taken}

    def role(self, name: str) -> str:
        """What a column is likely for, in a few words."""
        column = self.columns[name]
        if name in self.source.reserved:
            return self.source.reserved[name]
        if self.split is not None and name == self.split.name:
            return "split: says which rows test"
        if self.group is not None and name == self.group[0]:
            return f"group: {self.group[1]}"
        if column.num_distinct < 2:
            return "left out"
        if column.slip:
            return "left out until mended"
        if names_a_split(column):
            return "left out: about the split by its name"
        if column.is_date:
            return "left out: dates are no numbers"
        identifier = why_identifier(column)
        if identifier:
            return f"left out: {identifier}"
        if column.is_classes:
            return "a task" if self.source.kind != "table" else "a task, or a feature"
        if column.is_number:
            return "a task" if self.source.kind != "table" else "a feature, or a task"
        return "a feature" if self.source.kind == "table" and column.is_category else "left out: text"

    def likely_tasks(self) -> list[str]:
        """Columns that a newcomer might predict: with holes, then called target or label, then of classes."""
        found = [name for name in self.free if "task" in self.role(name)]
        classes = [
            name for name in found if not self.columns[name].is_number or self.columns[name].is_classes
        ]
        holed = [name for name in found if 0 < self.columns[name].holes < 1]
        named = [name for name in found if _TARGET_WORDS & set(words_of(name))]
        most = max(_FEW_TASKS, min(len(holed), _MOST_TASKS))
        return list(dict.fromkeys([*self.source.beside, *holed, *named, *classes]))[:most]


def survey(source: Source, *, tasks: Sequence[str] = (), group: str | None = None) -> Survey:
    """Looks at every column of a source.

    Args:
        source: The data.
        tasks: Columns that are to be predicted: they are no groups, and hold no marks of missing values.
        group: The column that says which rows belong together; "none" for no such column; found where None.

    Raises:
        DataError: Hardly any rows, or the group's column is not there or has blank cells.
    """
    table = source.table
    if len(table) < _LEAST_ROWS and not source.beside:
        rows = "1 row" if len(table) == 1 else f"{len(table)} rows"
        raise DataError(
            f"{table.path}: {rows}, which is too few to train, to validate and to test on; some dozens at "
            "least expected."
        )
    marks: dict[str, dict[str, int]] = {}
    columns = {name: look(table, name) for name in table.columns}
    if source.label_table:
        others = [name for name, column in columns.items() if not column.is_number]
        table = with_decimal(table, others)
        if table.decimal != source.table.decimal:
            columns = {name: look(table, name) for name in table.columns}
        table, marks = _with_marks(table, columns, tasks)
        for name, column in columns.items():
            if marks and not column.is_number:
                columns[name] = look(table, name)
    usable = [column for name, column in columns.items() if name not in (*tasks, *source.reserved)]
    split = find_split(table, usable) if source.split is None else None
    usable = [column for column in usable if split is None or column.name != split.name]
    return Survey(source, table, columns, marks, _group(source, table, columns, usable, group), split)


def chosen_tasks(table: Table, wanted: Sequence[str], beside: Collection[str] = ()) -> list[str]:
    """The columns that `--tasks` names; a part with commas is a list unless a column has that very name.

    Args:
        table: The table.
        wanted: What was given.
        beside: Further names of tasks, which are no columns.

    Raises:
        DataError: A name or pattern (`NR-*`) that no column has.
    """
    names: list[str] = []
    table = replace(table, columns=(*beside, *table.columns))
    for entry in wanted:
        parts = [entry] if entry in table.columns else [part.strip() for part in entry.split(",")]
        for part in filter(None, parts):
            if part in table.columns or not any(sign in part for sign in "*?["):
                names.append(table.column_name(part, "`--tasks`"))
            else:
                found = [name for name in table.columns if fnmatch.fnmatchcase(name, part)]
                names += found or [table.column_name(part, "`--tasks`")]
    return list(dict.fromkeys(names))


def _with_marks(
    table: Table, columns: Mapping[str, Column], tasks: Sequence[str]
) -> tuple[Table, dict[str, dict[str, int]]]:
    """The table with the marks of its columns of numbers, and those that stand among a task's classes."""
    marks: dict[str, dict[str, int]] = {}
    for name, column in columns.items():
        if column.is_number or not column.num_given:
            continue
        found = marks_in(table, name)
        if not found and name in tasks:
            texts = table.text(name).tolist()
            found = {mark: texts.count(mark) for mark in {text for text in texts if looks_missing(text)}}
        for mark, count in found.items():
            marks.setdefault(mark, {})[name] = count
    return replace(table, missing=tuple(marks)), marks


def _group(
    source: Source, table: Table, columns: Mapping[str, Column], usable: Sequence[Column], given: str | None
) -> tuple[str, str] | None:
    if given is None and source.group is not None:
        return source.group, "as its reader says"
    if given is None:
        if source.kind == "recordings" and columns.get("person") is not None:
            person = columns["person"]
            if person.num_given == person.num_rows:
                return "person", "by its name"
        found = find_group(usable)
        if found is None:
            return None
        around = unit_around(table, usable, found[0])
        return found if around is None else (around, f"by its name; it holds `{shown(found[0])}`")
    if given == NO_GROUP and NO_GROUP not in table.columns:
        return None
    column = columns[table.column_name(given, "`--group`")]
    if column.num_given < column.num_rows:
        blank = column.num_rows - column.num_given
        raise DataError(
            f"{table.path}: column `{shown(given)}` is blank in {blank:,} of {column.num_rows:,} rows; a "
            "group needs a value in every row: fill it in, or name another column with --group."
        )
    return given, "as --group says"
