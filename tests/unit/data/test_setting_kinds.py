"""No setting of a reader of recordings, however wrong, gives anything but a sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskloom.data.setting_kinds import KINDS
from taskloom.data.signal_sources import EDF_SETTINGS, FOLDER_SETTINGS, WAV_SETTINGS
from taskloom.data.signals import SIGNAL_SETTINGS
from taskloom.data.sources import load
from taskloom.errors import ConfigError, DataError
from taskloom.tasks import Regression, TaskSet

WRONG: tuple[Any, ...] = ("x", True, -1, 0, 2.5, [], {}, ["x"], {"x": 1}, math.nan, [1, "a"])
NESTED = {
    "band_pass": ("low_hz", "high_hz", "order", "causal"),
    "spectrogram": ("window_seconds", "hop_seconds", "mel_bands", "floor_db"),
    "normalize": ("per", "clip"),
}
TASKS: dict[str, dict[str, Any]] = {"kind": {"kind": "binary"}}
SPLIT = {"by": "person", "test": 0.34, "validation": 0.17}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with one recording each."""
    root = tmp_path_factory.mktemp("kinds") / "data"
    (root / "tables").mkdir(parents=True)
    for number in range(6):
        values = np.random.default_rng(number).normal(size=(80, 2))
        lines = [f"{row / 20:.2f},{a:.4f},{b:.4f}" for row, (a, b) in enumerate(values)]
        (root / f"r{number}.csv").write_text("\n".join(["t,x,y", *lines]) + "\n")
    rows = [f"r{number}.csv,p{number},{'ab'[number % 2]},{10 + number**2}" for number in range(6)]
    (root / "tables" / "files.csv").write_text("\n".join(["file,person,kind,age", *rows]) + "\n")
    return root


def read(folder: Path, stores: Path, settings: dict[str, Any], **changes: Any) -> Any:
    usual = {"files": "*.csv", "table": "tables/files.csv", "time": "t", "window": {"seconds": 1}}
    given = {"tasks": TASKS, "split": SPLIT, **changes}
    return load(
        "recordings", {**usual, **settings}, given["tasks"], given["split"], folder=folder, stores=stores
    )


@pytest.mark.parametrize("name", [*FOLDER_SETTINGS, *SIGNAL_SETTINGS, "normalize", "group_by", "window"])
def test_wrong_settings_give_a_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    values = [*WRONG, *({inner: wrong} for inner in NESTED.get(name, ()) for wrong in WRONG)]
    sentences = []
    for value in values:
        try:
            read(folder, tmp_path, {name: value})
        except (ConfigError, DataError) as error:
            sentences.append(str(error))
    assert sentences
    assert not [sentence for sentence in sentences if "\n" in sentence]


@pytest.mark.parametrize(("reader", "names"), [("edf", EDF_SETTINGS), ("wav", WAV_SETTINGS)])
def test_wrong_settings_are_refused_before_the_folder_is_read(
    tmp_path: Path, reader: str, names: tuple[str, ...]
) -> None:
    for name in set(names) & set(KINDS):
        with pytest.raises(ConfigError, match=rf"^data\.{name}: .* expected, found True\.$"):
            load(reader, {name: True}, TASKS, SPLIT, folder=tmp_path, stores=tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"band_pass": {"low_hz": "x"}}, r"data\.band_pass\.low_hz: a number expected, found 'x'\."),
        ({"normalize": {"clip": "x"}}, r"data\.normalize\.clip: a number expected, found 'x'\."),
        ({"tracks": {"act": 1}}, r"data\.tracks: a list of names, or .* expected, found \{'act': 1\}\."),
        ({"channels": [1.5]}, r"data\.channels: a name, or a list of names expected, found \[1\.5\]\."),
    ],
)
def test_the_place_is_named(folder: Path, tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(folder, tmp_path, settings)


def test_tasks_and_normaliser_are_fitted_on_train_alone(folder: Path, tmp_path: Path) -> None:
    parts = read(folder, tmp_path, {}, tasks={"age": {"kind": "regression"}})
    ages = parts.train.labels.values["age"].double()
    everybody = torch.cat([part.labels.values["age"] for part in (parts.train, parts.validation, parts.test)])
    assert everybody.mean() != ages.mean()
    expected = TaskSet(Regression("age")).fit(parts.train.labels)["age"]
    assert parts.tasks["age"] == expected
    fitted = expected.to_dict()
    assert (fitted["center"], fitted["scale"]) == pytest.approx(
        (float(ages.mean()), float(ages.std(correction=0)))
    )
    inputs = parts.train.__getitems__(list(range(len(parts.train)))).inputs
    # Windows of train stand side by side, so that each of their samples counts once.
    np.testing.assert_allclose(inputs.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1), correction=0), 1, atol=1e-5)


def test_a_study_normalises_every_person_by_their_own_train_windows(folder: Path, tmp_path: Path) -> None:
    split = {"by": "time", "test": 0.25, "validation": 0.25}
    parts = read(folder, tmp_path, {"normalize": {"per": "person", "clip": 9}}, split=split)
    fitted = parts.preprocessing["normalizer"]
    assert (fitted["persons"], fitted["clip"]) == ([f"p{number}" for number in range(6)], 9)
    store = parts.train.store
    for number, recording in enumerate(store.recordings):
        # Windows of 20 samples side by side; the first half of 80 is train.
        train = np.asarray(store.samples[recording.start : recording.start + 40], dtype=np.float64)
        np.testing.assert_allclose(fitted["mean"][number], train.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(fitted["scale"][number], train.std(axis=0), rtol=1e-6)
