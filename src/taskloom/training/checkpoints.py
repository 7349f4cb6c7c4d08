"""Checkpoints on disk: written whole or not at all, read without running anything that stands in them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taskloom.errors import ConfigError, DataError, TrainingError

FORMAT = 1
"""Version of the layout of `last.ckpt` and `best.ckpt`."""


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values to `path`, replacing what was there in one step.

    After a crash at any moment, also of the machine, the file is either the old one or the new one.

    Raises:
        TrainingError: The folder cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    try:
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise TrainingError(
            f"{path}: the checkpoint cannot be written ({error.strerror or error}); the one before is "
            "intact, and training goes on from it when it is started again."
        ) from error


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, onto the CPU.

    Raises:
        DataError: The file is cut off or something else.
        ConfigError: It was written by another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds of error on a damaged file
        raise DataError(
            f"{path}: a checkpoint of taskloom expected, but the file cannot be read ({_first_line(error)}); "
            "delete it, or train with resume=False."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ConfigError(
            f"{path}: a checkpoint of format {FORMAT} expected, found {found}; delete it, or train "
            "with resume=False or in another folder."
        )
    return state


def write_atomically(path: Path | str, content: bytes | memoryview) -> None:
    """Writes a temporary sibling, forces it to the disk, and renames it; after an OSError nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Forces a rename to the disk; a system that cannot open folders (Windows) does not need it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_same_settings(path: Path | str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compares the settings of a checkpoint with those of the run that wants to go on from it.

    Raises:
        ConfigError: They differ; names the first setting that does, with both values.
    """
    difference = _first_difference(saved, present, ())
    if difference is not None:
        name, was, is_now = difference
        raise ConfigError(
            f"{path} was written with other settings: {name} was {was!r} and is now {is_now!r}; "
            "delete it, or train with resume=False or in another folder."
        )


def _first_difference(was: Any, is_now: Any, path: tuple[str, ...]) -> tuple[str, Any, Any] | None:
    if isinstance(was, Mapping) and isinstance(is_now, Mapping):
        for key in [*was, *(key for key in is_now if key not in was)]:
            found = _first_difference(was.get(key), is_now.get(key), (*path, str(key)))
            if found is not None:
                return found
        return None
    return None if was == is_now else (".".join(path), was, is_now)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
