"""Proportional addition: every task adds learned shares of the others' outputs, one scalar per donor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.architectures import register
from taskloom.sharing.mixing import MixingUnit
from taskloom.sharing.mixing_kernel import mix
from taskloom.sharing.plan import MixingSpec, Plan, check_lr_multiplier
from taskloom.sharing.settings import Stages, alone, stage_plans, stage_set
from taskloom.tasks import TaskSet


class ProportionalAddition(MixingUnit):
    """Adds the outputs of the other copies: x'_i = x_i + sum over j != i of a_j x_j.

    A cross-stitch unit whose matrix is fixed up to one scalar per donor: the diagonal is 1 and never learns,
    and a donor gives the same share to everybody, so that column j is a_j off the diagonal. That is T numbers
    per stage in place of T^2. (For T = 2 nothing is lost but the diagonal.)

    Args:
        num_tasks: T, the number of copies.
        start: a_j of every donor at the start; 0: no task hears another.

    Attributes:
        shares: a, [T].

    Raises:
        ConfigError: Fewer than one task, or a start that is no finite number.

    Example:
        >>> unit = ProportionalAddition(2, start=0.5)
        >>> [x.item() for x in unit([torch.tensor([[1.0]]), torch.tensor([[4.0]])])]
        [3.0, 4.5]
    """

    def __init__(self, num_tasks: int, *, start: float = 0.0) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ConfigError(f"proportional_addition: at least 1 task expected, found {num_tasks}.")
        check_share(start)
        self.num_tasks, self.start = num_tasks, float(start)
        self.shares = nn.Parameter(torch.empty(num_tasks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets every share to its start."""
        nn.init.constant_(self.shares, self.start)

    def matrix(self) -> Tensor:
        """[T, T]: 1 on the diagonal, a_j in the rest of column j."""
        own = torch.eye(self.num_tasks, dtype=self.shares.dtype, device=self.shares.device)
        return own + (1.0 - own) * self.shares

    @property
    def has_own_rows(self) -> bool:
        """Of two tasks each hears one share, which nobody else does; of more, shares are for several."""
        return self.num_tasks == 2

    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adds to each of T tensors [N, C, ...] of one shape the shares of the others; see the class."""
        shapes = [tuple(copy.shape) for copy in copies]
        if len(copies) != self.num_tasks or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"{self.num_tasks} tensors of one shape expected, found shapes {shapes}")
        return mix(self.matrix(), copies)

    def extra_repr(self) -> str:
        return f"{self.num_tasks}, start={self.start:g}"


@dataclass(frozen=True)
class ProportionalAdditionSpec(MixingSpec):
    """Proportional addition after a stage.

    Args:
        start: Every donor's share at the start.
        lr_multiplier: Factor on the learning rate of the shares.
    """

    start: float = 0.0
    lr_multiplier: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.start)
        check_lr_multiplier("proportional_addition", self.lr_multiplier)

    def build(self, num_tasks: int, shape: Sequence[int]) -> ProportionalAddition:
        del shape
        return ProportionalAddition(num_tasks, start=self.start)

    def describe(self) -> str:
        return "proportional addition"


@register("proportional_addition")
def proportional_addition(
    encoder: Encoder,
    tasks: TaskSet,
    after: Stages = "all",
    start: float = 0.0,
    lr_multiplier: float = 1.0,
) -> Plan:
    """Every task alone, with a learned share of each other task's output added (thesis 000, section 3.2.1).

    Learned is one scalar per donor and mixed stage; fixed are the weight 1 of a task's own output and that a
    donor gives everybody the same share. With `start: 0` training begins at single-task networks.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        after: Numbers from 1 or names of the stages after which outputs are added; "all" includes the last.
        start: Every donor's share at the start.
        lr_multiplier: Factor on the learning rate of the shares.

    Raises:
        ConfigError: An unknown stage or a setting out of range.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"), tl.Binary("c"))
        >>> network = proportional_addition(tl.encoders.mlp((5,), hidden=[8]), tasks, start=0.25)
        >>> network.mixing_matrices()["dense_0"][0].tolist()
        [1.0, 0.25, 0.25]
    """
    mixed = stage_set(after, encoder, "proportional_addition.after")
    mixing = dict.fromkeys(mixed, ProportionalAdditionSpec(start, lr_multiplier))
    return Plan(tasks.names, stage_plans([alone(tasks)] * len(encoder.stages), mixing=mixing))


def check_share(start: object) -> None:
    """Raises ConfigError where a start is no finite number."""
    if isinstance(start, bool) or not isinstance(start, int | float) or not math.isfinite(start):
        raise ConfigError(f"proportional_addition.start: a finite number expected, found {start!r}.")
