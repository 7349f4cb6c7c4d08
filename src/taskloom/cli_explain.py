"""`taskloom explain`, and what `taskloom evaluate` does on other data: their options and what they print."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from taskloom.errors import ConfigError
from taskloom.terminal import console, say

if TYPE_CHECKING:
    from taskloom.deploy import Bundle
    from taskloom.study.cross_database import OtherData
    from taskloom.training import Evaluation


def explain(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="STUDY_DIR|BUNDLES", help="A study's folder, or bundles.", show_default=False),
    ],
    images: Annotated[int, typer.Option("--images", min=1, metavar="N", help="How many images.")] = 8,
    on: Annotated[
        Path | None, typer.Option("--on", metavar="STORE", help="The faces that bundles are shown on.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder in which the study's data files are.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="NAME", help="Stage; the last one with maps by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PAGE", help="explain.html in the study, or here.")
    ] = None,
) -> None:
    """Draw where each task looks (class activation maps): single-task networks beside shared ones."""
    from taskloom.study.explained import explain_bundles, explain_study
    from taskloom.study.runner import writable
    from taskloom.training.checkpoints import write_atomically

    if len(sources) == 1 and sources[0].suffix != ".bundle":
        if on is not None:
            raise ConfigError("explain: --on goes with bundles; a study is shown on its own test images.")
        page = explain_study(sources[0], data=data, images=images, stage=stage)
        place = out or sources[0] / "explain.html"
    else:
        if on is None:
            raise ConfigError("explain: --on STORE expected with bundles: the faces that they are shown on.")
        page = explain_bundles(sources, on, images=images, stage=stage)
        place = out or Path("explain.html")
    with writable(place.parent):
        write_atomically(place, page.encode())
    say(f"page     {place}")


def print_cross(bundle: Bundle, other: OtherData, evaluation: Evaluation) -> None:
    """Prints metrics on other data beside those of the bundle's own test part, and what was left out."""
    from taskloom.metrics import METRICS
    from taskloom.metrics.texts import bounds, with_unit

    own: Mapping[str, Any] = bundle.about.get("test", {})
    table = Table("task", "metric", "here", "95 % interval", "labels", "own test", "95 % interval")
    for column in table.columns[2:]:
        column.justify = "right"
    for task, by_metric in evaluation.summaries.items():
        for metric in by_metric:
            if not evaluation.count(task, metric):
                continue
            value, interval = evaluation.value(task, metric), evaluation.interval(task, metric)
            before = own.get(task, {}).get(metric, {})
            unit = METRICS[metric].unit(evaluation.tasks[task])
            was, low, high = (_or_nan(before.get(key)) for key in ("value", "low", "high"))
            line = (
                task,
                metric,
                with_unit(value, metric, unit),
                bounds(*interval, metric, value),
                f"{evaluation.count(task, metric):,}",
                with_unit(was, metric, unit),
                bounds(low, high, metric, was),
            )
            table.add_row(*map(Text, line))  # names in brackets are not markup
    console().print(table)
    for note in other.notes:
        say(f"note     {note}")
    if not own:
        say("note     the bundle does not say what it reached on its own test part; train it anew.")


def own_test(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """What a bundle says about its own test part: value, interval and labels by task and metric."""
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for task, by_metric in evaluation.summaries.items():
        found[task] = {}
        for metric in by_metric:
            low, high = evaluation.interval(task, metric)
            found[task][metric] = {
                "value": _finite(evaluation.value(task, metric)),
                "low": _finite(low),
                "high": _finite(high),
                "labels": evaluation.count(task, metric),
            }
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
