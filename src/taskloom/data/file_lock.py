"""The system's lock on an open file: lifted when its holder ends, however it ends."""

from __future__ import annotations

import sys
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def take(file: IO[bytes]) -> None:
        """Takes the lock of an open file, which lasts until it is closed. Raises OSError if it is taken."""
        # One byte far beyond the text, so that the text stays readable.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def take(file: IO[bytes]) -> None:
        """Takes the lock of an open file, which lasts until it is closed. Raises OSError if it is taken."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
