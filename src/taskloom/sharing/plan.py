"""The sharing plan: per stage, which tasks use one copy, how outputs are mixed, and what ties the copies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing.depth import ReadOut
from taskloom.sharing.mixing import CrossStitch, MixingUnit, Per, Start, check_per, check_start
from taskloom.sharing.ties import TIES

Copies = Literal["fresh", "same"]


class MixingSpec(ABC):
    """How the outputs of a stage's copies are mixed.

    Attributes:
        lr_multiplier: Factor on the learning rate of what the unit learns.
    """

    lr_multiplier: float

    @abstractmethod
    def build(self, num_tasks: int, shape: Sequence[int]) -> MixingUnit:
        """The unit for T copies whose outputs are [N, *shape]."""

    @abstractmethod
    def describe(self) -> str:
        """A few words for the table of stages by tasks."""


@dataclass(frozen=True)
class CrossStitchSpec(MixingSpec):
    """How the outputs of a stage's copies are mixed; see `CrossStitch`.

    Args:
        per: One matrix per "layer" or one per "channel".
        start: "identity", "equal", "uniform" or {"same": s, "other": o}.
        lr_multiplier: Factor on the learning rate of the matrix.
    """

    per: Per = "layer"
    start: Start = "identity"
    lr_multiplier: float = 1.0

    def __post_init__(self) -> None:
        check_per(self.per)
        check_start(self.start)
        check_lr_multiplier("cross-stitch", self.lr_multiplier)

    def build(self, num_tasks: int, shape: Sequence[int]) -> CrossStitch:
        return CrossStitch(num_tasks, per=self.per, num_channels=shape[0], start=self.start)

    def describe(self) -> str:
        return f"cross-stitch per {self.per}"


@dataclass(frozen=True)
class TieSpec:
    """A penalty over the copies of a stage: an entry of `ties.TIES`.

    Args:
        name: Its registered name.
        weight: Factor on the penalty; 0 is no tie.
        settings: Its other settings, `every` among them.
    """

    name: str = "trace_norm"
    weight: float = 0.001
    settings: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """A few words for the table of stages by tasks."""
        every = self.settings.get("every", 1)
        return f"{self.name} {self.weight:g}" + ("" if every == 1 else f" every {every}")


@dataclass(frozen=True)
class StagePlan:
    """What one stage does.

    Args:
        partition: Groups of task names; the tasks of a group use one copy of the stage.
        mixing: How the copies' outputs are mixed after the stage; every task must then be alone.
        tie: A penalty over the copies.
        joined: What happens where tasks that share a copy feed it different tensors, because an earlier stage
            has parted them. True: the copy runs once on the batch of all of them, so that batch norm sees
            their joined statistics. False: it runs once per tensor, so that batch norm normalises each by its
            own statistics (the running averages are one all the same). Without batch norm both give the same
            outputs. None: it does not happen; a plan in which it would is refused.
    """

    partition: tuple[tuple[str, ...], ...]
    mixing: MixingSpec | None = None
    tie: TieSpec | None = None
    joined: bool | None = None

    def group_of(self, task: str) -> int:
        """Position of the task's group in the partition."""
        return next(index for index, group in enumerate(self.partition) if task in group)


@dataclass(frozen=True)
class Plan:
    """One stage plan per stage of an encoder, for these tasks.

    A partition may be any set partition of the tasks, a different one at each stage: trees, sharing above
    stages that are not shared ("backwards" hard sharing), groups that change.

    Args:
        tasks: Task names, in the order of heads and matrices.
        stages: One entry per stage.
        read_out: Tasks whose head stands at a lower stage (or reads it pooled); in the stages above, a task
            stands in no group. `depth.with_read_outs` makes such a plan of a usual one.

    Raises:
        ConfigError: A stage whose partition does not hold every task that runs through it exactly once.

    Example:
        >>> shared, alone = StagePlan((("a", "b"),)), StagePlan((("a",), ("b",)))
        >>> Plan(("a", "b"), (shared, alone)).num_shared_stages
        1
    """

    tasks: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    read_out: Mapping[str, ReadOut] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for task in self.read_out:
            if task not in self.tasks or not 1 <= self.depth(task) <= len(self.stages):
                raise ConfigError(
                    f"sharing: read-out of `{task}` after stage {self.depth(task)}: the plan has the tasks "
                    f"{_list(self.tasks)} and the stages 1 to {len(self.stages)}."
                )
        for number, stage in enumerate(self.stages, start=1):
            _check_gone(stage.partition, self, number)
            _check_partition(stage.partition, self.active(number), f"sharing: stage {number}")

    def depth(self, task: str) -> int:
        """Number of stages that the task runs through."""
        return self.read_out[task].stages if task in self.read_out else len(self.stages)

    def active(self, number: int) -> tuple[str, ...]:
        """The tasks that run through stage `number`, from 1."""
        return tuple(task for task in self.tasks if self.depth(task) >= number)

    @property
    def num_shared_stages(self) -> int:
        """Number of stages from the input on that all tasks share."""
        for number, stage in enumerate(self.stages):
            if {len(group) for group in stage.partition} != {len(self.tasks)}:
                return number
        return len(self.stages)

    def describe(self, stage_names: Sequence[str] | None = None) -> str:
        """A table of stages by tasks; tasks with one letter in a row use one copy of that stage.

        Example:
            >>> print(Plan(("a", "b"), (StagePlan((("a", "b"),)), StagePlan((("a",), ("b",))))).describe())
            stage    a  b  mixing  tie
            stage_0  A  A  -       -
            stage_1  A  B  -       -
            head     A  B  -       -
        """
        names = stage_names or [f"stage_{index}" for index in range(len(self.stages))]
        rows = [["stage", *self.tasks, "mixing", "tie"]]
        for name, stage in zip(names, self.stages, strict=True):
            letters = [
                _letter(stage.group_of(task)) if any(task in group for group in stage.partition) else "-"
                for task in self.tasks
            ]
            mixing = "-" if stage.mixing is None else stage.mixing.describe()
            tie = "-" if stage.tie is None else stage.tie.describe()
            rows.append([name, *letters, mixing, tie])
        rows.append(["head", *(_letter(index) for index in range(len(self.tasks))), "-", "-"])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def check_plan(plan: Plan, encoder: Encoder, tasks: Sequence[str]) -> None:
    """Refuses a plan that does not fit the encoder or the tasks.

    Raises:
        ConfigError: Tasks or number of stages that differ; mixing after a shared stage; a tie that is not
            known, has a weight below 0, or has a single copy or no weights to work on.
    """
    if tuple(plan.tasks) != tuple(tasks):
        raise ConfigError(f"sharing: the plan is for the tasks {_list(plan.tasks)}, found {_list(tasks)}.")
    if len(plan.stages) != len(encoder.stages):
        raise ConfigError(
            f"sharing: the plan has {len(plan.stages)} stages and the encoder {len(encoder.stages)} "
            f"({_list(encoder.stage_names)}); one entry per stage expected."
        )
    for name, stage, module in zip(encoder.stage_names, plan.stages, encoder.stages, strict=True):
        _check_mixing(name, stage)
        _check_tie(name, stage, module, num_tasks=len(plan.tasks))


def stage_index(stage: int | str, stage_names: Sequence[str]) -> int:
    """Position, from 0, of a stage given by its number from 1 or by its name.

    Raises:
        ConfigError: There is no such stage.

    Example:
        >>> stage_index(1, ["conv", "dense"]), stage_index("dense", ["conv", "dense"])
        (0, 1)
    """
    if isinstance(stage, str) and stage in stage_names:
        return list(stage_names).index(stage)
    if isinstance(stage, str) and stage.isdecimal():  # keys of a mapping in a study file are text
        stage = int(stage)
    if isinstance(stage, int) and not isinstance(stage, bool) and 1 <= stage <= len(stage_names):
        return stage - 1
    hint = did_you_mean(stage, stage_names) if isinstance(stage, str) else ""
    raise ConfigError(
        f"sharing: stage {stage!r} does not exist.{hint} "
        f"Stages: 1 to {len(stage_names)} ({_list(stage_names)})."
    )


def check_lr_multiplier(where: str, value: object) -> None:
    """Raises ConfigError where a factor on the learning rate is no number above 0."""
    if not isinstance(value, int | float) or not _is_number(value) or value <= 0:
        raise ConfigError(f"{where}: lr_multiplier must be a number above 0, found {value!r}.")


def _check_gone(partition: Sequence[Sequence[str]], plan: Plan, number: int) -> None:
    """Refuses a group that holds a task which has left the network below."""
    for group in partition:
        for task in group:
            if task in plan.tasks and plan.depth(task) < number:
                raise ConfigError(
                    f"sharing: stage {number} holds `{task}`, which is read out after stage "
                    f"{plan.depth(task)}; take it out of the group, or read it out higher."
                )


def _check_partition(partition: Sequence[Sequence[str]], tasks: Sequence[str], where: str) -> None:
    names: list[object] = [task for group in partition for task in group]  # from a study file: anything
    for task in names:
        if not isinstance(task, str) or task not in tasks:
            raise ConfigError(
                f"{where}: `{task}` is not a task.{did_you_mean(str(task), tasks)} Tasks: {_list(tasks)}."
            )
    named = Counter(names)
    for task in tasks:
        if named[task] != 1:
            found = "in none" if named[task] == 0 else f"{named[task]} times"
            raise ConfigError(f"{where}: each task stands in exactly one group; `{task}` stands {found}.")
    if not all(partition):
        raise ConfigError(f"{where}: a group without tasks; leave it out.")


def _check_mixing(name: str, stage: StagePlan) -> None:
    shared = next((group for group in stage.partition if len(group) > 1), None)
    if stage.mixing is not None and shared is not None:
        raise ConfigError(
            f"sharing: stage `{name}` is mixed, so every task needs a copy of its own there; "
            f"{_list(shared)} share one."
        )


def _check_tie(name: str, stage: StagePlan, module: nn.Module, num_tasks: int) -> None:
    tie = stage.tie
    if tie is None:
        return
    if tie.name not in TIES:
        raise ConfigError(
            f"sharing: stage `{name}`: `{tie.name}` is not a known tie.{did_you_mean(str(tie.name), TIES)} "
            f"Known: {_list(tuple(TIES))}."
        )
    if not _is_number(tie.weight) or tie.weight < 0:
        raise ConfigError(
            f"sharing: stage `{name}`: the weight of the tie {tie.name} must be a number of at least 0, "
            f"found {tie.weight!r}."
        )
    if len(stage.partition) == 1 < num_tasks:
        raise ConfigError(f"sharing: stage `{name}` has one copy, shared by all tasks; a tie needs two.")
    if not any(parameter.dim() > 1 for parameter in module.parameters()):
        raise ConfigError(f"sharing: stage `{name}` has no weights to tie; leave it out of the tied stages.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _letter(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
