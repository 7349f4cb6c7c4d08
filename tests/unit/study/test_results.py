"""The results store: a run is there whole or not at all, and other files are refused."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from pathlib import Path

import pytest

from taskloom.errors import DataError
from taskloom.study.results import STORE_FORMAT, MetricValue, ResultsStore, RunRecord

METRICS = (
    MetricValue("age", "test", "mae", 5.5, 40),
    MetricValue("age", "test", "r2", math.nan, 40),
    MetricValue("age", "validation", "mae", 5.25, 20),
)


def record(run_id: str, **changes: object) -> RunRecord:
    settings = {"cell": "c1", "cell_name": "hard sharing 1", "tasks": ("age", "sex"), "repeat": 0, "seed": 3}
    given = RunRecord(
        run_id,
        **settings,
        status="done",
        seconds_training=1.5,
        num_parameters=12,
        resolved={"a": [1, 2.5, None]},
        history={"epochs": []},
        metrics=METRICS,
    )
    return dataclasses.replace(given, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def same(first: RunRecord, second: RunRecord) -> bool:
    return repr(first) == repr(second)  # NaN is not equal to itself, its text is


def test_a_record_comes_back_as_it_was(path: Path) -> None:
    with ResultsStore(path) as store:
        store.commit(record("a"))
    with ResultsStore(path, read_only=True) as store:
        (found,) = store.records(planned_only=False)
    assert same(found, record("a"))


def test_a_second_record_of_a_run_replaces_the_first(path: Path) -> None:
    with ResultsStore(path) as store:
        store.commit(record("a", status="failed", metrics=()))
        store.commit(record("a"))
        store.commit(record("a", metrics=METRICS[:1]))
        (found,) = store.records(planned_only=False)
    assert [m.metric for m in found.metrics] == ["mae"]


def test_a_commit_that_fails_half_way_leaves_the_store_as_it_was(path: Path) -> None:
    doubled = record("b", metrics=(METRICS[0], METRICS[0]))  # breaks the primary key at the second value
    with ResultsStore(path) as store:
        store.commit(record("a"))
        with pytest.raises(DataError):
            store.commit(doubled)
        assert store.finished(["a", "b"]) == {"a": "done"}
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM metric_values").fetchone() == (len(METRICS),)
    connection.close()


def test_only_planned_runs_are_shown_and_the_others_kept(path: Path) -> None:
    with ResultsStore(path) as store:
        for name in "abc":
            store.commit(record(name))
        store.plan(["c", "x", "a"], {"title": "faces", "repeats": 2})
        assert [found.id for found in store.records()] == ["c", "a"]
        assert len(store.records(planned_only=False)) == 3
        assert store.num_planned() == 3
        assert store.facts() == {"title": "faces", "repeats": 2}
        store.plan(["b"], {"title": "other"})
        assert [found.id for found in store.records()] == ["b"]
        assert store.facts() == {"title": "other"}


def test_forgotten_runs_take_their_values_with_them(path: Path) -> None:
    with ResultsStore(path) as store:
        store.commit(record("a"))
        store.commit(record("b"))
        store.forget(["a"])
        assert store.finished(["a", "b"]) == {"b": "done"}
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT DISTINCT run FROM metric_values").fetchall() == [("b",)]
    connection.close()


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    ResultsStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {STORE_FORMAT + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"format {STORE_FORMAT} expected, found format {STORE_FORMAT + 1}"):
        ResultsStore(path)
    assert path.read_bytes() == before


def test_another_sqlite_file_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(DataError, match="not a results store"):
        ResultsStore(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("results\n" * 1000)
    with pytest.raises(DataError, match="not a readable results store"):
        ResultsStore(path)


def test_reading_needs_a_store(path: Path) -> None:
    with pytest.raises(DataError, match="no results store here"):
        ResultsStore(path, read_only=True)
    assert not path.exists()


def test_a_full_disk_is_one_sentence_and_the_store_stays_whole(path: Path) -> None:
    with ResultsStore(path) as store:
        store.commit(record("a"))
        store._connection.execute(f"PRAGMA max_page_count = {_pages(store)}")
        with pytest.raises(DataError, match="the disk is full"):
            store.commit(record("b", message="x" * 100_000))
        store._connection.execute("PRAGMA max_page_count = 100000")
        assert store.finished(["a", "b"]) == {"a": "done"}
        store.commit(record("b"))
        assert store.finished(["a", "b"]) == {"a": "done", "b": "done"}


def _pages(store: ResultsStore) -> int:
    return int(store._connection.execute("PRAGMA page_count").fetchone()[0])
