"""Before any run: the data of every repeat, read once and checked, and what a report says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.balancing import Balancer, WeightedSum
from taskloom.data.batch import Batch, DataSplits, TaskDataset
from taskloom.data.inspect import Inspection, TaskLabels, inspect_splits
from taskloom.errors import ConfigError, DataError
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.study.cells import Cell, baseline_forms
from taskloom.study.companion import companion_request
from taskloom.study.config import Study, gallery_size
from taskloom.study.configurations import configuration_rows
from taskloom.study.coupled_runs import Coupled, check_in_study
from taskloom.study.extras import build_callbacks
from taskloom.study.locate import located
from taskloom.study.runs import DataRequest, RunSpec, coupling_path, data_request, table_request
from taskloom.study.subgroup_ways import asked_columns
from taskloom.study.test_rows import test_rows_key
from taskloom.study.warm_start import started
from taskloom.study.worker import DataCache, build_balancer, build_network
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.tasks import Binary, Labels, Multiclass, TaskSet
from taskloom.training.augmentation import Augmentation
from taskloom.training.checks import check_changes, check_stopping, check_supervision, check_terms
from taskloom.training.devices import choose_device, make_fabric
from taskloom.training.parts import check_parts
from taskloom.training.teaching import check_teaching
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
                    f"tasks.{task.name}: there is no label at all in {part}; every part needs some."
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
        "warnings": [*map(str, splits.about.get("warnings", [])), *_group_warnings(inspection)],
        "about": json.loads(json.dumps(splits.about, default=str)),
    }


def _group_warnings(inspection: Inspection) -> list[str]:
    """A split within groups is allowed, and answers another question."""
    return [
        f"{counted(leak.count, 'group stands', 'groups stand')} in both {leak.parts[0]} and {leak.parts[1]}: "
        "results say nothing about new ones."
        for leak in inspection.leaks
        if leak.what == "groups"
    ]


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


def dry_build(study: Study, cells: Sequence[Cell], specs: Sequence[RunSpec], splits: DataSplits) -> list[str]:
    """Builds every cell once and runs two rows through it, so that mistakes show before anything is trained.

    Returns:
        Warnings: a relatedness that contradicts the training labels, each once.

    Raises:
        ConfigError: With file and line: a setting that does not fit encoder, tasks or data.
    """
    found: dict[str, None] = {}
    first = {spec.cell.id + spec.cell.tasks[0]: spec for spec in reversed(specs)}
    for cell in cells:
        spec = first[cell.id + cell.tasks[0]]
        path: KeyPath = ("encoder",) if cell.entry < 0 else ("cells", cell.entry)
        try:
            network, _ = started(spec, splits, build_network, None)
            check_changes(network, cell.training)
            check_supervision(network, build_callbacks(cell.callbacks))
            network.eval()
            rows = _two_rows(splits.train)
            with torch.inference_mode():
                predictions = network(rows.inputs)
        except TypeError as error:  # a setting of a type that it cannot have
            raise ConfigError(f"{study.document.where(path)}: {dotted(path)}: {error}.") from error
        except (ConfigError, DataError) as error:
            raise type(error)(f"{study.document.where(path)}: {_at(path, error)}") from error
        check_batches(study, spec, splits, network.tasks)
        coupled = check_coupling(study, spec, splits, predictions, rows.labels, network.tasks)
        found |= dict.fromkeys([] if coupled is None else coupled.warnings)
        if cell.balancing is not None:
            terms = coupled.coupling.names if coupled and coupled.coupling.as_tasks else ()
            check_balancing(study, cell, build_balancer(spec), network, terms)
        try:
            check_losses(cell.name, predictions, rows.labels, network.tasks)
        except ConfigError as error:
            raise ConfigError(f"{study.document.where(('head',))}: {error}") from error
    return list(found)


def check_batches(study: Study, spec: RunSpec, splits: DataSplits, tasks: TaskSet) -> None:
    """Refuses changes of training batches that do not go with the inputs, a coupling or teachers.

    Raises:
        ConfigError: With file and line.
    """
    cell = spec.cell
    own: KeyPath = ("cells", cell.entry, "training")
    path: KeyPath = (
        own if cell.entry >= 0 and study.config.cells[cell.entry].get("training") else ("training",)
    )
    try:
        Augmentation(cell.training.augment, splits.train, seed=0).check_alone(cell.coupling is not None)
        check_teaching(cell.tasks if cell.teachers else (), cell.training.augment, tasks)
        balancer = build_balancer(spec) or WeightedSum()
        check_parts(cell.training, balancer, beside=bool(cell.coupling or cell.teachers))
    except ConfigError as error:
        raise ConfigError(f"{study.document.where(path)}: {error}") from error


def check_coupling(
    study: Study,
    spec: RunSpec,
    splits: DataSplits,
    predictions: Mapping[str, Tensor],
    labels: Labels,
    tasks: TaskSet,
) -> Coupled | None:
    """Builds a cell's coupling and computes its terms once; None where the cell has none.

    Raises:
        ConfigError, DataError: With file and line: a table whose labels are not those of the tasks, too few
            labels to estimate one, labels per sample beside labels per row.
    """
    if spec.cell.coupling is None:
        return None
    path = coupling_path(spec.cell)
    with located(study.document):
        request = table_request(spec.cell, spec.data)
        coupled = check_in_study(spec.cell.coupling, request, splits, tasks, path)
        try:
            if (balancer := build_balancer(spec)) is not None:
                check_terms(coupled.coupling, balancer, tasks, spec.cell.training.epochs)
            coupled.coupling.terms(predictions, labels, tasks)
        except ValueError as error:
            raise ConfigError(f"{dotted(path)}: {str(error).removeprefix('coupling: ')}.") from error
        except ConfigError as error:
            raise ConfigError(f"{dotted(path)}{str(error).removeprefix('coupling')}") from error
    return coupled


def check_balancing(
    study: Study,
    cell: Cell,
    balancer: Balancer | None,
    network: MultiTaskNetwork,
    terms: Sequence[str] = (),
) -> None:
    """Starts a cell's balancer on its network, so that what it cannot do shows before anything is trained.

    Raises:
        ConfigError: With file and line: a task that is not there, too few tasks for the method, no shared
            feature where it works on one, or callbacks that may stop more tasks than it can do without.
    """
    path: KeyPath = ("cells", cell.entry, "balancing")
    if balancer is None:
        return
    try:
        balancer.with_terms(terms)
        balancer.start(network)
        check_stopping(balancer, build_callbacks(cell.callbacks), network.tasks)
    except ConfigError as error:
        raise ConfigError(f"{study.document.where(path)}: {_at(path[:2], error)}") from error


def _at(path: KeyPath, error: Exception) -> str:
    message = str(error)
    return message if message.startswith(dotted(path)) else f"{dotted(path)}: {message}"


def _two_rows(dataset: TaskDataset) -> Batch:
    return dataset.__getitems__([0, len(dataset) - 1])


def check_losses(cell: str, predictions: Mapping[str, Tensor], labels: Labels, tasks: TaskSet) -> None:
    """Computes every task's loss once, so that heads and labels that do not fit show before training.

    Args:
        cell: Name of the cell, for the message.
        predictions: What the cell's network returned for some rows.
        labels: Labels of the same rows.
        tasks: The network's tasks.

    Raises:
        ConfigError: Names cell and task, and says what to do.
    """
    for name, output in predictions.items():
        if not isinstance(tasks[name], Binary | Multiclass) or name not in labels.values:
            continue
        labelled, predicted = labels.values[name].ndim == 2, output.ndim == 3
        if labelled and not predicted:
            raise ConfigError(
                f"cell {cell}, task {name}: its labels are per sample of a window, its head gives one output "
                "per window; set `head.per_sample: true`, or another `data.window.label_rule`."
            )
        if predicted and not labelled:
            raise ConfigError(
                f"cell {cell}, task {name}: `head.per_sample` gives an output per sample of a window, its "
                "labels are one per row; leave it out, or set `data.window.label_rule: per_sample`."
            )
    try:
        per_task(predictions, labels, tasks)
    except ValueError as error:
        raise ConfigError(
            f"cell {cell}: {error}; the encoder, `head` or `data.window` must be changed until they fit."
        ) from error


def check_devices(study: Study, cells: Sequence[Cell]) -> None:
    """Refuses a device, a number of devices or a precision that this machine does not have.

    Raises:
        ConfigError: With file and line.
    """
    for cell in {cell.training.model_dump_json(): cell for cell in reversed(cells)}.values():
        training = cell.training
        own = cell.entry >= 0 and "training" in study.config.cells[cell.entry]
        try:
            choose_device(training.device)
            if training.devices > 1 or training.precision != "32":
                make_fabric(training)
        except ConfigError as error:
            path: KeyPath = ("cells", cell.entry, "training") if own else ("training",)
            setting = str(error).removeprefix("training.")
            key = setting.partition(":")[0]
            raise ConfigError(study.document.say((*path, key), f"{dotted(path)}.{setting}")) from error


def study_facts(study: Study, cells: Sequence[Cell], prepared: Prepared, jobs: int) -> dict[str, Any]:
    """Returns what `taskloom.study.summary` needs besides the runs; see `ResultsStore.plan`."""
    return {
        **prepared.facts,
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
        "configurations": configuration_rows([cell for cell in cells if cell.entry >= 0]),
        "jobs": jobs,
        "report": None if study.config.report is None else study.config.report.course,
        "gallery": gallery_size(study.config.report),
        "subgroups": {} if study.config.report is None else study.config.report.subgroups,
        "study_file": study.to_yaml(),
    }


def describe(facts: Mapping[str, Any]) -> str:
    """One line on the holes: "smiling: 41 % missing", the worst first; "" where there is none."""
    holes = sorted(facts["labels"], key=lambda row: -float(row["missing_share"]))
    named = [f"{row['task']}: {100 * row['missing_share']:.0f} % missing" for row in holes]
    worth = [text for text, row in zip(named, holes, strict=True) if row["missing_share"] >= 0.005]
    return ", ".join(worth[:3]) + (", ..." if len(worth) > 3 else "")


__all__ = [
    "Prepared",
    "check_devices",
    "check_labels",
    "check_losses",
    "data_facts",
    "describe",
    "dry_build",
    "prepare_data",
    "study_facts",
]
