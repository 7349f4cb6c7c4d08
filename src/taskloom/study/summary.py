"""From the results store to verdicts: `summary.json`, `results.parquet`, and the table for the terminal.

`summary.json` holds what the report shows, under the names of `taskloom.report.model.ReportData`: title,
created, tasks, cells, gains, overall (`{task, gains}` or null), improvement (`{task, gains, tasks, left_out}`
or null), auxiliary, baselines, configurations, curves,
mixing, balancing, plain_sums (`{cell, gains}` each), couplings, subgroups, landmarks, confusions, gallery,
task_ends, labels, num_repeats, clusters, design, failed, warnings, data_notes, environment, study_file;
undefined numbers are null. Beside it `format` (of this file) and `runs` (planned, done, failed, missing).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from taskloom.metrics import METRICS
from taskloom.report import words
from taskloom.study.advice import what_would_help
from taskloom.study.balancing_facts import balancing_row, task_end_lines
from taskloom.study.beside import auxiliary_rows, baseline_rows
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.companion import is_companion, leakage_rows
from taskloom.study.coupling_rows import coupling_rows
from taskloom.study.design import design_sentence, same_folds
from taskloom.study.improvement import METRIC as IMPROVEMENT
from taskloom.study.improvement import Improvement, average_improvement
from taskloom.study.landmark_points import landmark_tables
from taskloom.study.last_epochs import course
from taskloom.study.plain_sums import plain_sums
from taskloom.study.results import ResultsStore, RunRecord
from taskloom.study.statistics import Gain
from taskloom.study.subgroups import confusions, subgroup_tables
from taskloom.study.verdicts import (
    ALONE,
    Compared,
    Groups,
    Overall,
    by_cell_and_task,
    by_other_repeats,
    chosen_cells,
    compare_all,
    judged_baseline,
    judged_only,
)
from taskloom.study.warm_facts import warm_start_warnings
from taskloom.study.worst_mistakes import gallery_rows
from taskloom.tasks import TaskSet
from taskloom.training.checkpoints import write_atomically
from taskloom.wording import counted

SUMMARY_FORMAT = 1


def write_summary(folder: Path) -> dict[str, Any]:
    """Computes the verdicts of a study folder and writes `summary.json` and `results.parquet`.

    Args:
        folder: The study's folder.

    Returns:
        What `summary.json` holds.

    Raises:
        DataError: There is no results store, or one of another format.
        OSError: A file cannot be written.
    """
    with ResultsStore(folder / "results.sqlite", read_only=True) as store:
        records, facts, planned = store.records(), store.facts(), store.num_planned()
    summary = summarize(folder, records, facts, planned)
    text = json.dumps(_plain(summary), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / "summary.json", f"{text}\n".encode())
    buffer = io.BytesIO()
    results_table(records).to_parquet(buffer, index=False)
    write_atomically(folder / "results.parquet", buffer.getbuffer())
    return summary


def summarize(
    folder: Path, records: Sequence[RunRecord], facts: Mapping[str, Any], planned: int
) -> dict[str, Any]:
    """Returns what `summary.json` holds; see the module.

    Args:
        folder: The study's folder, for the metric summaries of its runs.
        records: The runs that the study file names and that have ended.
        facts: See `study_facts` of `taskloom.study.prepare`.
        planned: Number of runs that the study file names.
    """
    tasks = TaskSet.from_dicts(facts["tasks"])
    every_form = by_cell_and_task(records)
    done = judged_only(every_form, facts)
    comparisons = [ALONE, *plain_sums(facts, done)]
    alone, *beside = compare_all(folder, tasks, facts, done, comparisons)
    chosen = chosen_cells(tasks, facts, done)
    failed = [record for record in records if record.status == "failed"]
    missing = planned - len(records)
    return {
        "format": SUMMARY_FORMAT,
        "title": facts["title"],
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": {
            "planned": planned,
            "done": len(records) - len(failed),
            "failed": len(failed),
            "missing": missing,
        },
        "tasks": [_task_row(tasks, name, chosen.get(name, "")) for name in tasks],
        "cells": [_cell_row(cell, facts, done, tasks) for cell in facts["cells"]],
        "gains": [_with_choice(gain, chosen, tasks, facts, done) for gain in alone.gains],
        "overall": _overall_row(alone.overall, tasks, facts),
        "improvement": _improvement_row(average_improvement(folder, tasks, facts, done), facts),
        "course": course(tasks, facts, done),
        "leakage": leakage_rows(tasks, facts, done),
        "auxiliary": auxiliary_rows(tasks, facts, every_form),
        "baselines": baseline_rows(tasks, facts, every_form),
        "configurations": facts.get("configurations", []),
        "curves": [curve for record in records for curve in _curves(record, tasks, judged_baseline(facts))],
        "mixing": [mixing for cell in facts["cells"] if (mixing := _mixing(cell, done)) is not None],
        "balancing": [row for cell in facts["cells"] if (row := balancing_row(cell, done)) is not None],
        "plain_sums": [
            {
                "cell": comparison.over,
                "gains": [_gain_row(gain, facts) for gain in (*_mean_gains(found), *found.gains)],
            }
            for comparison, found in zip(comparisons[1:], beside, strict=True)
        ],
        "couplings": coupling_rows(folder, tasks, facts, done),
        "subgroups": subgroup_tables(folder, tasks, facts, done, chosen),
        "landmarks": landmark_tables(folder, tasks, facts, done, chosen),
        "confusions": confusions(folder, tasks, done, chosen),
        "gallery": gallery_rows(folder, facts),
        "task_ends": [line for cell in facts["cells"] for line in task_end_lines(cell, done)],
        "labels": facts["labels"],
        "num_repeats": facts["repeats"],
        "clusters": facts["clusters"],
        "design": design_sentence(facts, tasks, alone.gains),
        "failed": [f"{r.cell_name}, repeat {r.repeat + 1} (run {r.id[:4]}): {r.message}" for r in failed],
        "warnings": [*_warnings(facts, missing, failed), *warm_start_warnings(records)],
        "data_notes": facts["data_notes"],
        "environment": _environment(records, facts),
        "study_file": facts["study_file"],
    }


def results_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Returns one row per run, task, part and metric; a failed run has one row per task, without values."""
    rows = []
    for record in records:
        run = {
            "run": record.id,
            "cell": record.cell,
            "cell_name": record.cell_name,
            "tasks": ", ".join(record.tasks),
            "repeat": record.repeat,
            "seed": record.seed,
            "status": record.status,
            "message": record.message,
            "seconds_training": record.seconds_training,
            "seconds_total": record.seconds_total,
            "peak_memory_bytes": record.peak_memory_bytes,
            "num_parameters": record.num_parameters,
            "epochs": record.epochs,
            "best_epoch": record.best_epoch,
            "device": record.device,
        }
        if record.status == "failed":
            rows += [{**run, "task": task} for task in record.tasks]
        rows += [
            {**run, "task": m.task, "part": m.part, "metric": m.metric, "value": m.value, "labels": m.labels}
            for m in record.metrics
        ]
    columns = [*_RESULT_COLUMNS]
    return pd.DataFrame(rows, columns=columns).astype(_RESULT_COLUMNS)


_RESULT_COLUMNS = {
    **dict.fromkeys(("run", "cell", "cell_name", "tasks"), "string"),
    **dict.fromkeys(("repeat", "seed"), "Int64"),
    **dict.fromkeys(("status", "message", "task", "part", "metric"), "string"),
    "value": "Float64",
    "labels": "Int64",
    **dict.fromkeys(("seconds_training", "seconds_total"), "Float64"),
    **dict.fromkeys(("peak_memory_bytes", "num_parameters", "epochs", "best_epoch"), "Int64"),
    "device": "string",
}


# -- rows of the summary


def _task_row(tasks: TaskSet, name: str, chosen: str) -> dict[str, Any]:
    task = tasks[name]
    return {
        "name": name,
        "kind": task.kind,
        "metric": task.primary_metric,
        "unit": METRICS[task.primary_metric].unit(task),
        "higher_is_better": task.higher_is_better,
        "chosen_cell": chosen,
        "auxiliary": not task.judged,
    }


def _overall_row(together: Overall | None, tasks: TaskSet, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mean over all judged tasks as a task of its own, with its gains."""
    if together is None:
        return None
    row = _task_row(tasks, together.tasks[0], together.chosen)
    return {
        "task": {**row, "name": together.name, "kind": "mean"},
        "gains": [_gain_row(gain, facts) for gain in together.gains],
    }


def _improvement_row(found: Improvement | None, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The average relative improvement as a task of its own, with its gains in %."""
    if found is None:
        return None
    return {
        "task": {
            "name": found.name,
            "kind": "mean",
            "metric": IMPROVEMENT,
            "unit": "%",
            "higher_is_better": True,
            "chosen_cell": found.chosen,
            "auxiliary": False,
        },
        "gains": [_gain_row(gain, facts) for gain in found.gains],
        "tasks": list(found.tasks),
        "left_out": list(found.left_out),
    }


def _mean_gains(found: Compared) -> tuple[Gain, ...]:
    return found.overall.gains if found.overall else ()


def _gain_row(gain: Gain, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": gain.task,
        "cell": gain.cell,
        "baseline": gain.baseline_value,
        "value": gain.cell_value,
        "gain": gain.gain,
        "low": gain.low,
        "high": gain.high,
        "p_value": gain.p_adjusted,
        "verdict": gain.verdict,
        "note": gain.note,
        "surer": what_would_help(gain, same_folds=same_folds(facts)).text,
    }


def _with_choice(
    gain: Gain, chosen: Mapping[str, str], tasks: TaskSet, facts: Mapping[str, Any], done: Groups
) -> dict[str, Any]:
    """The row of a gain; that of the chosen cell says what the choice itself owes to luck."""
    row = _gain_row(gain, facts)
    if chosen.get(gain.task) != gain.cell:
        return row
    number, by_others = by_other_repeats(tasks[gain.task], facts, done)
    if not math.isnan(by_others):
        told = words.number(by_others, gain.metric, signed=True, like=gain.baseline_value)
        row["surer"] += (
            f" Chosen among {number} cells anew for every repeat, by the validation of the other repeats, "
            f"the gain is {told}: the luck of the seed that is tested has no part in that choice."
        )
    return row


def _cell_row(
    cell: Mapping[str, Any], facts: Mapping[str, Any], done: Groups, tasks: TaskSet
) -> dict[str, Any]:
    runs = done.get((cell["id"], cell["tasks"][0]), [])
    alone = [done.get((SINGLE_TASK, task), []) for task in cell["tasks"] if tasks[task].judged]
    seconds = _mean([run.seconds_training for run in runs])
    parameters = _mean([run.num_parameters for run in runs])
    memory = max((run.peak_memory_bytes or 0 for run in runs), default=0)
    complete = all(alone)
    seconds_alone = sum(_mean([run.seconds_training for run in each]) for each in alone)
    parameters_alone = sum(_mean([run.num_parameters for run in each]) for each in alone)
    memory_alone = max((run.peak_memory_bytes or 0 for each in alone for run in each), default=0)
    return {
        "id": cell["id"],
        "name": cell["name"],
        "tasks": cell["tasks"],
        "training_seconds": seconds,
        "num_parameters": 0 if math.isnan(parameters) else int(parameters),
        "peak_memory_bytes": memory,
        "epochs": _mean([run.epochs for run in runs]),
        "num_done": len(runs),
        "num_planned": facts["repeats"],
        "plan": next((run.details.get("plan", "") for run in runs), ""),
        "time_ratio": _ratio(seconds, seconds_alone if complete else math.nan),
        "parameter_ratio": _ratio(parameters, parameters_alone if complete else math.nan),
        "memory_ratio": _ratio(memory, memory_alone if complete and runs else math.nan),
    }


def _mean(values: Sequence[float | int | None]) -> float:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _ratio(value: float, alone: float) -> float:
    return value / alone if alone > 0 else math.nan


def _curves(record: RunRecord, tasks: TaskSet, baseline: str) -> list[dict[str, Any]]:
    """The primary metric on validation, epoch by epoch; of training alone, the form that is judged by."""
    epochs = record.history.get("epochs", [])
    other_form = record.cell.startswith(SINGLE_TASK) and record.cell != baseline
    if record.status != "done" or not epochs or other_form or is_companion(record.cell):
        return []
    return [
        {
            "task": task,
            "cell": "" if record.cell == baseline else record.cell,
            "repeat": record.repeat,
            "values": [epoch["validation_metrics"][task][tasks[task].primary_metric] for epoch in epochs],
            "best_epoch": max(0, (record.best_epoch or 1) - 1),
        }
        for task in record.tasks
    ]


def _mixing(cell: Mapping[str, Any], done: Groups) -> dict[str, Any] | None:
    """Mixing matrices at the best epochs, averaged over repeats and channels."""
    runs = sorted(done.get((cell["id"], cell["tasks"][0]), []), key=lambda run: run.repeat)
    best = [run.history["epochs"][(run.best_epoch or 1) - 1]["mixing"] for run in runs]
    if not best or not best[0]:
        return None
    first = runs[0].history["epochs"]
    return {
        "cell": cell["id"],
        "architecture": cell["architecture"],
        "tasks": cell["tasks"],
        "matrices": {
            stage: np.mean([_over_channels(mixing[stage]) for mixing in best], axis=0).tolist()
            for stage in best[0]
        },
        "over_time": {
            stage: [_over_channels(epoch["mixing"][stage]).tolist() for epoch in first] for stage in best[0]
        },
    }


def _over_channels(matrix: Any) -> Any:
    values = np.asarray(matrix, dtype=np.float64)
    return values.reshape(-1, *values.shape[-2:]).mean(axis=0)


def _warnings(facts: Mapping[str, Any], missing: int, failed: Sequence[RunRecord]) -> list[str]:
    warnings = list(facts.get("warnings", []))
    if missing:
        are_missing = "run is" if missing == 1 else "runs are"
        warnings.append(f"{missing} planned {are_missing} missing: type the same command to continue.")
    if failed:
        reasons = "its reason stands" if len(failed) == 1 else "their reasons stand"
        warnings.append(f"{counted(len(failed), 'run')} failed; {reasons} below.")
    return warnings


def _environment(records: Sequence[RunRecord], facts: Mapping[str, Any]) -> dict[str, Any]:
    if not records:
        return {}
    last = records[-1]
    versions = last.environment.get("versions", {})
    devices = sorted({record.device for record in records if record.device})
    return {
        "device": ", ".join(devices),
        "machine": last.environment.get("platform", ""),
        "cores": last.environment.get("cpu_count", ""),
        "threads per run": last.environment.get("threads", ""),
        "runs at a time": facts.get("jobs", 1),
        **{name: version for name, version in versions.items() if version != "not installed"},
    }


def _plain(value: Any) -> Any:
    """Numbers that are undefined become null, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
