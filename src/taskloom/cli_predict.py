"""`taskloom predict`: its options, and what it prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from taskloom.errors import ConfigError
from taskloom.terminal import console, say
from taskloom.wording import counted

if TYPE_CHECKING:
    from taskloom.deploy import Bundle
    from taskloom.predict import PredictSettings, Summary
    from taskloom.predict.people import PersonStatistics

BundleFolder = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="What `train` wrote.", show_default=False)
]
PreparedAs = Annotated[
    str | None,
    typer.Option("--prepared-as", metavar="NAME", help="Of several data sets, the one it is like."),
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="haar, dlib, yunet:PATH, or none (every picture is a face); the bundle's by default, haar "
        "where it has none.",
    ),
]
Margin = Annotated[
    float | None, typer.Option("--margin", help="Around the box, as a share of it; the bundle's by default.")
]
Choose = Annotated[str, typer.Option("--choose", help="all faces, or the largest.")]
Batch = Annotated[int, typer.Option("--batch", help="Faces that go through the network together.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
_ROW_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".arff", ".data")


def predict(
    bundle: BundleFolder,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Image, folder of images, video, number of a camera; a table for bundles of tables; "
            "recordings and folders of them for bundles of recordings.",
            show_default=False,
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            "--out",
            metavar="FILE",
            help=".csv, .parquet or .jsonl; SOURCE.predicted.csv here by default.",
        ),
    ] = None,
    overlay: Annotated[
        str | None,
        typer.Option(
            "--overlay",
            metavar="PLACE",
            help="Video, image or (of a folder) folder with what was found drawn in, or none; "
            "SOURCE.predicted... here by default.",
        ),
    ] = None,
    detector: DetectorName = None,
    margin: Margin = None,
    choose: Choose = "all",
    detect_every: Annotated[
        int | None,
        typer.Option(
            "--detect-every", metavar="N", help="Look for faces in every N-th frame of a video; 5 by default."
        ),
    ] = None,
    detect_side: Annotated[
        int | None,
        typer.Option(
            "--detect-side",
            metavar="PIXELS",
            help="Longer side of the picture in which faces are looked for; 480 in videos, 800 in images.",
        ),
    ] = None,
    half_life: Annotated[
        float,
        typer.Option("--half-life", metavar="SECONDS", help="Smoothing of a face's predictions; 0 for none."),
    ] = 0.3,
    batch: Batch = 32,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, metavar="N", help="End a video or camera after N frames.")
    ] = None,
    device: Device = "auto",
    data_set: PreparedAs = None,
    person: Annotated[
        str | None,
        typer.Option("--person", metavar="NAME", help="Whom all recordings are of, if normalised by person."),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option("--people", metavar="TABLE", help="Columns `file` and `person`: whom each is of."),
    ] = None,
    new_people: Annotated[
        bool, typer.Option("--new-people", help="Nobody is the training's person of the same name.")
    ] = False,
) -> None:
    """Find, follow and label the faces of images, videos or a camera; predict rows of a table, recordings."""
    from taskloom.deploy import load_bundle
    from taskloom.predict import PredictSettings
    from taskloom.predict.prepared import prepared_as

    named = person is not None or people is not None or new_people
    settings = PredictSettings(detector, margin, choose, detect_every, detect_side, half_life, batch, device)
    loaded = prepared_as(load_bundle(bundle), data_set)
    start = time.perf_counter()
    reader = loaded.preprocessing.get("reader")
    try:
        if reader not in ("images", "table") and _is_of_recordings(loaded):
            place = table or _usual_table(bundle, sources)
            persons = (person, people, new_people)
            _predict_recordings(loaded, [Path(source) for source in sources], place, device, persons)
            return
        source = _only_source(sources, named)
        if reader != "images" and (_is_table(source) or (reader == "table" and _is_array(source))):
            _predict_rows(loaded, source, table, device)
        else:
            _predict_faces(loaded, source, table, overlay, settings, frames, start)
    except KeyboardInterrupt:
        say("Stopped; nothing was written.", stderr=True)
        raise typer.Exit(130) from None


def _is_of_recordings(bundle: Bundle) -> bool:
    from taskloom.predict.recordings import RECORDING_READERS

    return bundle.preprocessing.get("reader") in RECORDING_READERS


def _predict_rows(bundle: Bundle, source: str, table: Path | None, device: str) -> None:
    from taskloom.predict import predict_table
    from taskloom.predict.pipeline import check_apart

    place = table or Path(f"{Path(source).stem}.predicted.csv")
    check_apart(source, place)
    notes: list[str] = []
    rows, found = predict_table(bundle, Path(source), place, device=device, tell=notes.append)
    say(f"{source}  {counted(rows, 'row')}   device {found}")
    for note in notes:
        say(f"note     {note}")
    say(f"table    {place}")


def _only_source(sources: list[str], named: bool) -> str:
    """The one source of a bundle that takes no recordings, of which nobody is named."""
    if named:
        raise ConfigError(
            "--person, --people and --new-people go with bundles of recordings; leave them out."
        )
    if len(sources) > 1:
        raise ConfigError(
            f"predict: one SOURCE expected for this bundle, found {len(sources)} (the second is "
            f"`{sources[1]}`); several go with bundles of recordings. Give images as a folder."
        )
    return sources[0]


def _usual_table(bundle: Path, sources: list[str]) -> Path:
    """Named after the source; of several, after the bundle."""
    name = sources[0] if len(sources) == 1 else bundle
    return Path(f"{Path(name).absolute().stem}.predicted.csv")


def _predict_recordings(
    bundle: Bundle,
    sources: list[Path],
    place: Path,
    device: str,
    people: tuple[str | None, Path | None, bool],
) -> None:
    from taskloom.predict import Persons, predict_recordings
    from taskloom.predict.pipeline import check_apart

    persons = Persons(*people)
    for source in sources:
        check_apart(str(source), place)
    if persons.table is not None:
        check_apart(str(persons.table), place)
    one_or_all: Path | list[Path] = sources[0] if len(sources) == 1 else sources
    found = predict_recordings(bundle, one_or_all, place, device=device, persons=persons)
    named = str(sources[0]) if len(sources) == 1 else counted(len(sources), "source")
    say(
        f"{named}  {counted(found.recordings, 'recording')}, {counted(found.windows, 'window')}   "
        f"device {found.device}"
    )
    _print_people(found.people)
    if found.problems:
        name, reason = found.problems[0]
        reason = reason.removeprefix(f"{Path(name).name}: ")
        say(f"left out {counted(len(found.problems), 'file')}; the first, {name}: {reason}")
    say(f"table    {place}")


def _print_people(people: Sequence[PersonStatistics]) -> None:
    """Whose mean and deviation everybody was normalised by."""
    trained = [one.person for one in people if one.from_training]
    own = [f"{one.person} ({counted(one.files, 'file')})" for one in people if not one.from_training]
    if trained:
        say(f"people   normalised as in the training: {', '.join(trained)}")
    if own:
        say(f"people   normalised by the mean and deviation of their own recordings here: {', '.join(own)}")


def _predict_faces(
    bundle: Bundle,
    source: str,
    table: Path | None,
    overlay: str | None,
    settings: PredictSettings,
    frames: int | None,
    start: float,
) -> None:
    from taskloom.predict import open_source, predict_faces
    from taskloom.predict.faces import check_image_bundle
    from taskloom.predict.frames import check_drawn_outside
    from taskloom.predict.pipeline import check_apart

    check_image_bundle(bundle)
    opened = open_source(source, most_frames=frames)
    name = "camera" + source if opened.kind == "camera" else Path(source).absolute().stem
    table = table or Path(f"{name}.predicted.csv")
    usual = {"image": f"{name}.predicted.png", "folder": f"{name}.predicted"}
    drawn = Path(overlay or usual.get(opened.kind, f"{name}.predicted.mp4")) if overlay != "none" else None
    check_apart(source, table, drawn)
    if drawn is not None:
        check_drawn_outside(source, drawn)
    with _bar() as report:
        summary = predict_faces(bundle, opened, table=table, overlay=drawn, settings=settings, report=report)
    _print(source, summary, time.perf_counter() - start)
    say(f"table    {table}")
    if drawn is not None:
        say(f"overlay  {drawn}")


def _print(source: str, summary: Summary, seconds: float) -> None:
    per_second = summary.frames / max(seconds, 1e-9)
    say(
        f"{source}  {counted(summary.frames, 'frame')}, {summary.with_faces:,} with faces, "
        f"{counted(summary.identities, 'identity', 'identities')}   {per_second:.1f} frames/s   "
        f"device {summary.device}"
    )
    say(f"faces    {summary.how}")
    busy = {step: value for step, value in summary.seconds.items() if value >= 0.0005}
    if busy:
        say("work     " + ", ".join(f"{step} {value:.2f} s" for step, value in busy.items()))
    for note in summary.notes:
        say(f"note     {note}")
    if summary.stopped:
        say("note     stopped by Ctrl-C; what the camera had given was written")


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, where that is a terminal."""
    columns = ("frames", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("frames", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _is_table(source: str) -> bool:
    return Path(source).suffix.lower() in _ROW_SUFFIXES


def _is_array(source: str) -> bool:
    return Path(source).suffix.lower() in (".npy", ".npz")
