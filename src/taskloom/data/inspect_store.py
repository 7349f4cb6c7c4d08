"""What stands in a prepared store, of faces or of recordings: `taskloom inspect STORE`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Grid
from rich.text import Text

from taskloom.data import image_store, recording_writer
from taskloom.data.face_store import ROWS_FILE, read_rows
from taskloom.data.face_table import FaceTable
from taskloom.data.image_store import ImageStore
from taskloom.data.inspect_text import as_text, plain_table
from taskloom.data.recordings import RecordingStore
from taskloom.data.sources import checksums
from taskloom.errors import DataError
from taskloom.wording import counted

_MOST_CLASSES = 20
_MOST_NUMBERS = 10
_MOST_REASONS = 5
_MOST_NOTES = 5
_LONGEST = 90
_NOT_VERIFIED = "not verified: --verify reads everything again"


@dataclass(frozen=True)
class ColumnFacts:
    """The labels of one column, track or label of whole recordings.

    Args:
        name: Its name.
        of: What it labels: "images", "recordings" or "samples".
        present, missing: How many have a label, and how many have none.
        counts: Labels per class; empty where there are more than 20 values (of numbers, 10).
        distinct: How many values there are.
        low, high, mean: Of a column of numbers; None otherwise.
    """

    name: str
    of: str
    present: int
    missing: int
    counts: dict[str, int]
    distinct: int
    low: float | None = None
    high: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class StoreFacts:
    """What `inspect_store` found.

    Args:
        kind: "faces", "images" (the store of a study, whose labels stand elsewhere) or "recordings".
        facts: What the store is and how it was made, as (name, text).
        columns: Its labels.
        left_out: Reasons why rows have no image, with their numbers, the most frequent first.
    """

    kind: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[ColumnFacts, ...]
    left_out: tuple[tuple[str, int], ...] = ()


def inspect_store(folder: Path, *, verify: bool = False, data: Path | None = None) -> StoreFacts:
    """Says what is in a store of faces, images or recordings.

    Args:
        folder: The store.
        verify: Whether checksums are compared, of the store and of its source files: everything is read.
        data: Folder of the source files of recordings, which a store does not know; faces know theirs, and
            this one is taken in its place.

    Raises:
        DataError: No store is there; it is of another version or cut off; or `verify` finds that an array of
            recordings is not what was written.

    Example:
        >>> import tempfile
        >>> from taskloom.data.recordings import RecordingWriter
        >>> folder = Path(tempfile.mkdtemp()) / "store"
        >>> with RecordingWriter(folder, channels=["audio"], rate_hz=2.0, tracks={}) as writer:
        ...     writer.add("word", np.zeros((10, 1), np.float32), labels={"digit": "3"})
        ...     _ = writer.close(sources={}, reader="wav", parameters={})
        >>> found = inspect_store(folder)
        >>> found.kind, found.facts[0], found.columns[0].counts
        ('recordings', ('recordings', '1 recording of 5 s, 1 channel at 2 Hz, 10 samples'), {'3': 1})
    """
    if _format(folder) == recording_writer.FORMAT:
        return _recordings(RecordingStore.open(folder), verify, data)
    store = ImageStore.open(folder)
    if (folder / ROWS_FILE).is_file():
        return _faces(store, read_rows(folder), verify, data)
    facts = (*_image_facts(store), ("labels", f"in the study's own files: there is no {ROWS_FILE}"))
    checksum = "one checksum over all images; which files they are stands in the study's table"
    return StoreFacts("images", (*facts, ("sources", checksum)), (), _left_out(store))


def _format(folder: Path) -> str:
    path = folder / "store.json"
    expected = "a store (a folder with store.json, as `taskloom prepare` makes it) or a study file"
    if not folder.is_dir():
        raise DataError(f"{folder}: {expected} expected, found {'a file' if folder.exists() else 'nothing'}.")
    if not path.is_file():
        raise DataError(f"{folder}: {expected} expected, found a folder without store.json.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); prepare the data again.") from error
    found = about.get("format") if isinstance(about, dict) else None
    if found not in (recording_writer.FORMAT, image_store.FORMAT):
        raise DataError(f"{path}: {expected} expected, found the format {found!r}.")
    return str(found)


# -- faces


def _faces(store: ImageStore, table: FaceTable, verify: bool, data: Path | None) -> StoreFacts:
    shown = table.taken(store.rows)
    hidden = {table.file_column, *(table.box_columns or ()), *table.landmark_columns}
    columns = [
        _column(name, "images", shown.text(name).tolist(), (table.class_names or {}).get(name))
        for name in table.columns
        if name not in hidden
    ]
    facts = [
        *_image_facts(store),
        ("rows", f"{len(table):,}, of which {len(table) - len(np.unique(store.rows)):,} have no image"),
        ("reader", f"{table.reader}, from {table.images}"),
        *_landmark_facts(store, shown),
        *([("groups", _groups(shown))] if table.group else []),
        *_notes(table.notes),
        ("sources", _verify_faces(store, table, data) if verify else _NOT_VERIFIED),
    ]
    return StoreFacts("faces", tuple(facts), tuple(columns), _left_out(store))


def _image_facts(store: ImageStore) -> list[tuple[str, str]]:
    crop = store.about["crop"]
    smallest, largest = store.picture_sizes.min(axis=0), store.picture_sizes.max(axis=0)
    found = f"{smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels"
    size = store.images.nbytes / 2**20
    how = "none: the row's box, or the whole picture"
    if "detector" in crop:
        chosen = "all" if crop["choose"] == "all" else f"the {crop['choose']}"
        how = f"{crop['detector']}, of several faces {chosen}"
        if "detector_model" in crop:
            how += f", its file's SHA-256 {crop['detector_model'][:12]}"
    align = "by five points" if crop.get("align") else "none"
    around = f"margin {crop.get('margin', 0):g} of the box"
    if "framing" in crop:
        around = f"as a network's training images, {crop['framing']['side']:g} of Haar's square wide"
    images = counted(len(store.images), "image")
    return [
        ("images", f"{images} of {store.size} x {store.size}, RGB, {size:,.1f} MiB"),
        ("cut from", f"pictures of {found}"),
        ("detector", how),
        ("alignment", f"{align}; {around}"),
        ("made by", f"taskloom {store.about.get('taskloom', '?')}"),
    ]


def _landmark_facts(store: ImageStore, shown: FaceTable) -> list[tuple[str, str]]:
    points = shown.landmarks()
    if points is None:
        return []
    known = np.asarray(~np.isnan(points).any(axis=2))
    inside = store.inside_picture(points, np.arange(len(store.images)))
    outside = int((known & ~inside).sum())
    beside = f"; {counted(outside, 'point')} outside the picture, missing therefore" if outside else ""
    names = ", ".join(shown.points[:5]) + (", ..." if len(shown.points) > 5 else "")
    text = f"{len(shown.points)} ({names}); all there in {counted(int(known.all(axis=1).sum()), 'image')}"
    return [("landmarks", text + beside)]


def _groups(shown: FaceTable) -> str:
    assert shown.group is not None
    sizes = Counter(name for name in shown.text(shown.group).tolist() if name)
    most = max(sizes.values(), default=0)
    return f"{counted(len(sizes), 'value')} of `{shown.group}`, the largest with {counted(most, 'image')}"


def _left_out(store: ImageStore) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(str(entry["reason"]) for entry in store.unreadable).most_common())


def _verify_faces(store: ImageStore, table: FaceTable, data: Path | None) -> str:
    """Compares the one checksum over all pictures, which the store was made with."""
    folder = data or table.images
    if not folder.is_dir():
        return f"not verified: {folder} is not there; name the folder of the pictures with --data"
    content = hashlib.sha256()
    absent = 0
    for file in table.files:
        path = folder / file
        checksum = checksums([path], folder)[Path(file).as_posix()] if path.is_file() else None
        absent += checksum is None
        content.update(json.dumps([file, checksum]).encode())
    if content.hexdigest() == store.about["content"]:
        return f"verified: {counted(len(table), 'picture')} as they were when the store was made"
    gone = f" ({counted(absent, 'picture')} of {len(table):,} not there)" if absent else ""
    return f"changed: the pictures in {folder} are not those the store was made of{gone}; prepare it again"


# -- recordings


def _recordings(store: RecordingStore, verify: bool, data: Path | None) -> StoreFacts:
    seconds = np.array([recording.length for recording in store.recordings]) / store.rate_hz
    lengths = f"{seconds.min():g} s" if seconds.min() == seconds.max() else _range(seconds)
    gaps = sum(len(recording.gaps) for recording in store.recordings)
    whom = {
        name: len(
            {value for recording in store.recordings if (value := getattr(recording, name)) is not None}
        )
        for name in ("person", "session", "trial")
    }
    people = ", ".join(counted(number, name, _MANY.get(name, "")) for name, number in whom.items() if number)
    parameters = {name: value for name, value in store.parameters.items() if name != "notes"}
    facts = [
        (
            "recordings",
            f"{counted(len(store), 'recording')} of {lengths}, {counted(len(store.channels), 'channel')} at "
            f"{store.rate_hz:g} Hz, {counted(store.num_samples, 'sample')}",
        ),
        ("size", f"{store.num_bytes / 2**20:,.1f} MiB"),
        ("channels", ", ".join(store.channels[:8]) + (", ..." if len(store.channels) > 8 else "")),
        *([("of", people)] if people else []),
        ("gaps", f"{counted(gaps, 'stretch', 'stretches')} that no window touches"),
        ("reader", store.reader),
        *(("setting", f"{name}: {_shortened(_plain(value))}") for name, value in parameters.items()),
        *_notes(store.parameters.get("notes", [])),
        ("sources", _verify_recordings(store, data) if verify else _sources(store)),
    ]
    labels = [
        _column(name, "recordings", [_plain(recording.labels.get(name)) for recording in store.recordings])
        for name in store.label_names
    ]
    return StoreFacts("recordings", tuple(facts), (*_tracks(store), *labels))


_MANY = {"person": "people"}


def _range(seconds: Any) -> str:
    return f"{seconds.min():g} to {seconds.max():g} s (median {np.median(seconds):g})"


def _plain(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _notes(notes: Sequence[Any]) -> list[tuple[str, str]]:
    rest = len(notes) - _MOST_NOTES
    more = [("note", f"and {counted(rest, 'note')} more")] if rest > 0 else []
    return [*(("note", str(note)) for note in notes[:_MOST_NOTES]), *more]


def _sources(store: RecordingStore) -> str:
    return f"{counted(len(store.sources), 'file')}, {_NOT_VERIFIED}"


def _verify_recordings(store: RecordingStore, data: Path | None) -> str:
    store.verify()
    files = counted(len(store.sources), "file")
    if data is None:
        return f"{files}, not verified: name their folder with --data; the store itself is as it was written"
    changed = []
    for name, checksum in store.sources.items():
        path = data / name
        if not path.is_file():
            changed.append(f"{name} is not there")
        elif checksums([path], data)[Path(name).as_posix()] != checksum:
            changed.append(f"{name} has changed")
    if not changed:
        return f"verified: {files} and the store as they were when it was made"
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"changed: of {files} {changed[0]}{more}; the store itself is whole"


def _tracks(store: RecordingStore) -> Iterator[ColumnFacts]:
    for position, (name, table) in enumerate(store.track_tables.items()):
        codes, numbers = np.unique(store.tracks[:, position], return_counts=True)
        found = dict(zip(codes.tolist(), numbers.tolist(), strict=True))
        counts = {table[code]: found.get(code, 0) for code in sorted(table)}
        missing = found.get(recording_writer.NULL_CODE, 0)
        yield ColumnFacts(name, "samples", store.num_samples - missing, missing, counts, len(found))


# -- columns


def _column(name: str, of: str, cells: Sequence[str], classes: Sequence[str] | None = None) -> ColumnFacts:
    """Counts the cells of a column; "" is missing. Numbers get a range, and few values are classes."""
    given = [cell for cell in cells if cell]
    missing = len(cells) - len(given)
    found = Counter(given)
    numbers = None if classes else _numbers(given)
    order = classes or sorted(found, key=str if numbers is None else float)
    most = _MOST_CLASSES if numbers is None else _MOST_NUMBERS
    counts = {entry: found.get(entry, 0) for entry in order} if len(order) <= most else {}
    spread = () if numbers is None else (float(numbers.min()), float(numbers.max()), float(numbers.mean()))
    return ColumnFacts(name, of, len(given), missing, counts, len(found), *spread)


def _numbers(cells: Sequence[str]) -> Any:
    try:
        found = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return found if len(found) and np.isfinite(found).all() else None


# -- as text


def render_store(folder: Path, found: StoreFacts, *, width: int = 110) -> str:
    """Returns what stands in a store as text for a terminal of `width` characters."""
    return as_text(_sections(folder, found), width=width)


def _sections(folder: Path, found: StoreFacts) -> Iterator[Grid | Text]:
    yield Text(f"{folder}: a store of {found.kind}\n")
    facts = Grid(title="", box=None, pad_edge=False, show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in found.facts:
        facts.add_row(Text(name), Text(text))
    facts.title = "What it is"
    yield facts
    if found.columns:
        yield _label_table(found.columns)
    if any(column.counts for column in found.columns):
        yield _class_table(found.columns)
    if found.left_out:
        yield _left_out_table(found.left_out)


def _label_table(columns: Sequence[ColumnFacts]) -> Grid:
    table = plain_table("Labels", "column", "of", "present", "missing", "values", "range", "mean")
    for column in columns:
        numbers = ("", "")
        if column.low is not None and column.high is not None and column.mean is not None:
            numbers = (f"{column.low:g} to {column.high:g}", f"{column.mean:.4g}")
        share = column.missing / max(1, column.present + column.missing)
        missing = f"{column.missing:,} ({100 * share:.1f} %)"
        cells = (column.name, column.of, f"{column.present:,}", missing, f"{column.distinct:,}", *numbers)
        table.add_row(*map(Text, cells))
    return table


def _class_table(columns: Sequence[ColumnFacts]) -> Grid:
    table = plain_table("Classes", "column", "class", "labels")
    for column in columns:
        for position, (name, count) in enumerate(column.counts.items()):
            table.add_row(*map(Text, (column.name if position == 0 else "", name, f"{count:,}")))
    return table


def _left_out_table(left_out: Sequence[tuple[str, int]]) -> Grid:
    table = plain_table("Rows without an image (listed in left_out.csv)", "reason", "rows")
    for reason, count in left_out[:_MOST_REASONS]:
        table.add_row(Text(reason), Text(f"{count:,}"))
    rest: Mapping[str, int] = dict(left_out[_MOST_REASONS:])
    if rest:
        table.add_row(Text(counted(len(rest), "other reason")), Text(f"{sum(rest.values()):,}"))
    return table
