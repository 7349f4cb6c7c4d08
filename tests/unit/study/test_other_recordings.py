"""A bundle of recordings on new recordings: normalised as its own were, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.data.batch import DataSplits
from taskloom.data.sources import load
from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.study.cross_database import NameMap, other_study

RUNNER = CliRunner()
DATA: dict[str, Any] = {"files": "*.csv", "table": "files.csv", "window": {"samples": 10}}
TASKS = {"gait": {"kind": "binary", "classes": ["walk", "run"]}}
SPLIT = {"by": "trial", "test": 0.34, "validation": 0.33}


def walks(folder: Path, seed: int, columns: str = "xy") -> Path:
    """Twelve recordings of two people at 20 Hz."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    lines = ["file,person,trial,gait"]
    for number in range(12):
        frame = pd.DataFrame(draw.normal(seed, 1 + seed, (40, 2)), columns=list(columns)).astype(np.float32)
        frame.insert(0, "time", np.arange(40) / 20)
        frame.to_csv(folder / f"{number}.csv", index=False)
        lines.append(f"{number},{'ab'[number % 2]},{number // 4},{('walk', 'run')[number // 2 % 2]}")
    (folder / "files.csv").write_text("\n".join(lines) + "\n")
    return folder


def splits_of(folder: Path, **changes: Any) -> DataSplits:
    return load("recordings", {**DATA, **changes}, TASKS, SPLIT, folder=folder, stores=folder / "stores")


def bundle_of(splits: DataSplits) -> Bundle:
    return Bundle(None, splits.tasks, splits.preprocessing, {"data": splits.about}, {}, {})  # type: ignore[arg-type]


def raw(windows: Any) -> np.ndarray[Any, Any]:
    """The windows as the store holds them, [N, 10, 2]."""
    return np.stack([windows.store.samples[at : at + 10] for at in windows.starts]).astype(np.float64)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_new_recordings_are_normalised_as_the_bundle_s_own_were(tmp_path: Path, clip: float | None) -> None:
    own = splits_of(walks(tmp_path / "own", 1), normalize={"clip": clip})
    others = splits_of(walks(tmp_path / "other", 3), normalize={"clip": 2})
    other = other_study(bundle_of(own), others, "test", NameMap(), Path("other.yaml"))
    covered = raw(own.train).reshape(-1, 2)
    expected = (raw(others.test) - covered.mean(axis=0)) / covered.std(axis=0)
    expected = expected if clip is None else expected.clip(-clip, clip)
    inputs = other.dataset.__getitems__(range(len(others.test))).inputs
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert other.notes == ()


def test_everybody_is_normalised_by_himself_where_the_bundle_was_by_person(tmp_path: Path) -> None:
    own = splits_of(walks(tmp_path / "own", 1), normalize={"per": "person"})
    others = splits_of(walks(tmp_path / "other", 3))
    other = other_study(bundle_of(own), others, "test", NameMap(), Path("other.yaml"))
    windows: Any = others.test
    values = raw(windows)
    person = np.array([windows.store.recordings[index].person for index in windows.recording_index])
    inputs = other.dataset.__getitems__(range(len(windows))).inputs.numpy()
    for name in "ab":
        mine = values[person == name]
        expected = (mine - mine.mean(axis=(0, 1))) / mine.std(axis=(0, 1))
        np.testing.assert_allclose(inputs[person == name], expected, rtol=1e-4, atol=1e-4)
    assert other.notes == ("Everybody was normalised by the mean and deviation of his own windows here.",)


def test_own_files_under_another_split_and_other_preparations_are_refused(tmp_path: Path) -> None:
    own = splits_of(walks(tmp_path / "own", 1))
    bundle, place = bundle_of(own), Path("other.yaml")
    new = walks(tmp_path / "other", 3)
    for other, message in (
        (splits_of(tmp_path / "own", normalize={"clip": 1}), r"0\.csv is a file of the bundle's own data"),
        (splits_of(new, channels=["x"]), r"channels \['x', 'y'\] expected, .* found \['x'\]"),
        (splits_of(new, window={"samples": 20}), r"window\.samples 10 expected, .* found 20"),
        (splits_of(new, resample_hz=10), "rate_hz 20.0 expected, .* found 10.0"),
        (splits_of(new, band_pass={"high_hz": 5}), "signal steps {} expected, .* found {'band_pass'"),
    ):
        with pytest.raises(DataError, match=message):
            other_study(bundle, other, "test", NameMap(), place)
    # A table may be that of the bundle's own recordings.
    assert (tmp_path / "own" / "files.csv").read_bytes() == (new / "files.csv").read_bytes()
    assert len(other_study(bundle, splits_of(new), "test", NameMap(), place).dataset)


def test_the_command_evaluates_new_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walks(Path("own"), 1)
    walks(Path("other"), 3)
    study = {
        "data": {"reader": "recordings", **DATA}, "tasks": TASKS, "split": SPLIT, "repeats": 1,
        "encoder": {"name": "conv1d", "filters": [3], "kernel": 3}, "training": {"epochs": 1},
        "cells": [{"single_task": {}}],
    }  # fmt: skip
    study["tasks"] = {**TASKS, "who": {"kind": "binary", "column": "gait"}}
    study["cells"] = [{"hard_sharing": {"stages": 1}}]
    Path("study.yaml").write_text(yaml.safe_dump(study))
    arguments = ["train", "study.yaml", "--data", "own", "--cell", "hard sharing 1", "--out", "net"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    result = RUNNER.invoke(app, ["evaluate", "net.bundle", "study.yaml", "--data", "other"])
    assert result.exit_code == 0, result.output
    assert "own test" in result.output
    result = RUNNER.invoke(app, ["evaluate", "net.bundle", "study.yaml", "--data", "own", "--set", "seed=5"])
    assert result.exit_code == 2
    assert "is a file of the bundle's own data" in " ".join(result.output.split())
