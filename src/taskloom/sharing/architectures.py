"""Ways of sharing by name: functions from an encoder and tasks to a plan, and `build`.

A new way of sharing is one decorated function. What the decorator returns builds the network when called, and
gives the plan alone by `.plan`:

>>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"), tl.Binary("c"))
>>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
>>> print(hard_sharing.plan(encoder, tasks, stages=1, groups=[["a", "b"], ["c"]]).describe())
stage    a  b  c  mixing  tie
stage_0  A  A  B  -       -
stage_1  A  B  C  -       -
head     A  B  C  -       -
>>> sorted(cross_stitch(encoder, tasks, after=[1], per="channel").mixing_matrices())
['dense_0']
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry
from taskloom.sharing.checks import check_encoder
from taskloom.sharing.depth import Depths, resolve_read_outs, with_read_outs
from taskloom.sharing.grouped import Execution
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.mixing import Per, Start
from taskloom.sharing.network import MultiTaskNetwork, PlanNetwork
from taskloom.sharing.plan import Copies, CrossStitchSpec, Plan
from taskloom.sharing.settings import Stages as Stages
from taskloom.sharing.settings import (
    alone,
    end_stages,
    grouped,
    read_tie,
    stage_plans,
    stage_set,
    tie_specs,
)
from taskloom.sharing.ties import check_every
from taskloom.tasks import TaskSet


class Architecture(Protocol):
    """What `ARCHITECTURES` holds: builds a network, and knows its settings by name."""

    @property
    def settings(self) -> tuple[str, ...]: ...

    def __call__(
        self, encoder: Encoder, tasks: TaskSet, *, head: HeadChoice = None, **settings: Any
    ) -> MultiTaskNetwork: ...


ARCHITECTURES: Registry[Architecture] = Registry("way of sharing")
"""Every architecture by the name that study files use."""


OF_EVERY_PLAN = ("copies", "read_out", "deep_supervision", "execution")
"""Settings that every way of sharing has that is a filling of the plan; see `PlanNetwork`."""


class PlanArchitecture:
    """A way of sharing that is a filling of the plan.

    Args:
        name: Its registered name.
        function: `(encoder, tasks, **settings) -> Plan`.
        aliases: Other names of settings, as {alias: setting}; for names that Python keeps for itself.
    """

    def __init__(
        self, name: str, function: Callable[..., Plan], aliases: Mapping[str, str] | None = None
    ) -> None:
        self.name, self._function, self._aliases = name, function, dict(aliases or {})
        self.__doc__ = function.__doc__
        self.__wrapped__ = function  # so that inspect and doctest see the function

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings, as study files write them."""
        written = {setting: alias for alias, setting in self._aliases.items()}
        names = list(inspect.signature(self._function).parameters)[2:]
        return tuple(written.get(name, name) for name in [*names, *OF_EVERY_PLAN])

    def plan(self, encoder: Encoder, tasks: TaskSet, **settings: Any) -> Plan:
        """The plan alone.

        Raises:
            ConfigError: An unknown, missing or unfit setting.
        """
        parameters = inspect.signature(self._function).parameters
        resolved = {self._aliases.get(name, name): value for name, value in settings.items()}
        for name in settings:
            if self._aliases.get(name, name) not in list(parameters)[2:]:
                raise ConfigError(
                    f"{self.name}.{name} is not a setting.{did_you_mean(name, self.settings)} "
                    f"Settings of {self.name}: {', '.join(self.settings)}."
                )
        for name, parameter in list(parameters.items())[2:]:
            if parameter.default is parameter.empty and name not in resolved:
                raise ConfigError(f"{self.name}.{name} is missing; give it a value.")
        check_encoder(encoder)
        plan: object = self._function(encoder, tasks, **resolved)
        if not isinstance(plan, Plan):  # a function of somebody's own without a `return`
            raise ConfigError(
                f"{self.name} gave {type(plan).__name__}; a way of sharing returns a taskloom.sharing.Plan, "
                "with a StagePlan per stage."
            )
        return plan

    def __call__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        head: HeadChoice = None,
        copies: Copies = "fresh",
        read_out: Depths | None = None,
        deep_supervision: Any = None,
        execution: Execution = "auto",
        **settings: Any,
    ) -> PlanNetwork:
        """Builds the network; see `PlanNetwork` for what all of them have.

        Args:
            encoder, tasks, head, copies, deep_supervision, execution: See `PlanNetwork`.
            read_out: Task hierarchy: tasks whose head stands at a lower stage, `{task: stage}` or
                `{task: {stage: ..., features: flat | pooled}}`; the others are read out after the last one.
            **settings: Its own settings.

        Raises:
            ConfigError: An unknown, missing or unfit setting, or a plan that does not fit.
        """
        plan = self.plan(encoder, tasks, **settings)
        depths = resolve_read_outs(read_out, tasks.names, encoder.stage_names)
        return PlanNetwork(
            encoder,
            tasks,
            with_read_outs(plan, depths) if depths else plan,
            head,
            copies=copies,
            deep_supervision=deep_supervision,
            execution=execution,
        )

    def __repr__(self) -> str:
        return f"PlanArchitecture({self.name}: {', '.join(self.settings)})"


def register(
    name: str, *, aliases: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Plan]], PlanArchitecture]:
    """Decorator: files a function `(encoder, tasks, **settings) -> Plan` as a way of sharing.

    Args:
        name: What study files call it.
        aliases: Other names of settings, {alias: setting}.
    """

    def file(function: Callable[..., Plan]) -> PlanArchitecture:
        architecture = PlanArchitecture(name, function, aliases)
        ARCHITECTURES.register(name)(architecture)
        return architecture

    return file


def build(
    name: str, encoder: Encoder, tasks: TaskSet, *, head: HeadChoice = None, **settings: Any
) -> MultiTaskNetwork:
    """Builds a network by the name of its way of sharing, with settings as a study file has them.

    Args:
        name: A name of `ARCHITECTURES`.
        encoder: The backbone; it stays as it is.
        tasks: The tasks.
        head: A head for all tasks, or `{task: head}`, as specs or as settings; linear read-outs where None.
        **settings: The architecture's settings, and `copies`: fresh or same.

    Raises:
        ConfigError: An unknown name or setting, or one that does not fit the encoder or the tasks.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8])
        >>> network = build("hard_sharing", encoder, tasks, **{"stages": 1, "from": "output"})
        >>> network.features(torch.zeros(3, 5)).shape
        torch.Size([3, 8])
    """
    return ARCHITECTURES[name](encoder, tasks, head=head, **settings)


@register("single_task")
def single_task(encoder: Encoder, tasks: TaskSet) -> Plan:
    """Every task alone at every stage: T networks that have nothing in common."""
    return Plan(tasks.names, stage_plans([alone(tasks)] * len(encoder.stages)))


@register("hard_sharing", aliases={"from": "start"})
def hard_sharing(
    encoder: Encoder,
    tasks: TaskSet,
    stages: int,
    start: Literal["input", "output"] = "input",
    groups: Sequence[Sequence[str]] | None = None,
    joined: bool = True,
) -> Plan:
    """The first or last stages shared, every task alone in the others (Caruana; thesis 000 section 4.1.1).

    Args:
        encoder: The backbone, of S stages.
        tasks: The tasks.
        stages: k in 0..S, the number of shared stages; 0 is single-task.
        start: "input": the first k stages; "output": the last k ("backwards" in thesis 000). Study files
            write `from`.
        groups: Which tasks share with each other; all with all where None. In a study file, `all` is one
            cell per grouping of the tasks.
        joined: Where sharing from the output, whether a shared stage runs once on the tasks' joined batch,
            with joint batch-norm statistics, or once per task, each with its own; see `StagePlan`.

    Raises:
        ConfigError: k outside 0..S, an unknown end, or groups that do not hold every task exactly once.
    """
    chosen = end_stages(stages, start, encoder, "hard_sharing.stages", "hard_sharing.from")
    if not isinstance(joined, bool):
        raise ConfigError(f"hard_sharing.joined: true or false expected, found {joined!r}.")
    shared, apart = grouped(tasks, groups, "hard_sharing.groups"), alone(tasks)
    partitions = [shared if index in chosen else apart for index in range(len(encoder.stages))]
    return Plan(tasks.names, stage_plans(partitions, joined=joined))


@register("soft_sharing")
def soft_sharing(
    encoder: Encoder,
    tasks: TaskSet,
    tie: str = "trace_norm",
    weight: float | Mapping[str, float] = 0.001,
    stages: Stages = "all",
    every: int = 1,
    tie_settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Every task alone, copies of a stage pulled together by a penalty (thesis 002, equation 3.4).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        tie: Name of the penalty in `ties.TIES`; `trace_norm` is the Tucker trace norm of equation 3.3.
        weight: Its factor, at least 0; or one per tied stage, as `{stage: factor}` by name or number.
        stages: Numbers from 1 or names of the tied stages; "all" are those with weights of two axes or more.
            Thesis 002 ties the convolutions.
        every: The penalty is evaluated at every k-th training step, with k times its weight; see `Tie`.
        tie_settings: Other settings of the penalty.

    Raises:
        ConfigError: An unknown tie or stage, a negative weight, an `every` below 1, or a stage without
            weights.
    """
    if tie_settings is not None and (
        not isinstance(tie_settings, Mapping) or {"weight", "every"} & {*tie_settings}
    ):
        raise ConfigError(
            "soft_sharing.tie_settings: the tie's settings by name expected, without `weight` and `every`, "
            f"which stand beside them; found {tie_settings!r}."
        )
    settings = dict(tie_settings or {})
    if check_every(every, "soft_sharing.every") > 1:
        settings["every"] = every
    partitions = [alone(tasks)] * len(encoder.stages)
    ties = tie_specs(tie, weight, stages, settings, encoder, partitions, "soft_sharing")
    return Plan(tasks.names, stage_plans(partitions, ties=ties))


@register("cross_stitch", aliases={"from": "end"})
def cross_stitch(
    encoder: Encoder,
    tasks: TaskSet,
    after: Stages = "all",
    units: int | None = None,
    end: Literal["input", "output"] = "input",
    per: Per = "layer",
    start: Start = "identity",
    lr_multiplier: float = 1.0,
    tie: str | Mapping[str, Any] | None = None,
) -> Plan:
    """Every task alone, outputs mixed by learned matrices (Misra et al. 2016; thesis 002 3.1.4; paper 004).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        after: Numbers from 1 or names of the stages that a unit stands after; "all" includes the last.
        units: Instead of `after`: a unit after each of the first or last k stages (thesis 000, section 5.5).
        end: Which end `units` counts from, "input" or "output". Study files write `from`.
        per: One matrix per "layer" or one per "channel" (axis 1 of the stage's output).
        start: How the matrices begin: "identity", "equal", "uniform" or {"same": s, "other": o}, see
            `CrossStitch`.
        lr_multiplier: Factor on the learning rate of the matrices.
        tie: A penalty over the copies besides: a name, or `{name: {weight, stages, ...}}`. Paper 004's third
            network is `{"exponential_affine": {"weight": w}}`.

    Raises:
        ConfigError: An unknown stage, both `after` and `units`, or a setting out of range.
    """
    if units is None:
        mixed = stage_set(after, encoder, "cross_stitch.after")
        if end != "input":
            raise ConfigError("cross_stitch.from says where `units` are counted from; give `units` too.")
    elif after != "all":
        raise ConfigError("cross_stitch: `after` and `units` both say where units stand; leave one out.")
    else:
        mixed = end_stages(units, end, encoder, "cross_stitch.units", "cross_stitch.from")
    partitions = [alone(tasks)] * len(encoder.stages)
    ties = read_tie(tie, encoder, partitions, "cross_stitch.tie")
    mixing = dict.fromkeys(mixed, CrossStitchSpec(per, start, lr_multiplier))
    return Plan(tasks.names, stage_plans(partitions, mixing=mixing, ties=ties))
