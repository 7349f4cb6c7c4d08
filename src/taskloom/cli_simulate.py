"""The commands of `taskloom simulate`, one per data set."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from taskloom.terminal import say


def opportunity(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)],
    preset: Annotated[str | None, typer.Option("--preset", help="quickstart or full.")] = None,
    people: Annotated[int | None, typer.Option("--people", help="Number of people.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Length of a daily-living run.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 0,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if it is there.")] = False,
) -> None:
    """Write OPPORTUNITY-like recordings (.dat, 250 columns, 30 Hz)."""
    from taskloom.data.simulate.opportunity import simulate_opportunity
    from taskloom.study.runner import writable

    with writable(folder):
        simulate_opportunity(
            folder, people=people, seconds_per_run=seconds, seed=seed, preset=preset, if_missing=if_missing
        )
    say(f"simulated OPPORTUNITY in {folder}")


def digits(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)],
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if it is there.")] = False,
) -> None:
    """Write scikit-learn's digits as a table: pixels, the digit, and its seven segments."""
    from taskloom.data.simulate.digits import simulate_digits
    from taskloom.study.runner import writable

    with writable(folder):
        simulate_digits(folder, if_missing=if_missing)
    say(f"wrote digits.csv and segments.csv in {folder}")


def expressions(folder: SimulatedFolder, seed: Seed = 0, if_missing: IfMissing = False) -> None:
    """Write two made-up data sets without a common label: expressions, and action units."""
    from taskloom.coupling import expression_action_units
    from taskloom.data.simulate.expressions import simulate_expressions

    table = expression_action_units()
    simulate_expressions(
        folder, table.classes, table.attributes, table.values, seed=seed, if_missing=if_missing
    )
    say(f"simulated expressions and action units in {folder}")


def deap(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)],
    people: Annotated[int, typer.Option("--people", help="Number of people.")] = 4,
    trials: Annotated[int, typer.Option("--trials", help="Videos per person; the real set has 40.")] = 40,
    mat: Annotated[bool, typer.Option("--mat", help="MATLAB files instead of Python pickles.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 0,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing if it is there.")] = False,
) -> None:
    """Write DEAP-like recordings (s01.dat or s01.mat, 40 channels, 128 Hz)."""
    from taskloom.data.simulate.deap import simulate_deap
    from taskloom.study.runner import writable

    with writable(folder):
        simulate_deap(
            folder,
            people=people,
            trials=trials,
            seed=seed,
            formats=("mat",) if mat else ("dat",),
            if_missing=if_missing,
        )
    say(f"simulated DEAP in {folder}")


SimulatedFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)
]
Images = Annotated[int, typer.Option("--images", help="Number of images.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")]
IfMissing = Annotated[bool, typer.Option("--if-missing", help="Do nothing if it is there.")]


def planted(
    folder: SimulatedFolder,
    rows: Annotated[int, typer.Option("--rows", help="Training rows.")] = 300,
    noise: Annotated[
        float, typer.Option("--noise", help="Of each task, whose signal has deviation 1.")
    ] = 0.3,
    missing: Annotated[float, typer.Option("--missing", help="Share of the labels that are missing.")] = 0.5,
    seed: Seed = 0,
    if_missing: IfMissing = False,
) -> None:
    """Write a table of two groups of related tasks and one unrelated task."""
    from taskloom.data.simulate.planted import simulate_planted

    simulate_planted(folder, rows=rows, noise=noise, missing=missing, seed=seed, if_missing=if_missing)
    say(f"wrote planted.csv in {folder}")


def utkface(
    folder: SimulatedFolder,
    images: Images = 500,
    size: Annotated[int, typer.Option("--size", help="Pixels of an image.")] = 200,
    seed: Seed = 0,
    if_missing: IfMissing = False,
) -> None:
    """Write drawn faces under the names of UTKFace, and the files of its CORAL split."""
    from taskloom.data.simulate.utkface import simulate_utkface

    simulate_utkface(folder, images=images, size=size, seed=seed, if_missing=if_missing)
    say(f"simulated UTKFace in {folder}")


def cub(
    folder: SimulatedFolder,
    images: Images = 300,
    species: Annotated[int, typer.Option("--species", help="Number of species.")] = 10,
    seed: Seed = 0,
    if_missing: IfMissing = False,
) -> None:
    """Write drawn birds in the files of CUB-200-2011 (species, 312 attributes with certainty, boxes)."""
    from taskloom.data.simulate.cub import simulate_cub

    simulate_cub(folder, images=images, species=species, seed=seed, if_missing=if_missing)
    say(f"simulated CUB-200-2011 in {folder}")


def _drawn(name: str, title: str, what: str) -> Callable[..., None]:
    """The command of a set of images that their number and a seed decide."""

    def command(
        folder: SimulatedFolder, images: Images = 500, seed: Seed = 0, if_missing: IfMissing = False
    ) -> None:
        module = importlib.import_module(f"taskloom.data.simulate.{name}")
        getattr(module, f"simulate_{name}")(folder, images=images, seed=seed, if_missing=if_missing)
        say(f"simulated {title} in {folder}")

    command.__name__, command.__doc__ = name, f"Write {what}."
    return command


_DRAWN = (
    (
        "celeba",
        "CelebA",
        "drawn faces in the files of CelebA (40 attributes, identities, landmarks, partition)",
    ),
    (
        "mtfl",
        "MTFL",
        "drawn faces in photographs in the files of MTFL (landmarks, gender, smile, glasses, pose)",
    ),
    (
        "clothing_attributes",
        "Clothing Attributes",
        "drawn clothes in the files of Clothing Attributes (26 MATLAB vectors with holes)",
    ),
    ("raf_db", "RAF-DB", "drawn faces in the files of RAF-DB (seven expressions)"),
    (
        "affectnet",
        "AffectNet",
        "drawn faces in the files of AffectNet (expression, valence, arousal, box, landmarks)",
    ),
    ("emotionet", "EmotioNet", "drawn faces in the files of EmotioNet (action units with holes)"),
)


def aff_wild2(
    folder: SimulatedFolder,
    videos: Annotated[int, typer.Option("--videos", help="Number of videos.")] = 12,
    frames: Annotated[int, typer.Option("--frames", help="Frames per video.")] = 40,
    seed: Seed = 0,
    if_missing: IfMissing = False,
) -> None:
    """Write drawn videos in the files of Aff-Wild2 (expression, action units, valence, arousal)."""
    from taskloom.data.simulate.aff_wild2 import simulate_aff_wild2

    simulate_aff_wild2(folder, videos=videos, frames=frames, seed=seed, if_missing=if_missing)
    say(f"simulated Aff-Wild2 in {folder}")


_ALL: tuple[Callable[..., None], ...] = (
    opportunity,
    digits,
    expressions,
    deap,
    planted,
    utkface,
    cub,
    *(_drawn(*entry) for entry in _DRAWN),
    aff_wild2,
)
COMMANDS: dict[str, Callable[..., None]] = {command.__name__: command for command in _ALL}
"""By the name that follows `taskloom simulate`."""
