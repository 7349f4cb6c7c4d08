"""What the 250 columns and the label codes of OPPORTUNITY mean.

Source: `column_names.txt` and `label_legend.txt` of the data set (UCI 226, CC BY 4.0). All column numbers are
0-based: 0 is the time, 1-133 are worn on the body, 134-242 stand in the room, 243-249 are the label tracks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from taskloom.errors import ConfigError, did_you_mean

NUM_COLUMNS = 250
RATE_HZ = 30.0
FIRST_TRACK_COLUMN = 243
NULL = "NULL"
"""Name of code 0 in every track: none of the track's classes applies."""

_ARM = (
    "unlock", "stir", "lock", "close", "reach", "open", "sip", "clean", "bite", "cut", "spread", "release",
    "move",
)  # fmt: skip
_OBJECT = (
    "Bottle", "Salami", "Bread", "Sugar", "Dishwasher", "Switch", "Milk", "Drawer3 (lower)", "Spoon",
    "Knife cheese", "Drawer2 (middle)", "Table", "Glass", "Cheese", "Chair", "Door1", "Door2", "Plate",
    "Drawer1 (top)", "Fridge", "Cup", "Knife salami", "Lazychair",
)  # fmt: skip


def _numbered(first: int, names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names, start=first))


TRACKS: dict[str, dict[int, str]] = {
    "Locomotion": {0: NULL, 1: "Stand", 2: "Walk", 4: "Sit", 5: "Lie"},
    "HL_Activity": {
        0: NULL,
        **_numbered(101, ("Relaxing", "Coffee time", "Early morning", "Cleanup", "Sandwich time")),
    },
    "LL_Left_Arm": {0: NULL, **_numbered(201, _ARM)},
    "LL_Left_Arm_Object": {0: NULL, **_numbered(301, _OBJECT)},
    "LL_Right_Arm": {0: NULL, **_numbered(401, _ARM)},
    "LL_Right_Arm_Object": {0: NULL, **_numbered(501, _OBJECT)},
    "ML_Both_Arms": {
        0: NULL,
        404505: "Close Dishwasher",
        404508: "Close Drawer 3",
        404511: "Close Drawer 2",
        404516: "Close Door 1",
        404517: "Close Door 2",
        404519: "Close Drawer 1",
        404520: "Close Fridge",
        405506: "Toggle Switch",
        406505: "Open Dishwasher",
        406508: "Open Drawer 3",
        406511: "Open Drawer 2",
        406516: "Open Door 1",
        406517: "Open Door 2",
        406519: "Open Drawer 1",
        406520: "Open Fridge",
        407521: "Drink from Cup",
        408512: "Clean Table",
    },
}
"""Code -> name of every track, in the order of the columns 243-249, codes ascending."""


def _sensor(prefix: str, places: Sequence[str], signals: Sequence[str]) -> list[str]:
    return [f"{prefix} {place} {signal}" for place, signal in itertools.product(places, signals)]


_ACCELERATION = ("accX", "accY", "accZ")
_INERTIAL = (
    *_ACCELERATION, "gyroX", "gyroY", "gyroZ", "magneticX", "magneticY", "magneticZ",
    "Quaternion1", "Quaternion2", "Quaternion3", "Quaternion4",
)  # fmt: skip
_OBJECT_SENSORS = (
    "CUP", "SALAMI", "WATER", "CHEESE", "BREAD", "KNIFE1", "MILK", "SPOON", "SUGAR", "KNIFE2", "PLATE",
    "GLASS",
)  # fmt: skip
_FURNITURE = (
    "DOOR1", "LAZYCHAIR", "DOOR2", "DISHWASHER", "UPPERDRAWER", "LOWERDRAWER", "MIDDLEDRAWER", "FRIDGE",
)  # fmt: skip
_SHOE = (
    "EuX", "EuY", "EuZ", "Nav_Ax", "Nav_Ay", "Nav_Az", "Body_Ax", "Body_Ay", "Body_Az",
    "AngVelBodyFrameX", "AngVelBodyFrameY", "AngVelBodyFrameZ",
    "AngVelNavFrameX", "AngVelNavFrameY", "AngVelNavFrameZ", "Compass",
)  # fmt: skip
_REED = (
    "DISHWASHER S1", "FRIDGE S3", "FRIDGE S2", "FRIDGE S1", "MIDDLEDRAWER S1", "MIDDLEDRAWER S2",
    "MIDDLEDRAWER S3", "LOWERDRAWER S3", "LOWERDRAWER S2", "UPPERDRAWER", "DISHWASHER S3", "LOWERDRAWER S1",
    "DISHWASHER S2",
)  # fmt: skip

COLUMN_NAMES: tuple[str, ...] = (
    "MILLISEC",
    *_sensor(
        "Accelerometer",
        ("RKN^", "HIP", "LUA^", "RUA_", "LH", "BACK", "RKN_", "RWR", "RUA^", "LUA_", "LWR", "RH"),
        _ACCELERATION,
    ),
    *_sensor("InertialMeasurementUnit", ("BACK", "RUA", "RLA", "LUA", "LLA"), _INERTIAL),
    *_sensor("InertialMeasurementUnit", ("L-SHOE", "R-SHOE"), _SHOE),
    *_sensor("Accelerometer", _OBJECT_SENSORS, (*_ACCELERATION, "gyroX", "gyroY")),
    *(f"REED SWITCH {place}" for place in _REED),
    *_sensor("Accelerometer", _FURNITURE, _ACCELERATION),
    *_sensor("LOCATION", ("TAG1", "TAG2", "TAG3", "TAG4"), ("X", "Y", "Z")),
    *TRACKS,
)  # fmt: skip
"""Official name of every column."""


def _columns(*first_to_last: tuple[int, int]) -> tuple[int, ...]:
    return tuple(column for first, last in first_to_last for column in range(first, last + 1))


CHANNEL_SETS: dict[str, tuple[int, ...]] = {
    "thesis": _columns(
        (1, 12), (16, 33), (37, 45), (50, 58), (63, 71), (76, 84), (89, 97), (102, 133)
    ),
    "on_body": _columns((1, 133)),
    "all": _columns((1, 242)),
    # Knee, hip, both upper arms, back and both wrists: what a short run on a CPU learns most from.
    "quickstart": _columns((1, 12), (16, 18), (22, 24), (31, 33)),
}  # fmt: skip
"""Columns by the name that `channels` takes. "thesis": the 107 on-body channels of thesis 002."""


def channel_columns(channels: str | Sequence[int | str]) -> tuple[int, ...]:
    """Returns the 0-based columns that a `channels` setting means, in the order given.

    Args:
        channels: Name of a set in `CHANNEL_SETS`, or a list of column numbers (1-242) and official names.

    Raises:
        ConfigError: An unknown name, a column that is no sensor, one that stands twice, or none at all.

    Example:
        >>> len(channel_columns("thesis")), channel_columns([4, "Accelerometer HIP accY"])
        (107, (4, 5))
    """
    if isinstance(channels, str):
        if channels not in CHANNEL_SETS:
            raise ConfigError(
                f"data.channels: `{channels}` is not a set of channels."
                f"{did_you_mean(channels, CHANNEL_SETS)} "
                f"Known: {', '.join(CHANNEL_SETS)}, or a list of column numbers."
            )
        return CHANNEL_SETS[channels]
    if not isinstance(channels, Sequence):
        raise ConfigError(f"data.channels: a name or a list of columns expected, found {channels!r}.")
    columns = tuple(_column(channel) for channel in channels)
    if not columns:
        raise ConfigError("data.channels: at least one channel expected, found an empty list.")
    doubles = sorted({column for column in columns if columns.count(column) > 1})
    if doubles:
        raise ConfigError(f"data.channels: column {doubles[0]} ({COLUMN_NAMES[doubles[0]]}) stands twice.")
    return columns


def _column(channel: int | str) -> int:
    sensors = COLUMN_NAMES[1:FIRST_TRACK_COLUMN]
    if isinstance(channel, str):
        if channel not in sensors:
            raise ConfigError(
                f"data.channels: `{channel}` is not a column of OPPORTUNITY.{did_you_mean(channel, sensors)}"
            )
        return COLUMN_NAMES.index(channel)
    if isinstance(channel, bool) or not 1 <= channel < FIRST_TRACK_COLUMN:
        raise ConfigError(
            f"data.channels: column numbers 1-{FIRST_TRACK_COLUMN - 1} expected (0 is the time, "
            f"{FIRST_TRACK_COLUMN}-{NUM_COLUMNS - 1} are labels), found {channel}."
        )
    return channel
