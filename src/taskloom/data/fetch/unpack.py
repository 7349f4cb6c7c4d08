"""Unpacking a ZIP archive that came from elsewhere: nothing leaves the folder, all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from taskloom.errors import DataError

MOST_BYTES = 64 * 1024**3
"""Refused above this size unpacked: a bomb, or not what was asked for."""
_COPY_BYTES = 1 << 20


def unpack_zip(archive: Path, folder: Path, *, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Unpacks an archive into a folder that is not there yet.

    Every name is looked at before a byte is written, the members go to a temporary sibling, and the folder
    appears when the last one has passed its checksum.

    Args:
        archive: A ZIP file.
        folder: Where its members go.
        most_bytes: Unpacked size above which it is refused.

    Returns:
        The files, sorted.

    Raises:
        DataError: Not a ZIP file or a damaged one; a member outside the folder, a link, two members of one
            name, or an encrypted one; larger than allowed; the folder is there already; a full disk.
    """
    if folder.exists():
        raise DataError(f"{folder}: already there; remove it, or name another folder.")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            names = _safe_names(archive, members)
            unpacked = sum(member.file_size for member in members)
            if unpacked > most_bytes:
                raise DataError(
                    f"{archive}: unpacks to {unpacked:,} bytes, at most {most_bytes:,} expected; it is not "
                    "the archive that was asked for."
                )
            _write_all(opened, members, names, folder, most_bytes)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a whole ZIP file ({error}); remove it and fetch it again.") from None
    except zlib.error as error:
        raise DataError(f"{archive}: damaged ({error}); remove it and fetch it again.") from None
    return sorted(folder.joinpath(*name.parts) for name in names)


def _safe_names(archive: Path, members: Sequence[zipfile.ZipInfo]) -> list[PurePosixPath]:
    names: list[PurePosixPath] = []
    seen: set[str] = set()
    for member in members:
        # `filename` ends at a NUL and has the separators changed; the name as it was written decides.
        name = member.orig_filename.replace("\\", "/")
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name
        if outside or not path.parts:
            raise DataError(
                f"{archive}: the member {member.orig_filename!r} would be written outside of the folder; the "
                "archive was refused and nothing was written."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(
                f"{archive}: the member {name!r} is a link; plain files expected, nothing was written."
            )
        if member.flag_bits & 1:
            raise DataError(f"{archive}: the member {name!r} is encrypted; nothing was written.")
        if str(path).lower() in seen:
            raise DataError(f"{archive}: two members are called {name!r}; nothing was written.")
        seen.add(str(path).lower())
        names.append(path)
    if not names:
        raise DataError(f"{archive}: holds no files.")
    return names


def _write_all(
    opened: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    names: Sequence[PurePosixPath],
    folder: Path,
    most_bytes: int,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        left = most_bytes
        for member, name in zip(members, names, strict=True):
            target = partial.joinpath(*name.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            left -= _write(opened, member, target, left)
        partial.chmod(0o755)  # mkdtemp makes it private
        os.replace(partial, folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(
                f"{folder}: the disk is full; nothing was left behind, make room first."
            ) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Writes one member; the sizes that an archive states are not believed."""
    written = 0
    with opened.open(member) as source, open(target, "xb") as file:
        while chunk := source.read(_COPY_BYTES):
            written += len(chunk)
            if written > left:
                raise DataError(
                    f"{opened.filename}: {member.filename!r} is larger than the archive states; it was "
                    "refused and nothing was written."
                )
            file.write(chunk)
    return written
