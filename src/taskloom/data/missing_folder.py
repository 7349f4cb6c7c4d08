"""What is said where a folder of images is not there: which folders are."""

from __future__ import annotations

from pathlib import Path

from taskloom.errors import DataError, did_you_mean

_MOST_NAMED = 6


def no_folder_of_images(folder: Path) -> DataError:
    """The error for a folder of images that is not there, with the folders that stand in its place.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "UTKFace").mkdir()
        >>> str(no_folder_of_images(root / "utkface")).removeprefix(str(root))[:64]
        '/utkface: no such folder of images. Did you mean `UTKFace`? Fold'
    """
    root = folder.parent
    beside = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    alike = [name for name in beside if name.lower() == folder.name.lower()]
    guess = f" Did you mean `{alike[0]}`?" if alike else did_you_mean(folder.name, beside)
    shown = ", ".join(beside[:_MOST_NAMED]) + (", ..." if len(beside) > _MOST_NAMED else "")
    there = f"{guess} Folders there: {shown}" if beside else f" {root} holds no folder"
    return DataError(
        f"{folder}: no such folder of images.{there}; name the folder of the images with `data.images`, "
        "and the folder that it is in with --data."
    )
