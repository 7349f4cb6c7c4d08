"""A folder of images that is not there is met with those that are."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.data.missing_folder import no_folder_of_images
from taskloom.data.readers.utkface import image_files
from taskloom.errors import DataError


def test_folders_beside_are_named_and_another_case_is_suggested(tmp_path: Path) -> None:
    for name in ("UTKFace", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(DataError) as error:
        image_files(tmp_path / "utkface")
    said = str(error.value)
    assert "Did you mean `UTKFace`?" in said
    assert "Folders there: UTKFace, other;" in said
    assert "table.csv" not in said
    assert "name the folder of the images with `data.images`" in said


def test_a_place_without_folders_and_one_with_many(tmp_path: Path) -> None:
    assert f"{tmp_path} holds no folder" in str(no_folder_of_images(tmp_path / "faces"))
    assert "holds no folder" in str(no_folder_of_images(tmp_path / "nowhere" / "faces"))
    for number in range(9):
        (tmp_path / f"set{number}").mkdir()
    said = str(no_folder_of_images(tmp_path / "faces"))
    assert "set5, ...;" in said
    assert "set6" not in said
