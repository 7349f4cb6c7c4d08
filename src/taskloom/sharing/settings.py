"""Settings that several ways of sharing have in common: which stages, groups and ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.plan import StagePlan, TieSpec, stage_index
from taskloom.tasks import TaskSet
from taskloom.wording import counted

Stages = Literal["all"] | Sequence[int | str]
"""Which stages: all, or a list of numbers from 1 and names."""

Partition = tuple[tuple[str, ...], ...]


def alone(tasks: TaskSet) -> Partition:
    """The partition with every task alone."""
    return tuple((name,) for name in tasks.names)


def grouped(tasks: TaskSet, groups: Sequence[Sequence[str]] | None, setting: str) -> Partition:
    """The partition of a `groups` setting; all tasks together where None.

    Raises:
        ConfigError: Not a list of lists. Whether every task stands in one group, `Plan` checks.
    """
    if groups is None:
        return (tasks.names,)
    if groups == "all":
        raise ConfigError(
            f"{setting}: `all` stands for one cell per grouping, in a study file; give one grouping here."
        )
    lists: list[object] = list(groups) if isinstance(groups, list | tuple) else []
    if not lists or not all(isinstance(group, list | tuple) for group in lists):
        raise ConfigError(f"{setting}: a list of lists of task names expected, found {groups!r}.")
    return tuple(tuple(group) for group in groups)


def stage_set(stages: Stages, encoder: Encoder, setting: str) -> set[int]:
    """Positions, from 0, of the stages that a setting names.

    Raises:
        ConfigError: Neither "all" nor a list, or a stage that does not exist.
    """
    if stages == "all":
        return set(range(len(encoder.stages)))
    if isinstance(stages, str) or not isinstance(stages, Sequence):
        raise ConfigError(f"{setting}: all, or a list of stage numbers or names expected, found {stages!r}.")
    return {stage_index(stage, encoder.stage_names) for stage in stages}


def end_stages(number: object, end: object, encoder: Encoder, setting: str, end_setting: str) -> set[int]:
    """Positions of the first or last stages.

    Args:
        number: How many.
        end: "input" or "output".
        encoder: The backbone.
        setting, end_setting: What messages call the two.

    Raises:
        ConfigError: A number outside 0..S, or an unknown end.
    """
    total = len(encoder.stages)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= total:
        raise ConfigError(
            f"{setting}: a whole number from 0 to {total} (the encoder has {counted(total, 'stage')}) "
            f"expected, found {number!r}."
        )
    if end not in ("input", "output"):
        raise ConfigError(f"{end_setting}: input or output expected, found {end!r}.")
    return set(range(number) if end == "input" else range(total - number, total))


def read_tie(
    value: str | Mapping[str, Any] | None, encoder: Encoder, partitions: Sequence[Partition], setting: str
) -> dict[int, TieSpec]:
    """Reads a `tie` setting: a name, or `{name: {weight, stages, ...}}` with the tie's own settings.

    Args:
        value: The setting; None is no tie.
        encoder: The backbone.
        partitions: Per stage, its groups of tasks.
        setting: What messages call it.

    Returns:
        By position of the stage, its tie.

    Raises:
        ConfigError: Not such a setting, or what `tie_specs` refuses.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> apart = (("a",), ("b",))
        >>> read_tie({"l2": {"weight": 0.1, "stages": [2]}}, encoder, [apart, apart], "tie")
        {1: TieSpec(name='l2', weight=0.1, settings={})}
    """
    if value is None:
        return {}
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"{setting}: one name with its settings expected, found {value!r}.")
    ((name, given),) = value.items()
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{setting}.{name}: settings by name expected, found {given!r}.")
    settings = dict(given or {})
    weight, stages = settings.pop("weight", TieSpec.weight), settings.pop("stages", "all")
    return tie_specs(name, weight, stages, settings, encoder, partitions, f"{setting}.{name}")


def tie_specs(
    name: str,
    weight: float | Mapping[str, float],
    stages: Stages,
    settings: Mapping[str, Any],
    encoder: Encoder,
    partitions: Sequence[Partition],
    setting: str,
) -> dict[int, TieSpec]:
    """One tie per tied stage, with its weight.

    Args:
        name: Name of the tie in `ties.TIES`.
        weight: One factor for all tied stages, or `{stage: factor}` by name or number, which also says what
            is tied.
        stages: The tied stages. "all" are those that have several copies and weights with two axes or more.
        settings: Other settings of the tie.
        encoder: The backbone.
        partitions: Per stage, its groups of tasks.
        setting: What messages call it.

    Raises:
        ConfigError: A stage that does not exist or is named twice; stages given in both ways.
    """
    if isinstance(weight, Mapping):
        if stages != "all":
            raise ConfigError(f"{setting}: `weight` by stage says which stages are tied; leave `stages` out.")
        if not weight:
            raise ConfigError(f"{setting}.weight: a factor for at least one stage expected, found none.")
        weights: dict[int, float] = {}
        for stage, factor in weight.items():
            index = stage_index(stage, encoder.stage_names)
            if index in weights:
                raise ConfigError(f"{setting}.weight: stage `{encoder.stage_names[index]}` stands twice.")
            weights[index] = factor
    elif stages == "all":
        alone_in_all = sum(map(len, partitions[0])) == 1  # a single task: nothing to tie, nothing wrong
        weights = {
            index: weight
            for index, (module, partition) in enumerate(zip(encoder.stages, partitions, strict=True))
            if (len(partition) > 1 or alone_in_all)
            and any(parameter.dim() > 1 for parameter in module.parameters())
        }
    else:
        weights = dict.fromkeys(sorted(stage_set(stages, encoder, f"{setting}.stages")), weight)
    return {index: TieSpec(name, factor, dict(settings)) for index, factor in sorted(weights.items())}


def stage_plans(
    partitions: Sequence[Partition],
    *,
    mixing: Mapping[int, Any] | None = None,
    ties: Mapping[int, TieSpec] | None = None,
    joined: bool | None = None,
) -> tuple[StagePlan, ...]:
    """One stage plan per partition, with the mixing and the tie that stand at its position."""
    mixed, tied = mixing or {}, ties or {}
    return tuple(
        StagePlan(partition, mixed.get(index), tied.get(index), joined)
        for index, partition in enumerate(partitions)
    )
