"""`taskloom simulate opportunity`: recordings in OPPORTUNITY's native format, made up but sharing one cause.

For trying everything out without the real data set, and for tests of the reader on the format itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from taskloom.data.readers.opportunity_codes import FIRST_TRACK_COLUMN, NUM_COLUMNS, RATE_HZ
from taskloom.data.simulate.folder import write_simulation
from taskloom.data.simulate.opportunity_script import daily_run, drill_run, track_codes
from taskloom.data.simulate.opportunity_sensors import SENSORS, Person, sense
from taskloom.errors import ConfigError, did_you_mean

RUNS = ("ADL1", "ADL2", "ADL3", "ADL4", "ADL5", "Drill")
PRESETS: dict[str, tuple[int, float]] = {"quickstart": (4, 110.0), "full": (4, 1115.0)}
"""People and seconds per run; "full" has about the 869,000 samples of the real set."""
DRILL_LENGTH = 1.5
"""A drill lasts longer than a daily-living run by this factor."""

_WORLD = 1  # raise it when the same parameters give other files
_LOST_SHARE = 0.025
_MEAN_BURST_SAMPLES = 12
_INT16 = 32767


@dataclass(frozen=True)
class Simulation:
    """What decides the files, bit for bit."""

    people: int
    seconds_per_run: float
    seed: int
    world: int = _WORLD


def simulate_opportunity(
    folder: str | Path,
    *,
    people: int | None = None,
    seconds_per_run: float | None = None,
    seed: int = 0,
    preset: str | None = None,
    if_missing: bool = False,
) -> Path:
    """Writes `S{1..people}-{ADL1..ADL5,Drill}.dat` and a README.txt that says they are simulated.

    A hidden activity decides gestures, arms and locomotion, so that the seven label tracks share information;
    sensors follow the movements with everybody's own offsets, noise, lost packets (about 2.5 %, and every
    sensor at the end of a run) and spikes. The same parameters give the same bytes.

    Args:
        folder: Where the files go: new or empty.
        people: Number of people; 4 unless the preset says otherwise.
        seconds_per_run: Length of a daily-living run; drills last 1.5 times as long. 110 unless the preset
            says otherwise. Below about 120 a drill does not reach every gesture.
        seed: Seed of everything that is drawn.
        preset: "quickstart" (4 people, 48 minutes in all) or "full" (as large as the real set, 8 hours).
        if_missing: Whether a folder with the same simulation is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        ConfigError: An unknown preset, no people, or a run below 5 seconds.
        DataError: The folder holds something else, or cannot be written.

    Example:
        >>> import tempfile
        >>> made = simulate_opportunity(tempfile.mkdtemp(), people=1, seconds_per_run=5)
        >>> sorted(path.name for path in made.glob("*.dat"))[:2]
        ['S1-ADL1.dat', 'S1-ADL2.dat']
    """
    folder = Path(folder)
    simulation = _resolve(people, seconds_per_run, seed, preset)

    def write(partial: Path) -> None:
        for number in range(1, simulation.people + 1):
            _write_person(partial, number, simulation)

    return write_simulation(folder, asdict(simulation), _readme(simulation), write, if_missing=if_missing)


def _resolve(people: int | None, seconds: float | None, seed: int, preset: str | None) -> Simulation:
    name = preset or "quickstart"
    if name not in PRESETS:
        raise ConfigError(
            f"preset: `{name}` is not known.{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    people = PRESETS[name][0] if people is None else people
    seconds = PRESETS[name][1] if seconds is None else float(seconds)
    if people < 1:
        raise ConfigError(f"people: at least 1 expected, found {people}.")
    if seconds < 5:
        raise ConfigError(f"seconds_per_run: at least 5 expected, found {seconds:g}.")
    return Simulation(people, seconds, seed)


def _readme(simulation: Simulation) -> str:
    return (
        "SIMULATED data in the file format of the OPPORTUNITY data set, written by `taskloom simulate`.\n"
        "Nobody wore these sensors: results on these files say nothing about people.\n"
        f"{simulation.people} people, {simulation.seconds_per_run:g} s per daily-living run, "
        f"seed {simulation.seed}.\n"
    )


def _write_person(folder: Path, number: int, simulation: Simulation) -> None:
    person = Person.draw(np.random.default_rng((simulation.seed, number)))
    for run_number, run in enumerate(RUNS):
        rng = np.random.default_rng((simulation.seed, number, run_number))
        length = DRILL_LENGTH if run == "Drill" else 1.0
        num_samples = round(simulation.seconds_per_run * length * RATE_HZ)
        script = drill_run if run == "Drill" else daily_run
        segments = script(num_samples, rng, right_handed=person.right_handed)
        tracks = track_codes(segments)
        sensors = np.clip(np.rint(sense(segments, person, rng)), -_INT16, _INT16).astype(np.int32)
        _add_spikes(sensors, tracks[:, -1] == 0, rng)
        lost = _lost_packets(num_samples, rng)
        tracks[lost.all(axis=1)] = 0
        write_dat(folder / f"S{number}-{run}.dat", sensors, lost, tracks)


def _add_spikes(sensors: NDArray[np.int32], is_null: NDArray[np.bool_], rng: Generator) -> None:
    """Puts senseless values into a few worn channels, in place, where no gesture is labelled."""
    quiet = np.flatnonzero(is_null)
    for column in rng.choice(101, size=4, replace=False):
        where = rng.choice(quiet, size=min(len(quiet), 3), replace=False)
        sensors[where, column] = rng.choice((-1, 1), size=len(where)) * rng.integers(
            20000, _INT16, len(where)
        )


def _lost_packets(num_samples: int, rng: Generator) -> NDArray[np.bool_]:
    """Which values are missing, [num_samples, 242]: bursts per sensor, and everything at the end."""
    lost = np.zeros((num_samples, FIRST_TRACK_COLUMN - 1), dtype=bool)
    num_bursts = _LOST_SHARE * num_samples / _MEAN_BURST_SAMPLES
    for columns in SENSORS.values():
        where = slice(columns[0] - 1, columns[-1])
        for start in rng.integers(0, num_samples, rng.poisson(num_bursts)):
            lost[start : start + rng.geometric(1 / _MEAN_BURST_SAMPLES), where] = True
    lost[num_samples - int(rng.integers(15, 60)) :] = True
    return lost


# -- text


def write_dat(
    path: Path, sensors: NDArray[np.int32], lost: NDArray[np.bool_], tracks: NDArray[np.int32]
) -> None:
    """Writes one run as text: time in ms, 242 sensor columns, 7 label columns.

    Args:
        path: The file.
        sensors: Values -32767..32767, [num_samples, 242].
        lost: Which of them are written as NaN, [num_samples, 242].
        tracks: Label codes of at most six digits, [num_samples, 7].
    """
    words = _words()
    with path.open("wb") as file:
        for start in range(0, len(sensors), 4096):
            rows = slice(start, start + 4096)
            text = np.zeros((len(sensors[rows]), NUM_COLUMNS), dtype="S8")
            time = np.rint(np.arange(start, start + len(text)) * 1000 / RATE_HZ).astype(np.int64)
            text[:, 0] = np.char.add(time.astype("S7"), b" ")
            text[:, 1:FIRST_TRACK_COLUMN] = words[
                np.where(lost[rows], -_INT16 - 1, sensors[rows]) + _INT16 + 1
            ]
            codes, position = np.unique(tracks[rows], return_inverse=True)
            ends = np.char.add(codes.astype("S6"), b" ")[position.reshape(len(text), -1)]
            text[:, FIRST_TRACK_COLUMN:] = ends
            text[:, -1] = np.char.replace(text[:, -1], b" ", b"\n")
            characters = text.view(np.uint8)
            file.write(characters[characters != 0].tobytes())


def _words() -> NDArray[np.bytes_]:
    """Text of every value with a space behind it; the smallest one, -32768, means lost."""
    words = np.char.add(np.arange(-_INT16 - 1, _INT16 + 1).astype("S6"), b" ").astype("S8")
    words[0] = b"NaN "
    return words
