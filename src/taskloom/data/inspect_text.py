"""An inspection as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from taskloom.data.inspect import PARTS, Inspection, Leak
from taskloom.wording import counted

_MOST_JOINT = 12
_MOST_FEATURES = 40


def render(inspection: Inspection, *, width: int = 110) -> str:
    """Returns an inspection as text for a terminal of `width` characters, without colours."""
    return as_text(_sections(inspection), width=width)


def as_text(sections: Iterable[Table | Text | Padding], *, width: int = 110) -> str:
    """Returns tables with their titles, and lines, as text of `width` characters, without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    for section in sections:
        if isinstance(section, Table):  # rich would fold a title that is wider than its table
            console.print(Text(str(section.title)))
            section.title = None
            console.print(section)
            console.print()
        else:
            console.print(section)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def _sections(inspection: Inspection) -> Iterator[Table | Text | Padding]:
    rows = ", ".join(f"{name} {count:,}" for name, count in inspection.rows.items())
    yield Text(f"Rows: {sum(inspection.rows.values()):,} ({rows})")
    features = inspection.about.get("features", {})
    if features:
        yield Text(_features(int(features["count"]), features.get("names", ())))
    yield Text("")
    yield _task_table(inspection)
    if any(task.parts["train"].counts for task in inspection.tasks):
        yield _class_table(inspection)
    if len(inspection.tasks) > 1:
        yield _joint_table(inspection) if len(inspection.tasks) <= _MOST_JOINT else _rarest_pairs(inspection)
        yield _per_row_table(inspection)
    yield _group_table(inspection)
    yield from _words_of_the_source(inspection)
    yield Text("Leaks")
    if not inspection.leaks:
        yield Text("  none found between train, validation and test")
    for leak in inspection.leaks:
        yield Padding(Text(_sentence(leak)), (0, 0, 0, 2))
    for reason in inspection.unchecked:
        yield Text(f"  not checked: {reason}")


def plain_table(title: str, *columns: str) -> Table:
    """An empty table without lines, its first column to the left, the others to the right."""
    table = Table(title=title, box=None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    return table


def _task_table(inspection: Inspection) -> Table:
    table = plain_table("Labels present", "task", "kind", *PARTS, "missing", "mean (sd) in train")
    for task in inspection.tasks:
        train = task.parts["train"]
        spread = ""
        if train.mean is not None and train.deviation is not None:
            spread = f"{train.mean:.4g} ({train.deviation:.3g}) {task.unit}".rstrip()
        present = [f"{task.parts[part].present:,}" for part in PARTS]
        kind = task.kind if task.role == "main" else f"{task.kind}, {task.role}"
        table.add_row(task.name, kind, *present, f"{100 * task.missing_share:.1f} %", spread)
    return table


def _class_table(inspection: Inspection) -> Table:
    table = plain_table("Classes, labels and points", "task", "class", *PARTS)
    for task in inspection.tasks:
        for position, name in enumerate(task.parts["train"].counts):
            counts = [f"{task.parts[part].counts.get(name, 0):,}" for part in PARTS]
            # of `ja` and `nein`, F1 and the network's one probability are those of the second, `nein`
            second = task.kind == "binary" and position == 1 and name != "1"
            table.add_row(
                task.name if position == 0 else "", f"{name} (positive)" if second else name, *counts
            )
    return table


def _joint_table(inspection: Inspection) -> Table:
    numbers = [str(position + 1) for position in range(len(inspection.tasks))]
    table = plain_table("Rows labelled for both tasks", "task", *numbers)
    for number, task, row in zip(numbers, inspection.tasks, inspection.joint, strict=True):
        table.add_row(f"{number} {task.name}", *(f"{count:,}" for count in row))
    return table


def _rarest_pairs(inspection: Inspection) -> Table:
    """Where the whole matrix would not fit: the pairs that are hardly ever labelled together."""
    table = plain_table("Rows labelled for both tasks: the rarest pairs", "task", "and", "rows")
    tasks = inspection.tasks
    pairs = [(inspection.joint[i][j], i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]
    for count, i, j in sorted(pairs)[:_MOST_JOINT]:
        table.add_row(tasks[i].name, tasks[j].name, f"{count:,}")
    return table


def _per_row_table(inspection: Inspection) -> Table:
    table = plain_table("Tasks labelled per row", "tasks", "rows", "share")
    total = max(1, sum(inspection.labels_per_row))
    for number, count in enumerate(inspection.labels_per_row):
        if count:
            table.add_row(str(number), f"{count:,}", f"{100 * count / total:.1f} %")
    return table


def _group_table(inspection: Inspection) -> Table:
    table = plain_table("Groups", "part", "groups", "smallest", "median", "largest")
    for part, groups in inspection.groups.items():
        table.add_row(
            part, f"{groups.count:,}", f"{groups.smallest:,}", f"{groups.median:g}", f"{groups.largest:,}"
        )
    return table


def _features(count: int, names: Sequence[str]) -> str:
    """Which columns are inputs: whoever writes `rest` should see what that is."""
    shown = ", ".join(names[:_MOST_FEATURES]) + (", ..." if len(names) > _MOST_FEATURES else "")
    return f"Features: {count:,}" + (f" ({shown})" if shown else "")


def _words_of_the_source(inspection: Inspection) -> Iterator[Text | Padding]:
    """What the reader says about the data, and what a study will refuse."""
    empty = [
        f"task {task.name} has no label in {', '.join(parts)}; a study needs some in every part."
        for task in inspection.tasks
        if (parts := [part for part in PARTS if not task.parts[part].present])
    ]
    for title, lines in (
        ("Warnings", [*map(str, inspection.about.get("warnings", ())), *empty]),
        ("Notes", [str(note) for note in inspection.about.get("notes", ())]),
    ):
        if lines:
            yield Text(title)
            for line in lines:
                yield Padding(Text(line), (0, 0, 0, 2))
            yield Text("")


def _sentence(leak: Leak) -> str:
    first, second = leak.parts
    examples = ", ".join(leak.examples) + (", ..." if leak.count > len(leak.examples) else "")
    if leak.what == "groups":
        shared = counted(leak.count, "group stands", "groups stand")
        return f"{shared} in {first} and in {second}: {examples}. Split by group."
    if leak.what == "samples":
        return f"{second} shares samples with {first} in {counted(leak.count, 'window')}, of {examples}."
    return (
        f"{counted(leak.count, 'row')} of {second} with the inputs of a row of {first}: {examples}. This may "
        "be honest (few distinct inputs) or a copied row; group equal rows to be safe."
    )
