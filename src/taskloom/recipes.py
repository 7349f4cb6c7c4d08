"""Where the papers' study files lie: they come with the package, installed or as a checkout."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

_INSTALLED = "share/taskloom/recipes/"
"""Under which pyproject.toml has them installed."""


def recipes_folder() -> Path | None:
    """The folder of taskloom's own study files; None where they were left out.

    Example:
        >>> (recipes_folder() / "quickstart.yaml").is_file()
        True
    """
    checkout = Path(__file__).parents[2] / "recipes"
    if (checkout.parent / "src" / "taskloom").is_dir() and checkout.is_dir():
        return checkout
    try:
        files = importlib.metadata.files("taskloom") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in files if _INSTALLED in file.as_posix()]
    return found[0].parent if found and found[0].is_file() else None


def recipe_of(path: Path) -> Path | None:
    """taskloom's own study file of this name, such as `recipes/quickstart.yaml`; None where there is none."""
    folder = recipes_folder()
    found = None if folder is None else folder / path.name
    return found if found is not None and path.suffix and found.is_file() else None
