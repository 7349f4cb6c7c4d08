"""What the commands print: a study before its runs, its runs, its verdicts.

PyTorch takes seconds to import: as in `taskloom.cli`, the functions import what they need when they run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from taskloom.wording import counted

if TYPE_CHECKING:
    from taskloom.study.config import Study
    from taskloom.study.relate import Related
    from taskloom.study.runner import Plan

__all__ = [
    "announce",
    "console",
    "download_progress",
    "print_dry_run",
    "print_related",
    "print_verdicts",
    "say",
]


_MOST_WARNINGS = 20
_MOST_BESIDE = 8


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
    from taskloom.study.cells import SINGLE_TASK
    from taskloom.study.design import few_repeats
    from taskloom.study.prepare import describe
    from taskloom.study.statistics import LEAST_REPEATS

    tasks, repeats = len(study.config.tasks), study.config.repeats
    facts = plan.prepared.facts
    twice = ", each on two splits" if any(spec.companion for spec in plan.specs) else ""
    alone = sum(spec.cell.architecture == SINGLE_TASK and not spec.companion for spec in plan.specs)
    line = (
        f"{file}  {counted(tasks, 'task')}, {counted(len(plan.cells), 'cell')} x "
        f"{counted(repeats, 'seed')} + {alone} single-task{twice} = "
        f"{counted(len(plan.specs), 'run')}"
    )
    holes = describe(facts)
    say(f"{line}   {holes}" if holes else line)
    for warning in facts["warnings"]:
        say(f"warning  {warning}")
    if plan.earlier is not None:
        aside, names = plan.earlier.aside, ", ".join(file.name for file in plan.earlier.files)
        say(f"note     what is there has no run of this study: {names} will be kept in {aside}")
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
    from taskloom.study.verdict_table import HEADINGS, remarks, verdict_rows

    table = Table(box=None, pad_edge=False, header_style="")
    for heading in HEADINGS[:-1]:
        table.add_column(heading, no_wrap=heading not in ("task", "chosen on validation"))
    table.add_column("", no_wrap=True)
    for row in verdict_rows(summary):
        *cells, verdict = row.texts
        colour = {"helped": "green", "hurt": "red"}.get(verdict, "")
        # as Text, not as markup, of which "[no interval]" or a unit "[mm]" would be taken for
        table.add_row(*map(Text, cells), Text(verdict, colour))
    console().print(table)
    for line in _beside(summary):
        say(line)
    for line in remarks(summary):
        say(line)


def print_related(related: Related) -> None:
    """Prints a relatedness: its entries, or a checked table beside it as table 1 of paper 003 stands."""
    from taskloom.study.relate import lines_of, side_by_side

    table, found = related.table, related.comparison
    say(
        f"{', '.join(related.classes)} -> {', '.join(related.attributes)}   {related.origin}, "
        f"{int(table.known.sum())} of {table.values.size} entries known"
    )
    shown = Table(box=None, pad_edge=False, header_style="")
    if found is None:
        for name in ("given", "follows with frequency [95 % interval], most frequent first"):
            shown.add_column(name)
        for line in lines_of(table):
            shown.add_row(*map(Text, line))
    else:
        for name in ("class", found.prior.source, "labels (! contradicts)"):
            shown.add_column(name)
        for row in side_by_side(found):
            shown.add_row(*map(Text, row))
    console().print(shown)
    for meaning in related.meanings:
        say(f"note     {meaning}")
    for warning in related.warnings:
        say(f"warning  {warning}")
    if found is not None:
        wrong = found.contradictions
        for entry in wrong[:_MOST_WARNINGS]:
            say(f"warning  {entry}")
        if len(wrong) > _MOST_WARNINGS:
            say(f"warning  and {len(wrong) - _MOST_WARNINGS} more: --out DIR writes them to check.csv")
        if not related.warnings:
            say(f"{found.prior.source}: none of {found.num_compared} entries contradicts the labels.")


def _beside(summary: dict[str, Any]) -> list[str]:
    """A line per task that was trained beside the judged ones, and per form of training alone."""
    from taskloom.report import words

    def value(row: dict[str, Any]) -> str:
        found = math.nan if row["value"] is None else row["value"]
        return f"{words.with_unit(found, row['metric'], row['unit'])} {words.metric_name(row['metric'])}"

    beside = summary.get("auxiliary", [])
    alone = {row["cell"] for row in beside} - {cell["name"] for cell in summary["cells"]}
    lines = [
        f"{row['task']}: {value(row)} {row['cell']} ({row['role']}, not judged)"
        if row["cell"] in alone
        else f"{row['task']}: {value(row)} in {row['cell']} ({row['role']}: trained beside, not judged)"
        for row in beside[:_MOST_BESIDE]
    ]
    if len(beside) > _MOST_BESIDE:
        lines.append(f"and {len(beside) - _MOST_BESIDE} more that were trained beside: see the report")
    lines += [
        f"{row['task']} {row['form']}: {value(row)}{' (judged against)' if row['judged'] else ''}"
        for row in summary.get("baselines", [])
    ]
    return lines
