"""Pretrained weights that a study names: where the file is, and what tells it apart in a run's identity."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.data.sources import checksums
from taskloom.errors import DataError


def located_weights(encoder: Mapping[str, Any], folder: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `encoder` section as a run uses it, and as it stands in the run's identity.

    Args:
        encoder: The section; `weights` may name a file.
        folder: Where relative files are looked for; the working folder where None.

    Returns:
        The section with the file's whole path, and the section with the file's SHA-256 in its place: the same
        weights elsewhere are the same run, other weights under the same name another.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    settings = dict(encoder)
    if settings.get("weights") is None:
        return settings, settings
    path = (Path() if folder is None else folder) / str(settings["weights"])
    path = path.absolute()
    if not path.is_file():
        raise DataError(f"encoder.weights: a file of weights expected at {path}, found no such file.")
    state = path.stat()
    known = _fingerprint(path, (state.st_size, state.st_mtime_ns))
    return {**settings, "weights": str(path)}, {**settings, "weights": known}


@functools.lru_cache(maxsize=16)
def _fingerprint(path: Path, stamp: tuple[int, int]) -> str:  # noqa: ARG001 - the key of the cache
    return checksums([path], path.parent)[path.name]
