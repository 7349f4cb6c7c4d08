"""Cells: the configurations a study compares, expanded from the study file's `cells`.

An entry is one architecture with its settings, and beside it, if wanted, `balancing`, `callbacks`,
`coupling`, `training` (settings in place of the study's), `tasks` (some of the study's), `warm_start` and
`name`:

    - hard_sharing: {stages: [1, 2, 3], from: [input, output]}
      training: {epochs: 40}

Lists in the settings of the architecture, of `balancing`, `callbacks` and `coupling` multiply: that entry is
six cells. A setting that takes a list by nature (its type in the architecture's signature is a list, such as
`after: [1, 3]`) stays one value; give it a list of lists to multiply it. `groups: all` is every grouping of
the tasks. Beside the architecture, `balancing: [pcgrad, mgda]`, `tasks: subsets` (every two or more of the
tasks) and a list of lists of tasks multiply; other lists there do not. `warm_start` says from which trained
networks the cells start.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing import ARCHITECTURES
from taskloom.study.cell_names import name_of, with_unique_names
from taskloom.study.choices import balancing_choices, callback_choices
from taskloom.study.config import HeadSettings, Study, digest
from taskloom.study.couplings import read_coupling
from taskloom.study.extras import training_of
from taskloom.study.groupings import read_task_sets, with_groupings, with_main_tasks
from taskloom.study.identity import deciding_settings
from taskloom.study.locate import explain, located
from taskloom.study.multiply import multiply
from taskloom.study.own_network import own_encoder, own_head
from taskloom.study.teachers import teacher_choices, with_teachers
from taskloom.study.warm_start import linked, read_warm_start, renamed
from taskloom.study.yaml_lines import Document, KeyPath, dotted
from taskloom.training.config import TrainingConfig

SINGLE_TASK = "single_task"
"""Architecture and cell id of the baselines."""

SIBLINGS = (
    "balancing",
    "callbacks",
    "coupling",
    "training",
    "tasks",
    "warm_start",
    "teachers",
    "encoder",
    "head",
    "name",
)
"""What may stand beside the architecture in an entry."""


@dataclass(frozen=True)
class Cell:
    """One configuration of a study, without seed.

    Args:
        name: For people, unique in the study.
        architecture: Name in `taskloom.sharing.ARCHITECTURES`.
        settings: The architecture's settings.
        tasks: Names of the tasks trained together, in the study's order.
        training: The study's training settings with the cell's own in place.
        balancing: `{name: settings}` of a balancer, None for a plain sum.
        callbacks: `{name: settings}` each, of `taskloom.training.CALLBACKS`, in the order they are called.
        warm_start: The cells whose trained networks it starts from; see `taskloom.study.warm_start`.
        teachers: Settings of `taskloom.study.teachers`, None where there are none.
        taught_by: The cells whose trained networks label what its training rows miss.
        coupling: Settings of a coupling as `taskloom.study.couplings` reads them, None where there is none.
        encoder, head: In place of the study's; see `taskloom.study.own_network`. None: the study's.
        entry: Position in the study file's `cells`, -1 for a baseline.
    """

    name: str
    architecture: str
    settings: dict[str, Any]
    tasks: tuple[str, ...]
    training: TrainingConfig
    balancing: dict[str, Any] | None = None
    callbacks: tuple[dict[str, Any], ...] = ()
    warm_start: tuple[Cell, ...] = ()
    teachers: dict[str, Any] | None = None
    taught_by: tuple[Cell, ...] = ()
    coupling: dict[str, Any] | None = None
    encoder: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    entry: int = field(default=-1, compare=False)

    @property
    def id(self) -> str:
        """Short hash of the settings; it does not change when other cells come or go."""
        if self.architecture == SINGLE_TASK:
            own = self.head if self.encoder is None else {"head": self.head, "encoder": self.encoder}
            return SINGLE_TASK if own is None else f"{SINGLE_TASK} {digest(own)[:6]}"
        return digest(self.resolved())[:10]

    def resolved(self) -> dict[str, Any]:
        """Everything of the cell that decides a result, as plain values; its name does not."""
        return {
            "architecture": self.architecture,
            "settings": self.settings,
            "tasks": list(self.tasks),
            "training": deciding_settings(self.training),
            "balancing": self.balancing,
            # Left out where there are none: cells without them are what they were before there were any.
            **({"callbacks": list(self.callbacks)} if self.callbacks else {}),
            **(
                {"warm_start": [digest(cell.resolved()) for cell in self.warm_start]}
                if self.warm_start
                else {}
            ),
            **(
                {"teachers": {**self.teachers, "cells": [digest(c.resolved()) for c in self.taught_by]}}
                if self.teachers
                else {}
            ),
            **({"coupling": self.coupling} if self.coupling else {}),
            **({} if self.encoder is None else {"encoder": self.encoder}),
            **({} if self.head is None else {"head": self.head}),
        }


class BaselineForm(NamedTuple):
    """A form of training alone: its name, whether it is judged by, what it has in place of the study's."""

    name: str
    judged: bool
    head: dict[str, Any] | None
    encoder: dict[str, Any] | None

    def cell(self, name: str, tasks: tuple[str, ...], training: TrainingConfig) -> Cell:
        """The cell that trains these tasks so."""
        return Cell(name, SINGLE_TASK, {}, tasks, training, head=self.head, encoder=self.encoder)


def baseline_forms(study: Study) -> list[BaselineForm]:
    """Returns the forms of training alone."""
    settings, usual = study.config.baseline, study.config.head

    def own(head: HeadSettings) -> dict[str, Any] | None:
        return None if head == usual else head.model_dump(mode="json", exclude_defaults=True)

    if not settings.forms:
        return [BaselineForm("", True, own(settings.head or usual), None)]
    judged = settings.judge or next(iter(settings.forms))
    with located(study.document):
        return [
            BaselineForm(
                name,
                name == judged,
                own(form.head),
                own_encoder(form.encoder, study, ("baseline", "forms", name, "encoder")),
            )
            for name, form in settings.forms.items()
        ]


def baselines(study: Study) -> list[Cell]:
    """Returns the single-task cells: each judged task alone, with the study's encoder and training.

    One per form of `baseline`; auxiliary and adversarial tasks have one where `baseline.auxiliary` asks for
    it. Learning rates by task or group do not apply: all of such a network belongs to its task.
    """
    with located(study.document):
        training_of(study.config.training, study.config.tasks, study.config.tasks, ("training",))
    known = study.config.tasks
    usual = study.config.training.with_settings(lr_multipliers={})
    return [
        form.cell(
            f"{task} alone{f', {form.name}' if form.name else ''}",
            (task,),
            training_of(usual, known, (task,), ("training",)),
        )
        for form in baseline_forms(study)
        for task, settings in study.config.tasks.items()
        if settings.get("role", "main") == "main" or study.config.baseline.auxiliary
    ]


def expand_cells(study: Study) -> list[Cell]:
    """Returns the cells of a study file, lists multiplied, in the file's order.

    Raises:
        ConfigError: With file and line: no or several architectures in an entry, a setting that the
            architecture does not have, a task that is not there, two cells that are the same.
    """
    cells: list[Cell] = []
    for position in range(len(study.config.cells)):
        cells += _expand_entry(study, position)
    _refuse_repetitions(cells, study.document)
    return renamed(with_unique_names(cells))


def _expand_entry(study: Study, position: int) -> list[Cell]:
    document, entry = study.document, study.config.cells[position]
    path: KeyPath = ("cells", position)
    architecture = _architecture(entry, document, path)
    given = {} if entry[architecture] is None else entry[architecture]
    if not isinstance(given, dict):
        raise ConfigError(
            f"{document.where((*path, architecture))}: {dotted((*path, architecture))}: settings "
            "by name expected, "
            f"found {given!r}."
        )
    with located(document):
        task_sets = read_task_sets(entry.get("tasks"), tuple(study.config.tasks), (*path, "tasks"))
        task_sets = with_main_tasks(task_sets, study.config.tasks, entry.get("tasks"), (*path, "tasks"))
    return [
        cell
        for tasks in task_sets
        for cell in _expand_on(study, position, architecture, given, tasks, several=len(task_sets) > 1)
    ]


def _expand_on(
    study: Study,
    position: int,
    architecture: str,
    given: dict[str, Any],
    tasks: tuple[str, ...],
    *,
    several: bool,
) -> list[Cell]:
    """The cells of an entry on one of its sets of tasks; `several`: whether it has others."""
    document, entry = study.document, study.config.cells[position]
    path: KeyPath = ("cells", position)
    with located(document):
        balancings = balancing_choices(entry.get("balancing"), (*path, "balancing"))
        callbacks = callback_choices(entry.get("callbacks"), tasks, (*path, "callbacks"))
        kinds = {name: str(study.config.tasks[name]["kind"]) for name in tasks}
        couplings = read_coupling(entry.get("coupling"), kinds, (*path, "coupling"))
        title = entry.get("name")
        if title is not None and not isinstance(title, str):
            raise ConfigError(f"{dotted((*path, 'name'))}: text expected, found {title!r}.")
        training = _training(entry.get("training"), study, (*path, "training"))
        encoder = own_encoder(entry.get("encoder"), study, (*path, "encoder"))
        head = own_head(entry.get("head"), study, (*path, "head"))
        own = "lr_multipliers" in (entry.get("training") or {})
        where: KeyPath = (*path, "training") if own else ("training",)
        training = training_of(training, study.config.tasks, tasks, where)
        given = with_groupings(given, tasks, (*path, architecture))
    combinations = multiply(architecture, given, document, (*path, architecture))
    with located(document):
        varied = [name for name in given if name in combinations[0][1]]
        warm = read_warm_start(entry.get("warm_start"), varied, (*path, "warm_start"))
        teachers = teacher_choices(entry.get("teachers"), (*path, "teachers"))
    suffix = f" on {', '.join(tasks)}" if several else ""
    cells = [
        Cell(
            " + ".join(
                filter(
                    None,
                    [
                        name_of(architecture, settings, title, varied, entry, (balancing, called, taught)),
                        words,
                    ],
                )
            )
            + suffix,
            architecture,
            settings,
            tasks,
            training,
            balancing.named[0] if balancing.named else None,
            called.named,
            coupling=coupling,
            encoder=encoder,
            head=head,
            entry=position,
            teachers=taught.named[0] if taught.named else None,
        )
        for (settings, varied), balancing, called, (coupling, words), taught in itertools.product(
            combinations, balancings, callbacks, couplings, teachers
        )
    ]
    alone = baselines(study)
    return linked(with_teachers(cells, alone), warm, alone)


def _architecture(entry: Mapping[str, Any], document: Document, path: KeyPath) -> str:
    found = [key for key in entry if key in ARCHITECTURES]
    for key in entry:
        if key not in ARCHITECTURES and key not in SIBLINGS:
            known = [*ARCHITECTURES, *SIBLINGS]
            raise ConfigError(
                f"{document.where((*path, key))}: {dotted((*path, key))} is neither an "
                "architecture nor a setting of "
                f"a cell.{did_you_mean(key, known)} Architectures: {', '.join(ARCHITECTURES)}; "
                "beside one may stand: "
                f"{', '.join(SIBLINGS)}."
            )
    if len(found) != 1:
        names = ", ".join(found) if found else "none"
        raise ConfigError(
            f"{document.where(path)}: {dotted(path)}: one architecture expected, found {names}. "
            f"Architectures: {', '.join(ARCHITECTURES)}."
        )
    if found[0] == SINGLE_TASK:
        raise ConfigError(
            f"{document.where((*path, SINGLE_TASK))}: {dotted((*path, SINGLE_TASK))}: the "
            "single-task baselines are "
            "always run; remove this entry."
        )
    return found[0]


def _training(value: Any, study: Study, path: KeyPath) -> TrainingConfig:
    if value is None:
        return study.config.training
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{study.document.where(path)}: {dotted(path)}: settings by name expected, found {value!r}."
        )
    merged = {**study.config.training.model_dump(), **value}
    try:
        return TrainingConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, TrainingConfig, study.document, path)) from None


def _refuse_repetitions(cells: Sequence[Cell], document: Document) -> None:
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.id, cell)
        if other is not cell:
            place: KeyPath = ("cells", cell.entry)
            raise ConfigError(
                f"{document.where(place)}: {dotted(place)} holds a cell ({cell.name}) that "
                f"{dotted(('cells', other.entry))} already holds; remove one of the two."
            )
