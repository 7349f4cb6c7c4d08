"""Following faces from frame to frame: overlap of boxes along their motion, matched as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.data.face_detectors import Detection
from taskloom.predict.frames import Frame

LEAST_OVERLAP = 0.2
"""Two boxes that overlap less (intersection over union) are not the same face."""
_NEW_MOTION = 0.5
"""How much a track's motion follows its last step: detectors jitter."""

Find = Callable[[NDArray[np.uint8]], list[Detection]]


@dataclass(frozen=True)
class Seen:
    """A frame with its faces.

    Args:
        frame: The frame.
        faces: By identity; identities are numbers from 1 that never come back.
        detected: Whether the faces were found in this frame, or lie between two detections.
    """

    frame: Frame
    faces: dict[int, Detection]
    detected: bool = True


@dataclass
class _Track:
    """A face that is followed: where it was last, when, and how its box changes per frame, [4]."""

    box: NDArray[np.float64]
    seen: int
    motion: NDArray[np.float64]

    def at(self, number: int) -> NDArray[np.float64]:
        """Where its box should be in a frame; it does not shrink to nothing."""
        box = self.box + self.motion * (number - self.seen)
        box[2:] = np.maximum(box[2:], 0.5 * self.box[2:])
        return np.asarray(box)

    def move(self, box: NDArray[np.float64], number: int) -> None:
        step = (box - self.box) / max(1, number - self.seen)
        self.motion = (1 - _NEW_MOTION) * self.motion + _NEW_MOTION * step
        self.box, self.seen = box, number


class Tracker:
    """Keeps the tracks of faces over successive detections, and gives those that are sure an identity.

    Every track expects its face where its motion carries it; of all pairings of tracks and detections the one
    with the largest sum of overlaps is taken (Hungarian method, Kuhn 1955), and pairs that hardly overlap are
    none. A track that finds no face waits for `patience` frames.

    Args:
        patience: Frames without its face after which a track ends.

    Example:
        >>> tracker = Tracker(patience=10)
        >>> ann, bob = Detection((0, 0, 10, 10), 1.0), Detection((50, 0, 10, 10), 1.0)
        >>> list(tracker.update(0, [ann, bob])), list(tracker.update(1, [])), list(tracker.update(2, [bob]))
        ([0, 1], [], [1])
        >>> tracker.confirm([1])
        >>> tracker.named({0: ann, 1: bob}) == {1: bob}, tracker.count
        (True, 1)
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.count = 0
        """How many identities have been given."""
        self._tracks: dict[int, _Track] = {}
        self._identities: dict[int, int] = {}
        self._next = 0

    def confirm(self, tracks: Iterable[int]) -> None:
        """Gives tracks that have no identity the next one: 1, 2, ..."""
        for track in tracks:
            if track not in self._identities:
                self.count += 1
                self._identities[track] = self.count

    def named(self, faces: Mapping[int, Detection]) -> dict[int, Detection]:
        """Of faces by track those whose track has an identity, by it and in its order."""
        known = {self._identities[track]: face for track, face in faces.items() if track in self._identities}
        return dict(sorted(known.items()))

    def update(self, number: int, found: Sequence[Detection]) -> dict[int, Detection]:
        """Takes the faces of frame `number` and returns them by track; tracks are numbers from 0."""
        from scipy.optimize import linear_sum_assignment  # in videos, and nowhere else

        self._tracks = {
            name: track for name, track in self._tracks.items() if number - track.seen <= self.patience
        }
        self._identities = {
            name: identity for name, identity in self._identities.items() if name in self._tracks
        }
        boxes = np.array([face.box for face in found], dtype=np.float64).reshape(-1, 4)
        faces = list(self._tracks)
        expected = np.array([self._tracks[face].at(number) for face in faces]).reshape(-1, 4)
        overlap = overlaps(expected, boxes)
        seen = {}
        for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
            if overlap[row, column] >= LEAST_OVERLAP:
                self._tracks[faces[row]].move(boxes[column], number)
                seen[faces[row]] = found[column]
        taken = {id(face) for face in seen.values()}
        for face, box in zip(found, boxes, strict=True):
            if id(face) not in taken:
                self._tracks[self._next] = _Track(box, number, np.zeros(4))
                seen[self._next] = face
                self._next += 1
        return seen


def overlaps(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes (x, y, width, height), [M, 4] and [N, 4] -> [M, N].

    Example:
        >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 2, 2], [5, 5, 1, 1]])).round(4)
        array([[0.3333, 0.    ]])
    """
    starts = np.maximum(left[:, None, :2], right[None, :, :2])
    ends = np.minimum((left[:, :2] + left[:, 2:])[:, None], (right[:, :2] + right[:, 2:])[None])
    shared = np.maximum(ends - starts, 0).prod(axis=2)
    total = left[:, 2:].prod(axis=1)[:, None] + right[:, 2:].prod(axis=1)[None] - shared
    return np.asarray(shared / np.maximum(total, 1e-9))


def followed(frames: Iterator[Frame], find: Find, tracker: Tracker, every: int) -> Iterator[Seen]:
    """Frames of a video with their faces: found in every `every`-th frame and in the last, between else.

    What is found only once is no face: identities are given to tracks that two detections one after the other
    show, from the first of them on, and so at most `every` + 1 frames are held back. A face that only one of
    two detections shows is not claimed between them.
    """
    held: list[Frame] = []  # the last frame with a detection, and those since
    before: dict[int, Detection] = {}
    for frame, is_last in _with_last(frames):
        if frame.picture is None or (frame.number % every and not is_last):
            held.append(frame)
            continue
        now = tracker.update(frame.number, find(frame.picture))
        tracker.confirm(track for track in now if track in before or (is_last and not held))
        for other in held:
            share = (other.number - held[0].number) / (frame.number - held[0].number)
            shown = before if other is held[0] else between(before, now, share)
            yield _seen(other, tracker.named(shown), other is held[0])
        held, before = [frame], now
    for frame in held:
        yield _seen(frame, tracker.named(before), frame is held[0])


def _seen(frame: Frame, faces: dict[int, Detection], detected: bool) -> Seen:
    """A frame with its faces; one that could not be read has none."""
    return Seen(frame, {} if frame.picture is None else faces, detected)


def found_alone(frames: Iterator[Frame], find: Find) -> Iterator[Seen]:
    """Images with their faces, numbered from 1 in each of them."""
    for frame in frames:
        found = [] if frame.picture is None else find(frame.picture)
        yield Seen(frame, dict(enumerate(found, start=1)))


def between(
    before: Mapping[int, Detection], after: Mapping[int, Detection], share: float
) -> dict[int, Detection]:
    """Faces that both detections show, at a share (0..1) of the way from the first to the second.

    Example:
        >>> one, two = Detection((0, 0, 10, 10), 1.0), Detection((10, 0, 20, 10), 0.5)
        >>> between({7: one}, {7: two, 8: two}, 0.5)[7].box
        (5.0, 0.0, 15.0, 10.0)
    """
    return {face: _mixed(before[face], found, share) for face, found in after.items() if face in before}


def _mixed(first: Detection, second: Detection, share: float) -> Detection:
    x, y, width, height = ((1 - share) * a + share * b for a, b in zip(first.box, second.box, strict=True))
    points = None
    if first.points is not None and second.points is not None:
        points = (1 - share) * first.points + share * second.points
    return Detection((x, y, width, height), min(first.score, second.score), points)


def _with_last(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Every frame, and whether it is the last: one is held back."""
    held: Frame | None = None
    for frame in frames:
        if held is not None:
            yield held, False
        held = frame
    if held is not None:
        yield held, True
