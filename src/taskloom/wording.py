"""Words that many rooms print."""

from __future__ import annotations


def counted(number: int, what: str, many: str = "") -> str:
    """A number and its noun, in the singular for 1.

    Args:
        number: How many.
        what: One of them.
        many: Several of them, where that is not the singular with an s.

    Example:
        >>> counted(1, "row"), counted(1204, "row"), counted(0, "identity", "identities")
        ('1 row', '1,204 rows', '0 identities')
    """
    return f"{number:,} {what if number == 1 else many or what + 's'}"
