"""A first study file for data of one's own: `taskloom init`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskloom.data.cell_texts import looks_missing
from taskloom.data.face_source import FaceSource
from taskloom.data.file_names import check_file_name
from taskloom.data.inspect import inspect_splits
from taskloom.data.label_doubts import FAR_BELOW
from taskloom.data.sources import find_source as find_reader
from taskloom.errors import ConfigError, DataError
from taskloom.study.cells import baselines, expand_cells
from taskloom.study.config import Study, check_study
from taskloom.study.draft.columns import Column, look
from taskloom.study.draft.find import find_source
from taskloom.study.draft.image_files import check_rows
from taskloom.study.draft.inputs import Inputs, choose_inputs
from taskloom.study.draft.kinds import TaskDraft, draft_task, stand_ins
from taskloom.study.draft.marks import marks_in
from taskloom.study.draft.networks import MANY_ROWS, cells_for, training_for
from taskloom.study.draft.sources import Source
from taskloom.study.draft.survey import Survey, chosen_tasks, survey
from taskloom.study.draft.write import Sections, write
from taskloom.study.draft.yaml_text import shown
from taskloom.study.prepare import check_labels
from taskloom.study.single import load_data
from taskloom.study.yaml_lines import parse_document
from taskloom.wording import counted

REPEATS = 5
_SEEDS = (1, 2, 3)
_RARE = 50
"""Rows of a class below which it is spread evenly over the parts."""


@dataclass(frozen=True)
class Draft:
    """A study file that has not been written yet.

    Args:
        text: The file, with comments.
        notes: What whoever runs it should know before, one sentence each.
        runs: How many runs it is, in words.
        tasks: Kind of every task by its name.
    """

    text: str
    notes: tuple[str, ...]
    runs: str
    tasks: Mapping[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        """What the file says, as plain values to change and to hand to `load_study`."""
        return parse_document(self.text, "study").value

    def __str__(self) -> str:
        return self.text


def draft_study(
    place: Path | str,
    tasks: Sequence[str],
    *,
    images: Path | str | None = None,
    group: str | None = None,
    rate_hz: float | None = None,
    features: str | None = None,
    stores: Path | str = "runs/stores",
) -> Draft:
    """Looks at data and writes the study file that a verdict on them can begin with.

    Nothing is written to disk, except that recordings are prepared as every study prepares them, once.

    Args:
        place: A table (CSV, TSV, Parquet); or a folder with a table whose column `file_name` (or `file`)
            names images or recordings in it.
        tasks: The columns to predict, two or more; patterns such as `NR-*` stand for all that fit.
        images: Folder of the images that the table names, where it is not the table's or one in it.
        group: Column whose equal values stay on one side of the split; "none" for none; found where None.
        rate_hz: Samples per second of recordings whose files do not say it.
        features: An array beside the table (`bits.npz:morgan`, or either name) that holds the features; the
            columns do where None, or where there are none the one array of as many rows.
        stores: Folder of prepared recordings.

    Raises:
        DataError: The data cannot be read, a column is not there or cannot be a task, or no split of the rows
            gives every part labels of every task.
        ConfigError: Fewer than two tasks.

    Example:
        >>> rows = [f"{i // 2},{i / 7},{i % 5},{i + 1},{'no yes'.split()[i // 3 % 2]}" for i in range(60)]
        >>> _ = Path("people.csv").write_text("\\n".join(["person,a,b,age,smokes", *rows]))
        >>> draft = draft_study("people.csv", ["age", "smokes"])
        >>> draft.tasks, draft.runs
        ({'age': 'regression', 'smokes': 'binary'}, '(4 cells + 2 tasks alone) x 5 seeds = 30 runs')
        >>> draft.settings["data"]
        {'table': 'people.csv', 'features': 'rest', 'group': 'person'}
    """
    check_file_name(place, "place")
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    source = find_source(Path(place), images=None if images is None else Path(images), rate_hz=rate_hz)
    names = chosen_tasks(source.table, wanted, source.beside)
    _check_names(names, source.reserved, source.table.path)
    columns = [name for name in names if name not in source.beside]
    found = survey(source, tasks=columns, group=group)
    if found.group is not None and found.group[0] in names:
        raise ConfigError(f"--group: `{found.group[0]}` is a task; rows cannot be kept together by it.")
    if not source.label_table:
        _check_holes(found, columns)
    found, drafted = _drafted(found, columns)
    drafts = [drafted[name] if name in drafted else _beside(source, name) for name in names]
    if features is not None and source.kind != "table":
        raise ConfigError(f"--features {features}: goes with a table; {source.kind} are inputs themselves.")
    inputs = choose_inputs(found, names, features)
    sections = _sections(found, drafts, inputs)
    split, warnings = _split_that_works(sections, Path(stores), found)
    sections = replace(sections, split=split, warnings=tuple(warnings))
    if split != inputs.split:
        why = (
            f"spread evenly by `{shown(split['stratify'])}`, whose rarest class has few rows"
            if "stratify" in split
            else "the first draw by which every part has labels of every task"
        )
        sections = replace(sections, split_comment="; ".join(filter(None, [why, inputs.split_comment])))
    study = _study(sections)
    cells, alone = len(expand_cells(study)), len(baselines(study))
    runs = (
        f"({counted(cells, 'cell')} + {counted(alone, 'task')} alone) x {counted(REPEATS, 'seed')} = "
        f"{(cells + alone) * REPEATS} runs"
    )
    kinds = {draft.name: draft.kind for draft in drafts}
    notes = (*inputs.notes, *warnings)
    if source.num_inputs >= MANY_ROWS:
        notes += (
            f"{source.num_inputs:,} rows in every epoch of every run take hours on a CPU; a first look is "
            "`--set repeats=3 --set training.epochs=1`, or a sample of the rows.",
        )
    return Draft(write(sections), notes, runs, kinds)


def _check_names(names: Sequence[str], reserved: Mapping[str, str], path: Path) -> None:
    if len(names) < 2:
        found = f"only `{shown(names[0])}`" if names else "none"
        raise ConfigError(
            f"--tasks: two columns or more expected, as tasks share with each other; found {found}."
        )
    for name in names:
        if name in reserved:
            raise DataError(f"{path}: column `{shown(name)}` cannot be a task: it {reserved[name]}.")


def _check_holes(found: Survey, names: Sequence[str]) -> None:
    """Refuses marks of missing labels in the table of recordings, which takes blank cells only."""
    for name in names:
        texts = found.table.text(name).tolist()
        marks = marks_in(found.table, name) or {text: 1 for text in texts if looks_missing(text)}
        if marks:
            mark = next(iter(marks))
            raise DataError(
                f"{found.table.where(texts.index(mark), name)}: `{mark}` seems to mean a missing label; in "
                f"a table of recordings such a cell is left blank ({texts.count(mark):,} in all)."
            )


def _drafted(found: Survey, names: Sequence[str]) -> tuple[Survey, dict[str, TaskDraft]]:
    """The tasks; numbers that stand for missing labels become marks where no other column means them."""
    table, columns = found.table, dict(found.columns)
    marks = {mark: dict(counts) for mark, counts in found.marks.items()}
    doubts: dict[str, dict[str, str]] = {}
    own = {name: stand_ins(table, columns[name]) for name in names if found.source.label_table}
    far = {mark for reasons in own.values() for mark in reasons if float(mark) < FAR_BELOW}
    others = [name for name in found.free if name not in names] if far else []
    apart = own | {name: stand_ins(table, columns[name]).keys() & far for name in others}
    for name, reasons in own.items():
        for mark, why in reasons.items():
            meant = [other for other in found.free if mark not in apart.get(other, ())]
            if any(_holds(found, other, mark) for other in meant):  # there it is a number like others
                doubts.setdefault(name, {})[mark] = why
            else:
                alike = [other for other in apart if mark in apart[other]]
                counts = {other: int((table.numbers(other) == float(mark)).sum()) for other in alike}
                marks.setdefault(mark, {}).update(counts)
    table = replace(table, missing=tuple(marks))
    for name in columns:
        changed = not columns[name].is_number or any(name in counts for counts in marks.values())
        if len(marks) > len(found.marks) and (name in names or changed):
            columns[name] = look(table, name)
    found = replace(found, table=table, columns=columns, marks=marks)
    return found, {name: draft_task(table, columns[name], doubts.get(name, {})) for name in names}


def _beside(source: Source, name: str) -> TaskDraft:
    """A task that is no column: a track of recordings, points, several columns at once."""
    settings, what = source.beside[name]
    return TaskDraft(name, settings, what)


def _holds(found: Survey, name: str, mark: str) -> bool:
    """Whether a column has a number that elsewhere stands for a missing label."""
    column: Column = found.columns[name]
    if not column.is_number or not column.low <= float(mark) <= column.high:
        return False
    return bool((found.table.numbers(name) == float(mark)).any())


def _sections(found: Survey, drafts: Sequence[TaskDraft], inputs: Inputs) -> Sections:
    network = inputs.network
    num_rows = found.source.num_inputs
    return Sections(
        origin=f"{found.table.path} ({counted(len(found.table), 'row')})",
        data=inputs.data,
        comments=inputs.comments,
        remarks=inputs.remarks,
        tasks=tuple(drafts),
        split=inputs.split,
        split_comment=inputs.split_comment,
        given_split=found.source.split is not None,
        network=network,
        training=training_for(num_rows, images=found.source.kind == "images"),
        cells=cells_for(network, len(drafts)),
        repeats=REPEATS,
    )


def _study(sections: Sections) -> Study:
    return check_study(parse_document(write(sections), "study.yaml"))


def _split_that_works(sections: Sections, stores: Path, found: Survey) -> tuple[dict[str, Any], list[str]]:
    """Reads the data as a study does, and finds a draw by which every part has labels of every task."""
    first: DataError | None = None
    for split in _draws(sections):
        try:
            warnings = _checked(_study(replace(sections, split=split)), stores)
        except DataError as error:
            if first is None:
                first = error
            if not _is_about_split(error):
                break
            continue
        return split, warnings
    assert first is not None
    message = str(first).partition("study.yaml:")[2].partition(": ")[2] or str(first)
    if found.group is not None and not sections.given_split and _is_about_split(first):
        message += f" Rows are kept together by `{found.group[0]}`; --group names another column, or `none`."
    raise type(first)(message) from first


def _is_about_split(error: DataError) -> bool:
    text = str(error)
    return "split: " in text or "there is no label at all in" in text or "split.stratify" in text


def _draws(sections: Sections) -> list[dict[str, Any]]:
    """The split as it is meant, then spread evenly by a task of classes, then drawn by other seeds."""
    split = dict(sections.split)
    if "column" in split or split["by"] in ("official", "thesis"):
        return [split]
    counts = {task.rarest: task.name for task in reversed(sections.tasks) if task.rarest is not None}
    spread = [{**split, "stratify": counts[rows]} for rows in sorted(counts)][:3]
    seeds = [{**split, "seed": seed} for seed in _SEEDS]
    if spread and split["by"] == "rows" and min(counts) < _RARE:  # a part without the class cannot test it
        return [*spread, split, *seeds]
    return [split, *spread, *seeds]


def _checked(study: Study, stores: Path) -> list[str]:
    """Warnings of the study's own source about the data.

    Raises:
        DataError, ConfigError: What the study would refuse.
    """
    if isinstance(find_reader(study.reader), FaceSource):
        return check_rows(study)
    splits = load_data(study, None, stores)
    check_labels(inspect_splits(splits))
    return list(splits.about.get("warnings", []))
