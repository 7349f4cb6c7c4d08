"""AdaShare's network: every task learns which stages of one trunk it executes and which it skips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.sharing.executor import split_rows, stacked
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    after_loading,
    check_inputs_stay,
)
from taskloom.sharing.modules.positions import skip
from taskloom.sharing.network import ParameterGroup
from taskloom.sharing.plan import Copies
from taskloom.tasks import TaskSet


class Policy(nn.Module):
    """One task's policy over L stages: it executes stage l with probability alpha_l = sigmoid(logits_l).

    A Gumbel-softmax over the two choices (Sun et al. 2020, equation 2) depends on the difference of their
    logits alone, so that one logit per stage is enough: v = sigmoid((logits + g_1 - g_0) / temperature) with
    Gumbel noise g.

    Args:
        num_stages: L.

    Attributes:
        logits: [L]; 0 at the start, as likely as not.
    """

    def __init__(self, num_stages: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_stages))

    def sample(self, temperature: float) -> Tensor:
        """Draws how far every stage is executed, [L] in [0, 1]; the gradient reaches the logits."""
        exponential = torch.empty(2, *self.logits.shape, device=self.logits.device).exponential_()
        noise = exponential.log()
        return ((self.logits + (noise[0] - noise[1]).to(self.logits.dtype)) / temperature).sigmoid()


class SkippingNetwork(ModuleNetwork):
    """One trunk; each task executes or skips every stage that has a policy.

    Training: x_(l+1) = v F_l(x_l) + (1 - v) skip(x_l), v drawn anew in each pass (`Policy.sample`).
    Evaluation: the hard policy; a task executes a stage where alpha >= 1/2, and a stage that no task executes
    does not run. skip is the identity, or `positions.skip` where shapes differ.

    Curriculum: `set_epoch(epoch)` opens the policies from the last stage to the first; a stage whose policy
    is not open yet is executed by every task, in evaluation too. Without any call all of them are open.

    `penalty()`, over the open stages (l counts all stages of the encoder from 1 to L):

        sparsity  sum over tasks of the mean over stages of -log(1 - alpha)
        sharing   sum over pairs of tasks and stages of (L - l) / L abs(alpha_s - alpha_t)

    The paper writes the sparsity as the sum of log(alpha), which has no lower bound; -log(1 - alpha) is what
    the authors' code minimises.

    State dict: `stages.<stage>.shared`, `policies.<task>.logits`, `heads.<task>`, `epoch`. The trunk is
    shared, policies and heads belong to their task.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        skippable: Positions of the stages with a policy.
        sparsity, sharing: Factors of the two penalties.
        temperature: Of the Gumbel-softmax in the first epoch.
        temperature_decay: Its factor per epoch.
        curriculum_epochs: Epochs from one stage's opening to the next one's; 0 opens all at once.
        warmup_epochs: Epochs before the first opening.
        lr_multiplier: Factor on the learning rate of the policies.
        joined: Whether in training tensors that have parted run as one joined batch, so that batch norm takes
            the statistics of all rows (True), or one by one.
        head, copies: See `PlanNetwork`.

    Raises:
        ConfigError: A stage that works in place on its input, which skipping reads too.
    """

    epoch: Tensor
    stays: ClassVar[tuple[str, ...]] = ("epoch",)

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        skippable: Sequence[int],
        sparsity: float = 0.05,
        sharing: float = 0.05,
        temperature: float = 5.0,
        temperature_decay: float = 0.965,
        curriculum_epochs: int = 1,
        warmup_epochs: int = 0,
        lr_multiplier: float = 10.0,
        joined: bool = False,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        self._skippable, self._shapes = tuple(skippable), encoder.stage_shapes
        self.sparsity, self.sharing, self.joined = sparsity, sharing, joined
        self.start_temperature, self.temperature_decay = temperature, temperature_decay
        self.curriculum_epochs, self.warmup_epochs = curriculum_epochs, warmup_epochs
        self.lr_multiplier = lr_multiplier
        check_inputs_stay(encoder, skippable, "skipping reads")
        self.add_trunk(encoder, range(len(encoder.stages)))
        self.add_heads(encoder, head)
        self.policies = nn.ModuleDict({key: Policy(len(self._skippable)) for key in self._task_keys.values()})
        self.register_buffer("epoch", torch.tensor(0))
        self._decided: list[list[bool]] | None = None
        self._take_epoch()
        after_loading(self, _take_epoch)

    # -- curriculum

    def set_epoch(self, epoch: int) -> None:
        """Opens the policies that are due in this epoch, counted from 1, and cools the temperature.

        The training loop calls it before the first batch of an epoch; in one's own loop, call it there. The
        epoch is part of the state dict.
        """
        self.epoch.fill_(epoch)
        self._take_epoch()

    @property
    def num_open(self) -> int:
        """Number of stages whose policy is open, counted from the last one."""
        return self._num_open

    @property
    def temperature(self) -> float:
        """The present temperature."""
        return self.start_temperature * self.temperature_decay ** max(0, self._epoch - 1)

    def _take_epoch(self) -> None:
        # A plain number beside the buffer: reading the buffer would make a GPU wait at every step.
        self._epoch = epoch = int(self.epoch)
        total = len(self._skippable)
        if epoch == 0:
            self._num_open = total
        elif epoch <= self.warmup_epochs:
            self._num_open = 0
        elif self.curriculum_epochs == 0:
            self._num_open = total
        else:
            self._num_open = min(total, (epoch - self.warmup_epochs - 1) // self.curriculum_epochs + 1)

    def _open_stages(self) -> dict[int, int]:
        """Positions of the stages with an open policy, and where they stand in the policies."""
        closed = len(self._skippable) - self._num_open
        return {index: slot for slot, index in enumerate(self._skippable) if slot >= closed}

    # -- running

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Every task's features before its head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}; in evaluation one and the same tensor for tasks with one policy.
        """
        return self.by_task(self._soft(inputs) if self.training else self._hard(inputs))

    def _soft(self, inputs: Tensor) -> Sequence[Tensor]:
        """All tasks' features under drawn policies."""
        count, rows = 1, inputs  # [count * N, ...], one task after the other once they have parted
        executed = torch.stack(self._draws())
        open_stages = self._open_stages()
        for index in range(len(self._shapes)):
            outputs = self.run_streams(index, rows, count, joined=self.joined)
            if index in open_stages:
                share = executed[:, open_stages[index]].to(outputs.dtype)
                share = share.reshape(-1, *(1,) * outputs.dim())
                instead = skip(rows, self._shapes[index]).to(outputs.dtype)
                # Interpolation is exact at both ends.
                outputs = torch.lerp(stacked(instead, count), stacked(outputs, count), share)
                count = len(self.tasks)
                outputs = outputs.flatten(0, 1)
            rows = outputs
        return list(split_rows(rows, count)) if count > 1 else [rows] * len(self.tasks)

    def _draws(self) -> list[Tensor]:
        """Every task's drawn policy; an adversary's, which stands before its reversal, is its own.

        Unless the penalty draws the others' policies after it: then it forgets as well.
        """
        draws = [policy.sample(self.temperature) for policy in self._policies()]
        for task, reversal in self.reversals.items() if self.sharing == 0 else ():
            place = self.tasks.index(task)
            draws[place] = reversal.restore(draws[place])
        return draws

    def _hard(self, inputs: Tensor) -> list[Tensor]:
        """All tasks' features under the hard policies; tasks that agreed so far are one tensor."""
        executes = self._decided or self.hard_policy().tolist()
        streams, of_task = [inputs], [0] * len(self.tasks)
        for index in range(len(self._shapes)):
            choices = [(stream, bool(row[index])) for stream, row in zip(of_task, executes, strict=True)]
            wanted = sorted({stream for stream, executed in choices if executed})
            found: dict[tuple[int, bool], Tensor] = {}
            if wanted:
                rows = streams[wanted[0]] if len(wanted) == 1 else torch.cat([streams[s] for s in wanted])
                outputs = self.run_streams(index, rows, len(wanted), joined=self.joined)
                parts = split_rows(outputs, len(wanted))
                found = {(stream, True): part for stream, part in zip(wanted, parts, strict=True)}
            for stream, executed in choices:
                if not executed and (stream, False) not in found:
                    found[stream, False] = skip(streams[stream], self._shapes[index])
            order = {choice: number for number, choice in enumerate(found)}
            streams, of_task = list(found.values()), [order[choice] for choice in choices]
        return [streams[stream] for stream in of_task]

    # -- policies

    def _policies(self) -> list[Policy]:
        return [policy for policy in self.policies.values() if isinstance(policy, Policy)]

    def probabilities(self) -> Tensor:
        """Probability that a task executes a stage, [T, number of stages]; 1 where no policy is open."""
        logits = torch.stack([policy.logits for policy in self._policies()])
        certain = logits.new_ones(len(self.tasks), 1)
        open_stages = self._open_stages()
        columns = [
            logits[:, open_stages[index] : open_stages[index] + 1].sigmoid()
            if index in open_stages
            else certain
            for index in range(len(self._shapes))
        ]
        return torch.cat(columns, dim=1)

    @contextmanager
    def decided(self) -> Iterator[None]:
        self._decided = self.hard_policy().tolist()
        try:
            yield
        finally:
            self._decided = None

    def hard_policy(self) -> Tensor:
        """Which stages a task executes in evaluation, [T, number of stages] bool."""
        return self.probabilities().detach() >= 0.5

    def penalty(self) -> Tensor:
        """Sparsity and sharing of the open policies by their factors; see the class."""
        logits = torch.stack([policy.logits for policy in self._policies()])
        # Closed policies take part with weight 0: every process of several reduces the same gradients.
        total, closed = len(self._shapes), len(self._skippable) - self._num_open
        is_open = [float(slot >= closed) for slot in range(len(self._skippable))]
        mean = logits.new_tensor(is_open) / max(1, self._num_open)
        depth = logits.new_tensor(
            [
                (total - 1 - index) / total * there
                for index, there in zip(self._skippable, is_open, strict=True)
            ]
        )
        alpha = logits.sigmoid()
        sparsity = (functional.softplus(logits) * mean).sum()
        # Every pair stands twice in the table of differences.
        sharing = ((alpha[:, None] - alpha[None]).abs() * depth).sum() / 2
        return self.sparsity * sparsity + self.sharing * sharing

    def task_modules(self, task: str) -> list[nn.Module]:
        return [self.policies[self._task_keys[task]], self.head_of(task)]

    def heard_modules(self, task: str) -> list[nn.Module]:
        del task
        return []

    def special_groups(self) -> list[ParameterGroup]:
        logits = [policy.logits for policy in self._policies() if policy.logits.requires_grad]
        return [ParameterGroup("policy", logits, self.lr_multiplier, decays=False)]

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Per stage with a policy the smaller of two tasks' probabilities of executing it, [T, T]."""
        probabilities = self.probabilities().detach()
        return {
            self.stage_names[index]: torch.minimum(
                probabilities[:, None, index], probabilities[None, :, index]
            )
            for index in self._skippable
        }

    def describe(self) -> str:
        """A table of stages by tasks under the hard policy: A where a task executes the stage."""
        rows = self.trunk_rows(range(len(self._shapes)))
        policy = self.hard_policy().tolist()
        for index in self._skippable:
            rows[index][1:-1] = ["A" if row[index] else "skip" for row in policy]
            rows[index][-1] = "policy per task"
        return self.table(rows)


def _take_epoch(network: nn.Module, _: object) -> None:
    assert isinstance(network, SkippingNetwork)
    network._take_epoch()
