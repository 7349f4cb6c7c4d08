"""What a bundle says of itself: tasks, what it takes, where it came from, what it was judged on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskloom.deploy import Bundle
from taskloom.deploy.bundle import weights_checksum
from taskloom.metrics import METRICS
from taskloom.predict.faces import device_of
from taskloom.predict.readings import Readings
from taskloom.report import words
from taskloom.serve.predictors import Predictor
from taskloom.tasks import Task
from taskloom.version import __version__


def about_bundle(bundle: Bundle, predictor: Predictor, device: str, name: str | None) -> dict[str, Any]:
    """Everything that `GET /about` answers, as plain values.

    Args:
        bundle: The bundle.
        predictor: What predicts for it.
        device: auto, cpu or cuda.
        name: What it is called; its cell, or "bundle", where None.
    """
    cell = bundle.about.get("cell")
    return {
        "name": name or cell or "bundle",
        "kind": predictor.kind,
        "tasks": _tasks(bundle, predictor.readings),
        "inputs": predictor.inputs(),
        "origin": _origin(bundle),
        "test": _test(bundle),
        "notes": list(predictor.notes),
        "device": str(device_of(device)),
        "weights_sha256": weights_checksum(bundle),
        "versions": {"taskloom": __version__, "trained_with": bundle.versions},
    }


def _tasks(bundle: Bundle, readings: Readings) -> list[dict[str, Any]]:
    found, start = [], 0
    for name, task in bundle.tasks.items():
        stop = start + len(readings.by_task[name].columns)
        columns = [column.name for column in readings.columns[start:stop]]
        found.append(
            {
                "name": name,
                "kind": task.kind,
                "unit": getattr(task, "unit", ""),
                "classes": list(task.class_names),
                "columns": columns,
            }
        )
        start = stop
    return found


def _origin(bundle: Bundle) -> dict[str, Any]:
    """Cell, seed and size of the training, as far as the bundle knows them; no names of its files, which may
    be people's and are not for everybody who opens the page."""
    about = bundle.about
    run, data = about.get("run", {}), about.get("data", {})
    return {
        "cell": about.get("cell"),
        "architecture": bundle.settings.get("sharing", {}).get("name"),
        "encoder": bundle.settings.get("encoder", {}).get("name"),
        "seed": run.get("seed"),
        "reader": bundle.preprocessing.get("reader"),
        "rows": {part: count for part, count in data.get("rows", {}).items() if isinstance(count, int)},
    }


def _test(bundle: Bundle) -> list[dict[str, Any]]:
    """What each task reached on the bundle's own test part, by the metric that it is judged by."""
    own: Mapping[str, Any] = bundle.about.get("test", {})
    found = []
    for name, task in bundle.tasks.items():
        summary = own.get(name, {}).get(task.primary_metric)
        if summary is None or summary.get("value") is None:
            continue
        found.append(
            {
                "task": name,
                "metric": task.primary_metric,
                "value": summary["value"],
                "low": summary.get("low"),
                "high": summary.get("high"),
                "labels": summary.get("labels"),
                "in_words": _in_words(task, summary),
            }
        )
    return found


def _in_words(task: Task, summary: Mapping[str, Any]) -> str:
    """ "5.61 years MAE [5.20, 6.01]" """
    metric = task.primary_metric
    unit = METRICS[metric].unit(task)
    text = f"{words.with_unit(summary['value'], metric, unit)} {words.metric_name(metric)}"
    bounds = [summary[side] for side in ("low", "high") if summary.get(side) is not None]
    if len(bounds) < 2:
        return text
    low, high = (words.number(bound, metric, like=summary["value"]) for bound in bounds)
    return f"{text} [{low}, {high}]"
