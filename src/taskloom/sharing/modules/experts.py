"""Mixtures of experts: MMoE and PLE.

An expert is a copy of a run of stages. Every task reads the experts through a softmax gate of its own. The
stages before the run are one trunk for all tasks, those after it are towers, one copy per task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    check_count,
    check_inputs_stay,
    letter,
    stage_run,
)
from taskloom.sharing.modules.combination import combine
from taskloom.sharing.modules.gates import ExpertGate, Gate, GateInput, check_gate
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.plan import Copies
from taskloom.sharing.reversal import GradientReversal
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


class ExpertNetwork(ModuleNetwork):
    """Levels of experts with gates; MMoE is one level without experts of single tasks.

    In level j, with shared experts S, own experts O_t of task t, and input x_t of task t (x_0 of what is
    shared; all of them the trunk's output in the first level):

        y_t = sum over e in S and O_t of g_t(x_t)[e] e(x)        y_0 = sum over all e of g_0(x_0)[e] e(x)

    where a shared expert reads x_0 and an own expert x_t. The last level has no y_0. Where there is one
    expert to choose from there is no gate: its output goes on as it is.

    State dict: `stages.<stage>.shared_<n>`, `stages.<stage>.<task>_<n>` for experts, `gates.<level>.<task>`.
    Gates, own experts, towers and heads belong to their task; through y_0 other tasks hear the own experts of
    all levels but the last (as they hear copies through mixing in a `PlanNetwork`).

    Args:
        encoder: The backbone.
        tasks: The tasks.
        levels: The stages of each level, one level after the other without a gap.
        shared_experts: Number of experts of all tasks in each level, at least 1.
        task_experts: Number of experts of every single task in each level.
        gate_input, gate_bias: See `Gate`.
        make_gate: Makes a gate of another kind from the shape of one row of its input and K; None: a `Gate`.
        head, copies: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, or a stage that works in place on an input others read.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        levels: Sequence[range],
        shared_experts: int,
        task_experts: int = 0,
        gate_input: GateInput = "flat",
        gate_bias: bool = False,
        make_gate: Callable[[Sequence[int], int], ExpertGate] | None = None,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        self.levels, self.shared_experts, self.task_experts = tuple(levels), shared_experts, task_experts
        self._before = range(levels[0].start)
        self._after = range(levels[-1].stop, len(encoder.stages))
        if shared_experts + task_experts > 1 or (task_experts and len(tasks) > 1):
            check_inputs_stay(encoder, [level.start for level in levels], "other experts and the gates read")
        owners = ["shared"] * shared_experts + [task for task in tasks for _ in range(task_experts)]
        numbers = [*range(1, shared_experts + 1), *list(range(1, task_experts + 1)) * len(tasks)]
        names = [f"{owner}_{number}" for owner, number in zip(owners, numbers, strict=True)]
        self._choices = [[index for index, owner in enumerate(owners) if owner == "shared"] for _ in tasks]
        for choice, task in zip(self._choices, tasks, strict=True):
            first = shared_experts + tasks.index(task) * task_experts
            choice.extend(range(first, first + task_experts))
        self.add_trunk(encoder, self._before)
        for level in self.levels:
            for index in level:
                self.add_copies(encoder, index, names)
        self.add_towers(encoder, self._after)
        self.add_heads(encoder, head)
        self.gates = nn.ModuleList()
        make = make_gate or partial(Gate, gate_input=gate_input, bias=gate_bias)
        shapes = (encoder.input_shape, *encoder.stage_shapes)
        for number, level in enumerate(self.levels, start=1):
            receivers = [(key, len(self._choices[0])) for key in self._task_keys.values()]
            if number < len(self.levels):
                receivers.append((self._shared_gate, len(names)))
            self.gates.append(
                nn.ModuleDict(
                    {key: make(shapes[level.start], choices) for key, choices in receivers if choices > 1}
                )
            )

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """What every task's gate of the last level has combined: the input of its tower or head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}. The gates stand before this seam although each belongs to its task.
        """
        of_shared = self.run_trunk(self._before, inputs)
        of_tasks = [of_shared] * len(self.tasks)
        for number, level in enumerate(self.levels):
            last = number + 1 == len(self.levels)
            if last:  # from here on what is a task's own is heard by nobody else
                of_tasks = self._reversed(of_tasks)
            read, weights = self._read(number, [*of_tasks, of_shared])
            given = [read[-1]] * self.shared_experts
            given += [tensor for tensor in read[:-1] for _ in range(self.task_experts)]
            of_tasks, of_shared = self._choose(weights, self.run_each(level, given), last=last)
        return self.by_task(of_tasks)

    def put_reversals(self) -> None:
        """Nothing: adversarial tasks stand behind a reversal where they read the last level, see `features`.

        Before their towers or heads, their own gates would learn to choose the experts that know least.
        """

    def _reversed(self, of_tasks: Sequence[Tensor]) -> list[Tensor]:
        """One tensor per task, those of adversarial tasks behind their reversal."""
        return [
            self.reversals[task].reverse(tensor) if task in self.reversals else tensor
            for task, tensor in zip(self.tasks, of_tasks, strict=True)
        ]

    def from_features(self, features: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(features, dict)
        towers = self.run_each(self._after, [features[task] for task in self.tasks])
        return super().from_features(self.by_task(towers))

    def task_modules(self, task: str) -> list[nn.Module]:
        position, number = self.tasks.index(task), len(self.levels)
        towers = [self.copies_of(index)[position] for index in self._after]
        own, gates = self._own_experts(task, number), self._own_gates(task, number)
        return [*own, *gates, *towers, self.head_of(task)]

    def heard_modules(self, task: str) -> list[nn.Module]:
        # Through y_0 of all levels but the last; a gate by way of its task's experts one level further on.
        number = len(self.levels)
        gates = self._own_gates(task, number - 2) if self.task_experts else []
        return [*self._own_experts(task, number - 1), *gates]

    def _own_experts(self, task: str, num_levels: int) -> list[nn.Module]:
        """The task's own experts in the first levels."""
        choice = self._choices[self.tasks.index(task)]
        return [
            self.copies_of(index)[expert]
            for level in self.levels[:num_levels]
            for index in level
            for expert in choice[self.shared_experts :]
        ]

    def _own_gates(self, task: str, num_levels: int) -> list[nn.Module]:
        """The task's gates in the first levels, where it has any."""
        key = self._task_keys[task]
        found = map(self._gates_of, range(num_levels))
        return [gates[key] for gates in found if key in gates]

    def gate_means(self) -> dict[str, Tensor]:
        """Running mean of every task's gate weights over all experts, [T, K], by the level's last stage.

        Experts in the order of the state dict: the shared ones, then those of each task; 0 where a task's
        gate does not see an expert. Levels with a single expert to choose from are left out.
        """
        found: dict[str, Tensor] = {}
        for number, level in enumerate(self.levels):
            gates = self._gates_of(number)
            if not all(key in gates for key in self._task_keys.values()):
                continue
            means = [gates[key].mean for key in self._task_keys.values()]
            total = self.shared_experts + self.task_experts * len(self.tasks)
            weights = means[0].new_zeros(len(self.tasks), total)
            for task, mean in enumerate(means):
                weights[task, self._choices[task]] = mean
            found[self.stage_names[level[-1]]] = weights
        return found

    def mixing_matrices(self) -> dict[str, Tensor]:
        """How much two tasks read the same experts: sum over experts of the smaller mean gate weight, [T, T].

        1 on the diagonal and where two gates agree on average, 0 where they choose different experts.
        """
        return {
            stage: torch.minimum(weights[:, None], weights[None]).sum(2)
            for stage, weights in self.gate_means().items()
        }

    def describe(self) -> str:
        """A table of stages by tasks; the letters of a cell are the copies that the task reads."""
        rows = self.trunk_rows(self._before)
        kinds = f"{self.shared_experts} shared"
        if self.task_experts:
            kinds += f" and {self.task_experts} own"
        for level in self.levels:
            cells = ["".join(letter(expert) for expert in choice) for choice in self._choices]
            for index in level:
                gated = index == level[-1] and len(self._choices[0]) > 1
                remark = f"{kinds} experts" + (", softmax gate" if gated else "")
                rows.append([self.stage_names[index], *cells, remark])
        return self.table([*rows, *self.tower_rows(self._after)])

    @property
    def _shared_gate(self) -> str:
        """Key of the gate of what is shared; no task's."""
        key = "shared"
        while key in self._task_keys.values():
            key += "_"
        return key

    def _gates_of(self, level: int) -> dict[str, ExpertGate]:
        gates = self.gates[level]
        assert isinstance(gates, nn.ModuleDict)
        return {key: gate for key, gate in gates.items() if isinstance(gate, ExpertGate)}

    def _read(self, level: int, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
        """A level's inputs of every task, then that of what is shared, and what their gates make of them."""
        gates = self._gates_of(level)
        keys = [*self._task_keys.values(), self._shared_gate]
        read = list(inputs)
        found: list[Tensor | None] = [None] * len(keys)
        own = self._own_below(level)
        for place, key in enumerate(keys):
            if key in gates and place in own:
                found[place] = own[place].restore(gates[key](own[place].reverse(inputs[place])))
            elif key in gates:
                read[place], found[place] = gates[key].read(inputs[place])
        return read, found

    def _own_below(self, level: int) -> dict[int, GradientReversal]:
        """Places of adversarial tasks whose gate at this level is theirs alone, and stands before a reversal.

        A gate is heard by way of its task's experts one level further on, unless that is the last one.
        """
        last = len(self.levels) - 1
        if level == last or (self.task_experts and level < last - 1):
            return {}
        return {self.tasks.index(task): reversal for task, reversal in self.reversals.items()}

    def _choose(
        self, weights: Sequence[Tensor | None], experts: Sequence[Tensor], *, last: bool
    ) -> tuple[list[Tensor], Tensor]:
        """What each task combines of the experts that it sees, and what goes on as what is shared."""
        choices = [*map(tuple, self._choices), tuple(range(len(experts)))]
        if last:
            experts = list(experts)
            for task in self.reversals:  # the shared experts once more, as this task reads them
                place, first = self.tasks.index(task), len(experts)
                experts += map(self.reversals[task].reverse, experts[: self.shared_experts])
                own = choices[place][self.shared_experts :]
                choices[place] = (*range(first, len(experts)), *own)
        heard = [experts[choice[0]] for choice in choices]  # by those who have no choice
        gated = {place: weight for place, weight in enumerate(weights) if weight is not None}
        if gated:
            combined = combine(list(gated.values()), experts, [choices[place] for place in gated])
            for place, tensor in zip(gated, combined, strict=True):
                heard[place] = tensor
        return heard[:-1], heard[-1]


@register_module("mmoe")
def mmoe(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    experts: int = 4,
    stages: Stages = "all",
    gate_input: GateInput = "flat",
    gate_bias: bool = False,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> ExpertNetwork:
    """Multi-gate mixture of experts (Ma et al. 2018): experts for all tasks, one softmax gate per task.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        experts: Number of experts; 1 is hard sharing.
        stages: Which stages an expert consists of: "all", or numbers from 1 and names, without a gap. Stages
            before them are shared, stages after them are each task's own.
        gate_input: What the gates read of the experts' input: "flat" or "pooled", see `Gate`.
        gate_bias: Whether gates have a bias. Without one (the paper) a gate cannot prefer an expert on
            average where its inputs have mean 0.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = mmoe(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")), experts=3, stages=[1])
        >>> print(network.describe())
        stage    a    b    how
        dense_0  ABC  ABC  3 shared experts, softmax gate
        dense_1  A    B    -
        head     A    B    -
    """
    check_gate("mmoe", gate_input, gate_bias)
    return ExpertNetwork(
        encoder,
        tasks,
        levels=[stage_run(stages, encoder, "mmoe.stages")],
        shared_experts=check_count("mmoe.experts", experts),
        gate_input=gate_input,
        gate_bias=gate_bias,
        head=head,
        copies=copies,
    )


@register_module("ple")
def ple(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    shared_experts: int = 1,
    task_experts: int = 1,
    stages: Stages = "all",
    levels: int | None = None,
    gate_input: GateInput = "flat",
    gate_bias: bool = False,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> ExpertNetwork:
    """Progressive layered extraction (Tang et al. 2020): levels of shared and own experts, gate by gate.

    With one level it is the paper's customised gate control (CGC); without own experts and with one level it
    is MMoE.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        shared_experts: Number of experts of all tasks in each level, at least 1.
        task_experts: Number of experts of every single task in each level; 0 for none.
        stages: Which stages the experts are made of, as in `mmoe`.
        levels: Number of levels: the stages are divided into so many runs, as even as possible, the longer
            ones first. One level per stage where None.
        gate_input, gate_bias: As in `mmoe`. Gates read the input of their own level.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, or more levels than stages.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = ple(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")))
        >>> print(network.describe())
        stage    a   b   how
        dense_0  AB  AC  1 shared and 1 own experts, softmax gate
        dense_1  AB  AC  1 shared and 1 own experts, softmax gate
        head     A   B   -
    """
    check_gate("ple", gate_input, gate_bias)
    run = stage_run(stages, encoder, "ple.stages")
    count = len(run) if levels is None else check_count("ple.levels", levels)
    if count > len(run):
        raise ConfigError(f"ple.levels: at most {len(run)} levels (one per stage) expected, found {count}.")
    short, longer = divmod(len(run), count)
    ends = [run.start + short * level + min(level, longer) for level in range(count + 1)]
    return ExpertNetwork(
        encoder,
        tasks,
        levels=[range(begin, end) for begin, end in pairwise(ends)],
        shared_experts=check_count("ple.shared_experts", shared_experts),
        task_experts=check_count("ple.task_experts", task_experts, least=0),
        gate_input=gate_input,
        gate_bias=gate_bias,
        head=head,
        copies=copies,
    )
