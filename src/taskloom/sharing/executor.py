"""How a plan runs: which copy is called on which tensors, worked out once when the network is built.

A *stream* is a tensor that some tasks have in common on their way through the network. Tasks part where their
groups part, and from then on have streams of their own. Where a copy is shared by tasks of several streams
("sharing from the top"), it runs once on the joined batch, the streams' rows one after the other, and the
joined tensor is split only where somebody needs a single stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.sharing.grouped import Execution, run_grouped, wanted, why_not, why_not_now
from taskloom.sharing.keys import copy_keys
from taskloom.sharing.plan import Plan, StagePlan


@dataclass(frozen=True)
class Stream:
    """Where a stream's tensor stands: part `part` of the tensor that call `call` of the last stage gave."""

    call: int
    part: int


@dataclass(frozen=True)
class Call:
    """One run of one copy.

    Args:
        group: Which copy: a position in the stage's partition.
        inputs: The streams it takes, joined in this order.
        whole: The call whose output is exactly these streams in this order, where there is one: its tensor
            then goes in as it is.
    """

    group: int
    inputs: tuple[Stream, ...]
    whole: int | None


@dataclass(frozen=True)
class Step:
    """One stage.

    Args:
        calls: Its calls.
        outputs: For each of `tasks`, the stream that the calls give it.
        streams: For each of `tasks`, the stream it goes on with: `outputs`, or that of the mixing unit.
        tasks: The tasks that run through the stage.
    """

    calls: tuple[Call, ...]
    outputs: tuple[Stream, ...]
    streams: tuple[Stream, ...]
    tasks: tuple[str, ...]

    def stream_of(self, task: str) -> Stream:
        """The stream that the task goes on with."""
        return self.streams[self.tasks.index(task)]


def compile_plan(plan: Plan) -> tuple[Step, ...]:
    """Works out the calls of every stage.

    Example:
        >>> shared, alone = StagePlan((("a", "b"),)), StagePlan((("a",), ("b",)))
        >>> [len(step.calls) for step in compile_plan(Plan(("a", "b"), (shared, alone, shared)))]
        [1, 2, 1]
    """
    streams = dict.fromkeys(plan.tasks, Stream(0, 0))  # everybody starts from the network's input
    parts = {0: 1}
    steps = []
    for number, stage in enumerate(plan.stages, start=1):
        tasks = plan.active(number)
        calls = _calls(tasks, stage, [streams[task] for task in tasks], parts)
        positions = {
            (call.group, stream): Stream(index, part)
            for index, call in enumerate(calls)
            for part, stream in enumerate(call.inputs)
        }
        outputs = tuple(positions[stage.group_of(task), streams[task]] for task in tasks)
        parts = {index: len(call.inputs) for index, call in enumerate(calls)}
        following = outputs
        if stage.mixing is not None:  # a mixing unit gives one tensor per task
            following = tuple(Stream(index, 0) for index in range(len(tasks)))
            parts = dict.fromkeys(range(len(tasks)), 1)
        streams = dict(zip(tasks, following, strict=True))
        steps.append(Step(tuple(calls), outputs, following, tasks))
    return tuple(steps)


def stage_copies(encoder: Encoder, index: int, plan: Plan, *, fresh: bool) -> nn.ModuleDict:
    """One copy of the stage per group, by the group's name."""
    keys = copy_keys(plan.stages[index].partition, plan.tasks)
    return nn.ModuleDict({key: encoder.copy_stage(index, fresh=fresh) for key in keys})


def read_by_several(step: Step) -> bool:
    """Whether a tensor that comes into the stage goes into more than one call, whole or in parts."""
    readers = Counter(source for call in step.calls for source in {stream.call for stream in call.inputs})
    return any(count > 1 for count in readers.values())


def _calls(
    tasks: Sequence[str], stage: StagePlan, streams: Sequence[Stream], parts: Mapping[int, int]
) -> list[Call]:
    """`parts`: of how many streams the tensor of each call of the stage before consists."""
    calls = []
    for group, members in enumerate(stage.partition):
        wanted = {stream for task, stream in zip(tasks, streams, strict=True) if task in members}
        inputs = tuple(sorted(wanted, key=lambda stream: (stream.call, stream.part)))
        if stage.joined is not False:
            calls.append(Call(group, inputs, _whole(inputs, parts)))
        else:
            calls.extend(Call(group, (stream,), _whole((stream,), parts)) for stream in inputs)
    return calls


def _whole(inputs: Sequence[Stream], parts: Mapping[int, int]) -> int | None:
    call = inputs[0].call
    everything = [Stream(call, part) for part in range(parts[call])]
    return call if list(inputs) == everything else None


def stacked(rows: Tensor, count: int) -> Tensor:
    """A joined tensor [count * N, ...] as [count, N, ...], in the same memory where it lies in one piece.

    The size of a part is divided, not left to -1: a network exported or compiled for batches of any size
    does not know the size, but that it divides.
    """
    return rows.reshape(count, rows.shape[0] // count, *rows.shape[1:])


def split_rows(rows: Tensor, count: int) -> tuple[Tensor, ...]:
    """The parts of a joined tensor, [count * N, ...] to `count` times [N, ...]; they share its memory.

    `Tensor.chunk` would do, but rounds the size of a part; see `stacked`.
    """
    return (rows,) if count == 1 else stacked(rows, count).unbind(0)


class Flow:
    """The tensors between two stages: what each call gave, split into streams when asked for.

    Args:
        tensors: One joined tensor [parts * N, ...] per call.
        parts: Number of streams in each.
    """

    def __init__(self, tensors: Sequence[Tensor], parts: Sequence[int]) -> None:
        self.tensors, self.parts = tensors, parts
        self._split: dict[int, tuple[Tensor, ...]] = {}

    def stream(self, stream: Stream) -> Tensor:
        """The tensor of one stream, [N, ...]; the same object whoever asks."""
        if self.parts[stream.call] == 1:
            return self.tensors[stream.call]
        if stream.call not in self._split:
            self._split[stream.call] = split_rows(self.tensors[stream.call], self.parts[stream.call])
        return self._split[stream.call][stream.part]

    def inputs(self, call: Call) -> Tensor:
        """What a call takes: a joined tensor as it is where possible, a concatenation where not."""
        if call.whole is not None:
            return self.tensors[call.whole]
        tensors = [self.stream(stream) for stream in call.inputs]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def run_step(
    step: Step,
    copies: Sequence[nn.Module],
    flow: Flow,
    execution: Execution = "one_by_one",
    size: int = 0,
) -> Flow:
    """Runs one stage: all its calls on the tensors of the stage before.

    Args:
        step: The stage's calls.
        copies: Its copies.
        flow: What the stage before gave.
        execution: How copies of one shape run, see `taskloom.sharing.grouped`.
        size: Values in one row of a copy's output.
    """
    inputs = [flow.inputs(call) for call in step.calls]
    called = [copies[call.group] for call in step.calls]
    grouped = len(called) > 1 and wanted(execution, inputs, size)
    if grouped and why_not(called) is None and why_not_now(called, inputs) is None:
        outputs = run_grouped(called, inputs)
    else:
        outputs = run_copies(called, inputs)
    return Flow(outputs, [len(call.inputs) for call in step.calls])


def run_copies(copies: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Runs each copy of a stage on its input, one by one: on a CPU nothing is faster."""
    return [copy(tensor) for copy, tensor in zip(copies, inputs, strict=True)]
