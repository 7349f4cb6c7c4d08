"""The five methods that every multi-task network has, and the network that executes a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.checks import (
    check_copies_alike,
    check_inputs_stay,
    check_meetings,
    check_side_effects,
)
from taskloom.sharing.executor import Flow, Stream, compile_plan, run_step
from taskloom.sharing.heads import HeadChoice, head_specs
from taskloom.sharing.mixing import MixingUnit
from taskloom.sharing.plan import Copies, Plan, check_plan
from taskloom.sharing.ties import Tie
from taskloom.sharing.ties import build as build_tie
from taskloom.tasks import TaskSet

Features = Tensor | dict[str, Tensor]
"""The seam between shared and task parameters; a dictionary where no stage is shared by all tasks."""


@dataclass
class ParameterGroup:
    """Parameters that one learning rate applies to.

    Args:
        name: "shared", "task:<name>", "mixing", "tie" (with ":<multiplier>" where stages differ).
        parameters: Trainable parameters; each stands in one group of a network.
        lr_multiplier: Factor on the learning rate.
        decays: Whether the optimiser's weight decay acts on them. It must not on mixing matrices, stage
            weights, policies and parameters of ties: their neutral value is not 0.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_multiplier: float = 1.0
    decays: bool = True


class MultiTaskNetwork(nn.Module, ABC):
    """What training, balancing and reports need of a network, whatever its architecture.

    Args:
        tasks: The tasks it predicts.
    """

    def __init__(self, tasks: TaskSet) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Predicts every task from one pass.

        Args:
            inputs: [N, ...].

        Returns:
            Per task its head's outputs, [N, width] ([N, width, W] for labels per sample).
        """
        return self.from_features(self.features(inputs))

    @abstractmethod
    def features(self, inputs: Tensor) -> Features:
        """The seam between shared and task parameters: what `from_features` predicts all tasks from."""

    @abstractmethod
    def from_features(self, features: Features) -> dict[str, Tensor]:
        """Predictions from what `features` gave; `forward` is one after the other."""

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that do not belong to a single task."""

    @abstractmethod
    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters that belong to this task alone.

        Raises:
            ConfigError: There is no such task.
        """

    def task_modules(self, task: str) -> list[nn.Module]:
        """The modules that belong to this task alone; what stands in no task's list is shared.

        Unless overridden: the largest modules that have parameters, all of them this task's.
        """
        return _largest_within(self, {id(parameter) for parameter in self.task_parameters(task)})

    def penalty(self) -> Tensor:
        """What is added to the losses for ties between copies: a scalar, 0 where there is none."""
        return next(self.parameters()).new_zeros(())

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Mixing matrices by stage name, [T, T] or [C, T, T]; row = receiving task, column = donor."""
        return {}

    def special_groups(self) -> list[ParameterGroup]:
        """Parameters that have a learning rate of their own; `parameter_groups` sets them apart."""
        return []

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter in exactly one group; groups without parameters are left out."""
        special = self.special_groups()
        apart = {id(parameter) for group in special for parameter in group.parameters}
        plain = [
            ParameterGroup("shared", self.shared_parameters()),
            *(ParameterGroup(f"task:{task}", self.task_parameters(task)) for task in self.tasks),
        ]
        for group in plain:
            group.parameters = [parameter for parameter in group.parameters if id(parameter) not in apart]
        return [group for group in [*plain, *special] if group.parameters]

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch of training (1 is the first), for architectures with a curriculum."""


class PlanNetwork(MultiTaskNetwork):
    """Executes a sharing plan on an encoder.

    The encoder itself stays as it is; the network holds copies of its stages, one per group of the plan's
    partition. State dict: `stages.<stage>.<group>`, `mixing.<stage>.alpha`, `heads.<task>`; a group is called
    after its task, after its tasks joined by "+", or "shared" for all tasks (dots and slashes in names become
    underscores).

    A stage copy that one task uses alone belongs to that task, although mixing lets other tasks hear it;
    copies that several tasks use, mixing matrices and parameters of ties are shared.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        plan: One stage plan per stage of the encoder.
        head: A head for all tasks, or `{task: head}`; linear read-outs where None.
        copies: "fresh": every copy has a start of its own; "same": all start from the encoder's own weights
            (pretrained ones, for example).

    Raises:
        ConfigError: The plan does not fit the encoder or the tasks; what `taskloom.sharing.checks` refuses.

    Example:
        >>> from taskloom.sharing import Plan, StagePlan
        >>> tasks = tl.TaskSet(tl.Regression("age"), tl.Multiclass("mood", 3))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> plan = Plan(tasks.names, (StagePlan((("age", "mood"),)), StagePlan((("age",), ("mood",)))))
        >>> network = PlanNetwork(encoder, tasks, plan)
        >>> {task: tuple(outputs.shape) for task, outputs in network(torch.zeros(2, 5)).items()}
        {'age': (2, 1), 'mood': (2, 3)}
        >>> network.features(torch.zeros(2, 5)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        plan: Plan,
        head: HeadChoice = None,
        *,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(tasks)
        if copies not in ("fresh", "same"):
            raise ConfigError(f"sharing: copies must be fresh or same, found {copies!r}.")
        check_plan(plan, encoder, tasks.names)
        self.plan = plan
        self.stage_names = encoder.stage_names
        self._steps = compile_plan(plan)
        check_meetings(plan, self._steps, encoder.stage_names)
        check_side_effects(encoder)
        check_inputs_stay(encoder, self._steps)
        self._stage_keys = module_keys(encoder.stage_names)
        self.stages = nn.ModuleDict(
            {
                key: _copies(encoder, index, plan, fresh=copies == "fresh")
                for index, key in enumerate(self._stage_keys)
            }
        )
        specs = head_specs(head, tasks)
        self._head_keys = dict(zip(tasks.names, module_keys(tasks.names), strict=True))
        self.heads = nn.ModuleDict(
            {
                self._head_keys[name]: specs[name].build(encoder.stage_shapes[-1], task.width)
                for name, task in tasks.items()
            }
        )
        self.mixing = nn.ModuleDict()
        self.ties = nn.ModuleDict()
        for index, (key, stage) in enumerate(zip(self._stage_keys, plan.stages, strict=True)):
            if stage.mixing is not None:
                check_copies_alike(list(self.stages[key].children()), encoder, index)
                self.mixing[key] = stage.mixing.build(len(tasks), encoder.stage_shapes[index])
            if stage.tie is not None and len(stage.partition) > 1:  # a single task has nothing to tie
                tie = build_tie(stage.tie.name, weight=stage.tie.weight, **stage.tie.settings)
                tie.attach(list(self.stages[key].children()))
                self.ties[key] = tie

    def features(self, inputs: Tensor) -> Features:
        """The seam between shared and task parameters.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            The tensor after the last stage that all tasks share, counted from the input. Where the first
            stage is not shared by all, every task's own features before its head: `{task: [N, ...]}`.
        """
        shared = self.plan.num_shared_stages
        flow = Flow([inputs], [1])
        if shared > 0:
            return self._run(flow, 0, shared).tensors[0]
        return self._task_features(self._run(flow, 0, len(self._steps)))

    def from_features(self, features: Features) -> dict[str, Tensor]:
        if isinstance(features, Tensor):
            flow = self._run(Flow([features], [1]), self.plan.num_shared_stages, len(self._steps))
            features = self._task_features(flow)
        return {task: self.heads[key](features[task]) for task, key in self._head_keys.items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of copies that several tasks use, of mixing and of ties."""
        copies = self._copies_used_by(lambda group: len(group) > 1)
        return trainable([*copies, self.mixing, self.ties])

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters of the copies that this task uses alone, and of its head."""
        return trainable(self.task_modules(task))

    def task_modules(self, task: str) -> list[nn.Module]:
        """The copies that this task uses alone, in the order of the stages, and its head."""
        name = self.tasks[task].name
        copies = self._copies_used_by(lambda group: group == (name,))
        return [*copies, self.heads[self._head_keys[name]]]

    def task_copies(self, task: str) -> list[nn.Module]:
        """The copy of every stage that this task uses, alone or with others, and its head."""
        name = self.tasks[task].name
        copies = self._copies_used_by(lambda group: name in group)
        return [*copies, self.heads[self._head_keys[name]]]

    def after_stages(self, inputs: Tensor, number: int) -> dict[str, Tensor]:
        """Every task's tensor after the first `number` stages and their mixing; one object where tasks share.

        Args:
            inputs: [N, *encoder.input_shape].
            number: 0 gives the inputs.
        """
        flow = self._run(Flow([inputs], [1]), 0, number)
        streams = self._steps[number - 1].streams if number else (Stream(0, 0),) * len(self.tasks)
        return self._by_task(flow, streams)

    def penalty(self) -> Tensor:
        """Sum over tied stages of weight times tie (thesis 002, equation 3.4); a plain 0 without ties."""
        total = super().penalty()
        for key, tie in self.ties.items():
            assert isinstance(tie, Tie)
            total = total + tie.penalty(list(self.stages[key].children()))
        return total

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Copies of the mixing matrices by stage name, [T, T] or [C, T, T]."""
        return {
            name: self._unit(key).matrix().detach().clone()
            for name, key in zip(self.stage_names, self._stage_keys, strict=True)
            if key in self.mixing
        }

    def special_groups(self) -> list[ParameterGroup]:
        units = [
            (self.mixing[key], float(stage.mixing.lr_multiplier))
            for key, stage in zip(self._stage_keys, self.plan.stages, strict=True)
            if stage.mixing is not None
        ]
        ties = [(tie, tie.lr_multiplier) for tie in self.ties.values() if isinstance(tie, Tie)]
        return [*_by_multiplier("mixing", units), *_by_multiplier("tie", ties)]

    def describe(self) -> str:
        """A table of stages by tasks; tasks with one letter in a row use one copy of that stage."""
        return self.plan.describe(self.stage_names)

    def _run(self, flow: Flow, begin: int, end: int) -> Flow:
        for index in range(begin, end):
            key, step = self._stage_keys[index], self._steps[index]
            flow = run_step(step, list(self.stages[key].children()), flow)
            if key in self.mixing:
                mixed = self.mixing[key]([flow.stream(stream) for stream in step.outputs])
                flow = Flow(mixed, [1] * len(mixed))
        return flow

    def _task_features(self, flow: Flow) -> dict[str, Tensor]:
        return self._by_task(flow, self._steps[-1].streams)

    def _by_task(self, flow: Flow, streams: Sequence[Stream]) -> dict[str, Tensor]:
        return {task: flow.stream(stream) for task, stream in zip(self.tasks, streams, strict=True)}

    def _copies_used_by(self, wanted: Callable[[tuple[str, ...]], bool]) -> list[nn.Module]:
        """The stage copies whose group of tasks is wanted."""
        return [
            copy
            for key, stage in zip(self._stage_keys, self.plan.stages, strict=True)
            for group, copy in zip(stage.partition, self.stages[key].children(), strict=True)
            if wanted(group)
        ]

    def _unit(self, key: str) -> MixingUnit:
        unit = self.mixing[key]
        assert isinstance(unit, MixingUnit)
        return unit


def _copies(encoder: Encoder, index: int, plan: Plan, *, fresh: bool) -> nn.ModuleDict:
    """One copy of the stage per group, by the group's name."""
    partition = plan.stages[index].partition
    names = ["shared" if len(group) == len(plan.tasks) > 1 else "+".join(group) for group in partition]
    return nn.ModuleDict({key: encoder.copy_stage(index, fresh=fresh) for key in module_keys(names)})


def module_keys(names: Sequence[str]) -> list[str]:
    """Names as a module may have them: no dot or slash, none that a ModuleDict has already, none twice.

    Example:
        >>> module_keys(["age", "v1.0", "keys"])
        ['age', 'v1_0', 'keys_']
    """
    keys: list[str] = []
    for name in names:
        key = name.replace(".", "_").replace("/", "_")
        while hasattr(nn.ModuleDict, key) or key == "training" or key in keys:
            key += "_"
        keys.append(key)
    return keys


def _by_multiplier(name: str, modules: Sequence[tuple[nn.Module, float]]) -> list[ParameterGroup]:
    """One group without weight decay per factor on the rate: `name`, `name:<factor>` where several."""
    groups: dict[float, list[nn.Parameter]] = {}
    for module, multiplier in modules:
        if parameters := trainable([module]):
            groups.setdefault(multiplier, []).extend(parameters)
    return [
        ParameterGroup(
            name if len(groups) == 1 else f"{name}:{multiplier:g}", parameters, multiplier, decays=False
        )
        for multiplier, parameters in groups.items()
    ]


def _largest_within(module: nn.Module, wanted: set[int]) -> list[nn.Module]:
    """The largest submodules that have parameters, all of them among the wanted ones (by `id`)."""
    parameters = {id(parameter) for parameter in module.parameters()}
    if parameters and parameters <= wanted:
        return [module]
    if not parameters & wanted:
        return []
    return [found for child in module.children() for found in _largest_within(child, wanted)]


def trainable(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All parameters of the modules that are to be trained."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]
