"""The README's examples run on data like those they describe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyedflib
import pytest
import yaml
from tests._measurements import measurements
from typer.testing import CliRunner

from taskloom.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def _block(section: str, language: str) -> str:
    text = README.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None, f"no {language} block in {section}"
    return found.group(1)


def _study(section: str) -> dict[str, Any]:
    return dict(yaml.safe_load(_block(section, "yaml")))


def _run(folder: Path, study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    monkeypatch.chdir(folder)
    small = ["--set", "training.epochs=1", "--set", "repeats=2", "--set", "encoder.hidden=[4, 4]"]
    if study["encoder"]["name"] != "mlp":
        small = small[:4]
    for command in (["inspect", "study.yaml"], ["study", "study.yaml", *small]):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return (folder / "runs/study/report.html").read_text(encoding="utf-8")


def test_own_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measurements().to_csv(tmp_path / "measurements.csv", index=False)
    monkeypatch.chdir(tmp_path)
    command = next(line for line in _block("Your own CSV", "").splitlines() if " init " in line)
    words = command.partition("#")[0].split()
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "study.yaml").read_text(encoding="utf-8") == _block("Your own CSV", "yaml")
    page = _run(tmp_path, _study("Your own CSV"), monkeypatch)
    assert "hard sharing 2" in page
    assert "cross-stitch per layer" in page


def test_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "faces/images").mkdir(parents=True)
    names = [f"{row:03d}.png" for row in range(40)]
    for name in names:
        pixels = draw.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "faces/images" / name), pixels)
    pd.DataFrame(
        {
            "file_name": names,
            "age": draw.integers(1, 90, 40),
            "smiling": [("", "yes", "no")[row % 3] for row in range(40)],
            "person": [f"P{row // 2}" for row in range(40)],
        }
    ).to_csv(tmp_path / "faces/metadata.csv", index=False)
    assert "smiling" in _run(tmp_path, _study("Your own images"), monkeypatch)


def test_own_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for number in range(20):
        name = f"r{number:02d}.edf"
        with pyedflib.EdfWriter(str(tmp_path / name), 2, file_type=pyedflib.FILETYPE_EDF) as writer:
            for channel in range(2):
                header = {"label": f"C{channel}", "dimension": "uV", "sample_frequency": 50}
                limits = {
                    "physical_max": 9.0,
                    "physical_min": -9.0,
                    "digital_max": 32767,
                    "digital_min": -32768,
                }
                writer.setSignalHeader(channel, {**header, **limits, "transducer": "", "prefilter": ""})
            writer.writeSamples([draw.normal(size=500).clip(-8, 8) for _ in range(2)])
        person = number // 2
        rows.append((name, f"P{person}", ("rest", "count")[number % 2], 20 + person))
    table = pd.DataFrame(rows, columns=["file_name", "person", "state", "age"])
    table.to_csv(tmp_path / "recordings.csv", index=False)
    assert "state" in _run(tmp_path, _study("Your own recordings"), monkeypatch)


def test_own_model() -> None:
    names: dict[str, Any] = {}
    exec(compile(_block("Your own PyTorch model", "python"), "README.md", "exec"), names)
    losses = names["losses"]
    assert (int(losses["age"].count), int(losses["gender"].count)) == (8, 0)
    assert all(parameter.grad is not None for parameter in names["model"].parameters())


@pytest.mark.usefixtures("own_names")
def test_own_model_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.split("## Your own PyTorch model\n", 1)[1].split("\n## ", 1)[0]
    code = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]
    (tmp_path / "my_networks.py").write_text(code, encoding="utf-8")
    named = re.findall(r"`(code: \w+\.py)`|`(encoder: \{.*?\})`", section)
    settings = yaml.safe_load("\n".join(one or other for one, other in named))
    rows = np.random.default_rng(0).normal(size=(60, 3))
    table = pd.DataFrame(rows, columns=list("abc")).assign(
        y=rows[:, 0] + rows[:, 1], z=rows[:, 1] - rows[:, 2]
    )
    table.to_csv(tmp_path / "rows.csv", index=False)
    study = {
        **settings,
        "data": {"table": "rows.csv", "features": "rest"},
        "tasks": {name: {"kind": "regression", "unit": "m"} for name in "yz"},
        "split": {"by": "rows", "test": 0.3, "validation": 0.2},
        "training": {"batch": 16},
        "cells": [{"hard_sharing": {"stages": 2}}],
    }
    assert "hard sharing 2" in _run(tmp_path, study, monkeypatch)
