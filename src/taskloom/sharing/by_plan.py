"""A sharing plan written out: any partition at any stage, mixing and a tie, as settings of a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing.architectures import register
from taskloom.sharing.plan import CrossStitchSpec, Plan, stage_index
from taskloom.sharing.settings import Partition, alone, read_tie, stage_plans, stage_set
from taskloom.tasks import TaskSet

_WORDS = ("together", "alone")
_MIXING = ("after", "per", "start", "lr_multiplier")


@register("plan")
def by_plan(
    encoder: Encoder,
    tasks: TaskSet,
    partition: Sequence[str | Sequence[Sequence[str]]] | Mapping[str, str | Sequence[Sequence[str]]],
    mixing: str | Mapping[str, Any] | None = None,
    tie: str | Mapping[str, Any] | None = None,
    joined: bool | None = None,
) -> Plan:
    """Any filling of the plan: who shares each stage, what is mixed, what is tied (DESIGN.md).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        partition: One entry per stage: `together`, `alone`, or a list of groups of tasks. Or, by name or
            number of the stage, those that are not `alone`.
        mixing: Cross-stitch units: `{after, per, start, lr_multiplier}` as in `cross_stitch`, or a value of
            `per`. Without `after` a unit stands after every stage where each task is alone.
        tie: A penalty over the copies: a name, or `{name: {weight, stages, ...}}`.
        joined: Needed where tasks share a stage after an earlier one has parted them: true, the stage runs
            once on their joined batch, with joint batch-norm statistics; false, once per task.

    Raises:
        ConfigError: A stage or task that does not exist, a partition that does not hold every task exactly
            once, a stage that cannot be mixed or tied, tasks that meet again without `joined`.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"), tl.Binary("c"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4, 4])
        >>> tree = ["together", [["a", "b"], ["c"]], "alone"]
        >>> print(by_plan.plan(encoder, tasks, partition=tree, mixing="channel", tie="l2").describe())
        stage    a  b  c  mixing                    tie
        stage_0  A  A  A  -                         -
        stage_1  A  A  B  -                         l2 0.001
        stage_2  A  B  C  cross-stitch per channel  l2 0.001
        head     A  B  C  -                         -
    """
    if joined is not None and not isinstance(joined, bool):
        raise ConfigError(f"plan.joined: true or false expected, found {joined!r}.")
    partitions = _partitions(partition, encoder, tasks)
    mixed = _mixing(mixing, encoder, partitions, tasks)
    ties = read_tie(tie, encoder, partitions, "plan.tie")
    return Plan(tasks.names, stage_plans(partitions, mixing=mixed, ties=ties, joined=joined))


def _partitions(value: object, encoder: Encoder, tasks: TaskSet) -> list[Partition]:
    if isinstance(value, Mapping):
        partitions = [alone(tasks)] * len(encoder.stages)
        seen: set[int] = set()
        for stage, entry in value.items():
            index = stage_index(stage, encoder.stage_names)
            if index in seen:
                raise ConfigError(f"plan.partition: stage `{encoder.stage_names[index]}` stands twice.")
            seen.add(index)
            partitions[index] = _partition(entry, tasks, f"plan.partition.{stage}")
        return partitions
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(encoder.stages):
        found = (
            f"{len(value)} entries" if isinstance(value, Sequence) and not isinstance(value, str) else value
        )
        raise ConfigError(
            f"plan.partition: one entry per stage expected ({', '.join(encoder.stage_names)}), or the shared "
            f"stages by name, found {found}."
        )
    return [_partition(entry, tasks, f"plan.partition[{index}]") for index, entry in enumerate(value)]


def _partition(entry: object, tasks: TaskSet, setting: str) -> Partition:
    if entry == "together":
        return (tasks.names,)
    if entry == "alone":
        return alone(tasks)
    lists = isinstance(entry, Sequence) and not isinstance(entry, str)
    if not lists or not all(isinstance(group, Sequence) and not isinstance(group, str) for group in entry):  # type: ignore[attr-defined]
        hint = did_you_mean(entry, _WORDS) if isinstance(entry, str) else ""
        raise ConfigError(
            f"{setting}: together, alone, or a list of groups of tasks expected, found {entry!r}.{hint}"
        )
    return tuple(tuple(group) for group in entry)  # type: ignore[attr-defined]


def _mixing(
    value: str | Mapping[str, Any] | None, encoder: Encoder, partitions: Sequence[Partition], tasks: TaskSet
) -> dict[int, CrossStitchSpec]:
    if value is None:
        return {}
    given = {"per": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ConfigError(f"plan.mixing: settings by name expected, found {value!r}.")
    settings = dict(given)
    for name in settings:
        if name not in _MIXING:
            raise ConfigError(
                f"plan.mixing.{name} is not a setting.{did_you_mean(str(name), _MIXING)} "
                f"Settings of plan.mixing: {', '.join(_MIXING)}."
            )
    after = settings.pop("after", "all")
    if after == "all":
        mixed = {index for index, groups in enumerate(partitions) if len(groups) == len(tasks)}
        if not mixed:
            raise ConfigError(
                "plan.mixing: every stage is shared by some tasks; units need one where each is alone."
            )
    else:
        mixed = stage_set(after, encoder, "plan.mixing.after")
    return dict.fromkeys(mixed, CrossStitchSpec(**settings))
