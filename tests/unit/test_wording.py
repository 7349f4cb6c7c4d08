"""Numbers and their nouns agree."""

from __future__ import annotations

import pytest

from taskloom.wording import counted


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (1204, ("row",), "1,204 rows"),
        (1, ("identity", "identities"), "1 identity"),
        (2, ("identity", "identities"), "2 identities"),
        (1, ("group stands", "groups stand"), "1 group stands"),
    ],
)
def test_a_number_and_its_noun(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected
