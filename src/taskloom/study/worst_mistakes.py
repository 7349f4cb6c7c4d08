"""The gallery of the worst mistakes on images: small pictures kept beside the results, or none at all.

Of the first repeat's run of every judged task in its chosen cell (alone, where no cell has finished), the
test images that it got most wrong: classes by the confidence in the wrong one, numbers by the size of the
error. Nothing of a picture is kept where the study file says `report: {gallery: false}`, and what was kept
before is removed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from taskloom.data.image_store import ImageDataset
from taskloom.study.cells import SINGLE_TASK
from taskloom.study.decisions import load_confidence
from taskloom.study.paired import Decided, decided_by
from taskloom.study.results import ResultsStore, RunRecord, run_folder
from taskloom.study.runs import DataRequest
from taskloom.study.verdicts import Groups, by_cell_and_task, chosen_cells, judged_only
from taskloom.tasks import Binary, Multiclass, Ordinal, Regression, Task, TaskSet
from taskloom.training.checkpoints import write_atomically

FILE = "worst_mistakes.json"
THUMBNAIL = 64
"""Pixels of a picture; larger ones are made smaller."""
_QUALITY = 85

Row = dict[str, Any]


def keep_worst_mistakes(folder: Path, request: DataRequest) -> None:
    """Writes the gallery of a study folder anew where its runs have changed; removes one that is not wanted.

    Args:
        folder: The study's folder.
        request: What the source is asked for in the first repeat.

    Raises:
        DataError: The data are no longer what they were.
        OSError: A file cannot be written.
    """
    with ResultsStore(folder / "results.sqlite", read_only=True) as store:
        records, facts = store.records(), store.facts()
    wanted = facts.get("gallery", 0)
    if not wanted or "images" not in facts.get("about", {}):
        (folder / FILE).unlink(missing_ok=True)
        return
    tasks = TaskSet.from_dicts(facts["tasks"])
    done = judged_only(by_cell_and_task(records), facts)
    runs = _runs(tasks, facts, done)
    made_of = [wanted, sorted(run.id for pair in runs.values() for run in pair if run is not None)]
    if _read(folder).get("made_of") == made_of:
        return
    test = request.load().test
    if not isinstance(test, ImageDataset):
        return
    mistakes = [
        row
        for name, (run, alone) in runs.items()
        for row in _mistakes(folder, tasks[name], run, alone, test, wanted)
    ]
    content = json.dumps({"made_of": made_of, "mistakes": mistakes}, ensure_ascii=False)
    write_atomically(folder / FILE, content.encode())


def gallery_rows(folder: Path, facts: Mapping[str, Any]) -> list[Row]:
    """The gallery for `summary.json`: `task`, `cell`, `truth`, `said`, `alone`, `picture` (JPEG, base64)."""
    return _read(folder).get("mistakes", []) if facts.get("gallery", 0) else []


def _read(folder: Path) -> Row:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # cut off by a kill: made anew
        return {}
    return found if isinstance(found, dict) else {}


def _runs(
    tasks: TaskSet, facts: Mapping[str, Any], done: Groups
) -> dict[str, tuple[RunRecord, RunRecord | None]]:
    """Per judged task the run that is shown, of the first repeat, and that of training alone beside it."""
    chosen = chosen_cells(tasks, facts, done)
    found: dict[str, tuple[RunRecord, RunRecord | None]] = {}
    for name, task in tasks.items():
        if not task.judged:
            continue
        alone = _first(done, SINGLE_TASK, name)
        shared = _first(done, chosen.get(name, ""), name)
        if shared is not None:
            found[name] = shared, alone
        elif alone is not None:
            found[name] = alone, None
    return found


def _first(done: Groups, cell: str, task: str) -> RunRecord | None:
    return next((run for run in done.get((cell, task), []) if run.repeat == 0), None)


def _mistakes(
    folder: Path, task: Task, run: RunRecord, alone: RunRecord | None, test: ImageDataset, wanted: int
) -> list[Row]:
    decided = decided_by(folder, task, run)
    beside = None if alone is None else decided_by(folder, task, alone)
    if decided is None or len(decided.outputs) != len(test):
        return []
    errors = _errors(folder, task, run, decided)
    if errors is None:
        return []
    order = np.argsort(-errors, kind="stable")[:wanted]
    unit = f" {task.unit}" if isinstance(task, Regression) and task.unit else ""
    truth = decided.rows.labels.values[task.name]
    return [
        {
            "task": task.name,
            "cell": "" if run.cell.startswith(SINGLE_TASK) else run.cell,
            "truth": _text(task, float(truth[row])) + unit,
            "said": _said(task, decided, int(row)) + unit,
            "alone": "" if beside is None else _said(task, beside, int(row)) + unit,
            "picture": picture(test.store.images[test.rows[row]]),
        }
        for row in order
        if errors[row] > 0
    ]


def _errors(folder: Path, task: Task, run: RunRecord, decided: Decided) -> NDArray[np.float64] | None:
    """How wrong every row is, [N]: 0 where it is right or has no label; None for kinds without a gallery."""
    present = decided.rows.labels.present[task.name].numpy()
    truth = decided.rows.labels.values[task.name].numpy()
    if isinstance(task, Binary | Multiclass):
        confidence = load_confidence(run_folder(folder, run.id), task.name)
        if confidence is None:
            return None
        wrong = (_codes(task, decided) != truth) & present
        return np.where(wrong, confidence.double().numpy(), 0.0)
    if isinstance(task, Regression) and (isinstance(task, Ordinal) or task.size == 1):
        errors = np.abs(decided.outputs[:, 0].double().numpy() - truth.astype(np.float64))
        return np.where(present, errors, 0.0)
    return None


def _codes(task: Task, decided: Decided) -> NDArray[np.int64]:
    output = decided.outputs
    codes: NDArray[np.int64] = (
        (output[:, 0] > 0).long() if isinstance(task, Binary) else output.argmax(dim=1)
    ).numpy()
    return codes


def _said(task: Task, decided: Decided, row: int) -> str:
    if isinstance(task, Binary | Multiclass):
        return str(task.class_names[_codes(task, decided)[row]])
    return _text(task, float(decided.outputs[row, 0]))


def _text(task: Task, value: float) -> str:
    return str(task.class_names[int(value)]) if isinstance(task, Binary | Multiclass) else f"{value:.4g}"


def picture(image: NDArray[np.uint8]) -> str:
    """An RGB image [H, W, 3] as base64 of a JPEG of at most `THUMBNAIL` pixels.

    Example:
        >>> picture(np.zeros((4, 4, 3), np.uint8)).startswith("/9j/")
        True
    """
    longest = max(image.shape[:2])
    scale = min(1.0, THUMBNAIL / longest)
    shown = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(encoded.tobytes()).decode()
