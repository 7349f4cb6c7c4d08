"""Files of a store on disk: arrays that grow by rows, arrays opened whole, folders put in place."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.file_lock import take
from taskloom.errors import DataError


class GrowingArray:
    """A .npy file that grows by rows; its header is rewritten at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any], columns: int) -> None:
        self.dtype, self.columns, self.rows = dtype, columns, 0
        self.digest = hashlib.sha256()
        self.file: IO[bytes] = open(path, "wb")  # noqa: SIM115  # closed in finish or discard
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.columns)}
        # NumPy pads the header so that the first axis can grow in place.
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, chunk: NDArray[Any]) -> None:
        if chunk.size:
            self.file.write(chunk.data)
            self.digest.update(chunk.data)
        self.rows += len(chunk)

    def finish(self) -> str:
        """Completes the file on disk and returns the SHA-256 of its rows."""
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return self.digest.hexdigest()

    def discard(self) -> None:
        # On a full disk the buffered rest cannot be written; the file is removed anyway.
        with contextlib.suppress(OSError):
            self.file.close()


def open_array(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Maps an array of a store, read-only, after a look at its header and size.

    Everything is asked of the opened file, not of its name: another process may replace the store meanwhile.

    Raises:
        DataError: The file is missing, of another shape or type, or cut off.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  # the with statement below closes it
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: the file is missing from the store; prepare the data again.") from None
    with file:
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"npy version {version}")
            found_shape, fortran, found_dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError as error:
            raise DataError(f"{path}: not an array of a store ({error}); prepare the data again.") from None
        offset = file.tell()
        expected_bytes = offset + shape[0] * shape[1] * dtype.itemsize
        found_bytes = os.fstat(file.fileno()).st_size
        if found_shape != shape or found_dtype != dtype or fortran:
            raise DataError(
                f"{path}: {dtype} {list(shape)} expected from store.json, found {found_dtype} "
                f"{list(found_shape)}; prepare the data again."
            )
        if found_bytes != expected_bytes:
            raise DataError(
                f"{path}: {expected_bytes:,} bytes expected, found {found_bytes:,}; the file seems cut off, "
                "prepare the data again."
            )
        if shape[1] == 0:  # an empty range cannot be mapped
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)


class PartialFolder:
    """The temporary sibling in which a store is written; those of writers that were killed are removed.

    A living writer holds the system's lock on a file in its folder, so that no clock and no process number
    decides what is abandoned.

    Args:
        folder: Where the store goes.

    Attributes:
        path: The sibling, made together with the folders above it; within the same file system, so that the
            rename at the end is one step.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "store"
        >>> killed = place.parent / ".store.0123456789ab.partial"
        >>> killed.mkdir()
        >>> _ = (killed / PartialFolder.LOCK).write_bytes(b"")
        >>> partial = PartialFolder(place)
        >>> killed.exists(), partial.path.exists()
        (False, True)
        >>> partial.remove()
        >>> list(place.parent.iterdir())
        []
    """

    LOCK = "writing.lock"

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.path = self.folder.parent / f".{self.folder.name}.{secrets.token_hex(6)}.partial"
        self._made = make_parents(self.path)
        remove_abandoned(self.folder)
        try:
            self.path.mkdir(parents=True)  # anew where another process removed them
            # Taken before the file gets its name: whoever finds it there finds it taken.
            self._lock: IO[bytes] = open(self.path / "new.lock", "wb")  # noqa: SIM115  # closed at the end
            take(self._lock)
            (self.path / "new.lock").rename(self.path / self.LOCK)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            remove_empty(self._made)
            raise

    def move_into_place(self) -> None:
        """Makes it the store; see `move_into_place`."""
        sync_folder(self.path)
        # A folder without its lock file is nobody's to remove: not between these two steps either.
        (self.path / self.LOCK).unlink()
        move_into_place(self.path, self.folder)
        self._lock.close()
        sync_folder(self.folder.parent)

    def remove(self) -> None:
        """Removes it with everything in it, and the folders that were made for it."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)
        remove_empty(self._made)


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary siblings of a store whose writers have ended without finishing them."""
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        try:
            with open(partial / PartialFolder.LOCK, "r+b") as lock:
                take(lock)
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:  # a living writer's, or one that is being put in place
            continue


def is_replaceable(folder: Path) -> bool:
    """Whether a new store may take the place: an empty folder or a store."""
    if not folder.is_dir():
        return False
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:  # another process has just moved its own store
        return True
    return not names or ("store.json" in names and names <= {"store.json", "samples.npy", "tracks.npy"})


def move_into_place(partial: Path, folder: Path) -> None:
    """Renames `partial` to `folder`, moving an older store aside first; the older one returns on failure.

    Another process may put its own store there at the same moment: then that one is moved aside as well.
    """
    aside = partial.with_suffix(".replaced")
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder, aside)
            os.replace(partial, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if aside.exists() and not folder.exists():
                    os.replace(aside, folder)
                raise
        else:
            break
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def make_parents(place: Path) -> tuple[Path, ...]:
    """Makes the folders above a place that are missing; returns them, innermost first.

    Example:
        >>> import tempfile
        >>> made = make_parents(Path(tempfile.mkdtemp()) / "stores" / "new" / "store")
        >>> [folder.name for folder in made]
        ['new', 'stores']
    """
    missing = tuple(folder for folder in place.absolute().parents if not folder.exists())
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: tuple[Path, ...]) -> None:
    """Removes what `make_parents` made, where nothing has been put there."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty: another process uses it
            folder.rmdir()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
