"""The network that executes a plan: how it runs; its parts are in `plan_parts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.executor import Flow, Stream, run_step
from taskloom.sharing.forgetting import mix_before_adversaries
from taskloom.sharing.grouped import Execution, why_not
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.multitask import (
    Features,
    MultiTaskNetwork,
    ParameterGroup,
    trainable,
)
from taskloom.sharing.plan import Copies, Plan
from taskloom.sharing.plan_parts import PlanParts
from taskloom.tasks import TaskSet

__all__ = ["Features", "MultiTaskNetwork", "ParameterGroup", "PlanNetwork", "trainable"]


class PlanNetwork(PlanParts):
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
        if execution not in get_args(Execution):
            raise ConfigError(
                f"sharing.execution: one of {', '.join(get_args(Execution))} expected, found {execution!r}."
            )
        super().__init__(encoder, tasks, plan, head, copies=copies, deep_supervision=deep_supervision)
        self.execution = execution
        self._sizes = [math.prod(shape) for shape in encoder.stage_shapes]

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

    def _mixed(self, index: int, streams: Sequence[Tensor]) -> Sequence[Tensor]:
        """The streams after the mixing of a stage."""
        unit, tasks = self._unit(self._stage_keys[index]), self._steps[index].tasks
        own = {  # a unit's rows are in the order of the tasks, whatever that of the partition
            tasks.index(task): (reversal, not self._places[task].in_unit)
            for task, reversal in self.reversals.items()
            if self._places[task].unit == index
        }
        return mix_before_adversaries(unit, streams, own) if own else unit(streams)

    def _deep_outputs(self, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the heads of deep supervision whose features are among these."""
        return {
            name: self.deep_heads[self._deep_key(name)](read[name]) for name in self._deep if name in read
        }
