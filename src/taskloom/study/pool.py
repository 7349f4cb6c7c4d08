"""Doing runs: one after the other in this process, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process

import torch

from taskloom.study.results import RunRecord
from taskloom.study.runs import RunSpec
from taskloom.study.worker import DataCache, StorageError, died, execute
from taskloom.training import keep_freed_memory

Started = Callable[[RunSpec], None]


def available_cores() -> int:
    """Number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def do_runs(specs: Sequence[RunSpec], jobs: int, started: Started) -> Iterator[RunRecord]:
    """Does runs and yields their records as they end.

    Args:
        specs: The runs, in the order in which they begin; with several at a time, one that starts from
            another waits for it.
        jobs: How many at a time. One is done in this process; more get processes of their own (spawned),
            which share the cores.
        started: Called with a run when it begins.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    if jobs == 1 or len(specs) <= 1:
        cache = DataCache()
        for spec in specs:
            started(spec)
            yield execute(spec, cache)
        return
    pool = _Pool(min(jobs, len(specs)))
    try:
        yield from pool.do(specs, started)
    finally:
        pool.close()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    spec: RunSpec | None = None


class _Pool:
    """Worker processes, each with a pipe: a run goes in, a record or a StorageError's sentence comes out."""

    def __init__(self, size: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads = max(1, available_cores() // size)
        self._workers: list[_Worker] = []
        self._size = size

    def do(self, specs: Sequence[RunSpec], started: Started) -> Iterator[RunRecord]:
        self._workers = [self._start() for _ in range(self._size)]
        waiting, unfinished = list(specs), {spec.id for spec in specs}
        for worker in self._workers:
            self._next(worker, waiting, unfinished, started)
        while busy := [worker for worker in self._workers if worker.spec is not None]:
            for ready in wait([worker.connection for worker in busy]):
                worker = next(worker for worker in busy if worker.connection is ready)
                record, worker = self._receive(worker)
                worker.spec = None
                yield record  # what starts from this run finds it in the store
                unfinished.discard(record.id)
                for idle in [other for other in self._workers if other.spec is None]:
                    self._next(idle, waiting, unfinished, started)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._threads))
        process.start()
        theirs.close()  # so that a worker's end shows as the end of its pipe
        return _Worker(process, ours)

    def _next(self, worker: _Worker, waiting: list[RunSpec], unfinished: set[str], started: Started) -> None:
        """Gives a worker the first run that does not start from one that is still to end."""
        ready = next(
            (spec for spec in waiting if unfinished.isdisjoint(s.id for s in (*spec.starts, *spec.teachers))),
            None,
        )
        if ready is not None:
            waiting.remove(ready)
            worker.spec = ready
            started(worker.spec)
            with contextlib.suppress(
                BrokenPipeError
            ):  # it has died: its end of the pipe says so when it is read
                worker.connection.send(worker.spec)

    def _receive(self, worker: _Worker) -> tuple[RunRecord, _Worker]:
        """The record of a worker's run, and the worker, or another one in place of it if it has died."""
        assert worker.spec is not None  # only busy workers are waited for
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            replacement = self._start()
            self._workers[self._workers.index(worker)] = replacement
            return died(worker.spec, worker.process.exitcode), replacement
        if isinstance(answer, str):
            raise StorageError(answer)
        return answer, worker

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()


def _work(connection: Connection, threads: int) -> None:
    """What a worker process does: run after run, until its parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    cache = DataCache()
    while True:
        try:
            spec = connection.recv()
            try:
                answer: RunRecord | str = execute(spec, cache)
            except StorageError as error:
                answer = str(error)
            connection.send(answer)
        except (EOFError, ConnectionResetError, BrokenPipeError):  # the parent has ended, or was killed
            return


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers; they must not go on beside those of the next start."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
