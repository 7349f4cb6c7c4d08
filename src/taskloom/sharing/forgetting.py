"""Where in a plan an adversarial task's gradient is reversed, and what of its own stands below that.

What belongs to the task alone learns to predict it, wherever it stands; what others read, hear or are pulled
towards learns to make that impossible (000, section 3.1.1). One reversal does for a network whose tasks part
once and for all. Below it there may be parameters of the task's own: its row in the last mixing unit, which
makes nothing but its own stream, and copies that others neither hear nor are tied to, under a stage that they
share again. Reversed, these would learn to hide from the task's head what the others then need not forget.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from taskloom.sharing.mixing import MixingUnit
from taskloom.sharing.plan import Plan
from taskloom.sharing.reversal import GradientReversal


@dataclass(frozen=True)
class ReversalPlaces:
    """Where an adversarial task's gradient turns.

    Args:
        alone_after: Number of stages after which all that the task runs through is its own.
        unit: Position of the last stage with mixing, where the task's row is its own there; else None.
        own_below: Positions of the stages below `alone_after` whose copy is the task's own all the same.
    """

    alone_after: int
    unit: int | None
    own_below: tuple[int, ...]

    @property
    def in_unit(self) -> bool:
        """Whether the reversal stands in the mixing unit: nothing follows that others have a part in."""
        return self.unit is not None and self.unit == self.alone_after - 1

    def turned_at(self, index: int) -> bool:
        """Whether what is read after the stage at `index` stands before the reversal."""
        return index < self.alone_after - self.in_unit


def reversal_places(
    plan: Plan, task: str, units: Mapping[int, MixingUnit], tied: Collection[int]
) -> ReversalPlaces:
    """Finds where an adversarial task's gradient turns.

    Args:
        plan: The plan.
        task: The task.
        units: The mixing units by the position of their stage.
        tied: Positions of the stages whose copies are pulled at each other.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
        >>> network = tl.sharing.cross_stitch(tl.encoders.mlp((5,), hidden=[8, 8, 8]), tasks, after=[1, 2])
        >>> units = dict(enumerate(network.mixing.values()))
        >>> reversal_places(network.plan, "b", units, ())
        ReversalPlaces(alone_after=2, unit=1, own_below=())
        >>> reversal_places(network.plan, "b", units, [2])
        ReversalPlaces(alone_after=3, unit=1, own_below=())
    """

    def its_own(index: int) -> bool:
        stage = plan.stages[index]
        return stage.partition[stage.group_of(task)] == (task,) and index not in tied

    depth = plan.depth(task)
    mixed = max((index for index in units if index < depth), default=-1)
    alone_after = depth
    while alone_after > mixed + 1 and its_own(alone_after - 1):
        alone_after -= 1
    own_rows = mixed >= 0 and units[mixed].has_own_rows
    below = tuple(index for index in range(mixed + 1, alone_after) if its_own(index))
    return ReversalPlaces(alone_after, mixed if own_rows else None, below)


def mix_before_adversaries(
    unit: MixingUnit, copies: Sequence[Tensor], own: Mapping[int, tuple[GradientReversal, bool]]
) -> tuple[Tensor, ...]:
    """Mixes, and turns the gradients of some outputs on their way to the copies, but not to their own rows.

    Args:
        unit: A unit with rows of the tasks' own.
        copies: T tensors of one shape.
        own: Per place of an adversarial task its reversal, and whether that stands further up: the gradient
            comes turned then, and is put back for the row.

    Returns:
        What the unit gives.

    Example:
        >>> unit, reversal = tl.sharing.CrossStitch(2), GradientReversal(tl.tasks.Reversal("constant"))
        >>> copies = [torch.ones(1, 1, requires_grad=True) for _ in range(2)]
        >>> mix_before_adversaries(unit, copies, {1: (reversal, False)})[1].sum().backward()
        >>> [copy.grad.item() for copy in copies], unit.alpha.grad.tolist()
        ([-0.0, -1.0], [[0.0, 0.0], [1.0, 1.0]])
    """
    mixed: tuple[Tensor, ...] = unit(copies)
    outputs = list(mixed)
    for place, (reversal, further_up) in own.items():
        if any(copy.requires_grad for copy in copies):
            outputs[place] = unit([reversal.reverse(copy) for copy in copies])[place]
        if further_up:
            outputs[place] = reversal.restore(outputs[place])
    return tuple(outputs)
