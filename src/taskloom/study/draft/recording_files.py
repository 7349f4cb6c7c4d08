"""Folders of recordings: by which reader, at which rate, in windows of which length."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taskloom.data.readers import edf, wav
from taskloom.data.readers.edf_labels import LabelSettings, RecordingLabels
from taskloom.data.readers.recordings_files import SUFFIXES
from taskloom.data.readers.recordings_folder import RecordingsReader
from taskloom.data.readers.recordings_table import IDENTITY
from taskloom.data.tables import Table, read_table
from taskloom.errors import DataError
from taskloom.study.draft.networks import for_windows
from taskloom.study.draft.sources import Source

_LOOKED_AT = 8
_SOUND_HZ = 4000
_SPECTROGRAM = {"window_seconds": 0.032, "hop_seconds": 0.01, "mel_bands": 40}
_SHORT_SECONDS = 4.0
_TIMES = {
    **dict.fromkeys(("time", "t", "timestamp", "times"), ""),
    **dict.fromkeys(("time_s", "seconds", "sec", "time [s]", "time (s)", "t_s"), "s"),
    **dict.fromkeys(("time_ms", "ms", "millis", "milliseconds", "time [ms]", "time (ms)", "t_ms"), "ms"),
    **dict.fromkeys(("time_us", "us", "micros", "microseconds", "time [us]", "time (us)"), "us"),
}
"""Names of a column of times, and the unit that they say."""
_LEAST_STEP_MS, _MOST_STEP_MS = 1.5, 100
"""Steps from the one on are hardly seconds from sample to sample, from the other on hardly milliseconds."""

Reader = edf.EdfReader | wav.WavReader | RecordingsReader


def recordings_source(table: Table, column: str, folder: Path, rate_hz: float | None) -> Source | None:
    """The source of a table of recordings; None where the table names none that is there.

    Args:
        table: The table.
        column: Which of its columns names the files.
        folder: Where it is.
        rate_hz: Samples per second of files that do not say it.

    Raises:
        DataError: A file cannot be read, or its rate is not known.
    """
    found = next((path for name in table.text(column)[:50] if (path := _file(folder, str(name)))), None)
    if found is None:
        return None
    suffix, below = found.suffix.lower(), found.relative_to(folder).parent
    pattern = (below / f"*{found.suffix}").as_posix()
    data: dict[str, Any] = {"folder": str(folder), "table": table.path.name}
    if suffix == ".edf" and below == Path():
        data = {"reader": "edf", **data}
        reader: Reader = edf.EdfReader(folder, table=table.path.name)
    elif suffix == ".wav":
        data = {"reader": "wav", **data, "files": pattern}
        reader = wav.WavReader(folder, table=table.path.name, files=pattern)
    else:
        data = {"reader": "recordings", **data, "files": pattern}
        time = _time_column(found, rate_hz) if suffix == ".csv" else {}
        reader = _own_reader(folder, table.path.name, pattern, rate_hz, time)
        data |= time | ({} if rate_hz is None else {"rate_hz": rate_hz})
    return _source(reader, table, data, {column: "names the recordings"})


def known_layout(folder: Path) -> Source | None:
    """The source of a well-known data set, told by its files; None where it is none."""
    for module, suffix in ((edf, ".edf"), (wav, ".wav")):
        for name, layout in module.LAYOUTS.items():
            files = sorted(folder.glob(str(layout.get("files", f"*{suffix}"))))
            if not files or not (folder / layout["table"]).is_file():
                continue
            try:
                reader: Reader = (
                    module.EdfReader(folder, layout=name)
                    if module is edf
                    else (wav.WavReader(folder, layout=name))
                )
                settings = LabelSettings.choose(
                    folder, layout, file_pattern=None, table=None, key=None, labels=None
                )
                labels = RecordingLabels.read(files, settings)
            except DataError:
                continue
            table = _table_of(folder / layout["table"], files, labels)
            data = {"reader": reader.name, "folder": str(folder), "layout": name}
            return _source(reader, table, data, {})
    return None


def _file(folder: Path, name: str) -> Path | None:
    """The recording that a cell names, with or without its suffix."""
    plain = folder / name.replace("\\", "/")
    if not name or not plain.name or not plain.is_relative_to(folder):
        return None
    candidates = [plain, *(plain.with_name(plain.name + suffix) for suffix in SUFFIXES)]
    return next((path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file()), None)


def _time_column(path: Path, rate_hz: float | None) -> dict[str, Any]:
    """`time` and `time_unit` of a CSV with a column of times: told by its name and by rising numbers.

    Where it may as well count samples (0, 1, 2, ...), it is no channel, and the rate has to be given.

    Raises:
        DataError: Nothing says in which unit the column counts, nor the rate.
    """
    table = read_table(path)
    for name in table.columns:
        unit = _TIMES.get(name.strip().lower())
        if unit is None:
            continue
        numbers = table.numbers_or_none(name)
        steps = np.array([]) if numbers is None else np.diff(numbers)
        if not len(steps) or not (steps > 0).all():
            continue
        step = float(np.median(steps))
        if not unit and (step == 1 or step >= _MOST_STEP_MS):
            if rate_hz is None:
                raise DataError(
                    f"{path}: column `{name}` rises by {step:g} from row to row, and nothing says whether it "
                    "counts samples, or time in which unit; say the rate with --rate-hz HZ."
                )
            return {"channels": [other for other in table.columns if other != name]}
        return {"time": name, "time_unit": unit or ("s" if step < _LEAST_STEP_MS else "ms")}
    return {}


def _own_reader(
    folder: Path, table: str, pattern: str, rate_hz: float | None, time: Mapping[str, Any]
) -> RecordingsReader:
    if rate_hz is not None and "time" in time:
        raise DataError(
            f"--rate-hz {rate_hz:g}: the files say it themselves, in their column `{time['time']}` "
            f"({time['time_unit']}); leave it out."
        )
    try:
        return RecordingsReader(folder, files=pattern, table=table, rate_hz=rate_hz, **time)
    except DataError as error:
        if rate_hz is None and "data.rate_hz" in str(error):
            advice = "say it with --rate-hz HZ (or `data.rate_hz` in the study file)"
            raise DataError(f"{str(error).partition('; give')[0]}; {advice}.") from error
        raise


def _source(reader: Reader, table: Table, data: Mapping[str, Any], reserved: Mapping[str, str]) -> Source:
    """Chooses windows by the length and the rate of some recordings."""
    some = list(itertools.islice(reader.recordings(), _LOOKED_AT))
    seconds = np.array([len(recording.samples) for recording in some]) / reader.native_rate_hz
    settings, comments = dict(data), {}
    if seconds.min() < _SHORT_SECONDS:
        length = float(np.round(max(np.median(seconds), 0.1), 1))
        settings["fit_seconds"] = length
        comments["fit_seconds"] = "one window per recording: its middle, or filled up with zeros"
        windows = float(len(table))
    else:
        length = 2.0
        settings["window"] = {"seconds": 2, "short": "skip"}
        comments["window"] = f"recordings last about {np.median(seconds):.0f} s"
        windows = len(table) * float(seconds.mean()) / length
    rate_hz = reader.native_rate_hz
    if rate_hz >= _SOUND_HZ:
        settings["spectrogram"] = _SPECTROGRAM
        rate_hz = 1 / _SPECTROGRAM["hop_seconds"]
    names = {name: "says whom or what a recording is of" for name in IDENTITY if name in table.columns}
    return Source(
        "recordings",
        table,
        settings,
        comments,
        {**reserved, **names},
        for_windows(round(length * rate_hz)),
        round(windows),
        label_table=False,
    )


def _table_of(path: Path, files: list[Path], labels: RecordingLabels) -> Table:
    """What is known of every recording, as a table of one row each."""
    found = [labels.of(file) for file in files]
    names = list(dict.fromkeys(name for entry in found for name in (*entry.labels, *entry.identity)))
    cells = {
        name: pa.array(
            [None if (value := entry.labels.get(name)) is None else f"{value}" for entry in found],
            pa.string(),
        )
        for name in names
    }
    return Table(path, tuple(names), None, (), pa.table(cells))
