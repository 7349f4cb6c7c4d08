"""One file over HTTP: continued where it stopped, its length and SHA-256 checked, whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskloom.errors import DataError
from taskloom.version import __version__

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes expected (None where the server does not say)."""


@dataclass(frozen=True)
class Download:
    """A file that came whole.

    Args:
        path: Where it lies.
        sha256: Its digest.
        size: Its bytes.
        resumed_at: Bytes that an earlier attempt had brought; 0 for a fresh start.
    """

    path: Path
    sha256: str
    size: int
    resumed_at: int


def download(url: str, path: Path, *, sha256: str | None = None, report: Report | None = None) -> Download:
    """Downloads one file; what an interrupted call has brought is used by the next one.

    The bytes go to `PATH.partial`, beside it a note of where they come from (address, ETag, date of change):
    a server that has another version by now answers with the whole file, and it starts from its first byte.
    The file gets its name only when length and digest agree.

    Args:
        url: http or https address.
        path: Where the file shall lie; its folder is made.
        sha256: Digest expected; not compared where None.
        report: Told of the progress.

    Raises:
        DataError: The address cannot be reached or answers with an error, the file ended early (call again to
            go on), or the digest is another one (the file is removed).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: an address that begins with http:// or https:// expected.")
    partial, note = path.with_name(path.name + ".partial"), path.with_name(path.name + ".partial.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    start, known = _what_is_there(partial, note, url)
    try:
        resumed_at, expected = _bring(url, partial, note, start, known, report)
    except urllib.error.HTTPError as error:
        raise DataError(_refusal(url, error)) from None
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise DataError(
                f"{partial}: the disk is full after {_size(partial):,} bytes; make room and call again."
            ) from None
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url}: cannot be downloaded ({reason}); {_size(partial):,} bytes are there, call again to "
            "go on, or download it with a browser and give the file with --archive."
        ) from None
    found = _size(partial)
    if expected is not None and found != expected:
        if found > expected:
            _remove(partial, note)
        raise DataError(
            f"{url}: {expected:,} bytes expected, {found:,} came; call again to go on from there."
        )
    digest = file_sha256(partial)
    if sha256 is not None and digest != sha256.lower():
        _remove(partial, note)
        raise DataError(
            f"{url}: SHA-256 {sha256.lower()} expected, found {digest}; the file was removed: it was changed "
            "at its source or on the way."
        )
    os.replace(partial, path)
    note.unlink(missing_ok=True)
    return Download(path, digest, found, resumed_at)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_is_there(partial: Path, note: Path, url: str) -> tuple[int, Mapping[str, Any]]:
    """Bytes of an earlier attempt that may be continued, and what is known of their source."""
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    usable = isinstance(known, dict) and known.get("url") == url and known.get("validator")
    if not usable or not partial.exists():
        _remove(partial, note)
        return 0, {}
    return _size(partial), known


def _bring(
    url: str, partial: Path, note: Path, start: int, known: Mapping[str, Any], report: Report | None
) -> tuple[int, int | None]:
    """Appends what is missing; returns where it began and how long the whole file is (None: not said)."""
    headers = {"User-Agent": f"taskloom/{__version__}", "Accept-Encoding": "identity"}
    if start and start == known.get("size"):
        return start, start  # complete: only the name was missing
    if start:
        # If-Range: the server continues the version that was begun, or sends the new one whole.
        headers |= {"Range": f"bytes={start}-", "If-Range": str(known["validator"])}
    request = urllib.request.Request(url, headers=headers)
    with contextlib.closing(urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)) as answer:
        start, size = _extent(answer, start)
        _write_note(note, url, answer, size)
        with open(partial, "ab" if start else "wb") as file:
            done = start
            while chunk := _read(answer):
                file.write(chunk)
                done += len(chunk)
                if report is not None:
                    report(done, size)
            file.flush()
            os.fsync(file.fileno())
    return start, size


def _read(answer: Any) -> bytes:
    try:
        chunk: bytes = answer.read(CHUNK_BYTES)
    except http.client.IncompleteRead as error:  # the connection ended early: keep what came
        return error.partial
    return chunk


def _extent(answer: Any, asked: int) -> tuple[int, int | None]:
    """Where the answer's bytes begin, and the size of the whole file."""
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is not None and int(found[1]) == asked:
            return asked, int(found[3])
        raise OSError(f"the server answered with another part of the file than the one from byte {asked:,}")
    length = answer.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _write_note(note: Path, url: str, answer: Any, size: int | None) -> None:
    entity = answer.headers.get("ETag")
    # A weak ETag does not promise the same bytes, so that it cannot be continued.
    strong = entity if entity and not entity.startswith("W/") else None
    validator = strong or answer.headers.get("Last-Modified")
    note.write_text(json.dumps({"url": url, "validator": validator, "size": size}))


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    return (
        f"{url}: the server answers {error.code} ({error.reason}); look at the data set's page for a new "
        "address and give it with --url, or download it with a browser and give the file with --archive."
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
