"""The results store: one SQLite file per study; a run is committed in one transaction, whole or not at all.

Files of a study folder
    results.sqlite          this store
    results.parquet         one row per run, task, part and metric (written after the runs)
    summary.json            what the report shows (see `taskloom.study.summary`)
    study.yaml              the resolved study file
    earlier/                reports of before, where a study of the same name has no run in common with them
    runs/<first 16 of id>/  per run: test_summary.npz, validation_summary.npz, test_decisions.npz,
                            checkpoints, relatedness.json where tasks are coupled, error.txt
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from taskloom.errors import DataError

STORE_FORMAT = 1
"""Changes when the tables change; a store of another format is refused."""

_APPLICATION_ID = 0x7461736B  # "task": tells a results store from any other SQLite file

_TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    cell TEXT NOT NULL,
    cell_name TEXT NOT NULL,
    tasks TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    message TEXT NOT NULL,
    started TEXT NOT NULL,
    seconds_training REAL,
    seconds_total REAL,
    peak_memory_bytes INTEGER,
    num_parameters INTEGER,
    epochs INTEGER,
    best_epoch INTEGER,
    device TEXT NOT NULL,
    environment TEXT NOT NULL,
    resolved TEXT NOT NULL,
    history TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE TABLE metric_values (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    task TEXT NOT NULL,
    part TEXT NOT NULL CHECK (part IN ('validation', 'test')),
    metric TEXT NOT NULL,
    value REAL,
    labels INTEGER NOT NULL,
    PRIMARY KEY (run, task, part, metric)
);
CREATE TABLE planned (position INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE);
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class MetricValue:
    """One metric of one task on one part of the data.

    Args:
        task, part, metric: Whose.
        value: NaN where it is undefined (no label, one class only).
        labels: How many labels it was computed on.
    """

    task: str
    part: Part
    metric: str
    value: float
    labels: int


@dataclass(frozen=True)
class RunRecord:
    """What is kept of one run.

    Args:
        id: SHA-256 of everything that decides the run's result.
        cell: Id of its cell; `single_task` for a baseline.
        cell_name: The cell's name for people.
        tasks: Tasks trained together.
        repeat: Which repeat, from 0.
        seed: Seed of weights and row order.
        status: "done" or "failed".
        message: Why it failed, one sentence; "" where it did not.
        started: Date and time in UTC, ISO 8601.
        seconds_training: Time of training alone, over all sittings of a resumed run.
        seconds_total: Time of the last sitting, evaluation included.
        peak_memory_bytes: Largest memory of the process (CPU) or of the device (CUDA).
        num_parameters: Trainable parameters.
        epochs, best_epoch: Epochs trained; number, from 1, of the one whose weights were kept.
        device: "cpu", "cuda (NVIDIA ...)".
        environment: Versions, threads.
        resolved: Every setting that decides the result.
        history: Curves per epoch, as `History.to_dict` gives them.
        details: What else a report shows: mixing matrices, the plan as text.
        metrics: All metric values.
    """

    id: str
    cell: str
    cell_name: str
    tasks: tuple[str, ...]
    repeat: int
    seed: int
    status: Literal["done", "failed"]
    message: str = ""
    started: str = ""
    seconds_training: float | None = None
    seconds_total: float | None = None
    peak_memory_bytes: int | None = None
    num_parameters: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    device: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[MetricValue, ...] = ()


_JSON_COLUMNS = ("tasks", "environment", "resolved", "history", "details")
_COLUMNS = tuple(name for name in RunRecord.__dataclass_fields__ if name != "metrics")


def run_folder(study_folder: Path, run_id: str) -> Path:
    """Returns the folder of a run's files."""
    return study_folder / "runs" / run_id[:16]


class ResultsStore:
    """The runs of one study.

    Args:
        path: The SQLite file; made where there is none.
        read_only: Whether a missing file is an error and nothing is written.

    Raises:
        DataError: The file is no results store, or one of another format.

    Example:
        >>> import tempfile
        >>> store = ResultsStore(Path(tempfile.mkdtemp()) / "results.sqlite")
        >>> store.commit(RunRecord("a1", "c", "cell", ("age",), 0, 0, "failed", "the loss is NaN"))
        >>> store.finished(["a1", "b2"])
        {'a1': 'failed'}
        >>> store.close()
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.is_file():
            raise DataError(f"{path}: there is no results store here; run `taskloom study` first.")
        new = not path.exists() or path.stat().st_size == 0
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            if new:
                self._create()
            else:
                self._check_format()
            if not read_only:
                self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise storage_error(path, error) from error
        except DataError:
            self._connection.close()
            raise

    def _create(self) -> None:
        with self._transaction():
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {STORE_FORMAT}")

    def _check_format(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise DataError(f"{self.path}: this is not a results store of taskloom; choose another --out.")
        if found != STORE_FORMAT:
            raise DataError(
                f"{self.path}: a results store of format {STORE_FORMAT} expected, found format {found} of "
                "another version of taskloom; choose another --out."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            if self._connection.in_transaction:  # SQLite has already rolled back where the disk is full
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def commit(self, record: RunRecord) -> None:
        """Writes a run with all its values, in place of an earlier record of the same run.

        Raises:
            DataError: The disk is full or the file cannot be written; nothing of the run was.
        """
        values = {name: getattr(record, name) for name in _COLUMNS}
        for name in _JSON_COLUMNS:
            values[name] = json.dumps(values[name])
        places = ", ".join(f":{name}" for name in _COLUMNS)
        rows = [
            (record.id, m.task, m.part, m.metric, None if math.isnan(m.value) else m.value, m.labels)
            for m in record.metrics
        ]
        try:
            with self._transaction() as connection:
                connection.execute("DELETE FROM runs WHERE id = ?", (record.id,))
                connection.execute(f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({places})", values)
                connection.executemany("INSERT INTO metric_values VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise storage_error(self.path, error) from error

    def plan(self, run_ids: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Notes which runs the study file names now, in order, and what else a report needs to know.

        Runs that are no longer named are kept, not shown.

        Args:
            run_ids: Ids of the runs.
            facts: JSON-serialisable values by name; see `taskloom.study.prepare.study_facts`.
        """
        try:
            with self._transaction() as connection:
                connection.execute("DELETE FROM planned")
                connection.executemany("INSERT INTO planned VALUES (?, ?)", enumerate(run_ids))
                connection.execute("DELETE FROM facts")
                connection.executemany(
                    "INSERT INTO facts VALUES (?, ?)",
                    [(key, json.dumps(value)) for key, value in facts.items()],
                )
        except sqlite3.DatabaseError as error:
            raise storage_error(self.path, error) from error

    def finished(self, run_ids: Iterable[str]) -> dict[str, str]:
        """Returns the status of those of the given runs that are in the store."""
        status = dict(self._connection.execute("SELECT id, status FROM runs"))
        return {run_id: status[run_id] for run_id in run_ids if run_id in status}

    def facts(self) -> dict[str, Any]:
        """Returns what `plan` noted."""
        return {key: json.loads(value) for key, value in self._connection.execute("SELECT * FROM facts")}

    def num_planned(self) -> int:
        """Returns how many runs the study file names now."""
        return int(self._connection.execute("SELECT COUNT(*) FROM planned").fetchone()[0])

    def forget(self, run_ids: Iterable[str]) -> None:
        """Removes runs, to be run again."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in run_ids])

    def records(self, *, planned_only: bool = True) -> list[RunRecord]:
        """Returns the runs that the study file names now, in its order; or all there are."""
        metrics: dict[str, list[MetricValue]] = {}
        for run, task, part, metric, value, labels in self._connection.execute(
            "SELECT run, task, part, metric, value, labels FROM metric_values ORDER BY rowid"
        ):
            number = math.nan if value is None else value
            metrics.setdefault(run, []).append(MetricValue(task, part, metric, number, labels))
        columns = ", ".join(f"runs.{name}" for name in _COLUMNS)
        tables = "planned JOIN runs ON planned.run = runs.id ORDER BY planned.position"
        if not planned_only:
            tables = "runs ORDER BY rowid"
        with closing(self._connection.execute(f"SELECT {columns} FROM {tables}")) as rows:
            return [_record(row, metrics) for row in rows]


def _record(row: Sequence[Any], metrics: dict[str, list[MetricValue]]) -> RunRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _JSON_COLUMNS:
        values[name] = json.loads(values[name])
    values["tasks"] = tuple(values["tasks"])
    return RunRecord(**values, metrics=tuple(metrics.get(values["id"], ())))


def storage_error(path: Path, error: sqlite3.DatabaseError) -> DataError:
    """Returns one sentence for what SQLite could not do with a file."""
    reason = str(error)
    if "full" in reason:
        return DataError(f"{path}: the disk is full; free some space and type the same command to continue.")
    if "readonly" in reason or "unable to open" in reason:
        return DataError(f"{path}: the folder cannot be written; choose another --out.")
    if "locked" in reason:
        return DataError(f"{path}: another process holds the results store; wait until it has finished.")
    return DataError(f"{path}: this is not a readable results store ({reason}); choose another --out.")
