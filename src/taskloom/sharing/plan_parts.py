"""The parts of a network that executes a plan: which there are, whose they are, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from taskloom.sharing.executor import compile_plan, stage_copies
from taskloom.sharing.forgetting import ReversalPlaces, reversal_places
from taskloom.sharing.heads import HeadChoice, head_specs
from taskloom.sharing.keys import module_keys
from taskloom.sharing.mixing import MixingUnit, among_all
from taskloom.sharing.multitask import (
    MultiTaskNetwork,
    ParameterGroup,
    by_multiplier,
    trainable,
)
from taskloom.sharing.plan import Copies, Plan, check_plan
from taskloom.sharing.ties import Tie
from taskloom.sharing.ties import build as build_tie
from taskloom.tasks import StageOutput, TaskSet


class PlanParts(MultiTaskNetwork):
    """Holds the copies, units, ties and heads that a plan asks for; `PlanNetwork` runs them.

    Args:
        encoder, tasks, plan, head, copies, deep_supervision: See `PlanNetwork`.

    Attributes:
        plan: The plan.
        stages: Copies by stage and group.
        mixing, ties: Units and ties by stage.
        heads, deep_heads: Heads by task, and by stage and task.
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
