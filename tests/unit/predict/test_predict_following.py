"""Following faces: identities, boxes between detections, smoothing; each against another route."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from taskloom.data.face_detectors import Box, Detection
from taskloom.predict.following import Tracker, followed, overlaps
from taskloom.predict.frames import Frame
from taskloom.predict.smoothing import Smoother

PICTURE = np.zeros((4, 4, 3), np.uint8)


def frames(count: int):  # type: ignore[no-untyped-def]
    return (Frame(number, number / 25, "clip", PICTURE) for number in range(count))


def script(found: list[list[Detection]]):  # type: ignore[no-untyped-def]
    """A detector that gives one entry after the other."""
    left = iter(found)
    return lambda _: next(left)


def face(x: float, y: float = 0.0, side: float = 10.0) -> Detection:
    return Detection((x, y, side, side), 1.0)


def test_overlaps_are_those_of_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 12, (6, 2)), rng.integers(1, 9, (6, 2))], axis=1).astype(float)

    def cells(box: np.ndarray) -> set[tuple[int, int]]:
        x, y, width, height = map(int, box)
        return set(itertools.product(range(x, x + width), range(y, y + height)))

    expected = [[len(cells(a) & cells(b)) / len(cells(a) | cells(b)) for b in boxes] for a in boxes]
    np.testing.assert_allclose(overlaps(boxes, boxes), expected)


def test_two_faces_that_pass_each_other_keep_their_identities() -> None:
    # Ten pixels of face, six a frame, towards each other: without motion the nearest box is the other's.
    shown = [[face(6.0 * t), face(100 - 6.0 * t, 6.0)] for t in range(18)]
    seen = list(
        followed(frames(18), script([pair[:: (-1) ** t] for t, pair in enumerate(shown)]), Tracker(25), 1)
    )
    first = {identity: found.box[1] for identity, found in seen[0].faces.items()}
    for entry in seen:
        assert {identity: found.box[1] for identity, found in entry.faces.items()} == first


def test_the_pairing_is_the_best_of_all_pairings() -> None:
    rng = np.random.default_rng(3)
    before, after = ([face(*rng.uniform(0, 12, 2)) for _ in range(4)] for _ in range(2))
    tracker = Tracker(10)
    tracker.update(0, before)
    table = overlaps(*(np.array([entry.box for entry in side]) for side in (before, after)))
    best = max(
        itertools.permutations(range(4)), key=lambda order: sum(table[i, j] for i, j in enumerate(order))
    )
    found = tracker.update(1, after)
    for track, column in enumerate(best):
        if table[track, column] >= 0.2:
            assert found[track] is after[column]


def test_a_face_comes_back_under_its_identity_within_the_patience_and_under_a_new_one_after_it() -> None:
    def identities(gap: int) -> list[list[int]]:
        shown = [[face(0)]] * 3 + [[]] * gap + [[face(0)]] * 3
        return [list(entry.faces) for entry in followed(frames(len(shown)), script(shown), Tracker(5), 1)]

    assert identities(4) == [[1]] * 3 + [[]] * 4 + [[1]] * 3
    assert identities(6) == [[1]] * 3 + [[]] * 6 + [[2]] * 3


def test_what_is_found_once_only_is_no_face_and_takes_no_identity() -> None:
    shown = [[face(0)], [face(0), face(80)], [face(0)], [face(0), face(50)], [face(0), face(50)]]
    seen = [list(entry.faces) for entry in followed(frames(5), script(shown), Tracker(5), 1)]
    assert seen == [[1], [1], [1], [1, 2], [1, 2]]


def test_a_single_frame_shows_what_is_found_in_it() -> None:
    assert [list(entry.faces) for entry in followed(frames(1), script([[face(0)]]), Tracker(5), 5)] == [[1]]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 11, 13])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_between_detections_boxes_lie_on_the_line_and_the_last_frame_is_detected(
    count: int, every: int
) -> None:
    asked = []

    def where(number: int) -> Box:
        return (2.0 * number, 1.0 * number, 40.0 + number, 40.0)

    def watched():  # type: ignore[no-untyped-def]
        for frame in frames(count):
            yield Frame(frame.number, frame.time, "clip", np.full((1, 1, 3), frame.number, np.uint8))

    def find(picture: np.ndarray) -> list[Detection]:
        number = int(picture[0, 0, 0])
        asked.append(number)
        return [Detection(where(number), 1.0)]

    seen = list(followed(watched(), find, Tracker(50), every))
    assert asked == sorted({*range(0, count, every), count - 1})
    assert [entry.frame.number for entry in seen] == list(range(count))
    for entry in seen:
        assert entry.detected == (entry.frame.number in asked)
        np.testing.assert_allclose(entry.faces[1].box, where(entry.frame.number))


def test_a_face_that_only_one_of_two_detections_shows_is_not_claimed_between_them() -> None:
    shown = [[face(0)], [face(0)], []]
    seen = list(followed(frames(7), script(shown), Tracker(50), 3))
    assert [list(entry.faces) for entry in seen] == [[1], [1], [1], [1], [], [], []]


def test_smoothing_is_the_weighted_mean_of_all_frames() -> None:
    rng = np.random.default_rng(1)
    times, states = np.cumsum(rng.uniform(0.01, 0.3, 12)), rng.normal(size=(12, 3))
    smoother = Smoother(half_life=0.4)
    for last in range(12):
        found = smoother.add(5, float(times[last]), states[last])
        # every frame counts half for each half-life that has passed since it
        weights = 0.5 ** ((times[last] - times[: last + 1]) / 0.4)
        np.testing.assert_allclose(found, weights @ states[: last + 1] / weights.sum())
    np.testing.assert_array_equal(Smoother(0.0).add(5, 0.0, states[0]), states[0])


def test_smoothing_forgets_faces_that_are_gone() -> None:
    smoother = Smoother(half_life=1.0, patience=2.0)
    for number in range(100):
        smoother.add(number, float(number), np.zeros(1))
    assert len(smoother._faces) == 3
