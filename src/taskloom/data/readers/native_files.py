"""What readers of text annotations share: files that must be there, lines with their place, codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from taskloom.data.missing_folder import no_folder_of_images
from taskloom.errors import DataError


def annotation_file(root: Path, names: Sequence[str], of: str) -> Path:
    """The first of several places of a file that is there.

    Args:
        root: Folder of the data.
        names: Places below it, the usual one first.
        of: Name of the data set, for the message.

    Raises:
        DataError: None of them is there.

    Example:
        >>> annotation_file(Path("nowhere"), ["images.txt", "lists/images.txt"], "CUB-200-2011")
        Traceback (most recent call last):
            ...
        taskloom.errors.DataError: nowhere: images.txt of CUB-200-2011 expected there (or lists/images.txt)...
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise DataError(
        f"{root}: {names[0]} of {of} expected there{others}, found no such file. Give the folder of the data "
        "with --data or `data.folder`."
    )


def image_folder(root: Path, given: str | None, names: Sequence[str]) -> Path:
    """The folder of the images: the one that a study file names, or the first that is there.

    Raises:
        DataError: There is none.
    """
    places = [root / given] if given is not None else [root / name for name in names]
    for place in places:
        if place.is_dir():
            return place
    raise no_folder_of_images(places[0])


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with its place (file and line).

    Raises:
        DataError: The file is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: text in UTF-8 expected, found other bytes.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def code_of(place: str, what: str, text: str, low: int, high: int) -> int:
    """A code, which must be a whole number from low to high.

    Raises:
        DataError: It is not; place, what and range are named.

    Example:
        >>> code_of("list.txt:3", "the expression", "8", 1, 7)
        Traceback (most recent call last):
            ...
        taskloom.errors.DataError: list.txt:3: the expression is `8`; a code from 1 to 7 expected.
    """
    try:
        code = int(text)
    except ValueError:
        code = low - 1
    if not low <= code <= high:
        raise DataError(f"{place}: {what} is `{text}`; a code from {low} to {high} expected.")
    return code
