"""One process per study folder: a lock that the system lifts when its holder ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskloom.data.file_lock import take
from taskloom.errors import DataError


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process.

    The lock is the system's, on an open file: one left behind by a killed process (its number still stands
    in the file) does not hold.

    Raises:
        DataError: Another living process holds it; its number is named.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with study_lock(folder):
        ...     with study_lock(folder):
        ...         pass
        Traceback (most recent call last):
            ...
        taskloom.errors.DataError: ...: process ... is running this study; wait until it has finished.
    """
    path = folder / "study.lock"
    with path.open("a+b") as file:
        try:
            take(file)
        except OSError:
            file.seek(0)
            holder = file.read().decode("ascii", "replace").strip() or "?"
            raise DataError(
                f"{folder}: process {holder} is running this study; wait until it has finished."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        yield
