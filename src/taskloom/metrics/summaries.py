"""All metrics of all tasks at once, and their summaries on disk."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from taskloom.errors import DataError
from taskloom.losses import labels_of
from taskloom.metrics.base import METRICS, Summary
from taskloom.tasks import Labels, TaskSet

Summaries = dict[str, dict[str, Summary]]
"""Summary by task and metric."""

_FORMAT = "taskloom metric summaries 1"
# What NumPy, zipfile, zlib and json raise on files that are cut, damaged or of another kind.
_UNREADABLE = (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def summarize_all(
    tasks: TaskSet,
    outputs: Mapping[str, Tensor],
    labels: Labels,
    groups: NDArray[np.int64],
    num_groups: int,
) -> Summaries:
    """Summarises every metric of every predicted task.

    Args:
        tasks: The tasks; each brings its metrics (`Task.metrics`).
        outputs: Head outputs per task, [N, width], or [N, width, W] for labels per sample. Tasks without
            outputs are left out.
        labels: Labels of the same N rows; a task without labels has none present, its metrics are NaN.
        groups: Group of each row, [N], 0..num_groups-1.
        num_groups: Number of groups of the whole evaluation.

    Returns:
        Summary by task and metric, in the order of `tasks` and of `Task.metrics`.

    Raises:
        ValueError, DataError, TrainingError: See `Metric.summarize`.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("gender"))
        >>> labels = tl.Labels({"gender": torch.tensor([1, 0])}, {"gender": torch.tensor([True, True])})
        >>> outputs = {"gender": torch.tensor([[2.0], [1.0]])}
        >>> values(summarize_all(tasks, outputs, labels, np.arange(2), 2))["gender"]["accuracy"]
        0.5
    """
    result: Summaries = {}
    for name, task in tasks.items():
        if name in outputs:
            known, present = labels_of(task, labels, outputs[name])
            result[name] = {
                metric: METRICS[metric].summarize(task, outputs[name], known, present, groups, num_groups)
                for metric in task.metrics
            }
    return result


def merge_all(first: Summaries, second: Summaries) -> Summaries:
    """Merges the summaries of two parts of one evaluation, metric by metric."""
    return {
        task: {metric: METRICS[metric].merge(summary, second[task][metric]) for metric, summary in by.items()}
        for task, by in first.items()
    }


def values(summaries: Summaries) -> dict[str, dict[str, float]]:
    """Evaluates every summary; NaN where a metric is undefined."""
    return {
        task: {metric: METRICS[metric].evaluate(summary) for metric, summary in by_metric.items()}
        for task, by_metric in summaries.items()
    }


def label_counts(summaries: Summaries) -> dict[str, dict[str, int]]:
    """Number of labels each metric rests on."""
    return {
        task: {metric: int(METRICS[metric].label_counts(summary).sum()) for metric, summary in by.items()}
        for task, by in summaries.items()
    }


def save_summaries(path: Path | str, summaries: Summaries) -> None:
    """Writes summaries as a compressed .npz, whole or not at all.

    The arrays are numbered, and one text entry says which is which: task names may hold any character.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    names = [
        (task, metric, key)
        for task, by_metric in summaries.items()
        for metric, summary in by_metric.items()
        for key in summary
    ]
    arrays = {
        f"array_{index}": summaries[task][metric][key] for index, (task, metric, key) in enumerate(names)
    }
    arrays["contents"] = np.array(json.dumps([_FORMAT, names]))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_summaries(path: Path | str, only: tuple[str, str] | None = None) -> Summaries:
    """Reads what `save_summaries` wrote. Nothing is unpickled.

    Args:
        path: The file.
        only: One task and one of its metrics, where the others are not wanted.

    Raises:
        DataError: The file is missing, damaged, or something else.
    """
    summaries: Summaries = {}
    try:
        # Opened here: np.load leaves a file that is no archive open.
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            form, names = json.loads(str(file["contents"]))
            if form != _FORMAT:
                raise DataError(f"{path}: `{_FORMAT}` expected, found `{form}`; run the study again.")
            for index, (task, metric, key) in enumerate(names):
                if only not in (None, (task, metric)):
                    continue
                summaries.setdefault(task, {}).setdefault(metric, {})[key] = file[f"array_{index}"]
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: metric summaries expected, but the file cannot be read ({error})."
        ) from error
    return summaries
