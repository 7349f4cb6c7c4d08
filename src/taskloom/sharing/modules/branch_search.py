"""Learning to branch (Guo et al. 2020): copies of every stage choose by which copy below they are fed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.changing import Change, Look, SelfChanging, weights_to_return_to
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    after_loading,
    check_inputs_stay,
    letter,
)
from taskloom.sharing.modules.branch_trees import OPEN, ParentChoice, Tree, grouped, pruned
from taskloom.sharing.modules.combination import combine
from taskloom.sharing.network import Features, ParameterGroup, trainable
from taskloom.sharing.plan import Copies
from taskloom.tasks import TaskSet

SearchWeights = Literal["start", "keep"]


class BranchSearchNetwork(ModuleNetwork, SelfChanging):
    """Stages with candidate copies between which a tree is searched for while it trains.

    In a stage of the search every copy is fed by a copy of the stage before, and every task by one of the
    last. While the search is on,

        training    x_j = sum over i of d_ji y_i, d_j drawn anew in each pass (`ParentChoice.sample`) at a
                    temperature of `temperature` / sqrt(epochs since the warm-up); in the warm-up all d are
                    equal and nothing is learned about them;
        evaluation  the likeliest tree: every copy and task has its likeliest parent, and copies that no task
                    then needs do not run.

    Before epoch `retrain_from` the likeliest tree is fixed: copies that no task needs are gone, nothing is
    drawn any more, and each task runs through one copy of each stage. The tree is part of the state dict
    (`parents`, `reads`), and loading one makes it, or opens it again.

    An adversarial task reads the copies of the last stage behind its reversal; in a tree it has its likeliest
    one of those that other tasks need, or nothing would forget it.

    State dict: `stages.<stage>.copy_<n>`, `choices.<stage>.logits`, `task_choices.<task>.logits`,
    `heads.<task>`, `epoch`, `parents` [stages of the search - 1, candidates], `reads` [T]. Copies are shared
    until a fixed tree has them for one task alone; a task's own choice, its towers and head are its own.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        stages: The stages of the search; those before them are one trunk, those after each task's own.
        candidates: Number of copies of each of them.
        temperature: In the first epoch after the warm-up.
        warmup_epochs: Epochs before anything is drawn.
        lr_multiplier: Factor on the learning rate of the choices.
        retrain_from: The epoch before which the tree is fixed, counted from 1; None: never.
        retrain_weights: "start": weights and running statistics go back to what they were when the network
            was built, or to what it took over in a warm start; "keep": they go on.
        head, copies: See `PlanNetwork`.

    Attributes:
        parents, reads: See `Tree`; -1 while the search is on.

    Raises:
        ConfigError: A stage that works in place on what several copies read; `retrain_from` in the warm-up.
    """

    epoch: Tensor
    parents: Tensor
    reads: Tensor
    stays: ClassVar[tuple[str, ...]] = ("epoch", "parents", "reads")

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        stages: range,
        candidates: int,
        temperature: float = 5.0,
        warmup_epochs: int = 0,
        lr_multiplier: float = 1.0,
        retrain_from: int | None = None,
        retrain_weights: SearchWeights = "start",
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        if retrain_from is not None and retrain_from <= warmup_epochs + 1:
            raise ConfigError(
                f"learning_to_branch.retrain_from: an epoch after {warmup_epochs + 1}, the first in which a "
                f"tree is searched for, expected, found {retrain_from}."
            )
        self.start_temperature, self.warmup_epochs = temperature, warmup_epochs
        self.lr_multiplier = lr_multiplier
        self.retrain_from, self.retrain_weights = retrain_from, retrain_weights
        total = len(encoder.stages)
        self._searched, self._before = stages, range(stages.start)
        self._after = range(stages.stop, total)
        check_inputs_stay(encoder, range(stages.start, min(stages.stop + 1, total)), "other copies read")
        self._copy_keys = [f"copy_{number}" for number in range(1, candidates + 1)]
        self.add_trunk(encoder, self._before)
        for index in stages:
            self.add_copies(encoder, index, self._copy_keys)
        self.add_towers(encoder, self._after)
        self.add_heads(encoder, head)
        self.choices = nn.ModuleDict(
            {self._stage_keys[index]: ParentChoice(candidates, candidates) for index in stages[1:]}
        )
        self.task_choices = nn.ModuleDict(
            {key: ParentChoice(1, candidates) for key in self._task_keys.values()}
        )
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("parents", torch.full((len(stages) - 1, candidates), OPEN))
        self.register_buffer("reads", torch.full((len(tasks),), OPEN))
        self._epoch = 0
        self._tree: Tree | None = None
        self._decided: Tree | None = None
        self._begun: dict[str, Tensor] = {}
        self.starts_here()
        after_loading(self, _take_state)

    # -- phases

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)
        self._epoch = epoch

    @property
    def temperature(self) -> float:
        """The present temperature."""
        return self.start_temperature / math.sqrt(max(1, self._epoch - self.warmup_epochs))

    @property
    def is_fixed(self) -> bool:
        """Whether the search is over."""
        return self._tree is not None

    @property
    def _warms_up(self) -> bool:
        return 0 < self._epoch <= self.warmup_epochs

    def starts_here(self) -> None:
        if self.retrain_from is None or self.retrain_weights != "start":
            return
        self._begun = weights_to_return_to(self)

    def check_epochs(self, epochs: int) -> None:
        if self.retrain_from is not None and self.retrain_from > epochs:
            raise ConfigError(
                f"learning_to_branch.retrain_from: an epoch of the training, which has {epochs}, expected, "
                f"found {self.retrain_from}."
            )

    def change(self, epoch: int, look: Callable[[], Look]) -> Change | None:
        """Fixes the tree before epoch `retrain_from`; see the class."""
        del look
        if epoch != self.retrain_from:
            return None
        tree = self.likeliest()
        self._fix(tree)
        with torch.no_grad():
            present = self.state_dict()
            for name in present.keys() & self._begun.keys():
                present[name].copy_(self._begun[name])
        anew = bool(self._begun)
        how = "weights start anew" if anew else "weights go on"
        told = "; ".join(
            f"{self.stage_names[index]} {grouped(self.tasks.names, path)}"
            for index, path in zip(self._searched, tree.paths(), strict=True)
        )
        return Change(f"the tree is fixed, {how}: {told}", anew=anew)

    def changes_after(self, epoch: int) -> bool:
        return self.retrain_from is not None and epoch < self.retrain_from

    # -- the tree

    def likeliest(self) -> Tree:
        """The likeliest tree as the choices stand; the first of parents that are as likely."""
        parents = [choice.logits.detach().argmax(1) for choice in _choices(self.choices)]
        scores = torch.cat([choice.logits.detach() for choice in _choices(self.task_choices)])
        adversarial = torch.tensor([task in self.reversals for task in self.tasks], device=scores.device)
        reads = scores.argmax(1)
        needed = torch.zeros_like(scores[0], dtype=torch.bool)
        needed = needed.index_put((reads,), ~adversarial, accumulate=True)
        among_needed = scores.masked_fill(~needed, -torch.inf).argmax(1)
        found = torch.cat([torch.where(adversarial, among_needed, reads), *parents]).tolist()
        count, size = len(self.tasks), len(self._copy_keys)
        rows = [found[begin : begin + size] for begin in range(count, len(found), size)]
        return pruned(Tree(rows, found[:count]))

    def _present(self) -> Tree:
        """The fixed tree, or the likeliest one while the search is on."""
        return self._tree or self._decided or self.likeliest()

    @contextmanager
    def decided(self) -> Iterator[None]:
        self._decided = self._present()
        try:
            yield
        finally:
            self._decided = None

    def _fix(self, tree: Tree) -> None:
        self.reads.copy_(torch.tensor(tree.reads))
        if tree.parents:
            self.parents.copy_(torch.tensor(tree.parents))
        self._take_tree()

    def _take_tree(self) -> None:
        """Takes the tree from the buffers: copies that it needs, and whether choices learn."""
        reads = self.reads.tolist()
        self._tree = None if reads[0] == OPEN else Tree(self.parents.tolist(), reads)
        every = set(range(len(self._copy_keys)))
        needed = [set(path) for path in self._tree.paths()] if self._tree else [every] * len(self._searched)
        for index, wanted in zip(self._searched, needed, strict=True):
            self._keep(self._stage_keys[index], wanted)
        for choice in [*_choices(self.choices), *_choices(self.task_choices)]:
            choice.logits.requires_grad_(self._tree is None)

    def _keep(self, stage: str, wanted: set[int]) -> None:
        """Drops copies of a stage, or brings them back with weights that are yet to be loaded."""
        present = self.stages[stage]
        assert isinstance(present, nn.ModuleDict)
        keys = [key for number, key in enumerate(self._copy_keys) if number in wanted]
        if list(present) == keys:
            return
        one = next(iter(present.values()))
        kept = {key: present[key] if key in present else deepcopy(one) for key in keys}
        self.stages[stage] = nn.ModuleDict(kept)

    def take_structure(self, state: Mapping[str, Tensor]) -> None:
        reads, parents = state.get("reads"), state.get("parents")
        if reads is None or parents is None:
            return  # loading it says what is wrong
        if reads.shape == self.reads.shape and parents.shape == self.parents.shape:
            self.reads.copy_(reads)
            self.parents.copy_(parents)
            self._take_tree()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        # Called before the submodules are loaded: they are then those of the state dict.
        self.take_structure(
            {key: state_dict[prefix + key] for key in self.stays if prefix + key in state_dict}
        )
        super()._load_from_state_dict(state_dict, prefix, *more)

    # -- running

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """What every task reads of the last stage of the search: the input of its tower or head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}; in a tree one and the same tensor for tasks with one copy, but adversarial ones.
        """
        below = self.run_trunk(self._before, inputs)
        if self.training and self._tree is None:
            return self._drawn(below)
        tree, first = self._present(), self._searched[0]
        paths = tree.paths()
        outputs = {copy: self._copy(first, copy)(below) for copy in sorted(set(paths[0]))}
        for index, parents, path in zip(self._searched[1:], tree.parents, paths[1:], strict=True):
            outputs = {copy: self._copy(index, copy)(outputs[parents[copy]]) for copy in sorted(set(path))}
        found = {task: outputs[copy] for task, copy in zip(self.tasks, tree.reads, strict=True)}
        return found | {task: turn.reverse(found[task]) for task, turn in self.reversals.items()}

    def from_features(self, features: Features) -> dict[str, Tensor]:
        assert isinstance(features, dict)
        towers = self.run_each(self._after, [features[task] for task in self.tasks])
        return super().from_features(self.by_task(towers))

    def _drawn(self, below: Tensor) -> dict[str, Tensor]:
        """All tasks' features under drawn choices."""
        first, *others = self._searched
        outputs = self.run_each([first], [below] * len(self._copy_keys))
        for index, choice in zip(others, _choices(self.choices), strict=True):
            fed = combine(self._weights(choice, below.shape[0]), outputs)
            outputs = self.run_each([index], fed)
        weights = [self._weights(choice, below.shape[0])[0] for choice in _choices(self.task_choices)]
        every = tuple(range(len(outputs)))
        heard = [every] * len(self.tasks)
        for task, reversal in self.reversals.items():  # the copies once more, as this task reads them
            heard[self.tasks.index(task)] = tuple(range(len(outputs), len(outputs) + len(every)))
            outputs = [*outputs, *map(reversal.reverse, outputs[: len(every)])]
        return self.by_task(combine(weights, outputs, heard))

    def _weights(self, choice: ParentChoice, num_rows: int) -> list[Tensor]:
        """Per child its drawn choice for every row, [N, P]; equal ones in the warm-up."""
        if self._warms_up:
            # The choices take part without a slope: every process of several reduces the same gradients.
            drawn = (0 * choice.logits).softmax(1)
        else:
            drawn = choice.sample(self.temperature)
        return [row.expand(num_rows, -1) for row in drawn]

    def _copy(self, index: int, number: int) -> nn.Module:
        copies = self.stages[self._stage_keys[index]]
        assert isinstance(copies, nn.ModuleDict)
        return copies[self._copy_keys[number]]

    def put_reversals(self) -> None:
        """Nothing: adversarial tasks read the last stage of the search behind their reversal.

        Before their towers or heads, their own choices would look for the copies that know least.
        """

    # -- parameters

    def task_modules(self, task: str) -> list[nn.Module]:
        position = self.tasks.index(task)
        towers = [self.copies_of(index)[position] for index in self._after]
        own: list[nn.Module] = []
        if self._tree is not None:
            for index, path in zip(self._searched, self._tree.paths(), strict=True):
                if path.count(path[position]) == 1:
                    own.append(self._copy(index, path[position]))
        return [*own, self.task_choices[self._task_keys[task]], *towers, self.head_of(task)]

    def heard_modules(self, task: str) -> list[nn.Module]:
        del task
        return []

    def special_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(
                "choices", trainable([self.choices, self.task_choices]), self.lr_multiplier, decays=False
            )
        ]

    # -- telling

    def chances(self) -> list[Tensor]:
        """Per stage of the search the chance that a task runs through a copy, [T, candidates]."""
        if self._tree is not None:
            chosen = torch.eye(len(self._copy_keys))
            return [chosen[path].to(self.reads.device) for path in self._tree.paths()]
        found = [torch.cat([choice.logits.detach() for choice in _choices(self.task_choices)]).softmax(1)]
        for choice in reversed(_choices(self.choices)):
            found.insert(0, found[0] @ choice.logits.detach().softmax(1))
        return found

    def mixing_matrices(self) -> dict[str, Tensor]:
        """How much two tasks run through the same copies: sum over copies of the smaller chance, [T, T].

        1 on the diagonal; in a fixed tree 1 where two tasks use one copy and 0 where not.
        """
        return {
            self.stage_names[index]: torch.minimum(chances[:, None], chances[None]).sum(2)
            for index, chances in zip(self._searched, self.chances(), strict=True)
        }

    def describe(self) -> str:
        """A table of stages by tasks under the present tree; tasks with one letter use one copy."""
        rows = self.trunk_rows(self._before)
        remark = "tree" if self._tree else f"likeliest tree of {len(self._copy_keys)} copies"
        for index, path in zip(self._searched, self._present().paths(), strict=True):
            order = list(dict.fromkeys(path))
            rows.append([self.stage_names[index], *(letter(order.index(copy)) for copy in path), remark])
        return self.table([*rows, *self.tower_rows(self._after)])


def _choices(modules: nn.ModuleDict) -> list[ParentChoice]:
    return [module for module in modules.values() if isinstance(module, ParentChoice)]


def _take_state(network: nn.Module, _: object) -> None:
    assert isinstance(network, BranchSearchNetwork)
    network._epoch = int(network.epoch)
    network._take_tree()
