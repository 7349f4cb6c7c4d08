"""How far a study is: one line that moves in a terminal, a line per run elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from taskloom.study.results import RunRecord
from taskloom.study.runs import RunSpec
from taskloom.wording import sentence


class Progress(Protocol):
    """Told when runs begin and end."""

    def begin(self, total: int, done: int, failed: int, jobs: int) -> None:
        """`done` and `failed` of `total` runs were finished before; `jobs` are done at a time."""

    def started(self, spec: RunSpec) -> None: ...

    def finished(self, record: RunRecord) -> None: ...

    def end(self) -> None: ...


class ConsoleProgress:
    """Progress on a terminal or in a log.

    Args:
        console: Where to; a line that moves if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._total = self._done = self._failed = self._running = self._finished_now = 0
        self._jobs = 1
        self._clock = time.monotonic()

    def begin(self, total: int, done: int, failed: int, jobs: int) -> None:
        self._total, self._done, self._failed, self._jobs = total, done, failed, jobs
        self._clock = time.monotonic()
        if self._console.is_terminal and done + failed < total:
            self._live = Live(self, console=self._console, refresh_per_second=1, transient=True)
            self._live.start()

    def started(self, spec: RunSpec) -> None:
        del spec
        self._running += 1

    def finished(self, record: RunRecord) -> None:
        self._running -= 1
        self._finished_now += 1
        if record.status == "failed":
            self._failed += 1
            self._console.print(
                f"{record.cell_name}, repeat {record.repeat + 1}, run {record.id[:4]}: "
                f"{sentence(record.message)} "
                "The run is marked failed; the others go on.",
                style="red",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        else:
            self._done += 1
        if self._live is None:
            seconds = f"{record.seconds_total:.0f} s" if record.seconds_total else "-"
            self._console.print(
                f"{self._so_far()}{self._left()}   {record.cell_name}, repeat {record.repeat + 1}: {seconds}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self) -> str:
        """Returns "runs 61/90  failed 0  running 2  about 12 min left"."""
        running = f"  running {self._running}" if self._running else ""
        return self._so_far() + running + self._left()

    def _so_far(self) -> str:
        # A log has no number of running runs: when a line is written one has ended, and the next is to begin.
        return f"runs {self._done + self._failed}/{self._total}  failed {self._failed}"

    def _left(self) -> str:
        left = self._total - self._done - self._failed
        if not self._finished_now or not left:
            return ""
        each = (time.monotonic() - self._clock) / self._finished_now
        return f"  about {duration(each * left)} left"

    def __rich__(self) -> Text:
        return Text(self.line())


def duration(seconds: float) -> str:
    """Writes a duration as people say it.

    Example:
        >>> duration(42), duration(700), duration(9000)
        ('42 s', '12 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
