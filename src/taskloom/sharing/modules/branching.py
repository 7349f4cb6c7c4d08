"""Fully-adaptive branching: one trunk that parts from the top down, as the tasks' errors say."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.changing import Change, Look, SelfChanging
from taskloom.sharing.executor import compile_plan
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.keys import copy_keys
from taskloom.sharing.modules.base import check_inputs_stay, check_number
from taskloom.sharing.modules.grouping import affinity_of, best_grouping, branch_affinity, grouping_of
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.network import PlanNetwork
from taskloom.sharing.plan import Copies, Plan
from taskloom.sharing.settings import Partition, stage_plans
from taskloom.tasks import TaskSet


class BranchingNetwork(PlanNetwork, SelfChanging):
    """A plan network that parts its stages while it is trained, one after the other, the last one first.

    All tasks begin on one trunk. After each epoch of `after_epochs` the next lower stage is looked at: the
    branches above it (at first the heads) are grouped by the affinity of their tasks on the training rows so
    that

        (number of groups - 1) * branch_cost * 2^p + separation

    is least (`grouping`; p counts the stages above that reduce positions: lower layers cost more to run
    twice). Each group gets a copy of the stage, with the weights and the optimiser's state of the one before.
    It ends where a stage stays whole, or at the first stage. The result is a tree: tasks that have parted
    never meet again. (The separation is a mean over groups, of which single tasks cost nothing, so the
    criterion likes to part one task from all others; thesis 000 says as much of the paper's networks.)

    An adversarial task has no say in the grouping: its errors tell how much has been forgotten, not what it
    has in common with the others. It stays on every stage that all other tasks share and goes alone above, on
    copies of its own with the reversal before them: what all share forgets, and no branch can find again what
    is not there. The first stage therefore always stays whole where there is an adversary.

    The groups are part of the state dict (`groups` [S, T]), which takes its structure with it: loading one
    parts the network, or joins it again, as it was when it was saved.

    Args:
        encoder: The backbone: one branch of the network to come.
        tasks: The tasks.
        after_epochs: Epochs, counted from 1, after which a stage is looked at.
        branch_cost: Price of one more branch, against a separation in [0, 1].
        head, copies: See `PlanNetwork`.

    Attributes:
        groups: [S, T] int64; per stage and task, the number of the copy that it uses.

    Raises:
        ConfigError: A stage that works in place on its input, which several branches may read; an adversarial
            task and as many `after_epochs` as stages.
    """

    groups: Tensor

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        after_epochs: Sequence[int],
        branch_cost: float = 0.2,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        total = len(encoder.stages)
        trunk = Plan(tasks.names, stage_plans([(tasks.names,)] * total))
        super().__init__(encoder, tasks, trunk, head, copies=copies)
        check_inputs_stay(encoder, range(total), "several branches read")
        if self.reversals and len(after_epochs) >= total:
            raise ConfigError(
                f"adaptive_branching.after_epochs: at most {total - 1} expected, one per stage but the "
                f"first, found {len(after_epochs)}: {', '.join(self.reversals)} must share a stage with the "
                "other tasks, or nothing forgets it."
            )
        self.after_epochs, self.branch_cost = tuple(after_epochs), branch_cost
        self._reductions = num_reductions_above(encoder)
        self.register_buffer("groups", torch.zeros(total, len(tasks), dtype=torch.int64))

    # -- changing

    def check_epochs(self, epochs: int) -> None:
        if self.after_epochs[-1] >= epochs:
            raise ConfigError(
                f"adaptive_branching.after_epochs: epochs below the training's last, {epochs}, expected, "
                f"found {self.after_epochs[-1]}: branches made then would never be trained."
            )

    def change(self, epoch: int, look: Callable[[], Look]) -> Change | None:
        """Parts the stage whose turn it is before this epoch; see the class."""
        if epoch - 1 not in self.after_epochs:
            return None
        stage = len(self.plan.stages) - 1 - self.after_epochs.index(epoch - 1)
        partitions = [entry.partition for entry in self.plan.stages]
        above = partitions[stage + 1] if stage + 1 < len(partitions) else tuple((n,) for n in self.tasks)
        others = self.tasks.subset([task for task in self.tasks if task not in self.reversals])
        names = others.names
        branches = [[names.index(task) for task in branch if task in names] for branch in above]
        branches = [branch for branch in branches if branch]
        if len(branches) == 1:
            return None  # the stage above stayed whole
        seen = look()
        affinity = branch_affinity(affinity_of(others, seen.outputs, seen.labels), branches)
        found = best_grouping(affinity, self.branch_cost * 2.0 ** self._reductions[stage])
        if len(found) > 1:
            members = [[names[task] for branch in group for task in branches[branch]] for group in found]
            partitions[stage] = self._in_order([*members, *([task] for task in self.reversals)])
        described = ", ".join("+".join(group) for group in partitions[stage])
        if len(found) == 1:
            return Change(f"stage {self.stage_names[stage]} stays whole ({described}), and all below it")
        return Change(f"stage {self.stage_names[stage]} parted into {described}", self._part(partitions))

    @property
    def may_share_nothing(self) -> bool:
        """Whether its first stage may part as well: balancers that need what all tasks share refuse it."""
        return len(self.after_epochs) >= len(self.plan.stages)

    def changes_after(self, epoch: int) -> bool:
        parted = sum(len(stage.partition) > 1 for stage in self.plan.stages)
        due = sum(earlier < epoch for earlier in self.after_epochs)
        # One stage is looked at per entry; one that stayed whole is the last.
        return epoch <= self.after_epochs[-1] and parted >= due

    def _in_order(self, groups: Sequence[Sequence[str]]) -> Partition:
        """Tasks, and groups by their first one, in the network's order."""
        place = self.tasks.names.index
        return tuple(sorted((tuple(sorted(group, key=place)) for group in groups), key=lambda g: place(g[0])))

    def _part(self, partitions: Sequence[Partition]) -> dict[nn.Parameter, nn.Parameter]:
        """Gives the stages these partitions; returns new parameters with those they were copied from."""
        origin: dict[nn.Parameter, nn.Parameter] = {}
        for key, before, after in zip(self._stage_keys, self.plan.stages, partitions, strict=True):
            if before.partition == after:
                continue
            copies = list(self.stages[key].children())
            kept: set[int] = set()
            modules: dict[str, nn.Module] = {}
            for group, name in zip(after, copy_keys(after, self.tasks.names), strict=True):
                number = before.group_of(group[0])
                modules[name] = copies[number] if number not in kept else copy.deepcopy(copies[number])
                if number in kept:
                    parents = copies[number].parameters()
                    origin |= zip(modules[name].parameters(), parents, strict=True)
                kept.add(number)
            self.stages[key] = nn.ModuleDict(modules)
        self.plan = Plan(self.tasks.names, stage_plans(partitions))
        self._steps = compile_plan(self.plan)
        self.groups.copy_(self._numbers())
        for reversal in self.reversals.values():
            reversal.leave(self)
        self.put_reversals()  # where the adversaries go alone now
        return origin

    def _numbers(self) -> Tensor:
        numbers = [[stage.group_of(task) for task in self.tasks] for stage in self.plan.stages]
        return torch.tensor(numbers, dtype=torch.int64, device=self.groups.device)

    def drop_tasks(self, names: Sequence[str]) -> None:
        super().drop_tasks(names)
        # Copies and groups as a network of the tasks that are left would have them.
        for key, stage in zip(self._stage_keys, self.plan.stages, strict=True):
            keys = copy_keys(stage.partition, self.tasks.names)
            self.stages[key] = nn.ModuleDict(dict(zip(keys, list(self.stages[key].children()), strict=True)))
        self.groups = self._numbers()

    def take_structure(self, state: Mapping[str, Tensor]) -> None:
        groups = state.get("groups")
        if groups is None or groups.shape != self.groups.shape:
            return  # loading it says what is wrong
        names = self.tasks.names
        self._part(
            [
                tuple(tuple(names[task] for task in group) for group in grouping_of(row))
                for row in groups.tolist()
            ]
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        # Called before the submodules are loaded: they are then those of the state dict.
        if prefix + "groups" in state_dict:
            self.take_structure({"groups": state_dict[prefix + "groups"]})
        super()._load_from_state_dict(state_dict, prefix, *more)

    # -- telling

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Per stage 1 where two tasks use one copy and 0 where not, [T, T]: the tree, for the report."""
        alike = (self.groups[:, :, None] == self.groups[:, None, :]).float()
        return dict(zip(self.stage_names, alike, strict=True))


def num_reductions_above(encoder: Encoder) -> list[int]:
    """Per stage, how many of the stages above it give fewer positions than they take.

    Positions are the axes after the channels; a stage that flattens them is no reduction.

    Example:
        >>> num_reductions_above(tl.encoders.build("vgg5", (3, 32, 32)))
        [4, 3, 2, 1, 0]
    """
    shapes = encoder.stage_shapes
    reduces = [
        len(after) == len(before) > 1 and all(a < b for a, b in zip(after[1:], before[1:], strict=True))
        for before, after in itertools.pairwise(shapes)
    ]
    return [sum(reduces[stage:]) for stage in range(len(shapes))]


@register_module("adaptive_branching")
def adaptive_branching(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    after_epochs: Sequence[int],
    branch_cost: float = 0.2,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> BranchingNetwork:
    """Fully-adaptive feature sharing (Lu et al. 2017; thesis 000, 3.2.1): a trunk that parts by itself.

    The encoder is the paper's thin network: as wide as one branch. (The paper takes its start from a wide
    pretrained network; here it starts as any encoder does, and `copies: same` keeps pretrained weights.)

    Args:
        encoder: The backbone.
        tasks: The tasks.
        after_epochs: Rising epochs, counted from 1, after each of which one more stage is looked at, the last
            stage first; at most one per stage, all before the training's last epoch.
        branch_cost: Price of one more branch: between 0, where every difference parts, and 1, where none
            does. Unrelated tasks on one branch cost about 0.5.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, more epochs than stages, or an encoder that does not fit.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 8])
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"), tl.Binary("c"))
        >>> network = adaptive_branching(encoder, tasks, after_epochs=[4, 8])
        >>> rows = torch.tensor([[-1.0], [1.0]])
        >>> labels = tl.Labels({t: torch.zeros(2) for t in "abc"}, {t: torch.ones(2).bool() for t in "abc"})
        >>> network.change(5, lambda: Look({"a": rows, "b": rows, "c": -rows}, labels)).note
        'stage dense_1 parted into a+b, c'
        >>> print(network.describe())
        stage    a  b  c  mixing  tie
        dense_0  A  A  A  -       -
        dense_1  A  A  B  -       -
        head     A  B  C  -       -
    """
    check_number("adaptive_branching.branch_cost", branch_cost, most=1.0)
    epochs: Any = after_epochs  # from a study file it may be anything
    if (
        isinstance(epochs, str)
        or not isinstance(epochs, Sequence)
        or not epochs
        or not all(isinstance(e, int) and not isinstance(e, bool) and e > 0 for e in epochs)
        or any(a >= b for a, b in itertools.pairwise(epochs))
    ):
        raise ConfigError(
            f"adaptive_branching.after_epochs: rising epochs from 1 on expected, found {epochs!r}."
        )
    if len(epochs) > len(encoder.stages):
        raise ConfigError(
            f"adaptive_branching.after_epochs: at most one epoch per stage expected (the encoder has "
            f"{len(encoder.stages)}), found {len(epochs)}."
        )
    return BranchingNetwork(
        encoder, tasks, after_epochs=epochs, branch_cost=branch_cost, head=head, copies=copies
    )
