"""A user's own Python files: run once, before what they register is looked for by name.

`code: my_networks.py` in a study file, or `taskloom --code my_networks.py predict ...` for a bundle. A file
registers encoders, ways of sharing, balancing and whatever else has a registry, as taskloom's own files do.
It runs with the rights of whoever runs taskloom, as any Python file does; a bundle never brings code along.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from taskloom.errors import ConfigError

_run: dict[Path, str] = {}
"""Files that have run in this process, with their digests."""


@dataclass(frozen=True)
class CodeFile:
    """A Python file of the user's.

    Args:
        path: Where it is, from the root on.
        sha256: Digest of its content: with another one, results may be others.
    """

    path: Path
    sha256: str


def run_code(paths: Iterable[Path]) -> tuple[CodeFile, ...]:
    """Runs Python files, each once in a process; files beside them can be imported by them.

    Args:
        paths: The files.

    Returns:
        The files with their digests, in that order.

    Raises:
        ConfigError: No such file, an error in it (with its line), or a file that was changed after it ran.
    """
    return tuple(_run_once(path.resolve()) for path in paths)


def _run_once(path: Path) -> CodeFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"code: a Python file expected, found {path}: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    before = _run.get(path)
    if before is not None and before != digest:
        raise ConfigError(
            f"code: {path.name} has changed since it ran in this process; what it registered then is still "
            "known. Start the command, or Python, again."
        )
    if before is None:
        _execute(path, f"taskloom_code_{path.stem}_{digest[:8]}")
        _run[path] = digest
    return CodeFile(path, digest)


def _execute(path: Path, name: str) -> None:
    """Runs a file as a module of its own, which pickles of its classes find again."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"code: a Python file (.py) expected, found {path}.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a neighbour named as an installed package hides nothing
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may go wrong in a user's file
        del sys.modules[name]
        raise ConfigError(f"code: {path.name}{_line(error, path)}: {_what(error)}") from error


def _line(error: Exception, path: Path) -> str:
    """ ":12", the last line of the file that the error came through; nothing where it came through none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _what(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}".rstrip(": ").rstrip(".") + "."
