"""Multi-task attention network: one trunk, read by every task through soft masks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.executor import split_rows
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.keys import module_keys
from taskloom.sharing.memory import has_hooks, written_out
from taskloom.sharing.modules.attending import Mask, attend
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    check_count,
    check_inputs_stay,
    stage_positions,
)
from taskloom.sharing.modules.positions import to_positions
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


class ChannelLinear(nn.Linear):
    """A linear layer over axis 1, the same at every position: a 1 x 1 convolution for any number of axes.

    Example:
        >>> layer = ChannelLinear(3, 5)
        >>> layer(torch.zeros(2, 3)).shape, layer(torch.zeros(2, 3, 4, 6)).shape
        (torch.Size([2, 5]), torch.Size([2, 5, 4, 6]))
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, in, ...] to [N, out, ...]."""
        if inputs.dim() == 2:
            return functional.linear(inputs, self.weight, self.bias)
        # A batched product takes down to a tenth of the time of `conv1d` with a kernel of 1 on a CPU.
        rows = inputs.flatten(2)
        weight = self.weight.expand(rows.shape[0], -1, -1)
        bias = self._parameters["bias"]
        outputs = weight @ rows if bias is None else torch.baddbmm(bias[None, :, None], weight, rows)
        return outputs.reshape(inputs.shape[0], self.out_features, *inputs.shape[2:])


class Attention(nn.Module):
    """One task's mask on one stage: a = sigmoid(h(relu(g([p; f(a')])))), and the attended a * p.

    Source: Liu et al. 2019, equations 1 and 2. p is the stage's output and a' what the task attended to at
    the stage before; g and h are 1 x 1 convolutions; f brings a' to the positions of p by average pooling
    (the paper, which is about images: by a 3 x 3 convolution and max pooling). As a stage is a whole here, p
    stands for the paper's u, an inner layer of the stage, as well.

    Args:
        shape: Shape of one row of p, without the batch axis; (C, ...).
        previous: Shape of one row of a'; None at the first stage that has attention.
        reduction: The layer between g and h has C / reduction channels, at least 1.
        norm: "batch" normalises after g and h, as the paper does; None does not.
    """

    def __init__(
        self,
        shape: Sequence[int],
        previous: Sequence[int] | None,
        *,
        reduction: int = 1,
        norm: Literal["batch"] | None = None,
    ) -> None:
        super().__init__()
        self.positions = tuple(shape[1:])
        channels, hidden = shape[0], max(1, shape[0] // reduction)
        self.reads = ChannelLinear(channels, hidden)
        # g on joined channels is the sum of g on each: two layers, nothing to join.
        self.recalls = None if previous is None else ChannelLinear(previous[0], hidden, bias=False)
        self.norm = ChannelNorm(hidden) if norm == "batch" else nn.Identity()
        self.gives = ChannelLinear(hidden, channels)
        self.mask_norm = ChannelNorm(channels) if norm == "batch" else nn.Identity()

    def mask(self, outputs: Tensor, attended: Tensor | None) -> Tensor:
        """The mask in (0, 1), of the shape of `outputs` [N, C, ...]; `attended` is from the stage before."""
        hidden = self.reads(outputs)
        if self.recalls is not None:
            assert attended is not None
            hidden = hidden + self.recalls(to_positions(attended, self.positions))
        mask: Tensor = self.mask_norm(self.gives(torch.relu(self.norm(hidden)))).sigmoid()
        return mask

    def weights(self) -> Mask:
        """The weights of the layers."""
        recalls = None if self.recalls is None else self.recalls.weight
        reads, gives = self.reads, self.gives
        return Mask(reads.weight, reads.bias, gives.weight, gives.bias, recalls)

    def forward(self, outputs: Tensor, attended: Tensor | None = None) -> Tensor:
        return outputs * self.mask(outputs, attended)


def can_attend(outputs: Tensor, masks: Sequence[nn.Module]) -> bool:
    """Whether the tasks' masks on a stage may run together (`attend`), module by module otherwise.

    Batch norm needs the whole batch before the next layer, hooks want every module called, autocast chooses
    a precision per operation, a GPU has other kernels, and a batch without rows has no block of them.
    """
    if written_out() or outputs.device.type != "cpu" or torch.is_autocast_enabled("cpu") or outputs.dim() > 4:
        return False
    if len(outputs) == 0:
        return False
    for mask in masks:
        if not isinstance(mask, Attention) or not isinstance(mask.norm, nn.Identity):
            return False
        if mask.reads.weight.dtype != outputs.dtype:
            return False
    return not has_hooks(masks)


class ChannelNorm(nn.BatchNorm1d):
    """Batch normalisation of axis 1 for any number of axes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, ...] to the same shape."""
        return super().forward(inputs.flatten(2) if inputs.dim() > 2 else inputs).reshape_as(inputs)


class AttentionNetwork(ModuleNetwork):
    """One trunk for all tasks; every task reads the stages through masks of its own.

    The trunk runs once, untouched by the masks. A task's features are what it attended to at the last stage
    that has attention, run through the trunk's further stages, if any.

    State dict: `stages.<stage>.shared`, `attention.<stage>.<task>`, `heads.<task>`. Attention and heads
    belong to their task.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        attended: Positions of the stages with attention.
        reduction, norm: See `Attention`.
        head, copies: See `PlanNetwork`.

    Raises:
        ConfigError: A stage that works in place on an input that the masks read.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        attended: Sequence[int],
        reduction: int = 1,
        norm: Literal["batch"] | None = None,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        self._attended = tuple(attended)
        self._num_stages = len(encoder.stages)
        following = [index + 1 for index in attended if index + 1 < self._num_stages]
        check_inputs_stay(encoder, following, "the masks read")
        self.add_trunk(encoder, range(self._num_stages))
        self.add_heads(encoder, head)
        self._shapes = shapes = encoder.stage_shapes
        previous = [None, *(shapes[index] for index in attended)]
        keys = module_keys(encoder.stage_names)
        self.attention = nn.ModuleDict(
            {
                keys[index]: nn.ModuleDict(
                    {
                        key: Attention(shapes[index], before, reduction=reduction, norm=norm)
                        for key in self._task_keys.values()
                    }
                )
                for index, before in zip(attended, previous, strict=False)
            }
        )

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Every task's features before its head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}.
        """
        outputs = inputs
        attended: list[Tensor | None] = [None] * len(self.tasks)
        last = self._attended[-1]
        for index in range(last + 1):
            outputs = self.run_trunk([index], outputs)
            if index in self._attended:
                outputs, attended = self._attend(index, outputs, attended)
        found = [tensor for tensor in attended if tensor is not None]
        further = range(last + 1, self._num_stages)
        if further:  # one run over the rows of all tasks
            for task, reversal in self.reversals.items():  # from their heads on gradients come reversed
                place = self.tasks.index(task)
                found[place] = reversal.restore(found[place])
            found = list(split_rows(self.run_trunk(further, torch.cat(found)), len(found)))
        return self.by_task(found)

    def _attend(
        self, index: int, outputs: Tensor, before: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The stage's outputs to go on with, and what the tasks attend to there.

        Or all of it that the next stage with attention reads.
        """
        masks = self._masks(index)
        if self.reversals or not can_attend(outputs, masks):
            read = [self._as_read(outputs, task) for task in self.tasks]
            return outputs, [mask(*pair) for mask, *pair in zip(masks, read, before, strict=True)]
        weights = [mask.weights() for mask in masks if isinstance(mask, Attention)]
        place = self._attended.index(index) + 1
        here = tuple(outputs.shape[2:])
        wanted = here if place == len(self._attended) else self._shapes[self._attended[place]][1:]
        read_at = wanted if len(wanted) == len(here) else (1,) * len(here)
        recalled = [to_positions(old, here) for old in before if old is not None]
        passed, found = attend(outputs, weights, recalled, read_at)
        if len(wanted) != len(here):  # one mean for every position
            found = [tensor.flatten(1).reshape(*tensor.shape[:2], *(1,) * len(wanted)) for tensor in found]
        return passed, list(found)

    def _as_read(self, outputs: Tensor, task: str) -> Tensor:
        """A stage's outputs as the task's mask reads them: an adversary's masks are its own."""
        return self.reversals[task].reverse(outputs) if task in self.reversals else outputs

    def put_reversals(self) -> None:
        """Before the heads where trunk stages stand above the masks: those are to forget too."""
        if self._attended[-1] + 1 < self._num_stages:
            super().put_reversals()

    def task_modules(self, task: str) -> list[nn.Module]:
        position = self.tasks.index(task)
        return [*(self._masks(index)[position] for index in self._attended), self.head_of(task)]

    def heard_modules(self, task: str) -> list[nn.Module]:
        del task
        return []

    def describe(self) -> str:
        """A table of stages by tasks; every task reads the trunk's stages, some through a mask."""
        rows = self.trunk_rows(range(self._num_stages))
        for index in self._attended:
            rows[index][-1] = "attention per task"
        return self.table(rows)

    def _masks(self, index: int) -> list[nn.Module]:
        return list(self.attention[self._stage_keys[index]].children())


@register_module("mtan")
def mtan(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    stages: Stages = "all",
    reduction: int = 1,
    norm: Literal["batch"] | None = None,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> AttentionNetwork:
    """Multi-task attention network (Liu et al. 2019): hard sharing read through masks of each task's own.

    Args:
        encoder: The backbone. Axis 1 of a stage's output is its channels.
        tasks: The tasks.
        stages: Which stages have attention: "all", or numbers from 1 and names.
        reduction: Divisor of the channels inside an attention module; 1 as in the paper.
        norm: "batch" for batch normalisation inside attention modules, as in the paper; it cannot train on a
            batch of one row of features without positions. None for none.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = mtan(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")), stages=["dense_1"])
        >>> print(network.describe())
        stage    a  b  how
        dense_0  A  A  -
        dense_1  A  A  attention per task
        head     A  B  -
        >>> {name: sum(p.numel() for p in m.parameters()) for name, m in network.attention.items()}
        {'dense_1': 80}
    """
    if norm not in (None, "batch"):
        raise ConfigError(f"mtan.norm: batch or nothing expected, found {norm!r}.")
    return AttentionNetwork(
        encoder,
        tasks,
        attended=stage_positions(stages, encoder, "mtan.stages"),
        reduction=check_count("mtan.reduction", reduction),
        norm=norm,
        head=head,
        copies=copies,
    )
