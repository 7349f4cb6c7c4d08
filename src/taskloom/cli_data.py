"""The commands about data: what stands in them, what goes together, preparing and fetching them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskloom.cli_predict import PreparedAs
from taskloom.errors import ConfigError
from taskloom.terminal import say

if TYPE_CHECKING:
    from taskloom.data.batch import DataSplits
    from taskloom.study.config import Study

DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder in which the study's data files are.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting in place of the file's: training.epochs=5."),
]


def prepare(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|READER",
            help="Study file (YAML), or a reader (utkface, celeba, mtfl, images, video), DIR and STORE.",
            show_default=False,
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of the faces.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None, typer.Argument(metavar="[STORE]", help="Where the store goes.", show_default=False)
    ] = None,
    data: DataFolder = None,
    settings: Settings = None,
    size: Annotated[int | None, typer.Option("--size", help="Pixels of the stored faces.")] = None,
    detector: Annotated[str | None, typer.Option("--detector", help="none, haar, yunet or dlib.")] = None,
    detector_model: Annotated[
        str | None, typer.Option("--detector-model", metavar="ONNX", help="The file of a YuNet.")
    ] = None,
    choose: Annotated[
        str | None, typer.Option("--choose", help="Of several faces: largest, all, or the row's box.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Around the box, as a share of it.")
    ] = None,
    align: Annotated[bool | None, typer.Option("--align", help="Align by the five points.")] = None,
    every: Annotated[
        int | None,
        typer.Option("--every", metavar="N", help="`video`: one of how many frames (25)."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="TABLE", help="`video`: labels by video or person.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="BUNDLE", help="Cut faces as `predict` does for this bundle."),
    ] = None,
    data_set: PreparedAs = None,
) -> None:
    """Prepare a study's data, or the faces of a data set, once: what follows starts at once."""
    crop = {
        "size": size,
        "detector": detector,
        "detector_model": None if detector_model is None else str(Path(detector_model).absolute()),
        "choose": choose,
        "margin": margin,
        "align": align,
    }
    given = {name: value for name, value in crop.items() if value is not None}
    if folder is not None and store is not None:
        from taskloom.study.overrides import settings_of
        from taskloom.terminal_faces import prepare_face_store

        video = {"every": every, "labels": labels}
        prepare_face_store(
            what, folder, store, {**settings_of(settings or ()), **given}, video, like, data_set
        )
        return
    if like is not None:
        given["like"] = str(like)
    if data_set is not None:
        given["prepared-as"] = data_set
    if given or folder is not None:
        raise ConfigError(
            f"prepare {what}: READER DIR STORE expected with DIR or --{next(iter(given), 'size')}; a "
            f"study file "
            "says in `data` how faces are cut."
        )
    _prepare_study(Path(what), data, settings)


def _prepare_study(file: Path, data: Path | None, settings: list[str] | None) -> None:
    from taskloom.study.config import load_study

    loaded = load_study(file, settings or ())
    splits = load_splits(loaded, data)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    rows = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
    say(f"{file}  rows: {rows}   stores in {stores_of(loaded)}")


def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|STORE",
            help="Study file (YAML), or a store of faces or recordings.",
            show_default=False,
        ),
    ],
    data: DataFolder = None,
    settings: Settings = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Of a store: read everything and compare checksums.")
    ] = False,
) -> None:
    """Say what stands in a study's data (labels, holes, groups, leaks), or in a prepared store."""
    from taskloom.data.inspect import inspect_splits
    from taskloom.data.inspect_store import inspect_store, render_store
    from taskloom.data.inspect_text import render
    from taskloom.study.config import load_study

    texts = (".yaml", ".yml", *((".txt", ".json", "") if file.is_file() else ()))
    if file.is_dir() or file.suffix.lower() not in texts:
        if settings:
            raise ConfigError("--set: goes with a study file; a store has no settings.")
        say(render_store(file, inspect_store(file, verify=verify, data=data)).rstrip("\n"))
        return
    if verify:
        raise ConfigError("--verify: goes with a store; a study compares the sums of its files by itself.")
    say(render(inspect_splits(load_splits(load_study(file, settings or ()), data))).rstrip("\n"))


def relate(
    source: Annotated[
        Path,
        typer.Argument(metavar="DATA_OR_STUDY", help="Study file, or a table of labels.", show_default=False),
    ],
    tasks: Annotated[
        str,
        typer.Option("--tasks", metavar="A,B,...", help="Tasks, or columns of the table."),
    ] = "",
    classes: Annotated[
        str, typer.Option("--classes", metavar="A,...", help="Which of them is given, where it must be said.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where files go; nothing is written without.")
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="TABLE", help="Table held against the labels.")
    ] = None,
    minimum_support: Annotated[
        int, typer.Option("--minimum-support", min=1, help="Rows that an entry rests on at least.")
    ] = 10,
    data: DataFolder = None,
    settings: Settings = None,
) -> None:
    """Say which labels go together: counts, intervals, a heatmap, and where a table contradicts them."""
    from taskloom.study.relate import relate as find_related
    from taskloom.study.relate import write_related
    from taskloom.study.runner import writable
    from taskloom.terminal import print_related

    related = find_related(
        source,
        tasks=_split(tasks),
        classes=_split(classes),
        data=data,
        overrides=settings or (),
        minimum_support=minimum_support,
        checked=check,
    )
    print_related(related)
    if out is not None:
        with writable(out):
            for path in write_related(related, out):
                say(f"wrote    {path}")


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Data set.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where sets go.", show_default=False)],
    url: Annotated[str | None, typer.Option("--url", help="In place of the official address.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Digest the archive must have.")] = None,
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="ZIP", help="Downloaded by other means.")
    ] = None,
) -> None:
    """Download, verify and unpack a public data set; of a licensed one, say where to ask for it."""
    from taskloom.data.fetch import LicensedSet
    from taskloom.data.fetch import fetch as fetch_set
    from taskloom.study.runner import writable
    from taskloom.terminal import download_progress

    with writable(folder), download_progress(name) as progress:
        found = fetch_set(name, folder, url=url, sha256=sha256, archive=archive, report=progress)
    if isinstance(found, LicensedSet):
        say(f"{found.title}\nnot downloaded: its owners hand it out themselves. To get it: {found.ask}.")
        say(f"Then {found.then}.")
        return
    state = "fetched" if found.downloaded else "there already, every file as it was fetched"
    went_on = f", went on from byte {found.resumed_at:,}" if found.resumed_at else ""
    say(f"{name} {state}{went_on}   SHA-256 of the archive {found.archive_sha256}")
    say(f"data     {found.folder}")


# -- helpers


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def stores_of(study: Study) -> Path:
    """Where a study with the default --out keeps its stores."""
    from taskloom.study.runner import stores_beside

    return stores_beside(Path("runs") / study.name)


def load_splits(study: Study, data: Path | None) -> DataSplits:
    from taskloom.study.runner import writable
    from taskloom.study.single import load_data

    with writable(stores_of(study)):
        return load_data(study, data, stores_of(study))
