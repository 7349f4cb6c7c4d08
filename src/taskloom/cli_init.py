"""The command that writes a first study file: `taskloom init`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from taskloom.errors import ConfigError
from taskloom.terminal import console, say

if TYPE_CHECKING:
    from taskloom.study.draft import Survey

_MOST_COLUMNS, _FIRST_COLUMNS, _LAST_COLUMNS = 60, 40, 20
"""How many columns are shown; of more, the first and the last ones, as labels often stand last."""
_SLOW_BYTES = 30_000_000
"""Size of a table from which on it is said that it is being read."""


def init(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE|FOLDER",
            help="CSV, TSV, Parquet or ARFF; or a folder with a table of the files in it.",
            show_default=False,
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="A,B,...", help="Columns to predict; without it they are listed."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images that it names.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", metavar="COLUMN", help="Rows of one value stay on one side; `none`: each by itself."
        ),
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate-hz", metavar="HZ", help="Of recordings whose files do not say it."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="ARRAY", help="Of several arrays beside it, the one of features."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The study file.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it is there.")] = False,
) -> None:
    """Write a first study file for a table, or a folder of images or recordings, from what stands in it."""
    if place.is_file() and place.stat().st_size >= _SLOW_BYTES:
        say(f"reads    {place}   {place.stat().st_size / 2**20:,.0f} MiB", stderr=True)
    if not tasks:
        _list_columns(place, images, group, rate_hz)
        return
    if out.is_dir():
        raise ConfigError(f"{out}: a file expected, found a folder; name the study file with --out.")
    if out.exists() and not force:
        raise ConfigError(
            f"{out}: is there already and stays as it is; name another file with --out, or say --force to "
            "replace it."
        )
    from taskloom.study.draft import draft_study
    from taskloom.study.runner import writable

    draft = draft_study(place, tasks, images=images, group=group, rate_hz=rate_hz, features=features)
    with writable(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(draft.text, encoding="utf-8")
    kinds = ", ".join(f"{name} ({kind})" for name, kind in draft.tasks.items())
    say(f"wrote    {out}   {kinds}")
    say(f"runs     {draft.runs}")
    for note in draft.notes:
        say(f"note     {note}")
    file = shlex.quote(str(out))
    say(f"next     taskloom inspect {file}\n         taskloom study {file}")


def _list_columns(place: Path, images: Path | None, group: str | None, rate_hz: float | None) -> None:
    """Prints every column with what it looks like, and what to type next; writes nothing."""
    from taskloom.study.draft import find_source, survey

    found = survey(find_source(place, images=images, rate_hz=rate_hz), group=group)
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("column", "holds", "missing", "likely"):
        table.add_column(heading, overflow="fold")
    for name, (settings, what) in found.source.beside.items():
        table.add_row(*map(Text, (name, what, "", f"a task ({settings['kind']})")))
    names = list(found.columns)
    hidden = names[_FIRST_COLUMNS : len(names) - _LAST_COLUMNS] if len(names) > _MOST_COLUMNS else []
    for name in names if not hidden else [*names[:_FIRST_COLUMNS], "", *names[-_LAST_COLUMNS:]]:
        if hidden and not name:
            table.add_row("...", f"{len(hidden):,} more columns", "", "")
            continue
        column = found.columns[name]
        table.add_row(*map(Text, (name, column.describe(), f"{100 * column.holes:.0f} %", found.role(name))))
    console().print(table)
    options = {"--images": images, "--group": group, "--rate-hz": None if rate_hz is None else f"{rate_hz:g}"}
    say(f"\nnothing was written; name the columns to predict:\n  {_command(found, place, options)}")


def _command(found: Survey, place: Path, options: Mapping[str, object]) -> str:
    """What to type next, with the columns that may be tasks, and the options that were given."""
    likely = found.likely_tasks()
    words = ["taskloom", "init", str(place)]
    plain = [name for name in likely if "," not in name]
    words += ["--tasks", ",".join(plain) if len(plain) > 1 else "COLUMN,COLUMN"]
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)
