"""`taskloom simulate deap`: files in DEAP's native formats, made up, with ratings that the signals follow.

The real data need a signed licence; these need none, and say nothing about people.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from taskloom.data.readers.deap import CHANNELS, EEG_CHANNELS, NUM_SAMPLES, NUM_TRIALS, RATE_HZ
from taskloom.data.simulate.folder import write_mat, write_simulation
from taskloom.errors import ConfigError

Format = Literal["dat", "mat"]

_WORLD = 1  # raise it when the same parameters give other files
_FORMATS: tuple[str, ...] = ("dat", "mat")
_MOST_PEOPLE = 99  # two digits in a file's name
_NUM_EEG = len(EEG_CHANNELS)
# Odd numbers in the names of the 10-20 system are on the left, even ones on the right, z is the middle.
_SIDE = np.array([0.0 if name[-1] == "z" else -1.0 if int(name[-1]) % 2 else 1.0 for name in EEG_CHANNELS])
_IS_FRONTAL = np.array([name[0] in "AF" for name in EEG_CHANNELS])


@dataclass(frozen=True)
class DeapSimulation:
    """What decides the files, bit for bit."""

    people: int
    trials: int
    seed: int
    formats: tuple[str, ...]
    world: int = _WORLD


def simulate_deap(
    folder: str | Path,
    *,
    people: int = 4,
    trials: int = NUM_TRIALS,
    seed: int = 0,
    formats: Sequence[Format] = ("dat",),
    if_missing: bool = False,
) -> Path:
    """Writes `s01.dat` (a pickle as Python 2 wrote it) or `s01.mat`, and so on, and a README.txt.

    Everybody has an alpha rhythm, a slope of the spectrum and a liking for videos of one's own. Valence and
    arousal are correlated, dominance and liking follow valence. Valence shifts alpha power between the
    frontal sides and moves a face muscle; arousal raises beta and gamma power, heart rate and skin
    conductance. The same parameters give the same bytes.

    Args:
        folder: Where the files go: new or empty.
        people: Number of people, up to 99; the real set has 32. One takes 103 MB per format at 40 trials.
        trials: Videos that everybody sees; the real files hold 40, and a reader of fewer is told so
            (`data.trials`).
        seed: Seed of everything that is drawn.
        formats: "dat", "mat" or both (then the reader is told which, as `data.format`).
        if_missing: Whether a folder with the same simulation is left as it is instead of being an error.

    Returns:
        The folder.

    Raises:
        ConfigError: No people or trials, more than 99 people, an unknown format.
        DataError: The folder holds something else, or cannot be written.

    Example:
        >>> import tempfile
        >>> made = simulate_deap(tempfile.mkdtemp(), people=2, trials=1)
        >>> sorted(path.name for path in made.glob("*.dat"))
        ['s01.dat', 's02.dat']
    """
    for setting, value, most in (("people", people, _MOST_PEOPLE), ("trials", trials, NUM_TRIALS)):
        if not 1 <= value <= most:
            raise ConfigError(f"{setting}: 1 to {most} expected, found {value}.")
    for name in formats:
        if name not in _FORMATS:
            raise ConfigError(f"formats: dat or mat expected, found `{name}`.")
    if not formats:
        raise ConfigError("formats: dat, mat or both expected, found none.")
    simulation = DeapSimulation(people, trials, seed, tuple(sorted(set(formats))))

    def write(into: Path) -> None:
        for number in range(1, people + 1):
            data, ratings = simulate_person(number, trials=trials, seed=seed)
            if "dat" in formats:
                write_python2_pickle(into / f"s{number:02d}.dat", {"labels": ratings, "data": data})
            if "mat" in formats:
                write_mat(into / f"s{number:02d}.mat", {"data": data, "labels": ratings})

    return write_simulation(
        Path(folder), asdict(simulation), _readme(simulation), write, if_missing=if_missing
    )


def simulate_person(
    number: int, *, trials: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns one person's signals [trials, 40, 8064] in DEAP's order and ratings [trials, 4] from 1 to 9."""
    videos = np.random.default_rng((seed, 0)).normal(size=(trials, 4))
    rng = np.random.default_rng((seed, number))
    person = _Person.draw(rng)
    ratings = _ratings(videos, rng)
    data = np.empty((trials, len(CHANNELS), NUM_SAMPLES))
    for trial in range(trials):
        felt = (ratings[trial] - 5.0) / 2.0
        data[trial, :_NUM_EEG] = _eeg(person, felt, rng)
        data[trial, _NUM_EEG:] = _peripheral(person, felt, rng)
    return data, ratings


@dataclass(frozen=True)
class _Person:
    """What is everybody's own."""

    alpha_hz: float
    slope: float
    gain: NDArray[np.float64]
    alpha_gain: NDArray[np.float64]
    heart_hz: float
    breath_hz: float

    @classmethod
    def draw(cls, rng: Generator) -> Self:
        return cls(
            alpha_hz=rng.uniform(8.5, 11.5),
            slope=rng.uniform(0.7, 1.3),
            gain=rng.lognormal(1.5, 0.25, size=_NUM_EEG),
            alpha_gain=rng.lognormal(0.7, 0.4, size=_NUM_EEG),
            heart_hz=rng.uniform(1.0, 1.4),
            breath_hz=rng.uniform(0.2, 0.33),
        )


def _ratings(videos: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """What a person says about every video, [trials, 4]: what the video is like, taste, and mood."""
    taste = rng.normal(size=videos.shape)
    own = 0.75 * videos + 0.66 * taste
    valence = own[:, 0]
    arousal = 0.5 * valence + 0.87 * own[:, 1]
    dominance = 0.5 * valence + 0.2 * arousal + 0.8 * own[:, 2]
    liking = 0.75 * valence + 0.66 * own[:, 3]
    said = 5.3 + 1.9 * np.stack([valence, arousal, dominance, liking], axis=1)
    return np.asarray(np.round(np.clip(said + rng.normal(0.0, 0.4, size=4), 1.0, 9.0), 2))


def _eeg(person: _Person, felt: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Noise shaped by the person's spectrum, [32, 8064], band power following valence and arousal."""
    valence, arousal = felt[0], felt[1]
    frequency = np.fft.rfftfreq(NUM_SAMPLES, 1.0 / RATE_HZ)
    power = np.where(frequency < 4.0, 0.0, np.maximum(frequency, 4.0) ** -person.slope)
    power /= power.sum()
    background = power * np.where(frequency > 13.0, np.exp(0.35 * arousal), 1.0)
    alpha = np.exp(-0.5 * ((frequency - person.alpha_hz) / 1.2) ** 2) * np.interp(10.0, frequency, power)
    # More alpha on the right means less activity there: approach, which goes with pleasure.
    asymmetry = np.exp(0.35 * valence * _SIDE * _IS_FRONTAL - 0.2 * arousal)
    levels = background[None, :] + (person.alpha_gain * asymmetry)[:, None] * alpha[None, :]
    return person.gain[:, None] * _shaped_noise(np.sqrt(levels), rng)


def _peripheral(person: _Person, felt: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """The eight other channels, [8, 8064], in DEAP's order."""
    valence, arousal = felt[0], felt[1]
    frequency = np.fft.rfftfreq(NUM_SAMPLES, 1.0 / RATE_HZ)
    slow = np.where(frequency > 0.0, 1.0 / np.maximum(frequency, 0.05), 0.0)
    muscle = (frequency > 20.0).astype(np.float64)
    eyes, skin = slow * (frequency < 8.0), slow * (frequency < 1.0)
    shapes = np.stack([eyes, eyes, muscle, muscle, skin, slow, slow, skin])
    noise = _shaped_noise(shapes / np.linalg.norm(shapes, axis=1, keepdims=True), rng)
    time = np.arange(NUM_SAMPLES) / RATE_HZ
    face, neck = 4.0 * np.exp(0.4 * valence), 4.0 * np.exp(0.3 * arousal)
    channels = np.array([20.0, 20.0, face, neck, 90.0, 60.0, 40.0, 0.05])[:, None] * noise
    channels[4] += 12.0 * arousal * time
    breath_hz = person.breath_hz * (1 + 0.05 * arousal)
    heart_hz = person.heart_hz * (1 + 0.06 * arousal)
    channels[5] += 900.0 * np.sin(2 * np.pi * (breath_hz * time + rng.uniform()))
    channels[6] += 700.0 * np.sin(2 * np.pi * (heart_hz * time + rng.uniform()))
    return channels


def _shaped_noise(amplitude: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Gaussian noise [rows, 8064] with these amplitudes [rows, frequencies]; variance: their squares' sum."""
    white = rng.normal(size=(2, *amplitude.shape))
    spectrum = amplitude * (white[0] + 1j * white[1]) * (NUM_SAMPLES / 2)
    return np.asarray(np.fft.irfft(spectrum, n=NUM_SAMPLES, axis=1))


def _readme(simulation: DeapSimulation) -> str:
    return (
        "SIMULATED data in the file formats of the DEAP data set, written by `taskloom simulate`.\n"
        "Nobody watched these videos: results on these files say nothing about people.\n"
        f"{simulation.people} people, {simulation.trials} trials, seed {simulation.seed}.\n"
    )


# -- files


def write_python2_pickle(path: Path, arrays: dict[str, NDArray[np.float64]]) -> None:
    """Writes a dictionary of arrays as cPickle of Python 2 did, protocol 2: all text and numbers as bytes.

    Args:
        path: The file.
        arrays: float64, in C order, by names of up to 255 characters.
    """
    with path.open("wb") as file:
        file.write(b"\x80\x02}(")  # protocol 2, an empty dictionary, its items follow
        for name, array in arrays.items():
            file.write(_short_text(name.encode("ascii")))
            file.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
            file.write(b"K\x00\x85" + _short_text(b"b") + b"\x87R")  # _reconstruct(ndarray, (0,), "b")
            file.write(b"(K\x01(" + b"".join(b"M" + struct.pack("<H", size) for size in array.shape) + b"t")
            file.write(b"cnumpy\ndtype\n" + _short_text(b"f8") + b"K\x00K\x01\x87R")  # dtype("f8", 0, 1)
            file.write(b"(K\x03" + _short_text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
            file.write(b"T" + struct.pack("<I", array.nbytes))
            for row in array:
                file.write(np.ascontiguousarray(row, dtype="<f8").data)
            file.write(b"tb")  # ends the state (1, shape, dtype, False, bytes) and sets it
        file.write(b"u.")


def _short_text(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text
