"""`taskloom relate`: how the labels of tasks go together; written, drawn, and a table held against it."""

from __future__ import annotations

import csv
import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskloom.coupling import (
    SHIPPED,
    Comparison,
    Relatedness,
    RelatednessWarning,
    check,
    from_labels,
    read_table,
    save_heatmap,
)
from taskloom.data.label_columns import encode_labels, resolve_label_columns
from taskloom.data.tables import read_table as read_data_table
from taskloom.errors import ConfigError, did_you_mean
from taskloom.study.config import load_study
from taskloom.study.couplings import read_coupling
from taskloom.study.single import load_data
from taskloom.tasks import Binary, Labels, TaskSet
from taskloom.wording import counted

_STUDIES = (".yaml", ".yml")

_PLAINLY_POSITIVE = ("1", "yes", "true", "positive", "present", "y", "t", "+")


@dataclass(frozen=True)
class Related:
    """What `relate` found.

    Args:
        table: The relatedness in the labels.
        classes, attributes: Tasks of its two sides.
        rows: Number of rows with labels that were looked at.
        origin: Which rows these are.
        comparison: A given table against the labels; None where none was given.
        warnings: Where it contradicts them.
        meanings: Which class a binary task stands for in the table, where its names leave that open.
    """

    table: Relatedness
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    rows: int
    origin: str
    comparison: Comparison | None = None
    warnings: tuple[str, ...] = ()
    meanings: tuple[str, ...] = ()


def relate(
    source: Path,
    *,
    tasks: Sequence[str] = (),
    classes: Sequence[str] = (),
    data: Path | None = None,
    overrides: Sequence[str] = (),
    stores: Path = Path("runs/stores"),
    minimum_support: int = 10,
    checked: str | None = None,
) -> Related:
    """Estimates how the labels of tasks go together, and holds a table against it.

    Args:
        source: A study file, whose training rows are looked at; or a table of labels (CSV, TSV, Parquet),
            all of whose rows are.
        tasks: Tasks that are related; of a study by default all that can be, of a table its label columns.
            There a column of two values is binary, one of more is multiclass.
        classes: The side that is given, where it does not follow from the tasks.
        data, overrides, stores: Of a study: where its files are, `--set`, prepared stores.
        minimum_support: Entries with fewer rows are unknown.
        checked: A shipped table, or a file, to hold against the labels.

    Raises:
        ConfigError, DataError: Something is wrong with file, tasks or table; one sentence.
    """
    if source.suffix.lower() in _STUDIES:
        labels, found, origin = _of_study(source, tasks, data, overrides, stores)
    else:
        labels, found, origin = _of_table(source, tasks)
    given = {"relatedness": "from_labels"}
    named = {"classes": classes[0] if len(classes) == 1 else list(classes)} if classes else {}
    kinds = {name: task.kind for name, task in found.items()}
    ((settings, _),) = read_coupling({**given, **named}, kinds, ("coupling",))
    assert settings is not None
    sides = {"classes": settings["classes"], "attributes": settings["attributes"]}
    table = from_labels(
        labels,
        found,
        **sides,
        minimum_support=minimum_support,
        below_minimum="unknown",
        empty_classes=found[sides["classes"]].class_names if isinstance(sides["classes"], str) else (),
        source=source.name,
    )
    related = Related(
        table,
        _listed(sides["classes"]),
        _listed(sides["attributes"]),
        len(labels),
        origin,
        meanings=_meanings(found, table),
    )
    if checked is None:
        return related
    prior = SHIPPED[checked] if checked in SHIPPED else read_table(checked)
    prior = dataclasses.replace(prior, source=Path(prior.source).name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RelatednessWarning)
        comparison = check(prior, labels, found, **sides, minimum_support=minimum_support)
    told = tuple(str(one.message) for one in caught if issubclass(one.category, RelatednessWarning))
    return dataclasses.replace(related, comparison=comparison, warnings=told)


def _meanings(tasks: TaskSet, table: Relatedness) -> tuple[str, ...]:
    """A sentence per binary task that is an attribute: of `ja` and `nein`, the second is what it counts."""
    return tuple(
        f"{name} means `{task.class_names[1]}` here, the second of its classes; in a study file, "
        f"`classes: [{task.class_names[1]}, {task.class_names[0]}]` of the task turns them round."
        for name, task in tasks.items()
        if isinstance(task, Binary)
        and name in table.attributes
        and task.class_names[1].lower() not in _PLAINLY_POSITIVE
    )


def _listed(side: str | list[str]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else tuple(side)


def _of_study(
    source: Path, tasks: Sequence[str], data: Path | None, overrides: Sequence[str], stores: Path
) -> tuple[Labels, TaskSet, str]:
    splits = load_data(load_study(source, overrides), data, stores)
    known = splits.tasks
    for name in tasks:
        if name not in known:
            raise ConfigError(
                f"--tasks: `{name}` is not a task of {source}.{did_you_mean(name, list(known))} "
                f"Tasks: {', '.join(known)}."
            )
    chosen = known.subset(list(tasks)) if tasks else known
    labels = splits.train.labels.subset(chosen.names)
    return labels, chosen, f"{len(splits.train):,} training rows"


def _of_table(source: Path, tasks: Sequence[str]) -> tuple[Labels, TaskSet, str]:
    if not tasks:
        raise ConfigError(f"{source}: name the label columns of the table with --tasks, separated by commas.")
    table = read_data_table(source)
    kinds = {}
    for name in tasks:
        column = table.text(table.column_name(name, "--tasks")).astype(str)
        kinds[name] = {"kind": "binary" if len(set(column[column != ""])) == 2 else "multiclass"}
    found, columns = resolve_label_columns(table, kinds)
    return encode_labels(table, found, columns), found, counted(len(table), "row")


# -- what is written


def write_related(related: Related, folder: Path) -> list[Path]:
    """Writes `relatedness.json`, `relatedness.csv` and `relatedness.png`, and with a checked table `check.*`.

    Args:
        related: What `relate` found.
        folder: Made where there is none.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["relatedness.json", "relatedness.csv", "relatedness.png"]
    related.table.save(folder / names[0])
    _write_rows(folder / names[1], ENTRY_COLUMNS, entry_rows(related.table))
    save_heatmap(related.table, folder / names[2])
    if related.comparison is not None:
        names += ["check.csv", "check.png"]
        _write_rows(folder / "check.csv", CHECK_COLUMNS, check_rows(related.comparison))
        save_heatmap(related.comparison, folder / "check.png")
    return [folder / name for name in names]


ENTRY_COLUMNS = ("given", "follows", "frequency", "count", "support", "low", "high")
CHECK_COLUMNS = ("given", "follows", "table", "data", "low", "high", "differs", "contradicts")


def entry_rows(table: Relatedness) -> list[tuple[str | float, ...]]:
    """One line per entry: frequency, rows with both, rows of the class, 95 % interval; NaN where unknown."""
    low, high = table.intervals()
    nothing = np.full_like(table.values, np.nan)
    arrays = (
        table.values,
        nothing if table.counts is None else table.counts,
        nothing if table.totals is None else table.totals,
        low,
        high,
    )
    return [
        (given, follows, *(float(array[row, column]) for array in arrays))
        for row, given in enumerate(table.classes)
        for column, follows in enumerate(table.attributes)
    ]


def check_rows(found: Comparison) -> list[tuple[str | float | bool, ...]]:
    """One line per entry that both know: the table's value, the data's with its interval, and the verdict."""
    return [
        (
            found.prior.classes[row],
            found.prior.attributes[column],
            float(found.prior.values[row, column]),
            float(found.data.values[row, column]),
            float(found.low[row, column]),
            float(found.high[row, column]),
            bool(found.differs[row, column]),
            bool(found.contradicts[row, column]),
        )
        for row, column in np.argwhere(found.compared)
    ]


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if value != value else _short(value) for value in row])


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def lines_of(table: Relatedness, most: int = 5) -> list[tuple[str, str]]:
    """Per class its most frequent attributes with their intervals, in words."""
    low, high = table.intervals()
    lines = []
    for row, name in enumerate(table.classes):
        order = np.argsort(-np.nan_to_num(table.values[row], nan=-1.0), kind="stable")[:most]
        texts = [
            f"{table.attributes[column]} {table.values[row, column]:.2f} "
            f"[{low[row, column]:.2f}, {high[row, column]:.2f}]"
            for column in order
            if table.known[row, column]
        ]
        lines.append((name, ", ".join(texts) or "unknown"))
    return lines


def side_by_side(found: Comparison) -> list[tuple[str, str, str]]:
    """Per class what the table relates to it and what the labels do, as table 1 of paper 003 sets them.

    Returns:
        Lines of (class, the table's attributes with weights, the labels' attributes with frequencies): of the
        labels those above one half or related by the table; `!` marks what contradicts.

    Example:
        >>> from taskloom.coupling import diff, expression_action_units, expression_action_units_aff_wild2
        >>> lines = side_by_side(diff(expression_action_units(), expression_action_units_aff_wild2()))
        >>> lines[1][1]
        'AU1 (0.60), AU4, AU6 (0.50), AU11 (0.26), AU15, AU17 (0.67)'
        >>> lines[0][2]
        'AU6 (0.57), AU7 (0.83)!, AU10 (0.63)!, AU12 (0.82), AU25 (0.70)'
    """
    lines = []
    for row, name in enumerate(found.prior.classes):
        if not found.compared[row].any():
            continue
        prior, data = [], []
        for column, attribute in enumerate(found.prior.attributes):
            related = bool(found.related[row, column])
            value, observed = found.prior.values[row, column], found.data.values[row, column]
            if related:
                prior.append(attribute if value == 1 else f"{attribute} ({value:.2f})")
            if found.compared[row, column] and (related or observed > 0.5):
                mark = "!" if found.contradicts[row, column] else ""
                data.append(f"{attribute} ({observed:.2f}){mark}")
        lines.append((name, ", ".join(prior) or "–", ", ".join(data) or "–"))
    return lines
