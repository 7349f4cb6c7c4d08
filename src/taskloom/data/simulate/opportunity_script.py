"""Who does what when in a simulated OPPORTUNITY run: a hidden activity decides gestures, arms and locomotion.

A run is a list of segments. The hidden high-level activity (semi-Markov: an order, and drawn durations) sets
how likely each gesture, each small action of the arms and each posture is: all seven tracks have one cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from taskloom.data.readers.opportunity_codes import TRACKS

STAND, WALK, SIT, LIE = 1, 2, 4, 5
UNLOCK, STIR, LOCK, CLOSE, REACH, OPEN, SIP, CLEAN, BITE, CUT, SPREAD, RELEASE, MOVE = range(1, 14)
(
    BOTTLE, SALAMI, BREAD, SUGAR, DISHWASHER, SWITCH, MILK, DRAWER3, SPOON, KNIFE_CHEESE, DRAWER2, TABLE,
    GLASS, CHEESE, CHAIR, DOOR1, DOOR2, PLATE, DRAWER1, FRIDGE, CUP, KNIFE_SALAMI, LAZYCHAIR,
) = range(1, 24)  # fmt: skip
RELAXING, COFFEE, MORNING, CLEANUP, SANDWICH = range(101, 106)

Action = tuple[int, int]
"""Verb and object of one arm, (0, 0) for none; numbers as above, without the arm's hundreds."""

OPENABLE = (DOOR1, DOOR2, FRIDGE, DISHWASHER, DRAWER1, DRAWER2, DRAWER3)
SINGLE_GESTURES: tuple[Action, ...] = ((CLEAN, TABLE), (SIP, CUP), (REACH, SWITCH))


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which nothing on the label tracks changes.

    Args:
        length: Samples.
        activity: High-level activity code, 0 for none.
        locomotion: Locomotion code, 0 for none.
        left, right: What the arms do.
        is_gesture: Whether the mid-level track names it.
    """

    length: int
    activity: int
    locomotion: int
    left: Action = (0, 0)
    right: Action = (0, 0)
    is_gesture: bool = False

    @property
    def codes(self) -> tuple[int, ...]:
        """Codes of the seven tracks, in the order of their columns."""
        verb, thing = self.right if self.right[0] else self.left
        return (
            self.locomotion,
            self.activity,
            *(base + number if number else 0 for base, number in zip((200, 300), self.left, strict=True)),
            *(base + number if number else 0 for base, number in zip((400, 500), self.right, strict=True)),
            1000 * (400 + verb) + 500 + thing if self.is_gesture else 0,
        )


@dataclass(frozen=True)
class Habits:
    """What people tend to do during one activity.

    Args:
        objects: Weight of opening and closing each of OPENABLE.
        gestures: Weight of each of SINGLE_GESTURES.
        actions: Small actions of the arms that the mid-level track does not name.
        postures: Weight of standing, sitting and lying during them.
    """

    objects: tuple[float, ...]
    gestures: tuple[float, ...]
    actions: tuple[Action, ...]
    postures: tuple[float, float, float]


HABITS: dict[int, Habits] = {
    MORNING: Habits(
        (4, 4, 1, 0.5, 1, 1, 1),
        (0.3, 0.3, 2),
        ((UNLOCK, DOOR1), (LOCK, DOOR2), (MOVE, CHAIR), (SIP, GLASS), (MOVE, BOTTLE)),
        (0.9, 0.1, 0),
    ),
    COFFEE: Habits(
        (0.5, 0.5, 3, 1, 3, 1, 0.5),
        (0.3, 5, 2),
        ((STIR, SPOON), (MOVE, CUP), (MOVE, SUGAR), (OPEN, MILK), (CLOSE, MILK), (MOVE, SPOON)),
        (0.65, 0.35, 0),
    ),
    SANDWICH: Habits(
        (0.3, 0.3, 3, 1, 2, 3, 2),
        (0.7, 2, 0.3),
        (
            (CUT, BREAD), (CUT, SALAMI), (SPREAD, CHEESE), (BITE, BREAD), (MOVE, PLATE), (MOVE, KNIFE_CHEESE),
            (MOVE, KNIFE_SALAMI), (SIP, GLASS),
        ),
        (0.45, 0.55, 0),
    ),
    CLEANUP: Habits(
        (0.5, 0.5, 2, 4, 2, 2, 3),
        (6, 0.2, 1),
        ((MOVE, PLATE), (MOVE, CUP), (MOVE, GLASS), (MOVE, SALAMI), (MOVE, CHEESE), (MOVE, BREAD)),
        (1, 0, 0),
    ),
    RELAXING: Habits(
        (0.7, 0.7, 0.5, 0.1, 0.1, 0.1, 0.1),
        (0.2, 3, 0.5),
        ((MOVE, LAZYCHAIR), (MOVE, CUP), (MOVE, CHAIR)),
        (0.15, 0.25, 0.6),
    ),
}  # fmt: skip
DAY = (RELAXING, MORNING, COFFEE, SANDWICH, CLEANUP, RELAXING)
"""Order of the activities in a daily-living run, as in the original recordings."""


def daily_run(num_samples: int, rng: Generator, *, right_handed: float) -> list[Segment]:
    """Returns the segments of a daily-living run of `num_samples` samples."""
    shares = rng.dirichlet(np.array([2.0, 5.0, 6.0, 8.0, 6.0, 2.0]) * 4)
    segments: list[Segment] = []
    for activity, share in zip(DAY, shares, strict=True):
        segments.append(Segment(int(rng.integers(20, 60)), 0, WALK))
        left = int(share * num_samples)
        while left > 0:
            for segment in _episode(activity, rng, right_handed):
                segments.append(segment)
                left -= segment.length
    return _cut(segments, num_samples)


def drill_run(num_samples: int, rng: Generator, *, right_handed: float) -> list[Segment]:
    """Returns the segments of a drill: all 17 gestures in a fixed order, over and over, no activity."""
    lap: list[Action] = [(REACH, SWITCH)]
    for thing in (FRIDGE, DISHWASHER, DRAWER1, DRAWER2, DRAWER3, DOOR1, DOOR2):
        lap += [(OPEN, thing), (CLOSE, thing)]
    lap += [(CLEAN, TABLE), (SIP, CUP)]
    segments: list[Segment] = []
    left = num_samples
    while left > 0:
        for action in lap:
            new = [*_gesture(action, 0, rng, right_handed), _pause(0, STAND, rng)]
            if rng.random() < 0.3:
                new.append(Segment(int(rng.integers(45, 90)), 0, WALK))
            segments += new
            left -= sum(segment.length for segment in new)
    return _cut(segments, num_samples)


def track_codes(segments: list[Segment]) -> NDArray[np.int32]:
    """Returns the label codes per sample, [num_samples, 7]."""
    codes = np.array([segment.codes for segment in segments], dtype=np.int32)
    assert codes.shape[1] == len(TRACKS)
    return np.repeat(codes, [segment.length for segment in segments], axis=0)


def _cut(segments: list[Segment], num_samples: int) -> list[Segment]:
    """The first `num_samples` samples of the segments."""
    kept: list[Segment] = []
    left = num_samples
    for segment in segments:
        if left == 0:
            break
        length = min(segment.length, left)
        kept.append(replace(segment, length=length))
        left -= length
    if left:
        kept.append(Segment(left, 0, STAND))
    return kept


def _episode(activity: int, rng: Generator, right_handed: float) -> Iterator[Segment]:
    """A gesture or a small action with what surrounds it."""
    habits = HABITS[activity]
    posture = (STAND, SIT, LIE)[rng.choice(3, p=habits.postures)]
    if rng.random() < 0.3 and posture != LIE:
        yield Segment(int(rng.integers(60, 150)), activity, WALK)
    weights = np.array((*habits.objects, *habits.gestures))
    if posture == STAND or rng.random() < 0.3:
        choice = int(rng.choice(len(weights), p=weights / weights.sum()))
        if choice >= len(OPENABLE):
            yield from _gesture(SINGLE_GESTURES[choice - len(OPENABLE)], activity, rng, right_handed, posture)
        else:
            thing = OPENABLE[choice]
            yield from _gesture((OPEN, thing), activity, rng, right_handed)
            if rng.random() < 0.6:
                yield from _small_action(activity, STAND, rng, right_handed)
            yield from _gesture((CLOSE, thing), activity, rng, right_handed)
    else:
        yield from _small_action(activity, posture, rng, right_handed)
    yield _pause(activity, posture, rng)


def _gesture(
    action: Action, activity: int, rng: Generator, right_handed: float, posture: int = STAND
) -> Iterator[Segment]:
    """Reach, do, release: only the middle part is a gesture on the mid-level track."""
    verb, thing = action
    locomotion = posture if action == (SIP, CUP) and posture != LIE else STAND
    if thing in (DOOR1, DOOR2) and rng.random() < 0.3:
        locomotion = WALK
    slow = 1.4 if verb in (SIP, CLEAN) else 1.0
    use_right = rng.random() < right_handed
    both = rng.random() < 0.15

    def segment(length: int, done: Action, is_gesture: bool = False) -> Segment:
        left = done if both or not use_right else (0, 0)
        right = done if use_right else (0, 0)
        return Segment(length, activity, locomotion, left, right, is_gesture)

    if rng.random() < 0.7 and verb != REACH:
        yield segment(int(rng.integers(8, 18)), (REACH, thing))
    yield segment(int(slow * rng.integers(55, 105)), action, is_gesture=True)
    if rng.random() < 0.7:
        yield segment(int(rng.integers(6, 15)), (RELEASE, thing))


def _small_action(activity: int, posture: int, rng: Generator, right_handed: float) -> Iterator[Segment]:
    actions = HABITS[activity].actions
    first = actions[rng.integers(len(actions))]
    second = actions[rng.integers(len(actions))] if rng.random() < 0.4 else (0, 0)
    left, right = (second, first) if rng.random() < right_handed else (first, second)
    if rng.random() < 0.5:
        yield Segment(int(rng.integers(8, 18)), activity, posture, right=(REACH, first[1]))
    yield Segment(int(rng.integers(30, 100)), activity, posture, left, right)


def _pause(activity: int, posture: int, rng: Generator) -> Segment:
    """Nothing in particular; now and then between two postures, which the locomotion track calls NULL."""
    if rng.random() < 0.3:
        return Segment(int(rng.integers(60, 150)), activity, 0)
    return Segment(int(rng.integers(20, 80)), activity, posture)
