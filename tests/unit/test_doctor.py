"""The doctor knows the extras that the package declares."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from taskloom import doctor


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(doctor.EXTRAS) == set(project["project"]["optional-dependencies"]) - {"dev"}


def test_a_missing_extra_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"onnx": ("no_such_module",), "serve": ("json",)})
    found = dict(doctor.examine(tmp_path))
    assert "pip install 'taskloom[onnx]'" in found["[onnx]"]
    assert "pip install" not in found["[serve]"]
