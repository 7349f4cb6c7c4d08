"""Tasks at different depths: read-outs at lower stages, and a head per stage for deep supervision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing.heads import HeadSpec
from taskloom.tasks.roles import is_number

if TYPE_CHECKING:
    from taskloom.sharing.plan import Plan
    from taskloom.tasks import StageOutput, Task

StageFeatures = Literal["flat", "pooled"]
"""What a head reads of a stage whose outputs are no vectors: all values, or per channel (the first axis of a
row) the mean over the other axes."""

Depths = Mapping[str, Any]
"""`{task: stage}` or `{task: {stage: ..., features: ...}}`; stages by number from 1 or by name."""


@dataclass(frozen=True)
class ReadOut:
    """Where a task's head stands.

    Args:
        stages: Number of stages that the task runs through, from 1.
        features: What its head reads there: "flat" or "pooled".
    """

    stages: int
    features: StageFeatures = "flat"


@dataclass(frozen=True)
class DeepSupervision:
    """A head per lower stage for each task, whose losses are added to the task's own in training.

    Deeply-supervised nets (Lee et al., AISTATS 2015), for every task of a network. The task is judged by its
    last head; in evaluation the others do not run.

    Args:
        weight: Factor on the loss of every lower head, at least 0; with 0 there are no such heads.
        stages: Positions from 0 of the stages that have heads; all below a task's own read-out where None.
        tasks: The tasks that have them; all where None.
        features: What they read: "flat" or "pooled".
    """

    weight: float
    stages: tuple[int, ...] | None = None
    tasks: tuple[str, ...] | None = None
    features: StageFeatures = "flat"

    def stages_of(self, task: str, depth: int) -> list[int]:
        """Positions of the stages at which the task has a head, where its own stands after `depth` stages."""
        if self.weight == 0 or (self.tasks is not None and task not in self.tasks):
            return []
        return [index for index in range(depth - 1) if self.stages is None or index in self.stages]


class Pooled(nn.Module):
    """Mean over all axes behind the channels: [N, C, ...] to [N, C].

    Example:
        >>> Pooled()(torch.tensor([[[1.0, 3.0], [0.0, 5.0]]]))
        tensor([[2.0000, 2.5000]])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(2).mean(dim=2)


def build_head(spec: HeadSpec, shape: Sequence[int], task: Task, features: StageFeatures) -> nn.Sequential:
    """Builds a head on a stage's output.

    Args:
        spec: Its layers.
        shape: Shape of one row of the stage's output.
        task: Whose head it is.
        features: What it reads, see `StageFeatures`; of vectors both are the same.

    Raises:
        ConfigError: Outputs per sample of pooled features, or of a shape that has no samples.
    """
    if features == "flat" or len(shape) == 1:
        return spec.build_for(task, shape)
    if spec.per_sample:
        raise ConfigError("head.per_sample: pooled features have no samples; use `features: flat`.")
    return nn.Sequential(Pooled(), *spec.build_for(task, shape[:1]))


def check_samples(name: StageOutput, spec: HeadSpec, shape: Sequence[int], own: Sequence[int]) -> None:
    """Refuses a head of deep supervision whose outputs per sample would not be those of the task's own head.

    Args:
        name: Which head.
        spec: Its layers.
        shape: Shape of one row of what it reads.
        own: The same of the task's own head.

    Raises:
        ConfigError: Other samples.
    """
    if spec.per_sample and shape[1:] != own[1:]:
        raise ConfigError(
            f"deep_supervision: {name}: outputs per sample of rows of shape {list(own)} expected, as the "
            f"task's own head reads, found {list(shape)}; leave the stage out."
        )


def resolve_read_outs(
    given: Depths | None, tasks: Sequence[str], stages: Sequence[str]
) -> dict[str, ReadOut]:
    """Reads the setting `read_out`.

    Args:
        given: The setting; tasks that it does not name are read out after the last stage.
        tasks: All tasks.
        stages: Names of the encoder's stages.

    Returns:
        The read-outs that are not the usual one.

    Raises:
        ConfigError: An unknown task or stage, or a setting of another form.

    Example:
        >>> resolve_read_outs({"a": 1, "b": "top"}, ["a", "b"], ["low", "top"])
        {'a': ReadOut(stages=1, features='flat')}
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"read_out: a stage by task expected, {{task: stage}}, found {given!r}.")
    found: dict[str, ReadOut] = {}
    for task, value in given.items():
        _check_task(task, tasks, "read_out")
        settings = value if isinstance(value, Mapping) else {"stage": value}
        _check_keys(settings, ("stage", "features"), f"read_out.{task}")
        if "stage" not in settings:
            raise ConfigError(f"read_out.{task}.stage is missing; give a stage's number or name.")
        number = _position(settings["stage"], stages, f"read_out.{task}") + 1
        features = _features(settings.get("features", "flat"), f"read_out.{task}.features")
        if number < len(stages) or features != "flat":
            found[task] = ReadOut(number, features)
    return found


def resolve_supervision(given: Any, tasks: Sequence[str], stages: Sequence[str]) -> DeepSupervision:
    """Reads the setting `deep_supervision`: a weight, or `{weight, stages, tasks, features}`; None is none.

    Raises:
        ConfigError: A negative weight, an unknown task or stage, the last stage, or another form.

    Example:
        >>> resolve_supervision({"weight": 0.3, "stages": ["low"]}, ["a"], ["low", "top"])
        DeepSupervision(weight=0.3, stages=(0,), tasks=None, features='flat')
    """
    if isinstance(given, DeepSupervision):
        return given
    if given is None:
        return DeepSupervision(0.0)
    settings = given if isinstance(given, Mapping) else {"weight": given}
    _check_keys(settings, ("weight", "stages", "tasks", "features"), "deep_supervision")
    weight = settings.get("weight")
    if not is_number(weight) or weight < 0:  # type: ignore[operator]
        raise ConfigError(f"deep_supervision.weight: a number of at least 0 expected, found {weight!r}.")
    chosen, named = settings.get("stages"), settings.get("tasks")
    positions: tuple[int, ...] | None = None
    if chosen is not None and chosen != "all":
        if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen:
            raise ConfigError(
                f"deep_supervision.stages: all, or a list of numbers or names expected, found {chosen!r}."
            )
        positions = tuple(sorted({_position(stage, stages, "deep_supervision.stages") for stage in chosen}))
        if positions[-1] == len(stages) - 1:
            raise ConfigError(
                f"deep_supervision.stages: `{stages[-1]}` is the last stage, where every task has its head "
                "already; leave it out."
            )
    if named is not None:
        if isinstance(named, str) or not isinstance(named, Sequence) or not named:
            raise ConfigError(f"deep_supervision.tasks: a list of task names expected, found {named!r}.")
        for task in named:
            _check_task(task, tasks, "deep_supervision.tasks")
    return DeepSupervision(
        float(weight),  # type: ignore[arg-type]
        positions,
        None if named is None else tuple(named),
        _features(settings.get("features", "flat"), "deep_supervision.features"),
    )


def with_read_outs(plan: Plan, read_out: Mapping[str, ReadOut]) -> Plan:
    """The plan in which these tasks leave the network where they are read out.

    Above, they stand in no group: a copy that only they would use is not there, a mixing unit mixes the tasks
    that are left. What only one task is left in is neither mixed nor tied.

    Raises:
        ConfigError: A task or a stage that the plan does not have.

    Example:
        >>> from taskloom.sharing import Plan, StagePlan
        >>> plan = Plan(("a", "b"), (StagePlan((("a", "b"),)), StagePlan((("a",), ("b",)))))
        >>> with_read_outs(plan, {"a": ReadOut(1)}).stages[1].partition
        (('b',),)
    """
    for task, where in read_out.items():
        _check_task(task, plan.tasks, "read_out")
        if not 1 <= where.stages <= len(plan.stages):
            raise ConfigError(
                f"read_out.{task}: stage {where.stages} does not exist; the plan has 1 to {len(plan.stages)}."
            )
    depths = {task: where.stages for task, where in read_out.items()}
    return dataclasses.replace(plan, stages=stripped(plan, depths), read_out=dict(read_out))


def stripped(plan: Plan, depths: Mapping[str, int]) -> tuple[Any, ...]:
    """The plan's stages in which these tasks stand up to their depth only, which may be 0."""
    stages = []
    for index, stage in enumerate(plan.stages):
        gone = {task for task, depth in depths.items() if depth <= index}
        if not gone:
            stages.append(stage)
            continue
        groups = (tuple(task for task in group if task not in gone) for group in stage.partition)
        partition = tuple(group for group in groups if group)
        alone = len(partition) < 2
        stages.append(
            dataclasses.replace(
                stage,
                partition=partition,
                mixing=None if alone else stage.mixing,
                tie=None if alone else stage.tie,
            )
        )
    return tuple(stages)


def without_tasks(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan without these tasks; where another task hears one by mixing, it stays up to the last unit.

    Ties are left out: the plan is one for use, not for training.
    """
    depths: dict[str, int] = {}
    for task in names:
        depths[task] = max(
            (
                number
                for number, stage in enumerate(plan.stages, start=1)
                if stage.mixing is not None
                and any(task in group for group in stage.partition)
                and any(other not in names for group in stage.partition for other in group)
            ),
            default=0,
        )
    stages = stripped(plan, depths)
    return dataclasses.replace(
        plan,
        tasks=tuple(task for task in plan.tasks if depths.get(task) != 0),
        stages=tuple(dataclasses.replace(stage, tie=None) for stage in stages),
        read_out={
            **{task: where for task, where in plan.read_out.items() if task not in names},
            **{task: ReadOut(depth) for task, depth in depths.items() if depth},
        },
    )


def _position(stage: object, stages: Sequence[str], where: str) -> int:
    from taskloom.sharing.plan import stage_index  # the plan stands on this module

    if not isinstance(stage, int | str):
        raise ConfigError(f"{where}: a stage's number or name expected, found {stage!r}.")
    try:
        return stage_index(stage, stages)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('sharing: ')}") from None


def _check_task(task: object, tasks: Sequence[str], where: str) -> None:
    if task not in tasks:
        raise ConfigError(
            f"{where}: `{task}` is not a task.{did_you_mean(str(task), tasks)} Tasks: {', '.join(tasks)}."
        )


def _check_keys(settings: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"{where}.{key} is not a setting.{did_you_mean(str(key), known)} "
                f"Settings of {where}: {', '.join(known)}."
            )


def _features(value: Any, where: str) -> StageFeatures:
    if value not in get_args(StageFeatures):
        raise ConfigError(f"{where}: flat or pooled expected, found {value!r}.")
    features: StageFeatures = value
    return features
