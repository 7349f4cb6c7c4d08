"""What `taskloom prepare READER DIR STORE` prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from taskloom.data.face_store import prepare_faces
from taskloom.errors import ConfigError
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
) -> None:
    """Prepares a store of faces with a bar, and prints what it holds and what was left out."""
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
            rows, found = prepare_video(folder, store, settings=settings, progress=told, cutting=cut, **given)
        elif given:
            raise ConfigError(f"--{next(iter(given))}: goes with `prepare video FILE_OR_DIR STORE` only.")
        else:
            rows, found = prepare_faces(reader, folder, store, settings, told)
    seconds = time.perf_counter() - start
    say(
        f"{store}  {counted(len(found.images), 'face')} of {found.size} x {found.size} from "
        f"{counted(len(rows), 'row')}, "
        f"{seconds:.1f} s"
    )
    for note in rows.notes:
        say(f"note     {note}")
    if found.unreadable:
        first = found.unreadable[0]
        rows_without = counted(len(found.unreadable), "row")
        say(
            f"left out {rows_without}, listed in {store / 'left_out.csv'}; the first, "
            f"{first['file']}: {first['reason']}"
        )
