"""What the commands print: a study before its runs, its runs, its verdicts.

PyTorch takes seconds to import: as in `taskloom.cli`, the functions import what they need when they run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

if TYPE_CHECKING:
    from taskloom.study.config import Study
    from taskloom.study.runner import Plan

__all__ = ["announce", "console", "download_progress", "print_dry_run", "print_verdicts", "say"]


def console(*, stderr: bool = False) -> Console:
    """Returns a console; a log keeps whole lines, a terminal wraps by itself."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def say(text: str, *, stderr: bool = False) -> None:
    """Prints a line as it is."""
    typer.echo(text, err=stderr)


@contextlib.contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error while it lasts; yields what to call with bytes there and bytes expected."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)


def announce(file: Path, study: Study, plan: Plan) -> None:
    """Prints what is about to be run, and what should be known before hours are spent on it."""
    from taskloom.study.prepare import describe
    from taskloom.study.statistics import LEAST_REPEATS
    from taskloom.study.summary import few_repeats

    tasks, repeats = len(study.config.tasks), study.config.repeats
    facts = plan.prepared.facts
    line = (
        f"{file}  {_counted(tasks, 'task')}, {_counted(len(plan.cells), 'cell')} x "
        f"{_counted(repeats, 'seed')} + {tasks * repeats} single-task = {_counted(len(plan.specs), 'run')}"
    )
    holes = describe(facts)
    say(f"{line}   {holes}" if holes else line)
    for warning in facts["warnings"]:
        say(f"warning  {warning}")
    if repeats < LEAST_REPEATS:
        say(f"note     {few_repeats(repeats)}")


def print_dry_run(study: Study, file: Path, folder: Path, data: Path | None) -> None:
    """Checks everything and prints every run and whether it is there; trains nothing.

    Raises:
        ConfigError, DataError: As `taskloom.study.runner.plan_study`.
    """
    from taskloom.study.runner import missing_runs, plan_study, writable

    with writable(folder):
        plan = plan_study(study, folder, data=data)
        missing = {spec.id for spec in missing_runs(plan.specs, folder)}
    announce(file, study, plan)
    for spec in plan.specs:
        say(f"{'missing ' if spec.id in missing else 'there   '}  {spec.id[:16]}  {spec.label}")


def print_verdicts(summary: dict[str, Any]) -> None:
    """Prints the verdict per task, in the cell that was best on validation, by the report's wording."""
    from taskloom.report import words
    from taskloom.report.model import GainRow, TaskRow

    names = {cell["id"]: cell["name"] for cell in summary["cells"]}
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("task")
    table.add_column("alone", no_wrap=True)
    table.add_column("chosen on validation")
    table.add_column("test", no_wrap=True)
    table.add_column("gain, 95 % interval", no_wrap=True)
    table.add_column("", no_wrap=True)
    overall = summary["overall"] or {"gains": []}
    gains = {(gain["task"], gain["cell"]): gain for gain in (*summary["gains"], *overall["gains"])}
    for entry in (*summary["tasks"], *([overall["task"]] if "task" in overall else [])):
        task = TaskRow(**entry)
        gain = gains.get((task.name, task.chosen_cell))
        if gain is None:
            table.add_row(task.name, "–", "no finished cell to compare with", "", "", "")
            continue
        row = GainRow(**gain)
        colour = {"helped": "green", "hurt": "red"}.get(row.verdict, "")
        table.add_row(
            task.name,
            f"{words.with_unit(row.baseline, task.metric, task.unit)} {words.metric_name(task.metric)}",
            names[row.cell],
            words.number(row.value, task.metric),
            words.interval(row, task.metric),
            f"[{colour}]{row.verdict}[/]" if colour else row.verdict,
        )
    console().print(table)
    say(summary["design"])
    for line in (*summary["failed"], *summary["warnings"]):
        say(line)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
