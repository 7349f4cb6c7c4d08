"""What a run decided for every test row: the class and how sure it was, which labels hold, the number.

Kept so that two tasks' predictions can be held against any relatedness later, of one network or of two that
were trained alone; per label of a multilabel task how well it is predicted; and everything by class and by
subgroup.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, TaskSet
from taskloom.training import Evaluation
from taskloom.training.checkpoints import write_atomically

FILE = "test_decisions.npz"
_COUNTS = "counts of "
_NUMBERS = "values of "
_CONFIDENCE = "confidence of "


def save_decisions(folder: Path, evaluation: Evaluation, labels: Labels) -> None:
    """Writes the decisions of a run, and the counts behind the F1 of single labels.

    Args:
        folder: The run's folder.
        evaluation: What the network gave for the test rows.
        labels: Their labels.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, task in evaluation.tasks.items():
        output = evaluation.outputs[name]
        if isinstance(task, Multiclass):
            arrays[name] = output.argmax(dim=1).to(torch.int32).numpy()
        elif isinstance(task, Binary):
            arrays[name] = (output[:, 0] > 0).to(torch.uint8).numpy()
        elif isinstance(task, Multilabel):
            arrays[name] = (output > 0).to(torch.uint8).numpy()
            arrays[_COUNTS + name] = _counts(output > 0, labels.values[name], labels.present[name])
        elif isinstance(task, Regression | Landmarks) and output.ndim == 2:
            arrays[_NUMBERS + name] = task.decode(output).to(torch.float32).numpy()
        if isinstance(task, Binary | Multiclass) and output.ndim == 2:
            logits = torch.cat([-output, output], dim=1) / 2 if isinstance(task, Binary) else output
            arrays[_CONFIDENCE + name] = logits.softmax(dim=1).amax(dim=1).to(torch.float32).numpy()
    if not arrays:
        return
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / FILE, buffer.getbuffer())


def _counts(predicted: Tensor, values: Tensor, present: Tensor) -> NDArray[np.int64]:
    """Right positives, wrong positives and missed ones of every label, [3, L]."""
    truth = values.bool()
    found = [predicted & truth, predicted & ~truth, ~predicted & truth]
    return torch.stack([(part & present).sum(dim=0) for part in found]).numpy()


def load_numbers(folder: Path, task: str) -> Tensor | None:
    """What a run predicted for a task of numbers or points, in its unit, [N, ...]; None where not kept."""
    return _kept(folder, _NUMBERS + task)


def load_confidence(folder: Path, task: str) -> Tensor | None:
    """The probability that a run gave to the class it decided for, [N]; None where not kept."""
    return _kept(folder, _CONFIDENCE + task)


def _kept(folder: Path, name: str) -> Tensor | None:
    found = _arrays(folder)
    return None if found is None or name not in found else torch.from_numpy(found[name])


def load_decisions(folder: Path, tasks: TaskSet) -> dict[str, Tensor] | None:
    """Returns outputs that decide as the run did, by task; None where a run has left none.

    Args:
        folder: The run's folder.
        tasks: The study's tasks.

    Returns:
        [N, width] per task (or [N, width, W]): 1 for what was decided, -1 for everything else.
    """
    found = _arrays(folder)
    if found is None:
        return None
    outputs = {}
    for name, array in found.items():
        if name.startswith(_COUNTS) or name not in tasks:
            continue
        decided = torch.from_numpy(array.astype(np.int64))
        if isinstance(tasks[name], Multiclass):
            decided = torch.nn.functional.one_hot(decided, tasks[name].width).movedim(-1, 1)
        elif isinstance(tasks[name], Binary):
            decided = decided.unsqueeze(1)
        outputs[name] = 2.0 * decided.float() - 1.0
    return outputs


def label_f1(folder: Path, task: str) -> NDArray[np.float64] | None:
    """F1 of every label of a multilabel task on the test part, [L]; NaN where neither predicted nor there."""
    found = _arrays(folder)
    if found is None or _COUNTS + task not in found:
        return None
    right, wrong, missed = found[_COUNTS + task].astype(np.float64)
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = 2 * right / (2 * right + wrong + missed)
    return scores


def _arrays(folder: Path) -> Mapping[str, NDArray[Any]] | None:
    path = folder / FILE
    if not path.is_file():
        return None
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
