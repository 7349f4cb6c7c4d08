"""The text of a study file, section by section, with a comment where a choice was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskloom.study.draft.kinds import TaskDraft
from taskloom.study.draft.networks import Network
from taskloom.study.draft.yaml_text import flow, key, line, remark

_LEAST_COLUMNS = 3


@dataclass(frozen=True)
class Sections:
    """Everything that a study file says; see the names of its sections.

    Args:
        origin: What it was written from.
        data, comments, remarks: The `data` section, what stands beside its settings, and above it.
        tasks: The tasks.
        split, split_comment: The `split` section.
        network: The encoder and what depends on it.
        training, cells, repeats: The sections of these names.
        warnings: What reading the data gave rise to.
        given_split: Whether the split came with the data.
    """

    origin: str
    data: Mapping[str, Any]
    comments: Mapping[str, str]
    remarks: Sequence[str]
    tasks: Sequence[TaskDraft]
    split: Mapping[str, Any]
    split_comment: str
    network: Network
    training: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]
    repeats: int
    warnings: Sequence[str] = ()
    given_split: bool = False


def write(sections: Sections) -> str:
    """Returns the text of the file."""
    lines = remark(f"Written by `taskloom init` from {sections.origin}; change what you know better.")
    for warning in sections.warnings:
        lines += remark(f"Warning: {warning}")
    lines += ["data:"]
    for text in sections.remarks:
        lines += remark(text, "  ")
    for name, value in sections.data.items():
        lines += line(f"  {name}: {flow(value)}", sections.comments.get(name, ""))
    numbers = any(task.kind == "regression" for task in sections.tasks)
    lines += line("tasks:", "`unit: ...` and `range: [low, high]` may be added to numbers" if numbers else "")
    lines += _multilabel(sections.tasks)
    for task in sections.tasks:
        lines += line(f"  {key(task.name)}: {flow(task.settings)}", task.comment)
    lines += line(f"split: {flow(sections.split)}", sections.split_comment)
    lines += line(f"encoder: {flow(sections.network.encoder)}", sections.network.comment)
    lines += line(f"training: {flow(sections.training)}")
    lines += line(f"repeats: {sections.repeats}", "of every cell, each with a seed of its own")
    lines += line("cells:", "single-task networks are always run beside them")
    for cell in sections.cells:
        several = "," in flow(cell).partition("[")[2].partition("]")[0]
        lines += line(f"  - {flow(cell)[1:-1]}", "a list makes one cell of each" if several else "")
    return "\n".join(lines) + "\n"


def _multilabel(tasks: Sequence[TaskDraft]) -> list[str]:
    columns = [task.name for task in tasks if task.settings.get("classes") == ["0", "1"]]
    if len(columns) < _LEAST_COLUMNS:
        return []
    names = flow([*columns[:2], "..."]).replace('"..."', "...")
    return remark(
        f"Columns of 0 and 1 may be one task: `signs: {{kind: multilabel, columns: {names}}}`.", "  "
    )
