"""What was uploaded, through the functions behind `taskloom predict`: one class per kind of bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet

from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError, TaskloomError, did_you_mean
from taskloom.predict import Persons, PredictSettings, predict_faces, predict_recordings, predict_table
from taskloom.predict.faces import check_image_bundle, crop_settings, device_of, make_finder
from taskloom.predict.frames import IMAGE_SUFFIXES, Images, Source, Still
from taskloom.predict.outputs import HeldRows
from taskloom.predict.people import PersonStatistics, SourceFile
from taskloom.predict.pipeline import FRAME_COLUMNS, PROBLEM, how_found
from taskloom.predict.readings import Readings
from taskloom.predict.recordings import RECORDING_READERS, RecordingRows
from taskloom.predict.rows import ARRAY_SUFFIXES, categories_of_bundle, trained_on_array
from taskloom.predict.windowing import Preparation
from taskloom.serve.unpacked import check_picture, check_unpacked
from taskloom.serve.uploads import Received, Upload, rows_as_text
from taskloom.wording import counted

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


class Predictor(Protocol):
    """A bundle of one kind of inputs.

    Attributes:
        kind: "images", "table" or "recordings".
        readings: How its tasks are read, with the columns of its table.
        notes: What a user should know before anything is predicted.
    """

    kind: str
    readings: Readings
    notes: list[str]

    def inputs(self) -> dict[str, Any]:
        """What it takes, as plain values."""

    def predict(self, received: Received, table: Path | HeldRows) -> list[str]:
        """Predicts what was received into a table; returns what should be known of it.

        Raises:
            DataError, ConfigError: It is not what the bundle takes.
        """


def make_predictor(bundle: Bundle, settings: PredictSettings) -> Predictor:
    """What predicts for a bundle.

    Raises:
        DataError: A bundle whose inputs `taskloom predict` cannot prepare.
        ConfigError: A setting that does not fit.
    """
    reader = bundle.preprocessing.get("reader")
    if reader in RECORDING_READERS:
        return RecordingPredictor(bundle, settings)
    if reader == "table":
        return TablePredictor(bundle, settings)
    return ImagePredictor(bundle, settings)


class ImagePredictor:
    """Faces of pictures; the detector is made once."""

    kind = "images"

    def __init__(self, bundle: Bundle, settings: PredictSettings) -> None:
        check_image_bundle(bundle)
        device_of(settings.device)
        self.bundle, self.settings = bundle, settings
        framing = bundle.about.get("framing")
        self.crop, self.notes = crop_settings(bundle.preprocessing, settings, framing)
        self.finder = make_finder(self.crop, settings, moves=False)
        self.readings = Readings(bundle.tasks, [column.name for column in (*FRAME_COLUMNS, PROBLEM)])

    def inputs(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "suffixes": list(IMAGE_SUFFIXES),
            "faces": how_found(self.crop, self.finder),
        }

    def predict(self, received: Received, table: Path | HeldRows) -> list[str]:
        files = _files(received, "pictures", ())
        for file in files:
            if file.path.suffix in _VIDEO_SUFFIXES:
                raise DataError(
                    f"{file.name}: a picture expected, found a video; `taskloom predict` takes those."
                )
            check_picture(file.path, file.name)
        source = _pictures(files)
        summary = predict_faces(self.bundle, source, table=table, settings=self.settings, finder=self.finder)
        return [note for note in summary.notes if note not in self.notes]


def _pictures(files: tuple[Upload, ...]) -> Source:
    if len(files) == 1:
        return Still(files[0].name, files[0].path, files[0].name)
    return Images("the pictures", {file.name: file.path for file in files})


class TablePredictor:
    """Rows of a table, of an array, or written out."""

    kind = "table"

    def __init__(self, bundle: Bundle, settings: PredictSettings) -> None:
        device_of(settings.device)
        self.bundle, self.device = bundle, settings.device
        self.notes: list[str] = []
        self.readings = Readings(bundle.tasks, ["row"])
        self.from_array = trained_on_array(bundle)

    def inputs(self) -> dict[str, Any]:
        known = self.bundle.preprocessing
        fitted = known["standardization"]
        categories = categories_of_bundle(self.bundle)
        numbers = [str(name) for name in known["features"]]
        numbers = numbers[: len(numbers) - len(categories.columns)]
        return {
            "kind": self.kind,
            "suffixes": list(ARRAY_SUFFIXES if self.from_array else TABLE_SUFFIXES),
            "features": [*numbers, *categories.values],
            "categories": {
                name: [value for value in values if value is not None]
                for name, values in categories.values.items()
            },
            "means": None
            if fitted is None or not any(fitted["center"])
            else fitted["center"][: len(numbers)],
            "may_be_missing": fitted is not None and fitted["fill"] is not None,
            "packed_bits": known["packed_bits"],
        }

    def predict(self, received: Received, table: Path | HeldRows) -> list[str]:
        notes: list[str] = []
        source = self._source(received)
        predict_table(self.bundle, source, table, device=self.device, tell=notes.append)
        return notes

    def _source(self, received: Received) -> Path:
        files = _files(received, "a table", ())
        if len(files) > 1:
            raise DataError(f"one table expected, found {counted(len(files), 'file')}.")
        (file,) = files
        check_unpacked(file.path, file.name)
        return file.path


class RecordingPredictor:
    """Windows of recordings."""

    kind = "recordings"

    def __init__(self, bundle: Bundle, settings: PredictSettings) -> None:
        device_of(settings.device)
        self.bundle, self.device = bundle, settings.device
        self.preparation = Preparation.of(bundle)
        self.notes: list[str] = []
        self.rows = RecordingRows.of(bundle, self.preparation)
        self.readings = self.rows.readings

    def inputs(self) -> dict[str, Any]:
        known, rate = self.bundle.preprocessing, self.preparation.rate_hz
        signals = known.get("signals") or {}
        samples = int(self.preparation.window["samples"])
        return {
            "kind": self.kind,
            "suffixes": list(self.preparation.files.suffixes),
            "reader": known["reader"],
            # those of a spectrogram are bands, which no file has
            "channels": []
            if signals.get("spectrogram")
            else [str(name) for name in known.get("channels", ())],
            "window_seconds": samples / rate,
            "stride_seconds": int(self.preparation.window["stride"]) / rate,
            "per_person": self.preparation.per_person,
            "per_sample": self.rows.samples,
        }

    def predict(self, received: Received, table: Path | HeldRows) -> list[str]:
        files = _files(received, "recordings", ("person", "new_people", "people"))
        for file in (*files, *received.beside.values()):
            check_unpacked(file.path, file.name)
        people, person = received.beside.get("people"), received.fields.get("person", "").strip()
        if people is not None and person:
            raise DataError("form: `person` or `people` expected, found both.")
        are_new = _is_true(received.fields.get("new_people", "false"))
        persons = Persons(person or None, None if people is None else people.path, are_new)
        sources = [SourceFile(file.path, file.name) for file in files]
        try:
            found = predict_recordings(self.bundle, sources, table, device=self.device, persons=persons)
        except TaskloomError as error:
            raise DataError(_with_fields(str(error))) from error
        return [_whose(one) for one in found.people]


def _whose(one: PersonStatistics) -> str:
    """By whose mean and deviation a person's files were normalised."""
    if one.from_training:
        return f"{one.person}: normalised as in the training"
    return (
        f"{one.person}: normalised by the mean and deviation of the own recordings here "
        f"({counted(one.files, 'file')})"
    )


def _with_fields(text: str) -> str:
    """A message with the form's fields in place of the command's options."""
    for option, field in (
        ("--person NAME", "the field `person`"),
        ("--people TABLE", "the field `people`, a table"),
        ("--person", "`person`"),
        ("--people", "`people`"),
        ("--new-people", "`new_people`"),
    ):
        text = text.replace(option, field)
    return text


def _is_true(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise DataError(f"form field `new_people`: true or false expected, found `{text}`.")
    return text.lower() == "true"


def _files(received: Received, what: str, fields: Sequence[str]) -> tuple[Upload, ...]:
    """The files to predict; `fields` are the form's others."""
    for name in (*received.fields, *received.beside):
        if name not in fields:
            known = ("files", *fields)
            raise DataError(
                f"form: no field `{name}` here.{did_you_mean(name, known)} Fields: {', '.join(known)}."
            )
    for name in fields:
        if name in (received.fields if name == "people" else received.beside):
            raise DataError(f"form field `{name}`: {'a file' if name == 'people' else 'text'} expected.")
    if not received.files:
        raise DataError(f"{what} expected in the form's field `files`, found none.")
    return received.files


def with_rows_as_file(received: Received, folder: Path, kind: str) -> Received:
    """What was received, with rows that were written out as the file that `predict_table` reads.

    Raises:
        ConfigError: Rows for a bundle that takes none.
    """
    if received.rows is None:
        return received
    if kind != "table":
        raise ConfigError(f"rows go with bundles of tables; this one takes {kind}, as files of a form.")
    path = folder / "rows.parquet"
    cells = rows_as_text(received.rows)
    try:
        columns = {name: pa.array(column, pa.string()) for name, column in cells.items()}
        pyarrow.parquet.write_table(pa.table(columns), path)
    except UnicodeEncodeError as error:
        raise DataError(f"rows: text expected, found half a character ({error.object!a}).") from error
    return Received(files=(Upload(path, "rows"),))
