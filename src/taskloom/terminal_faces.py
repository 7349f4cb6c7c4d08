"""What `taskloom prepare READER DIR STORE` prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from taskloom.data.face_framing import Framing
from taskloom.data.face_store import prepare_faces
from taskloom.deploy import Bundle, load_bundle
from taskloom.errors import ConfigError
from taskloom.predict.faces import PredictSettings, check_image_bundle, crop_settings
from taskloom.predict.prepared import prepared_as
from taskloom.predict.video_faces import prepare_video
from taskloom.terminal import console, say
from taskloom.wording import counted

__all__ = ["prepare_face_store"]


def prepare_face_store(
    reader: str,
    folder: Path,
    store: Path,
    settings: dict[str, Any],
    video: Mapping[str, Any] | None = None,
    like: Path | None = None,
    data_set: str | None = None,
) -> None:
    """Prepares a store of faces with a bar, and prints what it holds and what was left out.

    Args:
        reader: Name of the reader, or "video".
        folder: Where the faces are.
        store: Where the store will be.
        settings: How faces are cut, and those of the reader.
        video: Settings of videos.
        like: A bundle; faces are cut as `predict` cuts them for it, with the settings that are given.
        data_set: Of a bundle that was trained on several data sets, the one that the faces are like.

    Raises:
        ConfigError: A setting that does not fit.
        DataError: Files that are not what they should be, or no bundle of images.
    """
    framing: Framing | None = None
    cut_notes: list[str] = []
    if like is not None:
        settings, framing, cut_notes = _cut_like(prepared_as(load_bundle(like), data_set), settings)
    elif data_set is not None:
        raise ConfigError(f"--prepared-as {data_set}: goes with `--like BUNDLE` only.")
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("faces", total=None)
        frames = bar.add_task("frames", total=None, visible=False)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def cut(done: int, total: int | None) -> None:
            bar.update(frames, completed=done, total=total, visible=True)

        given = {name: value for name, value in (video or {}).items() if value is not None}
        if reader == "video":
            given |= {"settings": settings, "framing": framing}
            rows, found = prepare_video(folder, store, progress=told, cutting=cut, **given)
        elif given:
            raise ConfigError(f"--{next(iter(given))}: goes with `prepare video FILE_OR_DIR STORE` only.")
        else:
            rows, found = prepare_faces(reader, folder, store, settings, told, framing)
    seconds = time.perf_counter() - start
    say(
        f"{store}  {counted(len(found.images), 'face')} of {found.size} x {found.size} from "
        f"{counted(len(rows), 'row')}, "
        f"{seconds:.1f} s"
    )
    for note in (*rows.notes, *cut_notes):
        say(f"note     {note}")
    if found.unreadable:
        first = found.unreadable[0]
        rows_without = counted(len(found.unreadable), "row")
        say(
            f"left out {rows_without}, listed in {store / 'left_out.csv'}; the first, "
            f"{first['file']}: {first['reason']}"
        )


def _cut_like(
    bundle: Bundle, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Framing | None, list[str]]:
    """Settings that cut faces as a bundle's were, those that are given first; its framing; and notes."""
    check_image_bundle(bundle)
    model = settings.get("detector_model")
    detector = settings.get("detector", None if model is None else "yunet")  # no other takes a file
    named = f"{detector}:{model}" if model is not None else detector
    asked = PredictSettings(detector=named, margin=settings.get("margin"))
    try:
        crop, notes = crop_settings(bundle.preprocessing, asked, bundle.about.get("framing"))
    except ConfigError as error:
        here = "`--detector yunet --detector-model PATH`"
        raise ConfigError(str(error).replace("`--detector yunet:PATH`", here)) from error
    if crop.framing is not None and settings.get("choose") == "box":
        raise ConfigError(
            "--choose box: with `--like` faces are cut around what a detector finds, and nothing says how "
            "the boxes of rows lie to that; leave it out, or give --margin."
        )
    own = {"size": crop.size, "detector": crop.detector, "margin": crop.margin, "align": crop.align}
    if crop.detector_model is not None:
        own["detector_model"] = crop.detector_model
    return {**own, **settings}, crop.framing, notes
