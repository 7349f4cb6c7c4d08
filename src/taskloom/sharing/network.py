"""The network that executes a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.checks import (
    check_copies_alike,
    check_inputs_stay,
    check_meetings,
    check_side_effects,
)
from taskloom.sharing.depth import ReadOut, build_head, check_samples, resolve_supervision, without_tasks
from taskloom.sharing.executor import Flow, Stream, compile_plan, run_step, stage_copies
from taskloom.sharing.forgetting import ReversalPlaces, mix_before_adversaries, reversal_places
from taskloom.sharing.grouped import Execution, why_not
from taskloom.sharing.heads import HeadChoice, head_specs
from taskloom.sharing.keys import module_keys
from taskloom.sharing.mixing import MixingUnit, among_all
from taskloom.sharing.multitask import (
    Features,
    MultiTaskNetwork,
    ParameterGroup,
    by_multiplier,
    trainable,
)
from taskloom.sharing.plan import Copies, Plan, check_plan
from taskloom.sharing.ties import Tie
from taskloom.sharing.ties import build as build_tie
from taskloom.tasks import StageOutput, TaskSet

__all__ = ["Features", "MultiTaskNetwork", "ParameterGroup", "PlanNetwork", "trainable"]


class PlanNetwork(MultiTaskNetwork):
    """Executes a sharing plan on an encoder.

    The encoder itself stays as it is; the network holds copies of its stages, one per group of the plan's
    partition. State dict: `stages.<stage>.<group>`, `mixing.<stage>.alpha` (`.shares` of proportional
    addition), `ties.<stage>` of ties with parameters, `heads.<task>`, `deep_heads.<stage>-<task>`; a group is
    called after its task, after its tasks joined by "+", or "shared" for all tasks (dots and slashes in names
    become underscores).

    A stage copy that one task uses alone belongs to that task, although mixing lets other tasks hear it;
    copies that several tasks use, mixing matrices and parameters of ties are shared.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        plan: One stage plan per stage of the encoder.
        head: A head for all tasks, or `{task: head}`; linear read-outs where None.
        copies: "fresh": every copy has a start of its own; "same": all start from the encoder's own weights
            (pretrained ones, for example).
        deep_supervision: A further head for every task at each stage below its own head, in training: its
            weight, or `{weight, stages, tasks, features}` (see `DeepSupervision`). Predictions in training
            then hold their outputs as well, by `StageOutput`; they belong to their task.
        execution: How copies of one stage run: "one_by_one"; "grouped", one kernel per layer for all of them
            where the stage has such a form; "auto": grouped on a GPU where copies are small.

    Raises:
        ConfigError: The plan does not fit the encoder or the tasks; what `taskloom.sharing.checks` refuses;
            an adversarial task that shares nothing.

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
        deep_supervision: Any = None,
        execution: Execution = "auto",
    ) -> None:
        super().__init__(tasks)
        if execution not in get_args(Execution):
            raise ConfigError(
                f"sharing.execution: one of {', '.join(get_args(Execution))} expected, found {execution!r}."
            )
        self.execution = execution
        self._sizes = [math.prod(shape) for shape in encoder.stage_shapes]
        if copies not in ("fresh", "same"):
            raise ConfigError(f"sharing: copies must be fresh or same, found {copies!r}.")
        check_plan(plan, encoder, tasks.names)
        self.plan = plan
        self.stage_names = encoder.stage_names
        self._steps = compile_plan(plan)
        check_meetings(plan, self._steps, encoder.stage_names)
        check_side_effects(encoder)
        supervision = resolve_supervision(deep_supervision, tasks.names, encoder.stage_names)
        self._deep = {
            StageOutput.of(task, encoder.stage_names[index], supervision.weight): index
            for task in tasks
            for index in supervision.stages_of(task, plan.depth(task))
        }
        read = {*self._deep.values(), *(plan.depth(task) - 1 for task in tasks)}
        check_inputs_stay(encoder, self._steps, read)
        self._stage_keys = module_keys(encoder.stage_names)
        self.stages = nn.ModuleDict(
            {
                key: stage_copies(encoder, index, plan, fresh=copies == "fresh")
                for index, key in enumerate(self._stage_keys)
            }
        )
        specs = head_specs(head, tasks)
        self._head_keys = dict(zip(tasks.names, module_keys(tasks.names), strict=True))
        shapes, last = encoder.stage_shapes, ReadOut(len(encoder.stages))
        read_out = {task: plan.read_out.get(task, last) for task in tasks}
        self.heads = nn.ModuleDict(
            {
                self._head_keys[name]: build_head(
                    specs[name], shapes[read_out[name].stages - 1], task, read_out[name].features
                )
                for name, task in tasks.items()
            }
        )
        self.mixing = nn.ModuleDict()
        self.ties = nn.ModuleDict()
        for index, (key, stage) in enumerate(zip(self._stage_keys, plan.stages, strict=True)):
            if stage.mixing is not None:
                check_copies_alike(list(self.stages[key].children()), encoder, index)
                self.mixing[key] = stage.mixing.build(len(stage.partition), encoder.stage_shapes[index])
            if stage.tie is not None and len(stage.partition) > 1:  # a single task has nothing to tie
                tie = build_tie(stage.tie.name, weight=stage.tie.weight, **stage.tie.settings)
                tie.attach(list(self.stages[key].children()))
                self.ties[key] = tie
        # Last: networks with and without them start alike.
        self.deep_heads = nn.ModuleDict()
        for name, index in self._deep.items():
            own, spec = shapes[read_out[name.task].stages - 1], specs[name.task]
            check_samples(name, spec, shapes[index], own)
            deep_head = build_head(spec, shapes[index], tasks[name.task], supervision.features)
            self.deep_heads[self._deep_key(name)] = deep_head
        self.put_reversals()

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Predicts every task from one pass; in training, the heads of deep supervision among them.

        Args:
            inputs: [N, *encoder.input_shape].
        """
        if not (self._deep and self.training):
            return super().forward(inputs)
        below: dict[str, Tensor] = {}  # what deep heads read before the seam
        predictions = self.from_features(self._seam(inputs, below))
        return predictions | self._deep_outputs(below)

    def features(self, inputs: Tensor) -> Features:
        """The seam between shared and task parameters.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            The tensor after the last stage that all tasks share, counted from the input. Where the first
            stage is not shared by all, every task's own features before its head: `{task: [N, ...]}`.
        """
        return self._seam(inputs, {})

    def _seam(self, inputs: Tensor, read: dict[str, Tensor]) -> Features:
        """The features; `read` gets what heads of deep supervision read on the way."""
        shared = self.plan.num_shared_stages
        flow = Flow([inputs], [1])
        if shared > 0:
            return self._run(flow, 0, shared, read).tensors[0]
        self._run(flow, 0, len(self._steps), read)
        return {task: read.pop(task) for task in self.tasks}

    def from_features(self, features: Features) -> dict[str, Tensor]:
        read: dict[str, Tensor] = {}
        if isinstance(features, Tensor):
            shared = self.plan.num_shared_stages
            flow = Flow([features], [1])
            read |= {task: features for task in self.tasks if self.plan.depth(task) == shared}
            self._run(flow, shared, len(self._steps), read)
            features = read
        predictions = {task: self.heads[key](features[task]) for task, key in self._head_keys.items()}
        return predictions | self._deep_outputs(read)

    @property
    def has_shared_feature(self) -> bool:
        return self.plan.num_shared_stages > 0

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of copies that several tasks use, of mixing and of ties."""
        copies = self._copies_used_by(lambda group: len(group) > 1 or group[0] not in self.tasks)
        return trainable([*copies, self.mixing, self.ties])

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters of the copies that this task uses alone, and of its head."""
        return trainable(self.task_modules(task))

    def task_modules(self, task: str) -> list[nn.Module]:
        """The copies that this task uses alone, in the order of the stages, its heads, its own head last."""
        name = self.tasks[task].name
        copies = self._copies_used_by(lambda group: group == (name,))
        deep = [head for _, head in self.lower_heads(name).values()]
        return [*copies, *deep, self.heads[self._head_keys[name]]]

    def lower_heads(self, task: str) -> dict[StageOutput, tuple[int, nn.Module]]:
        """Its heads of deep supervision by name: the number of stages below each, and the head."""
        return {
            name: (at + 1, self.deep_heads[self._deep_key(name)])
            for name, at in self._deep.items()
            if name.task == task
        }

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
        read: dict[str, Tensor] = {}
        flow = self._run(Flow([inputs], [1]), 0, number, read)
        for task in self.tasks:
            if self.plan.depth(task) > number:
                stream = self._steps[number - 1].stream_of(task) if number else Stream(0, 0)
                read[task] = flow.stream(stream)
        return {task: read[task] for task in self.tasks}

    @property
    def deeply_supervised(self) -> bool:
        """Whether training has heads at lower stages."""
        return bool(self._deep)

    def entrance(self, task: str) -> nn.Module:
        name = self.tasks[task].name
        number = self._reversal_places(name).alone_after
        if number == 0:
            raise ConfigError(
                f"tasks.{name}.role: adversarial: the task shares, mixes and ties no stage with another "
                "task, so nothing can forget it; share a stage, or make it `role: auxiliary`."
            )
        return self.task_copies(name)[number]

    def put_reversals(self) -> None:
        self._places = {task: self._reversal_places(task) for task in self.reversals}
        for task, reversal in self.reversals.items():
            entrance, places = self.entrance(task), self._places[task]
            if not places.in_unit:
                reversal.stand_before(entrance)
            copies = self.task_copies(task)
            for index in places.own_below:
                reversal.stand_around(copies[index])
            for head, index in self._deep.items():
                if head.task == task and places.turned_at(index):
                    reversal.stand_before(self.deep_heads[self._deep_key(head)])

    def _reversal_places(self, task: str) -> ReversalPlaces:
        keys = list(enumerate(self._stage_keys))
        units = {index: self._unit(key) for index, key in keys if key in self.mixing}
        pulling = {key for key, tie in self.ties.items() if isinstance(tie, Tie) and tie.weight > 0}
        return reversal_places(self.plan, task, units, [index for index, key in keys if key in pulling])

    def _mixed(self, index: int, streams: Sequence[Tensor]) -> Sequence[Tensor]:
        """The streams after the mixing of a stage."""
        unit, stage = self._unit(self._stage_keys[index]), self.plan.stages[index]
        own = {
            stage.group_of(task): (reversal, not self._places[task].in_unit)
            for task, reversal in self.reversals.items()
            if self._places[task].unit == index
        }
        return mix_before_adversaries(unit, streams, own) if own else unit(streams)

    def drop_tasks(self, names: Sequence[str]) -> None:
        """Takes tasks out of a trained network: their heads, and the copies that no other task needs.

        What mixing lets other tasks hear stays, up to the last unit. Ties and deep supervision go: the
        network is one for use. Where shared stages stand above unshared ones and run on the joined batch of
        all tasks, that batch is smaller afterwards, which may change the last digit; else predictions of the
        other tasks are the same to the bit.

        Args:
            names: The tasks.

        Raises:
            ConfigError: No task would be left, or a name is not a task.
        """
        for name in names:
            self.tasks[name]
        left = self.tasks.subset([name for name in self.tasks if name not in names])
        plan = without_tasks(self.plan, names)
        for key, before, after in zip(self._stage_keys, self.plan.stages, plan.stages, strict=True):
            needed = {task for group in after.partition for task in group}
            copies = self.stages[key]
            assert isinstance(copies, nn.ModuleDict)
            for copy, group in list(zip(copies, before.partition, strict=True)):
                if not needed & set(group):
                    del copies[copy]
            if after.mixing is None and key in self.mixing:
                del self.mixing[key]
        for name in names:
            del self.heads[self._head_keys.pop(name)]
            self.reversals.pop(name, None)
        self.ties, self.deep_heads, self._deep = nn.ModuleDict(), nn.ModuleDict(), {}
        self.tasks, self.plan, self._steps = left, plan, compile_plan(plan)

    def penalty(self) -> Tensor:
        """Sum over tied stages of weight times tie (thesis 002, equation 3.4); a plain 0 without ties."""
        total = super().penalty()
        for key, tie in self.ties.items():
            assert isinstance(tie, Tie)
            total = total + tie.penalty(list(self.stages[key].children()))
        return total

    def set_step(self, step: int | None) -> None:
        for tie in self.ties.values():
            assert isinstance(tie, Tie)
            tie.step = step

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Copies of the mixing matrices by stage name, [T, T] or [C, T, T].

        Tasks that are read out below a stage have zeros there: they neither give nor receive.
        """
        found: dict[str, Tensor] = {}
        for name, key, step in zip(self.stage_names, self._stage_keys, self._steps, strict=True):
            if key in self.mixing:
                matrix = self._unit(key).matrix().detach().clone()
                among = [self.plan.tasks.index(task) for task in step.tasks]
                found[name] = among_all(matrix, among, len(self.plan.tasks))
        return found

    def special_groups(self) -> list[ParameterGroup]:
        units = [
            (self.mixing[key], float(stage.mixing.lr_multiplier))
            for key, stage in zip(self._stage_keys, self.plan.stages, strict=True)
            if stage.mixing is not None
        ]
        ties = [(tie, tie.lr_multiplier) for tie in self.ties.values() if isinstance(tie, Tie)]
        return [*by_multiplier("mixing", units), *by_multiplier("tie", ties)]

    def describe(self) -> str:
        """A table of stages by tasks; tasks with one letter in a row use one copy of that stage.

        Where `execution` is "grouped", a line on every stage that runs one by one all the same says why.
        """
        table = self.plan.describe(self.stage_names)
        if self.execution != "grouped":
            return table
        reasons = [f"{stage}: {reason}" for stage, reason in self.one_by_one().items()]
        return f"{table}\ngrouped execution" + (", except " + "; ".join(reasons) if reasons else "")

    def one_by_one(self) -> dict[str, str]:
        """The stages whose copies cannot run as one kernel per layer, with the reason (`execution`).

        A stage left out may still run one by one in a step: while dropout draws, while some copies are
        frozen, where a hook stands at a layer.
        """
        found = {
            name: why_not(list(self.stages[key].children()))
            for name, key in zip(self.stage_names, self._stage_keys, strict=True)
        }
        return {name: reason for name, reason in found.items() if reason is not None}

    def _run(self, flow: Flow, begin: int, end: int, read: dict[str, Tensor]) -> Flow:
        """Runs stages; `read` gets what the heads read on the way, those of deep supervision in training."""
        for index in range(begin, end):
            key, step = self._stage_keys[index], self._steps[index]
            copies = list(self.stages[key].children())
            flow = run_step(step, copies, flow, self.execution, self._sizes[index])
            if key in self.mixing:
                mixed = self._mixed(index, [flow.stream(stream) for stream in step.outputs])
                flow = Flow(mixed, [1] * len(mixed))
            for task in step.tasks:
                if self.plan.depth(task) == index + 1 and task in self.tasks:
                    read[task] = flow.stream(step.stream_of(task))
            if self.training:
                for name, at in self._deep.items():
                    if at == index:
                        read[name] = flow.stream(step.stream_of(name.task))
        return flow

    def _deep_outputs(self, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the heads of deep supervision whose features are among these."""
        return {
            name: self.deep_heads[self._deep_key(name)](read[name]) for name in self._deep if name in read
        }

    def _deep_key(self, name: StageOutput) -> str:
        """Key of a head of deep supervision: stage and task."""
        return f"{self._stage_keys[self._deep[name]]}-{self._head_keys[name.task]}"

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
