"""The errors a user can cause. Each message is one sentence: expected, found, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TaskloomError(Exception):
    """Base of every error that is about the user's input rather than a defect of taskloom.

    The command line prints the message alone and exits with status 2.
    """


class DataError(TaskloomError):
    """A file, table, store, label or split is not what it should be."""


class ConfigError(TaskloomError):
    """A setting is unknown, misspelt, out of range, or contradicts another."""


class TrainingError(TaskloomError):
    """Training cannot go on: a loss became NaN, a solver failed, a batch held no label at all."""


class MissingExtraError(TaskloomError):
    """An optional dependency is used but not installed.

    Args:
        package: What is missing.
        extra: The extra that brings it.
        where: The setting that asks for it, "" where no file says so.
    """

    def __init__(self, package: str, extra: str, where: str = "") -> None:
        self.package, self.extra, self.where = package, extra, where
        place = f"{where}: " if where else ""
        super().__init__(
            f"{place}{package} is not installed; it comes with an extra: pip install 'taskloom[{extra}]'."
        )

    def at(self, where: str) -> MissingExtraError:
        """The same error, of a place."""
        return MissingExtraError(self.package, self.extra, where)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns " Did you mean `x`?" for the nearest valid name, or "" where none is near.

    A name of less than half the other's length is a part of it (`dice` of `dice_and_focal`), or no slip.

    >>> did_you_mean("naem", ["name", "size"])
    ' Did you mean `name`?'
    >>> did_you_mean("accurcy", ["mae", "ccc"])
    ''
    """
    near = [
        known
        for known in difflib.get_close_matches(name, list(valid), cutoff=0.6)
        if known in name or name in known or 2 * min(len(known), len(name)) >= max(len(known), len(name))
    ]
    return f" Did you mean `{near[0]}`?" if near else ""
