"""Reading one item ahead: the next file is parsed while the one before is checked, hashed and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the same items in the same order, each made in a thread while the caller uses the one before.

    Pays where making an item lets go of Python's lock, as parsing by pandas does. At most one item is made
    ahead, so that two are in memory. An error in making one is raised where that item would have been
    yielded; a caller that stops early waits for the item that is being made, and no more are.

    Args:
        items: What makes the items; only one thread at a time asks it for one.

    Example:
        >>> list(read_ahead(number * number for number in range(4)))
        [0, 1, 4, 9]
    """
    made = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="taskloom-read-ahead") as thread:

        def begin() -> Future[list[Item]]:
            return thread.submit(lambda: list(islice(made, 1)))

        coming = begin()
        while found := coming.result():
            coming = begin()
            yield found.pop()
