"""Reading ahead changes when items are made and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from taskloom.data.read_ahead import read_ahead


def test_same_items_in_the_same_order_made_in_another_thread() -> None:
    makers: set[int] = set()

    def items() -> Iterator[int | None]:
        for item in (3, None, 0, 3):
            makers.add(threading.get_ident())
            yield item

    assert list(read_ahead(items())) == [3, None, 0, 3]
    assert threading.get_ident() not in makers
    assert len(makers) == 1
    assert list(read_ahead([])) == []


def test_the_next_item_is_made_meanwhile_and_no_more() -> None:
    made: list[int] = []
    second_is_made = threading.Event()

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            if item == 1:
                second_is_made.set()
            yield item

    ahead = read_ahead(items())
    assert next(ahead) == 0
    assert second_is_made.wait(timeout=60)  # without the caller asking for it
    ahead.close()  # type: ignore[attr-defined]
    assert made == [0, 1]
    assert not any(thread.name.startswith("taskloom-read-ahead") for thread in threading.enumerate())


def test_an_error_comes_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("line 3")

    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="line 3"):
        next(ahead)
    assert list(ahead) == []
