"""The folder of a simulation: whole or absent, and it says what made it."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from taskloom.errors import ConfigError, DataError

_MARKER = "simulation.json"
_MAT_HEADER = b"MATLAB 5.0 MAT-file, simulated by taskloom"


def check_numbers(**numbers: int) -> None:
    """Refuses numbers below 16: images that show nothing, sets that cannot be split."""
    for name, value in numbers.items():
        if value < 16:
            raise ConfigError(f"{name}: 16 or more expected, found {value}.")


def write_images(
    folder: Path,
    data_set: str,
    readme: str,
    write: Callable[[Path], None],
    *,
    images: int,
    seed: int,
    if_missing: bool,
) -> Path:
    """Writes a set of drawn images that a number of images and a seed decide; see `write_simulation`.

    Args:
        folder: Where they go: new or empty.
        data_set: Name of the set.
        readme: What README.txt says.
        write: Writes the files into the folder it is given.
        images: How many.
        seed: Decides the images: the same one gives the same bytes.
        if_missing: Whether a folder of the same parameters is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        ConfigError: Fewer than 16 images.
        DataError: The folder holds something else, or cannot be written.
    """
    check_numbers(images=images)
    parameters = {"simulate": data_set, "images": images, "seed": seed}
    return write_simulation(folder, parameters, readme, write, if_missing=if_missing)


def write_simulation(
    folder: Path,
    parameters: Mapping[str, Any],
    readme: str,
    write: Callable[[Path], None],
    *,
    if_missing: bool = False,
) -> Path:
    """Writes the files beside their place, with README.txt and simulation.json, and moves them there.

    Args:
        folder: Where they go: new or empty.
        parameters: Plain values that decide the files, bit for bit.
        readme: What README.txt says: that the data are made up, and how.
        write: Writes the files into the folder it is given.
        if_missing: Whether a folder of the same parameters is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds something else, or cannot be written.
    """
    if _is_there(folder, parameters, if_missing):
        return folder
    partial = folder.absolute().parent / f".{folder.name}.{secrets.token_hex(6)}.partial"
    try:
        partial.mkdir(parents=True)
        write(partial)
        (partial / "README.txt").write_text(readme, encoding="utf-8")
        (partial / _MARKER).write_text(json.dumps(dict(parameters)) + "\n", encoding="utf-8")
        partial.rename(folder.absolute())
    except OSError as error:
        raise DataError(
            f"{folder}: the simulation cannot be written ({error.strerror or error}); nothing was written."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_there(folder: Path, parameters: Mapping[str, Any], if_missing: bool) -> bool:
    """Whether the folder holds this very simulation and that is fine; refuses any other content."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / _MARKER
    if not folder.is_dir() or not marker.is_file():
        raise DataError(
            f"{folder}: a new or empty folder expected, found other files; choose another folder for the "
            "simulation."
        )
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{marker}: not the description of a simulation; choose another folder.") from None
    if found != json.loads(json.dumps(dict(parameters))):
        raise DataError(
            f"{folder}: holds a simulation with other parameters ({json.dumps(found)}); delete it or choose "
            "another folder."
        )
    if not if_missing:
        raise DataError(
            f"{folder}: holds this simulation already; delete it, or use --if-missing to keep it."
        )
    return True


def write_mat(path: Path, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    """Writes a MATLAB file of version 5; the same arrays give the same bytes."""
    scipy.io.savemat(path, dict(arrays))
    with path.open("r+b") as file:  # SciPy writes the time of day into the text of the header
        file.write(_MAT_HEADER.ljust(116))
