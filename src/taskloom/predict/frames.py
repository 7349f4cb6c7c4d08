"""Where pictures come from: an image, a folder of images, a video, a camera; one at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.image_decode import decode, read_file
from taskloom.errors import ConfigError, DataError
from taskloom.wording import counted

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")
DRAWN = ".predicted"
"""How the name of a folder ends in which predictions draw; it is not read as a source's."""
USUAL_RATE_HZ = 25.0
"""Of the overlay, where a video or camera does not say how many pictures a second it has."""
_MOST_RATE_HZ = 1000.0
_MOST_LOST = 1000
"""Frames in a row that cannot be read, after which a video has ended."""
DAMAGED = "the frame is damaged and could not be read"

Kind = Literal["image", "folder", "video", "camera"]


@dataclass(frozen=True)
class Frame:
    """A picture of a source.

    Args:
        number: Its position, from 0.
        time: Seconds since the first frame; None for images.
        file: Name of the file it comes from.
        picture: BGR pixels [H, W, 3], upright; None where the file could not be read.
        problem: Why there is no picture.
    """

    number: int
    time: float | None
    file: str
    picture: NDArray[np.uint8] | None
    problem: str | None = None


@dataclass
class Source:
    """Pictures one after the other; `open_source` makes it.

    Args:
        name: What was asked for.
        kind: What it is.
        expected: How many frames it says to have; None where it does not say.
        rate_hz: Frames per second; None for images.
        notes: What should be known of it; grows while frames are read.
    """

    name: str
    kind: Kind
    expected: int | None = None
    rate_hz: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def moves(self) -> bool:
        """Whether frames follow each other in time, so that faces can be followed."""
        return self.kind in ("video", "camera")

    def frames(self) -> Iterator[Frame]:
        """The frames, once."""
        raise NotImplementedError


def open_source(name: str, *, most_frames: int | None = None) -> Source:
    """Opens what a user names: an image, a folder of images, a video file, or the number of a camera.

    Args:
        name: A path, or digits (where no file is called so).
        most_frames: Frames after which a video or camera ends; all where None.

    Raises:
        DataError: Nothing there, a file without content or of another kind, a folder without images, a
            camera that cannot be opened.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "grey.png"
        >>> _ = cv2.imwrite(str(place), np.full((4, 6), 9, np.uint8))
        >>> [frame.picture.shape for frame in open_source(str(place)).frames()]
        [(4, 6, 3)]
    """
    path = Path(name)
    if name.isascii() and name.isdigit() and not path.exists():
        return Camera(name, int(name), most_frames)
    if path.is_dir():
        return Images(name, {file: path / file for file in _images_of(path)})
    if path.exists() and not path.is_file():
        raise DataError(
            f"{name}: an image, a folder of images, a video or the number of a camera expected, found a pipe "
            "or device, which cannot be read twice; write what it gives to a file first."
        )
    if not path.is_file():
        raise DataError(
            f"{name}: an image, a folder of images, a video or the number of a camera expected, found no "
            "such file."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name}: the file is empty; copy it again.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Still(name, path)
    return Video(name, path, most_frames)


class Still(Source):
    """One image file, decoded as stores decode it; it is read when it is opened.

    Args:
        name: What it is called in messages.
        path: The file.
        file: What it is called in tables; by the path's name where None.
    """

    def __init__(self, name: str, path: Path, file: str | None = None) -> None:
        super().__init__(name, "image", expected=1)
        try:
            self._frame = Frame(0, None, file or path.name, decode(read_file(path)))
        except DataError as error:
            raise DataError(f"{name}: an image expected; {error}.") from error

    def frames(self) -> Iterator[Frame]:
        yield self._frame


class Images(Source):
    """Several images; one that cannot be read is a frame with a problem.

    Args:
        name: What was asked for.
        files: Where each is, by what it is called.
    """

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        super().__init__(name, "folder", expected=len(files))
        self.files = files

    def frames(self) -> Iterator[Frame]:
        failed = []
        for number, (file, path) in enumerate(self.files.items()):
            try:
                yield Frame(number, None, file, decode(read_file(path)))
            except (DataError, OSError) as error:
                failed.append((file, str(error)))
                yield Frame(number, None, file, None, str(error))
        if failed:
            self.notes.append(
                f"{len(failed)} of {len(self.files)} images could not be read; the first, {failed[0][0]}: "
                f"{failed[0][1]}."
            )


class Video(Source):
    """A video file, read by OpenCV; its first frame is read when it is opened."""

    def __init__(self, name: str, path: Path, most_frames: int | None) -> None:
        self.most = most_frames
        self.capture = _capture(str(path.absolute()))
        if not self.capture.isOpened():
            raise DataError(
                f"{name}: an image, or a video that OpenCV can read, expected; it can open no video in this "
                "file, which is cut off or something else."
            )
        found, self.first = self.capture.read()
        if not found:
            self.capture.release()
            raise DataError(f"{name}: the video has no frame that can be read.")
        count = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.said = int(count) if 0 < count < 2**31 else None
        expected = self.said if most_frames is None else min(most_frames, self.said or most_frames)
        rate, notes = _rate(self.capture, name)
        super().__init__(name, "video", expected=expected, rate_hz=rate, notes=notes)
        self.file = path.name

    def frames(self) -> Iterator[Frame]:
        """The frames; a damaged one has a problem in place of its picture, and what follows it is read."""
        picture: Any = self.first
        self.first = None
        number, before, lost, damaged = 0, 0.0, 0, 0
        start = self.capture.get(cv2.CAP_PROP_POS_MSEC)
        try:
            while picture is not None:
                seconds = (self.capture.get(cv2.CAP_PROP_POS_MSEC) - start) / 1000
                if number and seconds <= before:  # files without time stamps
                    seconds = before + (lost + 1) / (self.rate_hz or USUAL_RATE_HZ)
                step = (seconds - before) / (lost + 1)
                for place in range(1, lost + 1):
                    if number == self.most:
                        return
                    yield Frame(number, before + place * step, self.file, None, DAMAGED)
                    number, damaged = number + 1, damaged + 1
                if number == self.most:
                    return
                before = seconds
                yield Frame(number, seconds, self.file, picture)
                number += 1
                if number == self.most:
                    return
                picture, lost = self._next(number)
            # The count of some containers is an estimate that may be one too high.
            if self.said is not None and number < self.said - 1:
                self.notes.append(
                    f"{self.name}: the video says to have {counted(self.said, 'frame')}, {number:,} could be "
                    "read; it ends early, the rest is cut off or damaged."
                )
        finally:
            self.capture.release()
            if damaged:
                verb = "is" if damaged == 1 else "are"
                self.notes.append(
                    f"{self.name}: {counted(damaged, 'frame')} of {number:,} {verb} damaged and could not be "
                    "read; what follows is predicted."
                )

    def _next(self, number: int) -> tuple[Any, int]:
        """The next picture that can be read, and how many before it cannot; None at the end."""
        most = _MOST_LOST if self.said is None else max(0, min(_MOST_LOST, self.said - 1 - number))
        for lost in range(most + 1):
            found, picture = self.capture.read()
            if found:
                return picture, lost
        return None, 0


class Camera(Source):
    """A camera by its number; its first frame is read when it is opened, and it ends with Ctrl-C."""

    def __init__(self, name: str, number: int, most_frames: int | None) -> None:
        self.most = most_frames
        if number >= 2**31:
            raise DataError(f"camera {name}: the number of a camera, or a file, expected.")
        self.capture = _capture(number)
        found = self.capture.isOpened() and self.capture.read()[0]
        if not found:
            self.capture.release()
            raise DataError(
                f"camera {number}: no such camera, or another program has it; name one that is there, or a "
                "file."
            )
        rate, notes = _rate(self.capture, f"camera {number}")
        super().__init__(f"camera {name}", "camera", expected=most_frames, rate_hz=rate, notes=notes)

    def frames(self) -> Iterator[Frame]:
        start = time.monotonic()
        number = 0
        try:
            while self.most is None or number < self.most:
                found, picture = self.capture.read()
                if not found:
                    self.notes.append(f"{self.name} gave no more pictures after {counted(number, 'frame')}.")
                    return
                yield Frame(number, time.monotonic() - start, self.name, picture)
                number += 1
        finally:
            self.capture.release()


def _capture(what: str | int) -> Any:
    """OpenCV's reader, without what it and its libraries would print themselves."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging: Any = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(what)
    finally:
        logging.setLogLevel(level)


def _rate(capture: Any, name: str) -> tuple[float, list[str]]:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    if 0 < rate <= _MOST_RATE_HZ:
        return rate, []
    return USUAL_RATE_HZ, [f"{name} does not say its frames per second; {USUAL_RATE_HZ:g} are assumed."]


def _images_of(folder: Path) -> list[str]:
    """Paths of the images in a folder and its subfolders, but for hidden ones and what predictions drew."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(DRAWN)]
        shown = [name for name in names if not name.startswith(".")]  # `._photo.jpg` of a Mac is no image
        files += [Path(place, name) for name in shown if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"{folder}: a folder of images expected, found none ({', '.join(IMAGE_SUFFIXES)}).")
    return sorted(file.relative_to(folder).as_posix() for file in files)


def check_drawn_outside(source: str, place: Path) -> None:
    """Refuses a folder of drawn images among those of the source, which would be read as its own next time.

    Raises:
        ConfigError: `place` lies below the folder `source`, where its images are read.
    """
    folder, drawn = Path(source).absolute(), place.absolute()
    if not folder.is_dir() or folder not in drawn.parents:
        return
    if any(part.startswith(".") or part.endswith(DRAWN) for part in drawn.relative_to(folder).parts):
        return
    raise ConfigError(
        f"{place}: drawn images below the source {source} would be predicted like its own next time; choose "
        f"a folder elsewhere, or one whose name ends in `{DRAWN}`."
    )
