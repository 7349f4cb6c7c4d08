"""Aff-Wild2-like videos of drawn faces, with expressions, action units, valence and arousal per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.data.readers.aff_wild2 import IMAGES_FOLDER
from taskloom.data.simulate.action_units import draw_expressions, draw_valence_arousal
from taskloom.data.simulate.expressive import draw_person, draw_picture, showing, write_lines, write_picture
from taskloom.data.simulate.faces import Traits
from taskloom.data.simulate.folder import write_simulation
from taskloom.errors import ConfigError

SIZE = 112
EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")
UNITS = (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)
KINDS = {
    "EXPR_Classification_Challenge": ",".join(name.capitalize() for name in EXPRESSIONS),
    "AU_Detection_Challenge": ",".join(f"AU{unit}" for unit in UNITS),
    "VA_Estimation_Challenge": "valence,arousal",
}
"""Folders of annotations, with their headers."""

_HOLES, _GONE = 0.05, 0.03
_FEWEST_FRAMES = len(EXPRESSIONS)
_README = """Drawn videos in the files of Aff-Wild2, made by taskloom; no person is in them. Every third video
has expressions only, every third action units only, every third both; all have valence and arousal. One in
twenty annotations is missing, and some frames have no picture.
"""


def simulate_aff_wild2(
    folder: Path, *, videos: int = 12, frames: int = 40, seed: int = 0, if_missing: bool = False
) -> Path:
    """Writes drawn videos in the layout of Aff-Wild2; the same parameters give the same bytes.

    A video shows one person and every expression once, each for some frames; three quarters are in Train_Set.

    Args:
        folder: Where they go: new or empty.
        videos: How many.
        frames: Frames per video.
        seed: Decides the faces.
        if_missing: Whether a folder of the same parameters is left as it is instead of being an error.

    Raises:
        ConfigError: Fewer than 8 videos or 8 frames.
        DataError: The folder holds something else, or cannot be written.
    """
    for name, value in (("videos", videos), ("frames", frames)):
        if value < _FEWEST_FRAMES:
            raise ConfigError(f"{name}: {_FEWEST_FRAMES} or more expected, found {value}.")
    parameters = {"simulate": "aff_wild2", "videos": videos, "frames": frames, "seed": seed}

    def write(place: Path) -> None:
        random = np.random.default_rng((seed, 9))
        for number in range(videos):
            part = "Train_Set" if 4 * number < 3 * videos else "Validation_Set"
            lines = _write_video(random, place / IMAGES_FOLDER / f"video{number + 1}", frames)
            left_out = {0: "AU_Detection_Challenge", 1: "EXPR_Classification_Challenge"}.get(number % 3)
            for kind, header in KINDS.items():
                if kind != left_out:
                    write_lines(place / kind / part / f"video{number + 1}.txt", [header, *lines[kind]])

    return write_simulation(folder, parameters, _README, write, if_missing=if_missing)


def _write_video(random: np.random.Generator, folder: Path, frames: int) -> dict[str, list[str]]:
    """Writes the frames of one video; returns the lines of every kind of annotation."""
    person = draw_person(random)
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    segments = draw_expressions(random, EXPRESSIONS, len(EXPRESSIONS))
    place = random.normal(SIZE / 2, SIZE / 40, 2)
    current, traits = "", person
    for frame in range(frames):
        expression = segments[frame * len(segments) // frames]
        if expression != current:
            current = expression
            traits = showing(random, person, "contempt" if expression == "other" else expression)
        place = place + random.normal(0, SIZE / 200, 2)
        picture, _ = draw_picture(random, traits, (SIZE, SIZE), centre=(float(place[0]), float(place[1])))
        if random.random() >= _GONE:
            write_picture(folder / f"{frame + 1:05d}.jpg", picture)
        _annotate(random, lines, expression, traits)
    return lines


def _annotate(
    random: np.random.Generator, lines: dict[str, list[str]], expression: str, traits: Traits
) -> None:
    holes: NDArray[np.bool_] = random.random(len(KINDS)) < _HOLES
    code = -1 if holes[0] else EXPRESSIONS.index(expression)
    units = [-1 if holes[1] else int(unit in (traits.units or ())) for unit in UNITS]
    values = draw_valence_arousal(random, "contempt" if expression == "other" else expression)
    labels = (str(code), ",".join(map(str, units)), "-5,-5" if holes[2] else f"{values[0]},{values[1]}")
    for kind, label in zip(KINDS, labels, strict=True):
        lines[kind].append(label)
