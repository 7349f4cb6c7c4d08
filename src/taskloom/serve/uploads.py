"""What a request brings: files in a folder of ours under names of ours, fields, and rows.

The client's names are text for people; no path is ever made of them.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from taskloom.errors import DataError

MOST_FILES = 1000
_MOST_FIELDS = 20
_MOST_FIELD_BYTES = 64 << 10
_LONGEST_NAME = 200
MOST_CELLS = 20_000_000
"""Of rows written out: those that a row lacks stand in memory too."""
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Args:
        path: Where it lies, under a name of ours.
        name: What its sender calls it.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Received:
    """What a request brought.

    Args:
        files: To be predicted.
        beside: Further files by their field.
        fields: Text by field.
        rows: Rows of a table; None where there are none.
    """

    files: tuple[Upload, ...] = ()
    beside: Mapping[str, Upload] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    rows: list[Mapping[str, Any]] | None = None

    def in_words(self, text: str) -> str:
        """A message that calls files what their sender calls them."""
        for upload in (*self.files, *self.beside.values()):
            text = text.replace(str(upload.path), upload.name).replace(upload.path.name, upload.name)
        return text


async def receive(request: Request, folder: Path) -> Received:
    """Reads a request; its files are written into a folder.

    Args:
        request: `multipart/form-data` with files in the field `files`, or `application/json` with `rows`.
        folder: An empty folder.

    Raises:
        HTTPException: The request is neither, or not what it says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return Received(rows=await asyncio.to_thread(_rows, await request.body()))
    if kind != "multipart/form-data":
        raise HTTPException(
            415,
            "a form with files (multipart/form-data) or rows in JSON (application/json) expected, found "
            f"{kind or 'no Content-Type'}",
        )
    files: list[Upload] = []
    beside: dict[str, Upload] = {}
    fields: dict[str, str] = {}
    async with request.form(
        max_files=MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES
    ) as form:
        for key, value in form.multi_items():
            if isinstance(value, str):
                if key == "files":
                    raise HTTPException(400, "form field `files`: files expected, found text (curl: `@`)")
                fields[key] = value
                continue
            upload = await _written(value, folder, {one.name for one in files})
            if key == "files":
                files.append(upload)
            else:
                beside[key] = upload
    return Received(tuple(files), beside, fields)


async def _written(file: UploadFile, folder: Path, taken: set[str]) -> Upload:
    name = _unlike(shown_name(file.filename or ""), taken)
    suffix = Path(name).suffix.lower()
    path = folder / f"{secrets.token_hex(12)}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    await asyncio.to_thread(_copy, file.file, path)
    return Upload(path, name)


def _copy(file: BinaryIO, path: Path) -> None:
    with path.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def shown_name(given: str) -> str:
    """What a file is called: the last part of what a client says, on one line, not too long.

    >>> shown_name("../../etc/passwd"), shown_name("C:\\\\photos\\\\me.jpg"), shown_name("..")
    ('passwd', 'me.jpg', 'upload')
    """
    last = re.split(r"[\\/]", given)[-1]
    printable = "".join(letter if letter.isprintable() else " " for letter in last)
    name = printable[-_LONGEST_NAME:].strip()
    return name if name.strip(". ") else "upload"


def _unlike(name: str, taken: set[str]) -> str:
    """The name, with a number where several files are called so."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{Path(name).stem} ({number}){Path(name).suffix}"
    return found


def _rows(body: bytes) -> list[Mapping[str, Any]]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"JSON expected, found something else ({error})") from error
    rows = given.get("rows") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not rows:
        raise HTTPException(400, 'rows expected, as in {"rows": [{"height": 171, "weight": 64.5}]}')
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not row:
            raise HTTPException(400, f"rows: an object of feature and value expected as row {number}")
        for column, value in row.items():
            if isinstance(value, dict | list):
                raise HTTPException(400, f"rows: a number expected for `{column}` of row {number}")
    return rows


def rows_as_text(rows: list[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """Cells by column as a table would hold them; None where a row has none.

    Raises:
        DataError: A column without a name, or more cells than fit.
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    if any(not column.strip() for column in columns):
        raise DataError("rows: a value without a name; every value needs its feature's.")
    if len(columns) * len(rows) > MOST_CELLS:
        raise DataError(
            f"rows: at most {MOST_CELLS:,} cells expected, found {len(rows):,} rows of {len(columns):,} "
            "names; give the same names in every row, or a table as a file."
        )
    return {column: [_cell(row.get(column)) for row in rows] for column in columns}


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else repr(value)
