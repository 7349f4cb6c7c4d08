"""What 242 simulated sensors make of a run's segments: gravity, motion, heading, noise.

Body parts are rigid pieces with three angles that follow posture, walking and the arms' movements. An
accelerometer feels gravity in its own frame plus the motion of its part; a gyroscope the turn of its angles;
a magnetometer the heading. Every person wears every sensor a little differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from taskloom.data.readers.opportunity_codes import COLUMN_NAMES, FIRST_TRACK_COLUMN, RATE_HZ
from taskloom.data.simulate import opportunity_script as script
from taskloom.data.simulate.opportunity_script import Segment

Array = NDArray[np.float64]

PARTS = ("trunk", "thigh", "shank", "left upper arm", "left forearm", "right upper arm", "right forearm")
_PART_OF_PLACE = {
    "BACK": "trunk", "HIP": "trunk", "RKN^": "thigh", "RKN_": "shank", "L-SHOE": "shank", "R-SHOE": "shank",
    "LUA^": "left upper arm", "LUA_": "left upper arm", "LUA": "left upper arm",
    "RUA^": "right upper arm", "RUA_": "right upper arm", "RUA": "right upper arm",
    "LWR": "left forearm", "LH": "left forearm", "LLA": "left forearm",
    "RWR": "right forearm", "RH": "right forearm", "RLA": "right forearm",
}  # fmt: skip
# Posture code -> pitch in degrees of trunk, thigh, shank, then upper arm and forearm of both sides.
_POSTURES = {
    0: (12, 32, 10, 10, 25, 10, 25),
    script.STAND: (4, 2, 0, 0, 4, 0, 4),
    script.WALK: (8, 6, 8, 6, 26, 6, 26),
    script.SIT: (14, 70, 10, 22, 58, 22, 58),
    script.LIE: (72, 80, 66, 40, 30, 40, 30),
}
# Object -> how high the arm is raised, roll of the forearm, how far the trunk bends, heading; in degrees.
_PLACES = {
    script.DOOR1: (58, 24, 0, 85), script.DOOR2: (58, -20, 0, 265), script.FRIDGE: (68, 6, 3, 30),
    script.DISHWASHER: (26, 34, 42, 350), script.DRAWER1: (46, -4, 8, 10), script.DRAWER2: (36, -8, 20, 10),
    script.DRAWER3: (24, -12, 36, 10), script.SWITCH: (84, -34, 0, 200), script.TABLE: (40, 58, 18, 150),
    script.CUP: (52, 26, 4, 160),
}  # fmt: skip
_ON_THE_TABLE = (40, 10, 8, 150)
_OBJECT_SENSORS = {
    "CUP": script.CUP, "SALAMI": script.SALAMI, "WATER": script.BOTTLE, "CHEESE": script.CHEESE,
    "BREAD": script.BREAD, "KNIFE1": script.KNIFE_CHEESE, "MILK": script.MILK, "SPOON": script.SPOON,
    "SUGAR": script.SUGAR, "KNIFE2": script.KNIFE_SALAMI, "PLATE": script.PLATE, "GLASS": script.GLASS,
    "DOOR1": script.DOOR1, "DOOR2": script.DOOR2, "LAZYCHAIR": script.LAZYCHAIR, "FRIDGE": script.FRIDGE,
    "DISHWASHER": script.DISHWASHER, "UPPERDRAWER": script.DRAWER1, "MIDDLEDRAWER": script.DRAWER2,
    "LOWERDRAWER": script.DRAWER3,
}  # fmt: skip
# Verbs that swing to and fro: Hz, degrees of pitch, degrees of roll.
_SWINGS = {
    script.CLEAN: (1.3, 6, 26), script.STIR: (2.2, 4, 10), script.CUT: (2.8, 12, 3),
    script.SPREAD: (1.1, 4, 20), script.UNLOCK: (1.6, 2, 22), script.LOCK: (1.6, 2, 22),
    script.MOVE: (0.7, 8, 10),
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """What stays the same in all runs of a person.

    Args:
        step_hz: Steps per second.
        vigour: Factor on all movements.
        right_handed: Share of movements that the right arm does.
        mounting: Turn of every worn sensor against its usual place, by sensor, [sensors, 3] in degrees.
        gain: Factor on every column, [242].
        style: Own way of every action, degrees by (verb, object), [14, 24, 2].
    """

    step_hz: float
    vigour: float
    right_handed: float
    mounting: Array
    gain: Array
    style: Array

    @classmethod
    def draw(cls, rng: Generator) -> Person:
        return cls(
            step_hz=rng.uniform(1.75, 2.15),
            vigour=rng.uniform(0.85, 1.15),
            right_handed=rng.uniform(0.75, 0.95),
            mounting=rng.normal(0, 6, (len(SENSORS), 3)),
            gain=rng.normal(1, 0.04, FIRST_TRACK_COLUMN - 1),
            style=rng.normal(0, 3, (14, 24, 2)),
        )


def _sensors() -> dict[str, list[int]]:
    """Columns of every sensor by "kind place"."""
    found: dict[str, list[int]] = {}
    for column in range(1, FIRST_TRACK_COLUMN):
        found.setdefault(COLUMN_NAMES[column].rsplit(" ", 1)[0], []).append(column)
    return found


SENSORS = _sensors()


def sense(segments: list[Segment], person: Person, rng: Generator) -> Array:
    """Returns the columns 1-242 of a run, float [num_samples, 242], without loss and spikes.

    Args:
        segments: Who does what when.
        person: Who it is.
        rng: Draws what differs from run to run.
    """
    lengths = np.array([segment.length for segment in segments])
    time = np.arange(lengths.sum()) / RATE_HZ
    pitch, roll, heading, walking = _angles(segments, lengths, time, person, rng)
    columns = np.empty((len(time), FIRST_TRACK_COLUMN - 1))
    layout = np.random.default_rng(226)  # where sensors sit is the same in every simulated world
    for number, (sensor, numbers) in enumerate(SENSORS.items()):
        kind, place = sensor.split(" ", 1)
        turn = _rotation(layout.uniform(-40, 40, 3) + person.mounting[number])
        where = np.array(numbers) - 1
        if place in _PART_OF_PLACE:
            part = PARTS.index(_PART_OF_PLACE[place])
            phase = np.pi if place == "L-SHOE" else 0.0
            columns[:, where] = _worn(
                place,
                pitch[:, part],
                roll[:, part],
                heading,
                walking,
                time * person.step_hz,
                phase,
                turn,
                rng,
            )[:, : len(numbers)]
        elif kind == "LOCATION":
            columns[:, where] = _location(heading, len(numbers), rng)
        elif kind == "REED":
            columns[:, where] = _reed(place, segments, lengths, len(numbers))
        else:
            columns[:, where] = _thing(place, segments, lengths, len(numbers), turn, rng)
    is_reed = [name.startswith("REED") for name in COLUMN_NAMES[1:FIRST_TRACK_COLUMN]]
    return columns * np.where(is_reed, 1.0, person.gain)


# -- the body


def _angles(
    segments: list[Segment], lengths: NDArray[np.int64], time: Array, person: Person, rng: Generator
) -> tuple[Array, Array, Array, Array]:
    """Pitch and roll of every part, [num_samples, parts], heading and strength of walking, [num_samples]."""
    pitch, roll = np.zeros((2, len(time), len(PARTS)))
    for part, spread in enumerate((3, 6, 6, 3, 4, 3, 4)):
        posture = np.array([_POSTURES[s.locomotion][part] for s in segments], dtype=np.float64)
        posture += rng.normal(0, spread, len(segments))
        pitch[:, part] = _smooth(_spread(segments, lengths, posture), 9)
    walking = _walking(segments, lengths, rng)
    step = np.sin(np.pi * person.step_hz * time + rng.uniform(0, 6)) * walking * person.vigour
    pitch += np.outer(step, (1.5, 20, 28, -9, -12, 9, 12))
    pitch[:, 3:] += 0.35 * pitch[:, :1]
    drift = gaussian_filter1d(rng.normal(0, 1, (2, len(time), len(PARTS))), 22, axis=1) * np.sqrt(
        2 * np.sqrt(np.pi) * 22
    )
    sway = np.array((3.0, 6.0, 6.0, 4.0, 6.0, 4.0, 6.0))
    pitch += drift[0] * sway
    roll += drift[1] * sway
    start = 0
    turning = np.cumsum(rng.normal(0, 25, len(segments)))
    towards = turning.copy()
    for number, segment in enumerate(segments):
        rows = slice(start, start + segment.length)
        for action, upper in ((segment.left, 3), (segment.right, 5)):
            if action[0]:
                place = _move_arm(pitch[rows], roll[rows], action, upper, person, rng)
                towards[number] = place + rng.normal(0, 8)
        start += segment.length
    heading = _smooth(_spread(segments, lengths, towards), 8)
    for part in range(len(PARTS)):
        pitch[:, part], roll[:, part] = _smooth(pitch[:, part], 2), _smooth(roll[:, part], 2)
    return pitch, roll, heading, walking


def _walking(segments: list[Segment], lengths: NDArray[np.int64], rng: Generator) -> Array:
    """How strongly steps are felt, about 1 in walking: some people stroll, and standing people shuffle."""
    strength = rng.lognormal(-0.2, 0.3, len(segments))
    shuffles = rng.random(len(segments)) < 0.25
    share = {script.WALK: (1.0, 1.0), script.STAND: (0.0, 0.35), 0: (0.0, 0.35)}
    felt = [share.get(s.locomotion, (0.0, 0.0))[int(x)] for s, x in zip(segments, shuffles, strict=True)]
    return _smooth(_spread(segments, lengths, strength * np.array(felt)), 6)


def _move_arm(
    pitch: Array, roll: Array, action: script.Action, upper: int, person: Person, rng: Generator
) -> float:
    """Adds an arm's movement to the segment's angles, in place; returns the heading of its object."""
    verb, thing = action
    height, twist, bend, place = _PLACES.get(thing, _ON_THE_TABLE)
    own = person.style[verb, thing]
    vigour = person.vigour * rng.lognormal(0, 0.08)
    height = (height + own[0] + rng.normal(0, 3)) * (0.6 if verb in (script.REACH, script.RELEASE) else 1.0)
    if (verb, thing) == (script.REACH, script.SWITCH):
        height = 84 + own[0] + rng.normal(0, 3)
    twist += own[1] + rng.normal(0, 4)
    phase = (np.arange(len(pitch)) + 0.5) / len(pitch)
    raised = np.minimum(1, 4 * np.minimum(phase, 1 - phase))
    raised = raised * raised * (3 - 2 * raised)
    middle = np.clip((phase - 0.2) / 0.6, 0, 1)
    # Opening pulls the forearm back, closing pushes it forward.
    pull = {script.OPEN: 1.0, script.CLOSE: -1.0}.get(verb, 0.0) * (2 * middle - 1) * vigour
    if verb in (script.SIP, script.BITE):
        height, twist = height + 34 * middle, twist + 40 * middle
    hertz, swing_pitch, swing_roll = _SWINGS.get(verb, (1.0, 0.0, 0.0))
    swing = np.sin(2 * np.pi * hertz * (np.arange(len(pitch)) / RATE_HZ + rng.uniform())) * vigour
    pitch[:, upper] += raised * (0.6 * height + 14 * pull + 0.4 * swing_pitch * swing)
    pitch[:, upper + 1] += raised * (height - 24 * pull + swing_pitch * swing)
    roll[:, upper] += raised * 0.4 * twist
    roll[:, upper + 1] += raised * (twist + 10 * pull + swing_roll * swing)
    pitch[:, 0] += raised * 0.8 * bend * vigour
    pitch[:, 1] += raised * 0.6 * bend * vigour
    pitch[:, 2] += raised * 0.35 * bend * vigour
    return float(place)


# -- the sensors


def _worn(
    place: str, pitch: Array, roll: Array, heading: Array, walking: Array, steps: Array, phase: float,
    turn: Array, rng: Generator,
) -> Array:  # fmt: skip
    """Sixteen signals of a worn sensor, [num_samples, 16]; the first 3, 13 or all exist."""
    tilt, bank, way = np.radians(pitch), np.radians(roll), np.radians(heading)
    gravity = np.stack((np.sin(tilt), -np.cos(tilt) * np.sin(bank), np.cos(tilt) * np.cos(bank)), 1) @ turn
    rate = np.gradient(np.stack((tilt, bank, way), 1), 1 / RATE_HZ, axis=0)
    lever = 30.0 * np.gradient(rate, 1 / RATE_HZ, axis=0)[:, [1, 0, 0]]
    impact = {
        "L-SHOE": 420.0,
        "R-SHOE": 420.0,
        "RKN_": 330.0,
        "RKN^": 260.0,
        "HIP": 190.0,
        "BACK": 120.0,
    }.get(place, 70.0)
    step = 2 * np.pi * steps + phase
    shake = np.outer(walking * impact, (0.3, 0.2, 1.0)) * np.stack(
        (np.sin(step), np.cos(step), np.sin(step + 0.7) + 0.5 * np.sin(2 * step)), 1
    )
    noise = rng.normal(0, 1, (len(pitch), 16))
    acceleration = 1000 * gravity + (np.clip(lever, -600, 600) + shake) @ turn + 80 * noise[:, :3]
    gyroscope = 1000 * rate @ turn / 4 + 20 * noise[:, 3:6]
    north = np.stack((np.cos(way) * np.cos(tilt), np.sin(way), np.cos(way) * np.sin(tilt)), 1) @ turn
    magnetic = 700 * north + 15 * noise[:, 6:9]
    half = np.stack((way, tilt, bank), 1) / 2
    if place.endswith("SHOE"):
        euler = np.degrees(np.stack((way % (2 * np.pi), tilt, bank), 1)) * 10
        return np.concatenate(
            (
                euler + 3 * noise[:, 6:9],
                acceleration @ turn.T / 10,
                acceleration,
                gyroscope,
                gyroscope @ turn.T + 10 * noise[:, 9:12],
                np.degrees(way % (2 * np.pi))[:, None] + 2 * noise[:, 15:],
            ),
            axis=1,
        )
    quaternion = 1000 * np.stack(
        (np.cos(half).prod(1), np.sin(half[:, 2]), np.sin(half[:, 1]), np.sin(half[:, 0])), 1
    )
    return np.concatenate(
        (acceleration, gyroscope, magnetic, quaternion + 5 * noise[:, 9:13], noise[:, 13:]), axis=1
    )


def _thing(
    place: str, segments: list[Segment], lengths: NDArray[np.int64], width: int, turn: Array, rng: Generator
) -> Array:
    """An object's or a piece of furniture's accelerometer (and gyroscope): still unless a hand is on it."""
    thing = _OBJECT_SENSORS[place]
    used = [thing in (s.left[1], s.right[1]) for s in segments]
    moved = _smooth(_spread(segments, lengths, used), 3)
    wobble = gaussian_filter1d(rng.normal(0, 1, (len(moved), 5)), 3, axis=0) * 3.2
    still: Array = np.concatenate((1000 * turn[2], np.zeros(2)))
    signals: Array = still + moved[:, None] * wobble * 160 + rng.normal(0, 6, (len(moved), 5))
    return signals[:, :width]


def _reed(place: str, segments: list[Segment], lengths: NDArray[np.int64], width: int) -> Array:
    """Switches of a piece of furniture: 1 from its opening to its closing."""
    thing = _OBJECT_SENSORS.get(place.split(" ")[0], 0)
    is_open, state = [], False
    for segment in segments:
        done = {segment.left, segment.right}
        state = (state or (script.OPEN, thing) in done) and (script.CLOSE, thing) not in done
        is_open.append(state)
    return np.repeat(_spread(segments, lengths, is_open)[:, None], width, axis=1)


def _location(heading: Array, width: int, rng: Generator) -> Array:
    """Position in the room in millimetres: it follows where the person turns to."""
    way = np.radians(heading)
    position = np.stack((2500 + 1500 * np.cos(way), 2000 + 1200 * np.sin(way), np.full(len(way), 1200.0)), 1)
    return (position + rng.normal(0, 150, position.shape))[:, :width]


# -- helpers


def _spread(segments: list[Segment], lengths: NDArray[np.int64], values: object) -> Array:
    """One value per segment to one per sample."""
    assert len(segments) == len(lengths)
    return np.repeat(np.asarray(values, dtype=np.float64), lengths)


def _smooth(signal: Array, samples: float) -> Array:
    return np.asarray(gaussian_filter1d(signal, samples, mode="nearest"))


def _rotation(degrees: Array) -> Array:
    """Rotation matrix from three Euler angles."""
    (a, b, c), (d, e, f) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array(((1, 0, 0), (0, a, -d), (0, d, a)))
    about_y = np.array(((b, 0, e), (0, 1, 0), (-e, 0, b)))
    about_z = np.array(((c, -f, 0), (f, c, 0), (0, 0, 1)))
    return np.asarray(about_x @ about_y @ about_z)
