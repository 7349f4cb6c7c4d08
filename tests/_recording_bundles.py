"""What tests of recordings through bundles share: files of every reader, and networks with drawn weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyedflib
import scipy.io
import torch
from scipy.io import wavfile

from taskloom import encoders, sharing
from taskloom.data.batch import DataSplits
from taskloom.data.readers.opportunity_codes import NUM_COLUMNS
from taskloom.data.simulate.deap import write_python2_pickle
from taskloom.data.sources import load
from taskloom.deploy import save_bundle

PATTERN = r"(?P<digit>\d)_(?P<index>\d+)"


SPLIT = {"by": "column", "column": "index", "test": [0], "validation": [1]}


TASKS = {"digit": {"kind": "binary"}, "loudness": {"kind": "regression", "unit": "dB"}}


def write_wav(path: Path, seed: int, length: int = 700, rate_hz: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(0, 3000, length)
    wavfile.write(path, rate_hz, values.astype(np.int16))


def write_edf(path: Path, seed: int, rate_hz: int = 50, unit: str = "uV", length: int = 400) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "label": "", "dimension": unit, "sample_frequency": rate_hz, "physical_max": 200.0,
        "physical_min": -200.0, "digital_max": 32767, "digital_min": -32768, "transducer": "",
        "prefilter": "",
    }  # fmt: skip
    signals = np.random.default_rng(seed).normal(0, 40, (2, length)).clip(-199, 199)
    with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setSignalHeaders([{**header, "label": label} for label in ("Fz", "Pz")])
        file.writeSamples([np.ascontiguousarray(signal) for signal in signals])


def write_csv(path: Path, seed: int, length: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(length, 2))
    frame = pd.DataFrame(values, columns=["x", "y"])
    frame.insert(0, "time", np.arange(length) / 30)
    frame.to_csv(path, index=False)


def names() -> list[str]:
    return [f"{digit}_{index}" for digit in (3, 7) for index in range(4)]


def recordings(folder: Path, suffix: str) -> Path:
    """Eight recordings and a table of them."""
    write = {".wav": write_wav, ".edf": write_edf, ".csv": write_csv}[suffix]
    place = folder / "data"
    for number, name in enumerate(names()):
        write(place / f"{name}{suffix}", number)
    lines = [f"{name}{suffix},{name[0]},{name[2]},{number}" for number, name in enumerate(names())]
    table = ["file,digit,index,loudness" if suffix == ".csv" else "file,number,place,loudness", *lines]
    (place / "files.csv").write_text("\n".join(table) + "\n")
    return place


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    ".wav": (
        "wav",
        {"file_pattern": PATTERN, "table": "files.csv", "window": {"samples": 100, "stride": 60}},
    ),
    ".edf": (
        "edf",
        {
            "file_pattern": PATTERN, "table": "files.csv", "resample_hz": 25, "channels": ["Pz", "Fz"],
            "band_pass": {"low_hz": 0.5, "high_hz": 10}, "window": {"seconds": 2, "last": "shift"},
        },
    ),
    ".csv": (
        "recordings",
        {"files": "*_*.csv", "table": "files.csv", "channels": ["y", "x"], "window": {"samples": 20}},
    ),
}  # fmt: skip


WORDS = {
    "file_pattern": PATTERN, "table": "files.csv", "fit_seconds": 0.5, "crop": "centre",
    "spectrogram": {"window_seconds": 0.032, "hop_seconds": 0.016, "mel_bands": 8},
}  # fmt: skip


def trained(folder: Path, suffix: str, settings: dict[str, Any] | None = None) -> tuple[Path, DataSplits]:
    """A bundle of a network with random weights, and the data that it would be evaluated on."""
    reader, usual = SETTINGS[suffix]
    data = recordings(folder, suffix)
    splits = load(reader, settings or usual, TASKS, SPLIT, folder=data, stores=folder / "stores")
    torch.manual_seed(3)
    encoder = encoders.build("conv1d", splits.train.input_shape, filters=[6], kernel=3)
    model = sharing.build("single_task", encoder, splits.tasks)
    path = save_bundle(
        folder / "words.bundle",
        model,
        input_shape=splits.train.input_shape,
        encoder={"name": "conv1d", "filters": [6], "kernel": 3},
        sharing={"name": "single_task"},
        head={},
        preprocessing=splits.preprocessing,
        about={"data": splits.about},
    )
    return path, splits


def write_dat(
    path: Path,
    seed: int,
    *,
    rate_hz: float = 30.0,
    length: int = 150,
    labelled: bool = True,
    changes: Mapping[tuple[int, int], str] | None = None,
) -> Path:
    """A file of OPPORTUNITY: 250 columns, a few lost values, lost packets at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    values = draw.normal(10 * (seed % 5), 300, (length, NUM_COLUMNS)).round(2)
    values[:, 0] = np.rint(np.arange(length) * 1000 / rate_hz)
    values[:, 243:] = 0
    values[:, 243] = np.where(np.arange(length) < length // 2, 1, 2)
    values[:, 244] = np.where(np.arange(length) < length // 3, 0, 101)
    cells = values.astype(object)
    cells[:, [0, *range(243, 250)]] = cells[:, [0, *range(243, 250)]].astype(int)
    cells[draw.random((length, NUM_COLUMNS)) < 0.02] = "NaN"
    cells[50:70, 2] = "NaN"  # two thirds of a second
    cells[-4:, 1:243] = "NaN"
    cells[:, 0], cells[:, 243:] = values[:, 0].astype(int), values[:, 243:].astype(int)
    if not labelled:
        cells[:, 243:] = "NaN"
    for (row, column), text in (changes or {}).items():
        cells[row, column] = text
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in cells))
    return path


def write_deap(path: Path, seed: int, *, rated: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    trials = 2
    arrays = {"data": draw.normal(0, 20, (trials, 40, 8064)) + np.arange(40)[:, None]}
    if rated:
        arrays["labels"] = np.stack(
            [draw.uniform(1, 9, trials), [2.0, 8.0], *draw.uniform(1, 9, (2, trials))], axis=1
        )
    if path.suffix == ".mat":
        scipy.io.savemat(path, arrays)
    else:
        write_python2_pickle(path, arrays)


def write_walk(path: Path, seed: int, length: int = 100) -> pd.DataFrame:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(np.random.default_rng(seed).normal(seed, 1 + seed, (length, 2)), columns=["x", "y"])
    frame = frame.astype(np.float32)
    frame.insert(0, "time", np.arange(length) / 20)
    frame.to_csv(path, index=False)
    return frame


def bundle_of(splits: DataSplits, folder: Path) -> Path:
    """A network with random weights on the data."""
    torch.manual_seed(3)
    how = {"name": "conv1d", "filters": [6], "kernel": 3}
    encoder = encoders.build("conv1d", splits.train.input_shape, filters=[6], kernel=3)
    return save_bundle(
        folder / "net.bundle",
        sharing.build("hard_sharing", encoder, splits.tasks, stages=1),
        input_shape=splits.train.input_shape,
        encoder=how,
        sharing={"name": "hard_sharing", "stages": 1},
        preprocessing=splits.preprocessing,
        about={"data": splits.about},
    )


OPPORTUNITY = {
    "channels": [2, 40, 1, 133],
    "window": {"samples": 20, "stride": 7, "null": "own_class", "last": "shift"},
    "carry_forward_seconds": 0.4,
    "normalize": {"per": "channel", "clip": 2},
}


GAIT = {
    "gait": {"kind": "multiclass", "column": "Locomotion"},
    "rest": {"kind": "multiclass", "column": "HL_Activity"},
}


RUNS = {"by": "files", "files": {"train": ["*ADL1"], "validation": ["*ADL2"], "test": ["*ADL3"]}}


def opportunity(folder: Path, **changes: Any) -> tuple[Path, DataSplits]:
    data = folder / "data"
    for number, name in enumerate(f"S{person}-ADL{run}" for person in (1, 2) for run in (1, 2, 3)):
        write_dat(data / f"{name}.dat", number)
    settings = {**OPPORTUNITY, **changes}
    splits = load("opportunity", settings, GAIT, RUNS, folder=data, stores=folder / "stores")
    return bundle_of(splits, folder), splits


DEAP = {
    "trials": 2,
    "channels": ["GSR", "Fp1", "O2"],
    "baseline": "subtract",
    "band_pass": {"low_hz": 1, "high_hz": 20},
    "resample_hz": 64,
    "window": {"seconds": 2, "stride_seconds": 1},
}


FEELINGS = {"valence": {"kind": "regression"}, "arousal": {"kind": "binary"}}
