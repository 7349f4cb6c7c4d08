"""Steps of a chain on threads of their own, with a bounded number of items between them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
_POLL_SECONDS = 0.1
_END = object()


class Busy:
    """Seconds that every step was at work; each step is one thread's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def doing(self, step: str) -> Iterator[None]:
        """Counts what happens inside to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start

    def timed(self, step: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items, with the time to get each counted to a step."""
        while True:
            with self.doing(step):
                item: Any = next(items, _END)
            if item is _END:
                return
            yield item


def in_background(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The items in their order, made on a thread that is at most `depth` items ahead.

    An error there is raised here. When this iterator is closed, so is the one on the thread.

    Example:
        >>> list(in_background(iter(range(4)), depth=2))
        [0, 1, 2, 3]
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, what: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, what), timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
            put("end", None)
        except BaseException as error:  # noqa: BLE001  # raised again where the items are used
            put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, what = waiting.get()
            if kind == "error":
                raise what
            if kind == "end":
                return
            yield what
    finally:
        stopped.set()
        thread.join()
