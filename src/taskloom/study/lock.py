"""One process per study folder: a lock that the system lifts when its holder ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from taskloom.errors import DataError

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        # One byte far beyond the text, so that the text stays readable.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


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
            _take(file)
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
