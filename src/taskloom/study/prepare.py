"""Before any run: the data of every repeat, read once and checked, and what a report says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.batch import DataSplits
from taskloom.data.inspect import Inspection, TaskLabels, inspect_splits
from taskloom.errors import DataError
from taskloom.study.cells import Cell, baseline_forms
from taskloom.study.companion import companion_request
from taskloom.study.config import Study, gallery_size
from taskloom.study.configurations import configuration_rows
from taskloom.study.locate import located
from taskloom.study.runs import DataRequest, data_request
from taskloom.study.subgroup_ways import asked_columns
from taskloom.study.test_rows import test_rows_key
from taskloom.study.worker import DataCache
from taskloom.tasks import Binary
from taskloom.wording import counted

_PLURALS = {"person": "people", "recording": "recordings", "session": "sessions", "trial": "trials"}


@dataclass(frozen=True)
class Prepared:
    """The data of a study, as far as the runs' identities and the report need them.

    Args:
        requests: Per repeat, what the source was asked for.
        checksums: Per repeat, what tells its source files apart.
        facts: For the report; JSON-serialisable.
        columns: Per key of a test part (`test_rows_key`), the columns that the report looks at.
    """

    requests: list[DataRequest]
    checksums: list[Any]
    facts: dict[str, Any]
    columns: dict[str, dict[str, NDArray[np.str_]]] = field(default_factory=dict)


def prepare_data(
    study: Study, folder: Path | None, stores: Path, cache: DataCache, *, repeats: int | None = None
) -> Prepared:
    """Reads the data of every repeat, preparing stores where they are missing, and checks their labels.

    Args:
        study: The study.
        folder: Where relative files are looked for.
        stores: Folder of prepared stores.
        cache: Keeps the data of the first repeat for what comes next.
        repeats: How many repeats to prepare for; all of the study's where None.

    Raises:
        DataError, ConfigError: Files, settings, labels or the split are not what they should be.
    """
    wanted = range(study.config.repeats if repeats is None else repeats)
    requests = [data_request(study, repeat, folder, stores) for repeat in wanted]
    checksums: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    columns: dict[str, dict[str, NDArray[np.str_]]] = {}
    asked = {} if study.config.report is None else study.config.report.subgroups
    # The first repeat last: its data are then in the cache for the dry build.
    for repeat in reversed(range(len(requests))):
        request = requests[repeat]
        if request.key in checksums and repeat > 0:
            continue
        with located(study.document):
            beside = companion_request(request)
            if beside is not None:
                check_labels(inspect_splits(cache.get(beside)))
            splits = cache.get(request)
            inspection = inspect_splits(splits)
            check_labels(inspection, may_straddle=beside is not None)
            columns[test_rows_key(splits.test)] = asked_columns(asked, splits.tasks, splits.test)
        checksums[request.key] = splits.about.get("sources", splits.about)
        facts = data_facts(splits, inspection, study)
        ratios[request.key] = inspection.rows["test"] / inspection.rows["train"]
    if facts["test_over_train"] is not None:
        # Folds of groups differ in size: the first one alone may be far from what holds on average.
        facts["test_over_train"] = float(np.mean([ratios[request.key] for request in requests]))
    return Prepared(requests, [checksums[request.key] for request in requests], facts, columns)


def check_labels(inspection: Inspection, *, may_straddle: bool = False) -> None:
    """Refuses data that cannot give a verdict; sources have refused most of it already.

    Args:
        inspection: What stands in the data.
        may_straddle: Whether windows of two parts may share samples, as the split's name and a warning say.

    Raises:
        DataError: A part without rows, a task without any label in a part, windows of two parts that share
            samples.
    """
    for part, rows in inspection.rows.items():
        if rows == 0:
            raise DataError(f"split: {part} has no rows; every part needs some.")
    for task in inspection.tasks:
        for part, labels in task.parts.items():
            if labels.present == 0:
                raise DataError(
                    f"tasks.{task.name}: there is no label at all in {part}; every part needs some. Set "
                    f"another `split.seed`, larger fractions or `split.stratify: {task.name}`, or leave the "
                    "task out."
                )
    for leak in inspection.leaks:
        if leak.what == "samples" and not may_straddle:
            raise DataError(
                f"split: {leak.parts[1]} shares samples with {leak.parts[0]} in "
                f"{counted(leak.count, 'window')} ({', '.join(leak.examples)}); results would mean "
                "nothing: split by recording or group."
            )


def data_facts(splits: DataSplits, inspection: Inspection, study: Study) -> dict[str, Any]:
    """Returns what the report says about the data, as plain values."""
    rows = inspection.rows
    redrawn = bool(study.config.split.get("redraw")) or "folds" in study.config.split
    groups = inspection.groups["test"].count
    notes = [
        f"{sum(rows.values()):,} rows: {rows['train']:,} train, {rows['validation']:,} validation, "
        f"{rows['test']:,} test{', in the first repeat' if redrawn else ''}."
        f"{_split_words(study, inspection, splits.about.get('group'))}"
    ]
    names = splits.about.get("features", {}).get("names", ())
    if names:
        notes.append(f"{len(names):,} features: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}.")
    notes += [str(note) for note in splits.about.get("notes", [])]
    notes += [
        f"{counted(leak.count, 'row has', 'rows have')} the same inputs in {leak.parts[1]} as a row of "
        f"{leak.parts[0]}."
        for leak in inspection.leaks
        if leak.what == "inputs"
    ]
    return {
        "tasks": splits.tasks.to_dicts(),
        "labels": [_label_count(task) for task in inspection.tasks],
        "clusters": _clusters(groups, splits.about.get("group")),
        "test_over_train": rows["test"] / rows["train"] if redrawn else None,
        "data_notes": notes,
        "warnings": [
            *map(str, splits.about.get("warnings", [])),
            *_group_warnings(inspection),
            *_without_value(inspection, splits),
        ],
        "about": json.loads(json.dumps(splits.about, default=str)),
    }


def _split_words(study: Study, inspection: Inspection, group: str | None) -> str:
    """The rule of the split, and on which side how many of its groups are."""
    rule = study.config.split.get("by")
    if group is None:
        return f" Split by {rule}." if isinstance(rule, str) else ""
    sides = ", ".join(
        f"{_clusters(inspection.groups[part].count, group)} in {part}"
        for part in ("train", "validation", "test")
    )
    return f" {f'Split by {rule}' if isinstance(rule, str) else 'Groups'}: {sides}."


def _group_warnings(inspection: Inspection) -> list[str]:
    """A split within groups is allowed, and answers another question."""
    return [
        f"{counted(leak.count, 'group stands', 'groups stand')} in both {leak.parts[0]} and {leak.parts[1]}: "
        "results say nothing about new ones."
        for leak in inspection.leaks
        if leak.what == "groups"
    ]


def _without_value(inspection: Inspection, splits: DataSplits) -> list[str]:
    """Tasks that cannot be judged: an AUC needs labels of both classes."""
    found = []
    for labels in inspection.tasks:
        task = splits.tasks[labels.name]
        counts = labels.parts["test"].counts
        classes = [name for name, count in counts.items() if count]
        if isinstance(task, Binary) and task.primary_metric == "auc" and len(classes) == 1:
            found.append(
                f"tasks.{task.name}: every label in test is `{classes[0]}`, so that its AUC has no value and "
                "the task cannot be judged; set another `split.seed`, `split.stratify` or `metric`."
            )
    return found


def _clusters(number: int, group: str | None) -> str:
    """How many of what the clusters of the intervals are: "1 person", "12 people"."""
    if group is None:
        return counted(number, "row")
    if number == 1:
        return f"1 {group if group in _PLURALS else f'value of {group}'}"
    return f"{number:,} {_PLURALS.get(group, f'values of {group}')}"


def _label_count(task: TaskLabels) -> dict[str, Any]:
    train = task.parts["train"]
    if train.mean is not None and train.deviation is not None:
        detail = f"mean {train.mean:.4g}, deviation {train.deviation:.3g} {task.unit}".rstrip()
    else:
        shown = [f"{name}: {count:,}" for name, count in list(train.counts.items())[:8]]
        detail = ", ".join(shown) + (", ..." if len(train.counts) > len(shown) else "")
    return {
        "task": task.name,
        **{part: labels.present for part, labels in task.parts.items()},
        "missing_share": task.missing_share,
        "detail": detail,
    }


def study_facts(
    study: Study,
    cells: Sequence[Cell],
    prepared: Prepared,
    jobs: int,
    repeated: Sequence[tuple[Cell, Cell]] = (),
) -> dict[str, Any]:
    """Returns what `taskloom.study.summary` needs besides the runs; see `ResultsStore.plan`.

    Args:
        study: The study.
        cells: Its cells.
        prepared: Its data.
        jobs: Runs at a time.
        repeated: Cells that are not trained, each with the one of `cells` that is the same network.
    """
    return {
        **prepared.facts,
        "data_notes": [*prepared.facts["data_notes"], *_code_notes(study)],
        "title": study.name,
        "repeats": study.config.repeats,
        "cells": [
            {"id": cell.id, "name": cell.name, "architecture": cell.architecture, "tasks": list(cell.tasks)}
            for cell in cells
            if cell.entry >= 0
        ],
        "baselines": [
            {
                "id": form.cell("", (), study.config.training).id,
                "name": f"alone, {form.name}" if form.name else "alone",
                "judged": form.judged,
            }
            for form in baseline_forms(study)
        ],
        "configurations": configuration_rows([cell for cell in cells if cell.entry >= 0], repeated),
        "repeated": [(cell.resolved(), of.id) for cell, of in repeated],
        "jobs": jobs,
        "split": dict(study.config.split),
        "report": None if study.config.report is None else study.config.report.course,
        "gallery": gallery_size(study.config.report),
        "subgroups": {} if study.config.report is None else study.config.report.subgroups,
        "study_file": study.to_yaml(),
    }


def _code_notes(study: Study) -> list[str]:
    return [f"Own code: {file.path.name}, SHA-256 {file.sha256[:16]}." for file in study.code]


def describe(facts: Mapping[str, Any]) -> str:
    """One line on the holes: "smiling: 41 % missing", the worst first; "" where there is none."""
    holes = sorted(facts["labels"], key=lambda row: -float(row["missing_share"]))
    named = [f"{row['task']}: {100 * row['missing_share']:.0f} % missing" for row in holes]
    worth = [text for text, row in zip(named, holes, strict=True) if row["missing_share"] >= 0.005]
    return ", ".join(worth[:3]) + (", ..." if len(worth) > 3 else "")


__all__ = [
    "Prepared",
    "check_labels",
    "data_facts",
    "describe",
    "prepare_data",
    "study_facts",
]
