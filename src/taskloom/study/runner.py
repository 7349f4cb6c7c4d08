"""Running a study: what is missing and nothing else, safe against being stopped at any moment."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from taskloom.errors import DataError
from taskloom.study.cells import Cell, baselines, expand_cells
from taskloom.study.config import Study
from taskloom.study.dry_build import check_devices, dry_build
from taskloom.study.earlier import Earlier, earlier_report
from taskloom.study.lock import study_lock
from taskloom.study.pool import do_runs
from taskloom.study.prepare import Prepared, prepare_data, study_facts
from taskloom.study.progress import ConsoleProgress, Progress
from taskloom.study.repeated import Repeated, find_repeated, say_repeated
from taskloom.study.results import ResultsStore, run_folder, storage_error
from taskloom.study.runs import RunSpec, plan_runs
from taskloom.study.summary import write_summary
from taskloom.study.test_rows import save_columns
from taskloom.study.verdict_table import as_frame, as_html, as_text
from taskloom.study.worker import DataCache, storage_reason
from taskloom.study.worst_mistakes import keep_worst_mistakes
from taskloom.training.checkpoints import write_atomically


@dataclass(frozen=True)
class Plan:
    """A study before its first run.

    Args:
        cells: The cells of the study file; baselines are not among them.
        specs: All runs, baselines too, in the order in which they are done.
        prepared: The data.
        repeated: Cells that are not trained, as they are the same network as one of `cells`.
        earlier: A report in the study's folder that is kept aside, as none of its runs is in `specs`.
    """

    cells: list[Cell]
    specs: list[RunSpec]
    prepared: Prepared
    repeated: list[Repeated] = field(default_factory=list)
    earlier: Earlier | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Args:
        folder: The study's folder.
        planned, done, failed: Numbers of runs.
        ran: Runs of this sitting.
        summary: What `summary.json` holds.

    Printed, or as the last line of a notebook's cell, it is the table of verdicts; `to_frame` has their
    numbers, `taskloom.report.render_report(outcome.folder)` writes the page.
    """

    folder: Path
    planned: int
    done: int
    failed: int
    ran: int
    summary: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return as_text(self.summary)

    def _repr_html_(self) -> str:
        return as_html(self.summary)

    def to_frame(self) -> pd.DataFrame:
        """One row per task: metric, alone, chosen cell, test, gain with its interval, p-value, verdict."""
        return as_frame(self.summary)


def plan_study(study: Study, out: Path, *, data: Path | None = None, stores: Path | None = None) -> Plan:
    """Expands the cells, reads the data, builds every network once; nothing is trained.

    Args:
        study: The study.
        out: Its folder.
        data: Where relative files are looked for.
        stores: Folder of prepared stores; `stores` beside `out` where None.

    Raises:
        ConfigError, DataError: One sentence on what is wrong.
    """
    cells = expand_cells(study)
    everything = [*baselines(study), *cells]
    check_devices(study, everything)  # before the data, which may take long to read
    cache = DataCache()
    prepared = prepare_data(study, data, stores_beside(out) if stores is None else stores, cache)
    specs = plan_runs(study, everything, prepared.requests, prepared.checksums, out)
    built = dry_build(study, everything, specs, cache.get(prepared.requests[0]))
    repeated = find_repeated(cells, built.networks)
    prepared.facts["warnings"] += [*built.warnings, *say_repeated(repeated, study.document)]
    left_out = {pair.cell.id for pair in repeated}
    cells = [cell for cell in cells if cell.id not in left_out]
    specs = [spec for spec in specs if spec.cell.id not in left_out]
    earlier = earlier_report(out, study.name, [spec.id for spec in specs])
    return Plan(cells, specs, prepared, repeated, earlier)


def stores_beside(out: Path) -> Path:
    """Returns where prepared stores go: beside the study's folder, so that studies share them."""
    return out.resolve().parent / "stores"


def run_study(
    study: Study,
    out: Path | str | None = None,
    progress: Progress | None = None,
    *,
    data: Path | str | None = None,
    jobs: int = 1,
    retry_failed: bool = False,
    announce: Callable[[Plan], None] | None = None,
) -> Outcome:
    """Runs what is missing of a study and writes `summary.json` and `results.parquet`.

    Every finished run is committed at once; a run that was stopped goes on from its last checkpoint. Stop it
    by Ctrl-C or kill it at any moment, and call it again.

    Args:
        study: The study.
        out: Its folder, made where there is none; `runs/<name of the study>` where None.
        progress: Told when runs begin and end; where None, a line per run is printed.
        data: Where relative files are looked for.
        jobs: Runs at a time; more than one get processes of their own, which share the cores.
        retry_failed: Whether runs that failed are run again.
        announce: Called with the `Plan` before the first run.

    Raises:
        ConfigError, DataError: Something is wrong before the first run; a results store of another version
            or another study; a full disk or a folder that cannot be written.

    Example:
        >>> rows = [f"{i % 7},{i % 5},{20 + i % 7},{'no yes'.split()[i % 3 % 2]}" for i in range(60)]
        >>> _ = Path("people.csv").write_text("\\n".join(["a,b,age,smokes", *rows]))
        >>> settings = tl.study.draft_study("people.csv", ["age", "smokes"]).settings
        >>> settings |= {"repeats": 3, "cells": [{"hard_sharing": {"stages": 2}}]}
        >>> settings["training"]["epochs"] = 2
        >>> outcome = run_study(tl.study.load_study(settings))
        runs 1/9  failed 0 ...
        >>> outcome.to_frame()[["task", "metric", "cell"]].values.tolist()
        [['age', 'mae', 'hard sharing 2'], ['smokes', 'accuracy', 'hard sharing 2'],
         ['average relative gain, 2 tasks', 'delta_m', 'hard sharing 2']]
    """
    out = Path("runs") / study.name if out is None else Path(out)
    data = None if data is None else Path(data)
    progress = ConsoleProgress(Console(highlight=False)) if progress is None else progress
    with writable(out):
        # Whatever is wrong with file or data is found before the study's folder is touched.
        check_store(out)
        plan = plan_study(study, out, data=data)
        if announce is not None:
            announce(plan)
        out.mkdir(parents=True, exist_ok=True)
        with study_lock(out), ResultsStore(out / "results.sqlite") as store:
            for key, columns in plan.prepared.columns.items():
                save_columns(out, key, columns)
            ran = _run_missing(study, plan, store, out, progress, jobs, retry_failed)
            status = store.finished(spec.id for spec in plan.specs)
            keep_worst_mistakes(out, plan.prepared.requests[0])
        summary = write_summary(out)
    failed = sum(value == "failed" for value in status.values())
    return Outcome(out, len(plan.specs), len(status) - failed, failed, ran, summary)


def _run_missing(
    study: Study,
    plan: Plan,
    store: ResultsStore,
    out: Path,
    progress: Progress,
    jobs: int,
    retry_failed: bool,
) -> int:
    ids = [spec.id for spec in plan.specs]
    if plan.earlier is not None:
        plan.earlier.keep()
    store.plan(ids, study_facts(study, plan.cells, plan.prepared, jobs, plan.repeated))
    write_atomically(out / "study.yaml", study.to_yaml().encode())
    status = store.finished(ids)
    if retry_failed:
        again = [run for run, value in status.items() if value == "failed"]
        store.forget(again)
        status = {run: value for run, value in status.items() if value != "failed"}
    missing = [spec for spec in plan.specs if spec.id not in status]
    failed = sum(value == "failed" for value in status.values())
    progress.begin(len(ids), len(status) - failed, failed, jobs)
    try:
        for record in do_runs(missing, jobs, progress.started):
            store.commit(record)
            if record.status == "done":
                # The state to go on from is three times the weights, and no longer needed.
                (run_folder(out, record.id) / "last.ckpt").unlink(missing_ok=True)
            progress.finished(record)
    finally:
        progress.end()
    return len(missing)


def check_store(out: Path) -> None:
    """Refuses a study folder whose results are of another version; nothing is wrong with one that has none.

    Raises:
        DataError: The results store is of another version, or no results store.
    """
    path = out / "results.sqlite"
    if path.is_file() and path.stat().st_size > 0:
        ResultsStore(path, read_only=True).close()


def missing_runs(specs: Sequence[RunSpec], out: Path) -> list[RunSpec]:
    """Returns those runs that a study folder does not hold yet; writes nothing.

    Raises:
        DataError: The results store is of another version.
    """
    path = out / "results.sqlite"
    if not path.exists():
        return list(specs)
    with ResultsStore(path, read_only=True) as store:
        there = store.finished(spec.id for spec in specs)
    return [spec for spec in specs if spec.id not in there]


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns a full disk, or a folder that cannot be written, into one sentence.

    Raises:
        DataError: In place of the OSError.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.OperationalError):
            raise storage_error(folder / "results.sqlite", error) from error
        where = Path(getattr(error, "filename", None) or folder)
        ours = where.is_relative_to(folder) or folder.is_relative_to(where)
        if ours and isinstance(error, FileExistsError | NotADirectoryError):
            raise DataError(f"{where}: a folder expected, found a file; choose another --out.") from error
        reason = storage_reason(error) or (str(error.strerror).lower() if ours else None)
        if reason is None:
            raise
        advice = "; make room or choose another --out" if ours else ""
        raise DataError(f"{where}: {reason}{advice}.") from error
