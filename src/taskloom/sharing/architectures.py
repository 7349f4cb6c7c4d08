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
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.mixing import Per, Start
from taskloom.sharing.network import MultiTaskNetwork, PlanNetwork
from taskloom.sharing.plan import Copies, CrossStitchSpec, Plan, StagePlan, TieSpec, stage_index
from taskloom.tasks import TaskSet

Stages = Literal["all"] | Sequence[int | str]
"""Which stages: all, or a list of numbers from 1 and names."""


class Architecture(Protocol):
    """What `ARCHITECTURES` holds: builds a network, and knows its settings by name."""

    @property
    def settings(self) -> tuple[str, ...]: ...

    def __call__(
        self, encoder: Encoder, tasks: TaskSet, *, head: HeadChoice = None, **settings: Any
    ) -> MultiTaskNetwork: ...


ARCHITECTURES: Registry[Architecture] = Registry("way of sharing")
"""Every architecture by the name that study files use."""


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
        return tuple(written.get(name, name) for name in [*names, "copies"])

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
        return self._function(encoder, tasks, **resolved)

    def __call__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        head: HeadChoice = None,
        copies: Copies = "fresh",
        **settings: Any,
    ) -> PlanNetwork:
        """Builds the network; see `PlanNetwork` for `head` and `copies`.

        Raises:
            ConfigError: An unknown, missing or unfit setting, or a plan that does not fit.
        """
        return PlanNetwork(encoder, tasks, self.plan(encoder, tasks, **settings), head, copies=copies)

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
    return Plan(tasks.names, (StagePlan(_alone(tasks)),) * len(encoder.stages))


@register("hard_sharing", aliases={"from": "start"})
def hard_sharing(
    encoder: Encoder,
    tasks: TaskSet,
    stages: int,
    start: Literal["input", "output"] = "input",
    groups: Sequence[Sequence[str]] | None = None,
) -> Plan:
    """The first or last stages shared, every task alone in the others (Caruana; thesis 000 section 4.1.1).

    Args:
        encoder: The backbone, of S stages.
        tasks: The tasks.
        stages: k in 0..S, the number of shared stages; 0 is single-task.
        start: "input": the first k stages; "output": the last k ("backwards" in thesis 000). Study files
            write `from`.
        groups: Which tasks share with each other; all with all where None.

    Raises:
        ConfigError: k outside 0..S, an unknown end, or groups that do not hold every task exactly once.
    """
    total = len(encoder.stages)
    if isinstance(stages, bool) or not isinstance(stages, int) or not 0 <= stages <= total:
        raise ConfigError(
            f"hard_sharing.stages: a whole number from 0 to {total} (the encoder has {total} stages) "
            f"expected, found {stages!r}."
        )
    if start not in ("input", "output"):
        raise ConfigError(f"hard_sharing.from: input or output expected, found {start!r}.")
    shared = StagePlan(_grouped(tasks, groups))
    alone = StagePlan(_alone(tasks))
    if start == "input":
        return Plan(tasks.names, (shared,) * stages + (alone,) * (total - stages))
    return Plan(tasks.names, (alone,) * (total - stages) + (shared,) * stages)


@register("soft_sharing")
def soft_sharing(
    encoder: Encoder,
    tasks: TaskSet,
    tie: str = "trace_norm",
    weight: float = 0.001,
    stages: Stages = "all",
    tie_settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Every task alone, copies of a stage pulled together by a penalty (thesis 002, equation 3.4).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        tie: Name of the penalty in `ties.TIES`; `trace_norm` is the Tucker trace norm of equation 3.3.
        weight: Its factor, at least 0.
        stages: Numbers from 1 or names of the tied stages; "all" are those with weights of two axes or more.
            Thesis 002 ties the convolutions.
        tie_settings: Other settings of the penalty.

    Raises:
        ConfigError: An unknown tie or stage, a negative weight, or a stage without weights.
    """
    if stages == "all":
        tied = {
            index
            for index, stage in enumerate(encoder.stages)
            if any(parameter.dim() > 1 for parameter in stage.parameters())
        }
    else:
        tied = _indices(stages, encoder, "soft_sharing.stages")
    spec = TieSpec(tie, weight, dict(tie_settings or {}))
    return Plan(
        tasks.names,
        tuple(
            StagePlan(_alone(tasks), tie=spec if index in tied else None)
            for index in range(len(encoder.stages))
        ),
    )


@register("cross_stitch")
def cross_stitch(
    encoder: Encoder,
    tasks: TaskSet,
    after: Stages = "all",
    per: Per = "layer",
    start: Start = "identity",
    lr_multiplier: float = 1.0,
) -> Plan:
    """Every task alone, outputs mixed by learned matrices (Misra et al. 2016; thesis 002 3.1.4; paper 004).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        after: Numbers from 1 or names of the stages that a unit stands after; "all" includes the last.
        per: One matrix per "layer" or one per "channel" (axis 1 of the stage's output).
        start: How the matrices begin: "identity", "equal", "uniform" or {"same": s, "other": o}, see
            `CrossStitch`.
        lr_multiplier: Factor on the learning rate of the matrices.

    Raises:
        ConfigError: An unknown stage or a setting out of range.
    """
    mixed = _indices(after, encoder, "cross_stitch.after")
    spec = CrossStitchSpec(per, start, lr_multiplier)
    return Plan(
        tasks.names,
        tuple(
            StagePlan(_alone(tasks), mixing=spec if index in mixed else None)
            for index in range(len(encoder.stages))
        ),
    )


def _alone(tasks: TaskSet) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in tasks.names)


def _grouped(tasks: TaskSet, groups: Sequence[Sequence[str]] | None) -> tuple[tuple[str, ...], ...]:
    if groups is None:
        return (tasks.names,)
    if isinstance(groups, str) or any(isinstance(group, str) for group in groups):
        raise ConfigError(f"hard_sharing.groups: a list of lists of task names expected, found {groups!r}.")
    return tuple(tuple(group) for group in groups)


def _indices(stages: Stages, encoder: Encoder, setting: str) -> set[int]:
    if stages == "all":
        return set(range(len(encoder.stages)))
    if isinstance(stages, str) or not isinstance(stages, Sequence):
        raise ConfigError(f"{setting}: all, or a list of stage numbers or names expected, found {stages!r}.")
    return {stage_index(stage, encoder.stage_names) for stage in stages}
