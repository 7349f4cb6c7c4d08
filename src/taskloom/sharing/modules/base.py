"""What networks that are no filling of the plan have in common: keys, ownership, groups, heads, checks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.checks import check_side_effects, works_in_place
from taskloom.sharing.executor import run_copies, split_rows
from taskloom.sharing.heads import HeadChoice, head_specs
from taskloom.sharing.keys import module_keys
from taskloom.sharing.network import Features, MultiTaskNetwork, trainable
from taskloom.sharing.plan import Copies, stage_index
from taskloom.tasks import TaskSet


class ModuleNetwork(MultiTaskNetwork):
    """Base of the networks that hold stage copies without being a filling of the plan.

    A subclass puts its stage copies into `stages` (`stages.<stage>.<copy>`, named as in `PlanNetwork` where
    the copy is a trunk's or a task's), names what each task owns by `task_modules`, and calls `add_heads`
    after the copies and before what it has besides (gates, masks, units): random numbers are then drawn in
    the order in which `PlanNetwork` draws them. Reversals are put there too, so that `entrance` is a copy or
    a head.

    Everything that no task owns is shared. A single task owns everything.

    Args:
        encoder: The backbone; it stays as it is.
        tasks: The tasks.
        copies: "fresh": every stage copy has a start of its own; "same": all have the encoder's weights.

    Attributes:
        stages: Stage copies by stage and copy.
        heads: Heads by task.
        stays: How names in the state dict begin that a warm start leaves alone: they say what the network is
            or how far its training has come, not what it has learned.

    Raises:
        ConfigError: `copies` is neither of the two.
    """

    stages: nn.ModuleDict
    heads: nn.ModuleDict
    stays: ClassVar[tuple[str, ...]] = ()

    def __init__(self, encoder: Encoder, tasks: TaskSet, copies: Copies = "fresh") -> None:
        super().__init__(tasks)
        if copies not in get_args(Copies):
            raise ConfigError(f"sharing: copies must be fresh or same, found {copies!r}.")
        check_side_effects(encoder)
        self.stage_names = encoder.stage_names
        self.copies = copies
        self._stage_keys = module_keys(encoder.stage_names)
        self._task_keys = dict(zip(tasks.names, module_keys(tasks.names), strict=True))
        self.stages = nn.ModuleDict()

    # -- building

    def add_copies(self, encoder: Encoder, index: int, names: Sequence[str]) -> None:
        """Adds one copy of stage `index` for each name."""
        fresh = self.copies == "fresh"
        self.stages[self._stage_keys[index]] = nn.ModuleDict(
            {key: encoder.copy_stage(index, fresh=fresh) for key in module_keys(names)}
        )

    def add_trunk(self, encoder: Encoder, stages: Iterable[int]) -> None:
        """Adds one copy of each of these stages, for all tasks."""
        for index in stages:
            self.add_copies(encoder, index, ["shared" if len(self.tasks) > 1 else self.tasks.names[0]])

    def add_towers(self, encoder: Encoder, stages: Iterable[int]) -> None:
        """Adds one copy of each of these stages for every task."""
        for index in stages:
            self.add_copies(encoder, index, self.tasks.names)

    def add_heads(
        self, encoder: Encoder, head: HeadChoice, feature_shape: Sequence[int] | None = None
    ) -> None:
        """Adds the heads, on the encoder's last stage or on features of another shape."""
        specs = head_specs(head, self.tasks)
        shape = encoder.stage_shapes[-1] if feature_shape is None else feature_shape
        self.heads = nn.ModuleDict(
            {self._task_keys[name]: specs[name].build_for(task, shape) for name, task in self.tasks.items()}
        )
        self.put_reversals()

    def entrance(self, task: str) -> nn.Module:
        """The task's head, unless an architecture has stages of its own before it."""
        return self.head_of(task)

    # -- running

    def copies_of(self, index: int) -> list[nn.Module]:
        """The copies of stage `index`, in their order."""
        return list(self.stages[self._stage_keys[index]].children())

    def run_trunk(self, stages: Iterable[int], inputs: Tensor) -> Tensor:
        """Runs stages that have one copy."""
        for index in stages:
            (stage,) = self.copies_of(index)
            inputs = stage(inputs)
        return inputs

    def run_streams(self, index: int, rows: Tensor, count: int, *, joined: bool) -> Tensor:
        """Runs a trunk stage on tensors that have parted; in training one by one unless `joined`.

        Args:
            index: Position of the stage.
            rows: [count * N, ...], one tensor after the other.
            count: How many there are.
            joined: Whether batch norm takes the statistics of all of them in training.
        """
        (stage,) = self.copies_of(index)
        if count == 1 or joined or not self.training:
            outputs: Tensor = stage(rows)
            return outputs
        return torch.cat([stage(stream) for stream in split_rows(rows, count)])

    def run_each(self, stages: Iterable[int], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Runs stages that have one copy per input: each copy on its own."""
        outputs = list(inputs)
        for index in stages:
            outputs = run_copies(self.copies_of(index), outputs)
        return outputs

    def by_task(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """One tensor per task, by the task's name."""
        return dict(zip(self.tasks, tensors, strict=True))

    def from_features(self, features: Features) -> dict[str, Tensor]:
        assert isinstance(features, dict)
        return {task: self.heads[key](features[task]) for task, key in self._task_keys.items()}

    # -- parameters

    @property
    def has_shared_feature(self) -> bool:
        return False  # unless overridden, `features` gives every task a tensor of its own

    def heard_modules(self, task: str) -> list[nn.Module] | None:
        """Of the modules that the task owns, those that other tasks may hear; None: autograd's graph tells.

        An architecture has to say it where several tasks go through one node of that graph, whose inputs all
        seem to reach all of its outputs: so go the losses of tasks of one kind, which are computed as one
        stack. Unless overridden: all but the head.
        """
        head = self.head_of(task)
        return [module for module in self.task_modules(task) if module is not head]

    @abstractmethod
    def task_modules(self, task: str) -> list[nn.Module]:
        """The modules that this task owns where there are several tasks; its head among them."""

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters that this task owns."""
        name = self.tasks[task].name
        return trainable([self] if len(self.tasks) == 1 else self.task_modules(name))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that no task owns."""
        owned = {id(parameter) for task in self.tasks for parameter in self.task_parameters(task)}
        return [parameter for parameter in trainable([self]) if id(parameter) not in owned]

    def head_of(self, task: str) -> nn.Module:
        """The task's head."""
        return self.heads[self._task_keys[task]]

    # -- telling

    def table(self, rows: Iterable[Sequence[str]]) -> str:
        """Lays out a description: per stage its name, one cell per task, and a remark."""
        head = ["head", *(letter(index) for index in range(len(self.tasks))), "-"]
        lines = [["stage", *self.tasks.names, "how"], *rows, head]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def trunk_rows(self, stages: Iterable[int]) -> list[list[str]]:
        """Rows of a description: stages with one copy for all."""
        return [[self.stage_names[index], *["A"] * len(self.tasks), "-"] for index in stages]

    def tower_rows(self, stages: Iterable[int]) -> list[list[str]]:
        """Rows of a description: stages of which every task has a copy."""
        letters = [letter(index) for index in range(len(self.tasks))]
        return [[self.stage_names[index], *letters, "-"] for index in stages]


def after_loading(network: nn.Module, hook: Callable[[nn.Module, object], None]) -> None:
    """Calls `hook(network, keys)` after every `load_state_dict`; one that pickles, for spawned processes."""
    network.register_load_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]


def letter(index: int) -> str:
    """A, B, ..., Z, AA, AB, ...

    Example:
        >>> letter(1), letter(27)
        ('B', 'AB')
    """
    return (letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def stage_positions(stages: object, encoder: Encoder, setting: str) -> list[int]:
    """Positions from 0, in order, of "all" stages or of those in a list of numbers from 1 and names.

    Raises:
        ConfigError: Not such a list, an empty one, or a stage that does not exist.

    Example:
        >>> stage_positions([2, "dense_0"], tl.encoders.mlp((3,), hidden=[4, 4, 4]), "mtan.stages")
        [0, 1]
    """
    if stages == "all":
        return list(range(len(encoder.stages)))
    if isinstance(stages, str) or not isinstance(stages, Sequence) or len(stages) == 0:
        raise ConfigError(f"{setting}: all, or a list of stage numbers or names expected, found {stages!r}.")
    return sorted({stage_index(stage, encoder.stage_names) for stage in stages})


def stage_run(stages: object, encoder: Encoder, setting: str) -> range:
    """The same for stages that must follow each other without a gap.

    Raises:
        ConfigError: As `stage_positions`, or stages with a gap.
    """
    found = stage_positions(stages, encoder, setting)
    if found != list(range(found[0], found[-1] + 1)):
        missing = next(index for index in range(found[0], found[-1]) if index not in found)
        raise ConfigError(
            f"{setting}: stages that follow each other expected; `{encoder.stage_names[missing]}` is "
            f"missing between `{encoder.stage_names[found[0]]}` and `{encoder.stage_names[found[-1]]}`."
        )
    return range(found[0], found[-1] + 1)


def check_count(setting: str, value: object, *, least: int = 1) -> int:
    """Returns a whole number of at least `least`. Raises ConfigError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{setting}: a whole number of at least {least} expected, found {value!r}.")
    return value


def check_number(
    setting: str, value: Any, *, least: float = 0.0, most: float = math.inf, above: bool = False
) -> float:
    """Returns a finite number of at least `least` (above it where asked) and up to `most`.

    Raises:
        ConfigError: Anything else, naming the setting.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and least <= value <= most and not (above and value == least):
        return float(value)
    bound = f"above {least:g}" if above else f"of at least {least:g}"
    up_to = "" if most == math.inf else f" and up to {most:g}"
    raise ConfigError(f"{setting}: a number {bound}{up_to} expected, found {value!r}.")


def check_inputs_stay(encoder: Encoder, stages: Iterable[int], reader: str) -> None:
    """Refuses stages that work in place on their input, which something else reads too.

    Args:
        encoder: The backbone.
        stages: Positions of the stages.
        reader: What else reads their inputs, for the message.

    Raises:
        ConfigError: Names the first such stage.
    """
    for index in stages:
        if works_in_place(encoder, index):
            raise ConfigError(
                f"sharing: stage `{encoder.stage_names[index]}` works in place on its input, which "
                f"{reader} too; set inplace=False in its first layer."
            )
