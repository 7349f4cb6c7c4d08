"""Faces from a source to a table and an overlay, in bounded memory whatever the length.

One thread decodes, one detects and follows, this one runs the network over the faces of several frames at
once, smooths, draws and writes. Between them wait at most `_AHEAD` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_crop import CropSettings, Face
from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict.background import Busy, in_background
from taskloom.predict.drawing import draw_face
from taskloom.predict.faces import (
    VIDEO_EVERY,
    FaceFinder,
    FaceNetwork,
    PredictSettings,
    check_image_bundle,
    crop_settings,
    make_finder,
)
from taskloom.predict.following import Seen, Tracker, followed, found_alone
from taskloom.predict.frames import USUAL_RATE_HZ, Source
from taskloom.predict.outputs import (
    HeldRows,
    Overlay,
    OverlayFolder,
    OverlayStill,
    OverlayVideo,
    RowSink,
    row_sink,
)
from taskloom.predict.readings import Column, Readings, digits
from taskloom.predict.smoothing import Smoother

_AHEAD = 4
_MOST_BYTES = 64 << 20
"""Of the pictures whose faces go through the network together."""
_PATIENCE_SECONDS = 1.0

FRAME_COLUMNS = (
    Column("frame", "int"),
    Column("time", "float"),
    Column("file", "text"),
    Column("face", "int"),
    Column("x", "float"),
    Column("y", "float"),
    Column("width", "float"),
    Column("height", "float"),
    Column("score", "float"),
    Column("detected", "bool"),
)
PROBLEM = Column("problem", "text")

Report = Callable[[int, int | None], None]
"""Told how many frames are done, and how many there are where that is known."""


@dataclass
class Summary:
    """What was done.

    Args:
        frames, with_faces, faces, identities: Counts; `faces` counts a face once in every frame.
        device: On which the network ran.
        how: How faces were found, in words.
        notes: What a user should know.
        seconds: Per step, how long it was at work; steps run beside each other.
        stopped: Whether Ctrl-C ended a camera.
    """

    device: str
    how: str
    frames: int = 0
    with_faces: int = 0
    faces: int = 0
    identities: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: bool = False


@dataclass
class _CutFace:
    """A face on its way: where it is, its pixels, and after the network its state."""

    number: int
    box: tuple[float, float, float, float]
    score: float
    cut: Face | None
    problem: str | None
    state: NDArray[np.float64] | None = None


def predict_faces(
    bundle: Bundle,
    source: Source,
    *,
    table: Path | HeldRows | None = None,
    overlay: Path | None = None,
    settings: PredictSettings | None = None,
    finder: FaceFinder | None = None,
    report: Report | None = None,
) -> Summary:
    """Predicts every face of a source; see docs/predict.md for the columns.

    Args:
        bundle: A bundle of images.
        source: What `open_source` gave.
        table: A .csv, .parquet or .jsonl file, or what holds rows in memory: a row per frame and face, and
            one per frame without faces.
        overlay: A video, an image or (for a folder of images) a folder.
        settings: How faces are found and followed.
        finder: Finds faces in place of the detector that the settings name.
        report: Told after every batch.

    Returns:
        Counts, times and notes.

    Raises:
        DataError: Not a bundle of images, or a place that cannot be written; nothing is left there.
        ConfigError: A setting that does not fit.

    Example:
        >>> import cv2, tempfile
        >>> from taskloom.predict import open_source
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = cv2.imwrite(str(folder / "face.png"), np.full((9, 9, 3), 90, np.uint8))
        >>> tasks = tl.TaskSet(tl.Binary("smile", ("no", "yes")))
        >>> model = tl.sharing.build("single_task", tl.encoders.build("vgg5", (3, 32, 32)), tasks)
        >>> seen = {"mean": [0, 0, 0], "deviation": [1, 1, 1]}
        >>> how = {"reader": "images", "size": 32, "standardization": seen}
        >>> bundle = Bundle(model.eval(), tasks, how, {}, {"input_shape": [3, 32, 32]}, {})
        >>> every_image = PredictSettings(detector="none", device="cpu")
        >>> place = folder / "faces.csv"
        >>> source = open_source(str(folder / "face.png"))
        >>> predict_faces(bundle, source, table=place, settings=every_image).faces
        1
        >>> place.read_text().split()[0]
        'frame,time,file,face,x,y,width,height,score,detected,smile,smile_confidence,problem'
    """
    settings = settings or PredictSettings()
    check_image_bundle(bundle)
    crop, notes = crop_settings(bundle.preprocessing, settings, bundle.about.get("framing"))
    network = FaceNetwork(bundle, crop, settings.device)
    finder = finder or make_finder(crop, settings, moves=source.moves)
    every = (settings.detect_every or VIDEO_EVERY) if source.moves else 1
    summary = Summary(str(network.device), how_found(crop, finder, every, moves=source.moves), notes=notes)
    readings = Readings(bundle.tasks, [column.name for column in (*FRAME_COLUMNS, PROBLEM)])
    sinks: list[RowSink | Overlay] = []
    run = _Run(source, network, finder, every, settings, readings, summary)
    try:
        if table is not None:
            about = {"bundle": bundle.versions, "device": summary.device, "source": source.name}
            run.table = row_sink(table, (*FRAME_COLUMNS, *readings.columns, PROBLEM), about)
            sinks.append(run.table)
        if overlay is not None:
            run.overlay = _overlay(overlay, source)
            sinks.append(run.overlay)
        run.go(report)
        for sink in sinks:
            sink.finish()
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return summary


class _Run:
    """The chain over one source."""

    def __init__(
        self,
        source: Source,
        network: FaceNetwork,
        finder: FaceFinder,
        every: int,
        settings: PredictSettings,
        readings: Readings,
        summary: Summary,
    ) -> None:
        self.source, self.network, self.finder, self.every = source, network, finder, every
        self.settings, self.readings, self.summary = settings, readings, summary
        self.busy = Busy()
        patience = max(2 * every, round(_PATIENCE_SECONDS * (source.rate_hz or 1)))
        self.tracker = Tracker(patience)
        self.smoother = Smoother(settings.half_life if source.moves else 0.0)
        self.table: RowSink | None = None
        self.overlay: Overlay | None = None
        self._shown: NDArray[np.uint8] | None = None

    def go(self, report: Report | None) -> None:
        """Runs the source to its end; Ctrl-C ends a camera like any other end."""
        summary = self.summary
        try:
            with closing(self._seen()) as frames:
                for batch in _batches(frames, self.settings.batch, live=self.source.kind == "camera"):
                    self._take(batch)
                    if report is not None:
                        report(summary.frames, self.source.expected)
        except KeyboardInterrupt:
            if self.source.kind != "camera":
                raise
            summary.stopped = True
        summary.identities = self.tracker.count if self.source.moves else summary.faces
        summary.notes += self.source.notes
        summary.seconds = dict(self.busy.seconds)
        if self.source.kind in ("image", "folder") and summary.frames and not summary.faces:
            summary.notes.append("no face was found; --detector none takes whole images as faces")

    def _seen(self) -> Any:
        """Frames with their faces, from two threads."""
        decoded = in_background(self.busy.timed("decode", self.source.frames()), _AHEAD)

        def find(picture: NDArray[np.uint8]) -> Any:
            with self.busy.doing("detect"):
                return self.finder.find(picture)

        if self.source.moves:
            return in_background(followed(decoded, find, self.tracker, self.every), _AHEAD)
        return in_background(found_alone(decoded, find), _AHEAD)

    def _take(self, batch: Sequence[Seen]) -> None:
        """Predicts, smooths, draws and writes some frames."""
        with self.busy.doing("cut"):
            faces = [self._cut(seen) for seen in batch]
        self._forward([face for frame in faces for face in frame])
        for seen, found in zip(batch, faces, strict=True):
            for face in found:
                if face.state is not None:
                    face.state = self.smoother.add(face.number, seen.frame.time or 0.0, face.state)
            self.summary.frames += 1
            self.summary.with_faces += bool(found)
            self.summary.faces += len(found)
            with self.busy.doing("write"):
                self._write(seen, found)
            if self.overlay is not None and seen.frame.picture is not None:
                with self.busy.doing("draw"):
                    picture = self._drawn(seen.frame.picture, found)
                with self.busy.doing("encode"):
                    self.overlay.write(seen.frame.file, picture)
                self._shown = picture if self.source.moves else None
            elif self.overlay is not None and self._shown is not None:  # a damaged frame takes its time, too
                self.overlay.write(seen.frame.file, self._shown)

    def _cut(self, seen: Seen) -> list[_CutFace]:
        found = []
        for number, face in seen.faces.items():
            cut, problem = None, None
            try:
                assert seen.frame.picture is not None  # faces were found in it
                cut = self.network.cut(seen.frame.picture, face)
            except DataError as error:  # a box whose cut has no pixel of the picture
                problem = str(error)
            found.append(_CutFace(number, face.box, face.score, cut, problem))
        return found

    def _forward(self, faces: Sequence[_CutFace]) -> None:
        ready = [face for face in faces if face.cut is not None]
        for start in range(0, len(ready), self.settings.batch):
            some = ready[start : start + self.settings.batch]
            with self.busy.doing("forward"):
                outputs = self.network.outputs([face.cut.image for face in some if face.cut is not None])
                for face, state in zip(some, self.readings.states(outputs), strict=True):
                    face.state = state

    def _write(self, seen: Seen, faces: Sequence[_CutFace]) -> None:
        if self.table is None:
            return
        frame = seen.frame
        head = [frame.number, None if frame.time is None else round(frame.time, 4), frame.file]
        nothing = [None] * len(self.readings.columns)
        if not faces:
            empty = [None] * (len(FRAME_COLUMNS) - len(head) - 1)
            searched = seen.detected and frame.problem is None
            self.table.write([*head, *empty, searched, *nothing, frame.problem])
        for face in faces:
            place = [face.number, *(round(value, 2) for value in face.box), digits(face.score), seen.detected]
            cells = nothing
            if face.state is not None and face.cut is not None:
                cells = self.readings.cells(self.readings.in_picture(face.state, face.cut.transform))
            self.table.write([*head, *place, *cells, face.problem], face.state)

    def _drawn(self, picture: NDArray[np.uint8], faces: Sequence[_CutFace]) -> NDArray[np.uint8]:
        drawn = picture.copy()
        for face in faces:
            lines, points = [f"face {face.number}"], np.zeros((0, 2))
            if face.state is not None and face.cut is not None:
                state = self.readings.in_picture(face.state, face.cut.transform)
                lines += self.readings.words(state)
                points = self.readings.points(state)
            draw_face(drawn, face.number, face.box, lines, points)
        return drawn


def _batches(frames: Iterator[Seen], faces: int, *, live: bool) -> Iterator[list[Seen]]:
    """Frames until they hold `faces` faces or too many bytes; one by one where someone is watching."""
    held: list[Seen] = []
    count = size = 0
    for seen in frames:
        held.append(seen)
        count += len(seen.faces)
        size += 0 if seen.frame.picture is None else seen.frame.picture.nbytes
        if live or count >= faces or size >= _MOST_BYTES or len(held) >= faces:
            yield held
            held, count, size = [], 0, 0
    if held:
        yield held


def _overlay(place: Path, source: Source) -> Overlay:
    if source.kind == "folder":
        return OverlayFolder(place)
    if source.kind == "image":
        return OverlayStill(place)
    return OverlayVideo(place, source.rate_hz or USUAL_RATE_HZ)


def how_found(crop: CropSettings, finder: FaceFinder, every: int = 1, *, moves: bool = False) -> str:
    """How faces are found, in words; in a video (`moves`) in every `every`-th frame."""
    if crop.detector == "none":
        return "every picture taken as one face (detector none)"
    rhythm = f" in every {_ordinal(every)} frame" if moves and every > 1 else ""
    cut = "aligned by five points" if crop.align else f"margin {crop.margin:g}"
    if crop.framing is not None:
        cut = "framed as the training's images"
    return f"detector {crop.detector}{rhythm}, in pictures of at most {finder.side} pixels; {cut}"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def check_apart(source: str, *places: Path | None) -> None:
    """Refuses an output that is the source itself, or two outputs of one name.

    Raises:
        ConfigError: Two of them are one.
    """
    given = [place.absolute() for place in places if place is not None]
    if Path(source).absolute() in given:
        raise ConfigError(f"{source}: an output would replace the source; give it another name.")
    if len(set(given)) < len(given):
        raise ConfigError(f"{given[0]}: table and overlay would have one name; give one of them another.")
