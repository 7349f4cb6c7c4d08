"""Teachers in studies: single-task networks of the same repeat label what a cell's training rows miss.

Beside an architecture in an entry of `cells`:

    teachers: single_task                                     each task's own trained baseline
    teachers: {from: single_task, weight: 0.5, temperature: 2}
    teachers: [false, {temperature: [1, 2]}]                  lists multiply: three cells

See `taskloom.training.teaching` for what a soft label is. They stand in `soft_labels.npz` of the run's folder
with their teachers' run ids; validation and test rows have none.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from taskloom.data.batch import DataSplits, TaskDataset
from taskloom.errors import ConfigError, did_you_mean
from taskloom.study.choices import Choice, human
from taskloom.study.warm_start import weights_of_run
from taskloom.study.yaml_lines import KeyPath, dotted
from taskloom.training.teaching import SoftLabels, Teaching, soft_labels
from taskloom.version import __version__

if TYPE_CHECKING:
    from taskloom.sharing import MultiTaskNetwork
    from taskloom.study.cells import Cell
    from taskloom.study.runs import RunSpec

ALONE = "single_task"


def read_teachers(value: Any, path: KeyPath) -> dict[str, Any] | None:
    """Reads the `teachers` of an entry.

    Args:
        value: What the study file says; None and false are no teachers.
        path: Where it stands.

    Returns:
        Where the teachers come from, and settings that differ from the defaults.

    Raises:
        ConfigError: Another source, an unknown setting, a value out of range.

    Example:
        >>> read_teachers({"from": "single_task", "weight": 0.5, "temperature": 1}, ("teachers",))
        {'from': 'single_task', 'weight': 0.5}
    """
    if value is None or value is False:
        return None
    given = {"from": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ConfigError(f"{dotted(path)}: {ALONE} or settings by name expected, found {value!r}.")
    known = ("from", *(field.name for field in dataclasses.fields(Teaching)))
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{dotted((*path, str(key)))} is not a setting.{did_you_mean(str(key), known)} "
                f"Settings: {', '.join(known)}."
            )
    if given.get("from", ALONE) != ALONE:
        hint = did_you_mean(str(given["from"]), [ALONE])
        raise ConfigError(
            f"{dotted((*path, 'from'))}: {ALONE} expected (the study's own baselines), found "
            f"{given['from']!r}.{hint}"
        )
    numbers: dict[str, Any] = {str(key): given[key] for key in given if key != "from"}
    try:
        Teaching(**numbers)
    except ConfigError as error:
        raise ConfigError(f"{dotted(path)}{str(error).removeprefix('teachers')}") from None
    return {"from": ALONE, **{key: number for key, number in numbers.items() if number != 1}}


def teacher_choices(value: Any, path: KeyPath) -> list[Choice]:
    """Reads the `teachers` of an entry; a list is several cells, and so is a list in the settings.

    Args:
        value: What the study file says.
        path: Where it stands.

    Raises:
        ConfigError: See `read_teachers`; an empty list.

    Example:
        >>> found = teacher_choices([False, {"temperature": [1, 2]}], ("teachers",))
        >>> [choice.differs for choice in found]
        [(), ('teachers temperature 1',), ('teachers temperature 2',)]
    """
    if value == [] or (isinstance(value, Mapping) and [] in value.values()):
        raise ConfigError(f"{dotted(path)}: an empty list; name {ALONE}, or leave the setting out.")
    choices = []
    several = isinstance(value, list)
    for number, one in enumerate(value if several else [value]):
        at: KeyPath = (*path, number) if several else path
        listed = {key: given for key, given in one.items() if isinstance(given, list)} if _named(one) else {}
        for picked in itertools.product(*listed.values()):
            chosen = dict(zip(listed, picked, strict=True))
            settings = read_teachers({**one, **chosen} if _named(one) else one, at)
            numbers = [f"{human(key)} {human(given)}" for key, given in chosen.items()]
            words = " ".join(["teachers", *numbers])
            if settings is None:
                choices.append(Choice())
            else:
                choices.append(Choice((settings,), (words,), (words,) if several or numbers else ()))
    return choices


def _named(value: Any) -> bool:
    return isinstance(value, Mapping)


def with_teachers(cells: Sequence[Cell], alone: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of an entry, those with settings of teachers each with its teachers.

    Args:
        cells: On one set of tasks.
        alone: The study's single-task cells.

    Raises:
        ConfigError: A task of the cells is not trained alone.
    """
    if not any(cell.teachers for cell in cells):
        return list(cells)
    # Of several forms of training alone, the one with the heads of the cells, where there is one.
    of_task = {cell.tasks: cell for cell in sorted(alone, key=lambda cell: cell.head is None)}
    for task in cells[0].tasks if cells else ():
        if (task,) not in of_task:
            raise ConfigError(
                f"teachers: task {task} is not judged and so not trained alone; set `baseline.auxiliary: "
                "true`, or leave it out of the cell."
            )
    return [
        dataclasses.replace(cell, taught_by=tuple(of_task[(task,)] for task in cell.tasks))
        if cell.teachers
        else cell
        for cell in cells
    ]


def taught(
    spec: RunSpec,
    splits: DataSplits,
    rows: TaskDataset,
    build: Callable[[RunSpec, DataSplits], MultiTaskNetwork],
    weights: Callable[[RunSpec], Mapping[str, Tensor]],
) -> SoftLabels | None:
    """Lets the teachers of a run label what its training rows miss; None where it has no teachers.

    Args:
        spec: The run.
        splits: Its data.
        rows: Its training rows.
        build: Builds a network.
        weights: Gives the trained weights of a run.

    Raises:
        TrainingError: A teacher was not trained.
    """
    if spec.cell.teachers is None:
        return None
    networks, names = {}, {}
    for teacher in spec.teachers:
        (task,) = teacher.cell.tasks
        networks[task] = build(teacher, splits)
        networks[task].load_state_dict(weights(teacher))
        names[task] = f"{teacher.cell.name}, run {teacher.id[:16]}, taskloom {__version__}"
    numbers = {key: number for key, number in spec.cell.teachers.items() if key != "from"}
    return soft_labels(
        networks,
        rows,
        names=names,
        teaching=Teaching(**numbers),
        batch=spec.cell.training.evaluation_batch,
    )


def weights_of_teacher(spec: RunSpec) -> Mapping[str, Tensor]:
    """Returns the weights of a finished teacher's best epoch; see `weights_of_run`."""
    return weights_of_run(spec, "teachers", "the run that teaches it")


def teaching_details(soft: SoftLabels) -> dict[str, Any]:
    """What a run's record says about its soft labels."""
    return {**soft.settings(), "soft_labels": soft.counts()}
