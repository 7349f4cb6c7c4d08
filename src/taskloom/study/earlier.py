"""What a study folder holds already: the same study goes on, and no study replaces the report of another.

Runs are told apart by their ids and never mixed, but a folder has one report. The same study file goes on
there, with whatever was changed in it. Another file is refused, unless all runs of the study before are its
own. Where a file of the same name has no run in common with what is there (everything was changed, or it is
another file of that name), the report of before is kept aside.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from taskloom.errors import DataError
from taskloom.study.results import ResultsStore
from taskloom.wording import counted

_FILES = ("report.html", "summary.json", "results.parquet", "study.yaml")
_FOLDER = "earlier"


@dataclass(frozen=True)
class Earlier:
    """A report that a study would replace though none of its runs is one of the study's.

    Args:
        files: What is kept of it.
        aside: Where it is kept.
    """

    files: tuple[Path, ...]
    aside: Path

    def keep(self) -> None:
        """Moves the files aside."""
        self.aside.mkdir(parents=True)
        for file in self.files:
            file.rename(self.aside / file.name)


def earlier_report(out: Path, name: str, ids: Collection[str]) -> Earlier | None:
    """Looks whether a study folder holds the report of other runs; writes nothing.

    Args:
        out: The folder.
        name: The name of the study that is to be run there.
        ids: Its runs.

    Returns:
        What is to be kept aside; None where the study goes on, or the folder holds no finished run.

    Raises:
        DataError: The folder is that of another study.
    """
    path = out / "results.sqlite"
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with ResultsStore(path, read_only=True) as store:
        title = store.facts().get("title", name)
        finished = [record.id for record in store.records()]
    own = set(ids).intersection(finished)
    if not finished or len(own) == len(finished):
        return None
    if title != name:
        raise DataError(
            f"{out}: this folder holds {counted(len(finished), 'run')} of another study, `{title}`, whose "
            f"report `{name}` would replace; choose another --out."
        )
    files = tuple(file for file in (out / each for each in _FILES) if file.is_file())
    if own or not files:
        return None
    written = datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)
    stem = f"{written:%Y-%m-%d_%H-%M-%S}"
    aside, number = out / _FOLDER / stem, 2
    while aside.exists():
        aside, number = out / _FOLDER / f"{stem}_{number}", number + 1
    return Earlier(files, aside)
