"""Words that many rooms print."""

from __future__ import annotations


def sentence(text: str) -> str:
    """A text with a full stop where it ends without any mark, so that another one may follow.

    Example:
        >>> sentence("list index out of range"), sentence("There is none.")
        ('list index out of range.', 'There is none.')
    """
    return text if text.rstrip().endswith((".", "!", "?")) else f"{text.rstrip()}."


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
