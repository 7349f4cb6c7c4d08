"""`fetch(name, folder)`: a public data set downloaded, verified and unpacked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.data.fetch.catalog import LICENSED, PUBLIC, LicensedSet, PublicSet
from taskloom.data.fetch.download import Report, download, file_sha256
from taskloom.data.fetch.unpack import unpack_zip
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.version import __version__

RECORD = "fetched.json"
"""What was fetched, from where, and the digest of every file; beside the unpacked files."""


@dataclass(frozen=True)
class Fetched:
    """A data set on this machine.

    Args:
        name: Its name in the catalogue.
        folder: What a study's `--data` takes: the folder that holds its files.
        downloaded: False where it had been fetched before and still has its digests.
        archive_sha256: Digest of the archive.
        resumed_at: Bytes of the archive that an earlier call had brought.
    """

    name: str
    folder: Path
    downloaded: bool
    archive_sha256: str
    resumed_at: int = 0


def fetch(
    name: str,
    folder: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    archive: Path | None = None,
    report: Report | None = None,
) -> Fetched | LicensedSet:
    """Brings a public data set into `folder/NAME`; of a licensed one it says how to ask for it.

    A set that is there is compared with the digests recorded when it came, and not fetched again. The UCI
    archive names no digest for OPPORTUNITY: `sha256` compares with one you have; without it the archive's
    own checksums, the names and the columns of its files are verified, and its digest recorded.

    Args:
        name: In `PUBLIC` or `LICENSED`.
        folder: Where data sets lie; made where there is none.
        url: Another address than the official one.
        sha256: Digest that the archive must have.
        archive: The archive as it was downloaded by other means; then nothing is downloaded.
        report: Told of the progress of the download.

    Raises:
        ConfigError: An unknown name, or a digest that is none.
        DataError: See `download` and `unpack_zip`; the archive does not hold the set's files; a file on disk
            has changed since it was fetched.
    """
    if name in LICENSED:
        return LICENSED[name]
    if name not in PUBLIC:
        known = [*PUBLIC, *LICENSED]
        raise ConfigError(
            f"`{name}` is not a data set that is known here.{did_you_mean(name, known)} "
            f"Public: {', '.join(PUBLIC)}; licensed: {', '.join(LICENSED)}."
        )
    wanted, place = PUBLIC[name], folder / name
    expected = _digest(sha256) or wanted.sha256
    if (place / RECORD).exists():
        record = _verify(place, expected)
        return Fetched(name, _data_folder(place, wanted), False, str(record["archive_sha256"]))
    if place.exists():
        raise DataError(
            f"{place}: already there, and not put there by `taskloom fetch` (no {RECORD}); move it or "
            "name another folder."
        )
    resumed_at = 0
    if archive is None:
        source = url or wanted.url
        came = download(source, folder / f"{name}.zip", sha256=expected, report=report)
        path, digest, resumed_at = came.path, came.sha256, came.resumed_at
    else:
        source, path = str(archive), archive
        if not archive.is_file():
            raise DataError(f"{archive}: no such file; the downloaded archive expected.")
        digest = file_sha256(archive)
        if expected is not None and digest != expected:
            raise DataError(f"{archive}: SHA-256 {expected} expected, found {digest}; fetch it again.")
    data = _unpack(path, place, wanted, {"source": source, "archive_sha256": digest})
    if archive is None:
        path.unlink()  # everything in it is unpacked and verified
    return Fetched(name, data, True, digest, resumed_at)


def _unpack(archive: Path, place: Path, wanted: PublicSet, about: Mapping[str, Any]) -> Path:
    """Unpacks beside the place, looks at what came, writes the record, and only then gives it its name."""
    waiting = place.with_name(f".{place.name}.unverified")
    shutil.rmtree(waiting, ignore_errors=True)  # of a call that was killed
    try:
        files = unpack_zip(archive, waiting)
        _check_files(archive, waiting, wanted)
        record = {
            **about,
            "title": wanted.title,
            "terms": wanted.terms,
            "taskloom": __version__,
            "files": {file.relative_to(waiting).as_posix(): file_sha256(file) for file in files},
        }
        (waiting / RECORD).write_text(json.dumps(record, indent=1))
        waiting.rename(place)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
    return _data_folder(place, wanted)


def _check_files(archive: Path, folder: Path, wanted: PublicSet) -> None:
    found = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = [name for name in wanted.files if name not in found]
    if missing:
        raise DataError(
            f"{archive}: {len(missing)} of the {len(wanted.files)} files of the set are missing, first "
            f"{missing[0]}; it is not the archive that was asked for."
        )
    for name in wanted.files:
        with open(found[name], encoding="ascii", errors="replace") as file:
            columns = len(file.readline().split())
        if columns != wanted.columns:
            raise DataError(
                f"{archive}: {name}:1: {wanted.columns} columns expected, found {columns}; the archive holds "
                "another version of the set."
            )


def _verify(place: Path, expected: str | None) -> dict[str, Any]:
    """The record of a set that is there, after every file was compared with it."""
    path = place / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        files, digest = dict(record["files"]), record["archive_sha256"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: no record of `taskloom fetch`; remove {place} and fetch again.") from None
    if expected is not None and digest != expected:
        raise DataError(
            f"{place}: its archive had SHA-256 {digest}, {expected} expected; remove the folder, fetch again."
        )
    for name, recorded in files.items():
        file = place / name
        if not file.is_file():
            raise DataError(f"{file}: was fetched and is missing; remove {place} and fetch again.")
        if file_sha256(file) != recorded:
            raise DataError(f"{file}: changed since it was fetched; remove {place} and fetch again.")
    return record


def _data_folder(place: Path, wanted: PublicSet) -> Path:
    """The folder that holds the set's files, wherever the archive put it."""
    return min(place.rglob(wanted.files[0])).parent


def _digest(text: str | None) -> str | None:
    if text is None:
        return None
    digest = text.lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ConfigError(f"--sha256: 64 hexadecimal digits expected, found {text!r}.")
    return digest
