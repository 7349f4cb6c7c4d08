"""Predictions of a bundle of recordings: a row for every window, and one for every recording.

New files are read as the files of the training were (channels, unit, rate), taken through the bundle's signal
steps, cut into windows of its length and stride and normalised by its normaliser, or person by person (see
`people`). The row of a recording holds the mean over its windows of what the network says: probabilities, and
values in the unit. Where the network labels every sample of a window, rows are samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.deploy import Bundle
from taskloom.errors import DataError
from taskloom.predict.faces import device_of
from taskloom.predict.native_recordings import NATIVE
from taskloom.predict.outputs import HeldRows, row_sink
from taskloom.predict.people import Normalization, Persons, PersonStatistics, SourceFile, normalization
from taskloom.predict.readings import Column, Readings, State, digits
from taskloom.predict.windowing import Preparation, ReadWindows

RECORDING_READERS = tuple(NATIVE)
"""Readers of recordings."""
_BATCH = 256


@dataclass(frozen=True)
class RecordingSummary:
    """What `predict_recordings` did.

    Args:
        recordings, windows: How many were predicted.
        problems: File and reason of each that was not.
        device: Where the network ran.
        people: By what every person was normalised, where that was done person by person.
    """

    recordings: int
    windows: int
    problems: tuple[tuple[str, str], ...]
    device: str
    people: tuple[PersonStatistics, ...] = ()


def predict_recordings(
    bundle: Bundle,
    source: Path | Sequence[Path | SourceFile],
    table: Path | HeldRows,
    *,
    device: str = "auto",
    persons: Persons | None = None,
) -> RecordingSummary:
    """Predicts recordings: files, or all of them below folders.

    Args:
        bundle: A bundle of recordings, of one of `RECORDING_READERS`.
        source: A file of the kind of the training's files, a folder of them, or several of both; or files
            with the names they are called by. Of several files, one that cannot be predicted is a row with
            a `problem`.
        table: A .csv, .parquet or .jsonl file, or what holds rows in memory: `file`; `trial`, from 1, where a
            file holds several recordings; `person`, where the bundle was normalised person by person;
            `window` (0, 1, ...; empty in the row of the whole recording) or `sample`, where the network
            labels every sample of a window; `start_s` and `end_s` in seconds of the recording, the tasks,
            `problem`.
        device: auto, cpu or cuda.
        persons: What is known of the people, for a bundle that was normalised person by person.

    Raises:
        DataError: Not such a bundle, no such file, no file of that kind, a person that is not known, or (of a
            single file) one that cannot be read, or has another rate, channels or unit than the training's.
        ConfigError: `persons` with a bundle that does not ask for them.
    """
    preparation = Preparation.of(bundle)
    persons = persons or Persons()
    files = _files(source, preparation, without=persons.table)
    alone = source.is_file() if isinstance(source, Path) else [*source] == files[:1]
    where = device_of(device)
    model = bundle.model.to(where).eval()
    problems: dict[str, DataError] = {}
    normalized = normalization(preparation, files, persons, problems)
    rows = RecordingRows.of(bundle, preparation)
    about = {"bundle": bundle.versions, "device": str(where), "source": str(source)}
    out = row_sink(table, rows.columns, {**about, "people": _plain(normalized)})
    count = windows = 0
    try:
        for file in files:
            try:
                if file.name in problems:
                    raise problems[file.name]
                recordings = preparation.read(file.path, normalized.of(file))
            except DataError as error:
                told = file.told(error)
                if alone:
                    raise told from error
                problems[file.name] = told
                out.write(rows.problem(file, str(told)))
                continue
            for recording in recordings:
                states = _states(model, recording, rows.readings, where)
                for cells, state in rows.of_recording(file, recording, states, normalized):
                    out.write(cells, state)
                count, windows = count + 1, windows + len(states)
        if len(problems) == len(files):
            first = next(iter(problems.values()))
            raise DataError(f"{files[0].name}: none of the recordings can be predicted; the first: {first}")
        out.finish()
    except BaseException:
        out.discard()
        raise
    reasons = tuple((name, str(error)) for name, error in problems.items())
    return RecordingSummary(count, windows, reasons, str(where), normalized.statistics)


@dataclass(frozen=True)
class RecordingRows:
    """The table's columns and rows.

    Args:
        readings: How tasks are read.
        trials, people, samples: Whether there is a column of them; rows are windows or samples.
    """

    readings: Readings
    trials: bool
    people: bool
    samples: bool

    @classmethod
    def of(cls, bundle: Bundle, preparation: Preparation) -> RecordingRows:
        shape = bundle.settings["input_shape"]
        device = next(bundle.model.parameters()).device
        with torch.inference_mode():
            outputs = bundle.model(torch.zeros(1, *shape, device=device))
        rows = cls(
            Readings(bundle.tasks),
            preparation.files.has_trials,
            preparation.per_person,
            any(output.ndim == 3 for output in outputs.values()),
        )
        taken = [column.name for column in (*rows.place, Column("problem", "text"))]
        return dataclasses.replace(rows, readings=Readings(bundle.tasks, taken))

    @property
    def place(self) -> tuple[Column, ...]:
        return (
            Column("file", "text"),
            *([Column("trial", "int")] if self.trials else []),
            *([Column("person", "text")] if self.people else []),
            Column("sample" if self.samples else "window", "int"),
            Column("start_s", "float"),
            Column("end_s", "float"),
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.place, *self.readings.columns, Column("problem", "text"))

    def problem(self, file: SourceFile, reason: str) -> list[Any]:
        return [file.name, *[None] * (len(self.columns) - 2), reason]

    def of_recording(
        self, file: SourceFile, recording: ReadWindows, states: State, normalized: Normalization
    ) -> Iterator[tuple[list[Any], State]]:
        """Rows of one recording with the states they are read off; its windows have `states` [N, K], or their
        samples [N, W, K]."""
        head: list[Any] = [file.name]
        head += [recording.trial] if self.trials else []
        head += [normalized.person_of[file.name]] if self.people else []
        if self.samples:
            numbers, states = _of_samples(recording, states)
            spans = [(number, number + 1) for number in numbers]
        else:
            spans = [(start, start + recording.length) for start in recording.starts.tolist()]
            numbers = list(range(len(spans)))
        for number, (start, stop), state in zip(numbers, spans, states, strict=True):
            times = digits(recording.time(start)), digits(recording.time(stop))
            yield [*head, number, *times, *self.readings.cells(state), None], state
        mean = states.mean(axis=0)
        yield [*head, None, 0.0, digits(recording.seconds), *self.readings.cells(mean), None], mean


def _of_samples(recording: ReadWindows, states: State) -> tuple[list[int], State]:
    """Samples that windows cover, and the mean over those windows of what they say of each, [m, K]."""
    sums = np.zeros((len(recording.samples), states.shape[2]))
    counts = np.zeros(len(recording.samples))
    for start, state in zip(recording.starts.tolist(), states, strict=True):
        sums[start : start + recording.length] += state
        counts[start : start + recording.length] += 1
    covered = np.flatnonzero(counts)
    return covered.tolist(), sums[covered] / counts[covered, None]


def _states(model: torch.nn.Module, recording: ReadWindows, readings: Readings, where: torch.device) -> State:
    """States of windows [N, K]; of their samples [N, W, K] where a task has an output for every sample."""
    found = []
    for windows in recording.batches(_BATCH):
        with torch.inference_mode():
            outputs = {name: output.float().cpu() for name, output in model(windows.to(where)).items()}
        if all(output.ndim == 2 for output in outputs.values()):
            found.append(readings.states(outputs))
            continue
        length = windows.shape[1]
        flat = {name: _by_sample(output, length) for name, output in outputs.items()}
        found.append(readings.states(flat).reshape(len(windows), length, -1))
    return np.concatenate(found)


def _by_sample(output: Tensor, length: int) -> Tensor:
    """Outputs [N, width, W], or [N, width] of whole windows, as [N * W, width]."""
    if output.ndim == 2:
        return output.repeat_interleave(length, dim=0)
    return output.movedim(1, 2).reshape(-1, output.shape[1])


def _plain(normalized: Normalization) -> dict[str, str]:
    """For a table's metadata: by whose statistics every person was normalised."""
    return {one.person: "training" if one.from_training else "own files" for one in normalized.statistics}


def _files(
    source: Path | Sequence[Path | SourceFile], preparation: Preparation, without: Path | None
) -> list[SourceFile]:
    """All files, each once; those of folders by their path below it, after the folder's where it is one of
    several sources."""
    sources = [source] if isinstance(source, Path) else list(source)
    suffixes = preparation.files.suffixes
    tables = {path.absolute() for path in ([] if without is None else [without])}
    found: dict[Path, SourceFile] = {}
    for one in sources:
        if isinstance(one, SourceFile) or one.is_file():
            name = one.name if len(sources) == 1 or isinstance(one, SourceFile) else one.as_posix()
            file = one if isinstance(one, SourceFile) else SourceFile(one, name)
            if Path(name).suffix.lower() not in suffixes:
                where = name if isinstance(one, SourceFile) else one
                raise DataError(
                    f"{where}: a recording ({', '.join(suffixes)}) expected, as this bundle was trained on."
                )
            found.setdefault(file.path.absolute(), file)
            continue
        if not one.is_dir():
            raise DataError(
                f"{one}: a recording ({', '.join(suffixes)}) or a folder of them expected, found nothing."
            )
        inside = [path for path in _below(one, suffixes) if path.absolute() not in tables]
        inside = [path for path in inside if path.relative_to(one).as_posix() not in preparation.tables]
        if not inside:
            raise DataError(f"{one}: no recording ({', '.join(suffixes)}) there.")
        for path in inside:
            name = path.relative_to(one).as_posix() if len(sources) == 1 else path.as_posix()
            found.setdefault(path.absolute(), SourceFile(path, name))
    return list(found.values())


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
