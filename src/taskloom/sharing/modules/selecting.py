"""DSelect-k (Hazimeh et al. 2021): experts of which every task selects a few, by gates that can be trained.

A gate says which experts it wants by binary codes whose digits are smooth steps: while a digit is between 0
and 1 it has a gradient, at 0 or 1 the choice is made and all other experts have the weight 0 exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.executor import run_copies
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import check_count, check_number, letter, stage_run
from taskloom.sharing.modules.combination import combine
from taskloom.sharing.modules.experts import ExpertNetwork
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.modules.selection_gates import SelectionGate, SelectionInput
from taskloom.sharing.network import ParameterGroup
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


class SelectionNetwork(ExpertNetwork):
    """Experts of which every task selects at most k, by a `SelectionGate`; otherwise as MMoE.

    With static gates, in evaluation and without gradients, experts that no task has a weight for do not run.

    State dict: as `ExpertNetwork`, with `gates.0.<task>.codes` and `.weights` (`.weight` and `.bias` of each
    where they are layers), `.mean`, and `.cost` where they are.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        stages: Stages that an expert consists of.
        experts: n.
        selected: k, from 1 to n.
        gate_input, gamma, entropy: See `SelectionGate`.
        lr_multiplier: Factor on the learning rate of the gates.
        head, copies: See `PlanNetwork`.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        stages: range,
        experts: int,
        selected: int,
        gate_input: SelectionInput = "flat",
        gamma: float = 1.0,
        entropy: float = 0.0,
        lr_multiplier: float = 1.0,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        make = partial(
            SelectionGate, num_selected=selected, gate_input=gate_input, gamma=gamma, entropy=entropy
        )
        super().__init__(
            encoder, tasks, levels=[stages], shared_experts=experts, make_gate=make, head=head, copies=copies
        )
        self.lr_multiplier = lr_multiplier
        self._decided: list[list[int]] | None = None

    def selection_gates(self) -> list[SelectionGate]:
        """The tasks' gates, in the order of the tasks; none where there is one expert."""
        return [gate for gate in self._gates_of(0).values() if isinstance(gate, SelectionGate)]

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """What every task's gate has combined: the input of its tower or head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}.
        """
        at_rest = not self.training and (self._decided is not None or not torch.is_grad_enabled())
        chosen = self._chosen() if at_rest else None
        if chosen is None:
            return super().features(inputs)
        of_shared = self.run_trunk(self._before, inputs)
        run = sorted({expert for choice in chosen for expert in choice})
        outputs = [of_shared] * len(run)
        for index in self.levels[0]:
            copies = self.copies_of(index)
            outputs = run_copies([copies[expert] for expert in run], outputs)
        weights = [
            gate.choice()[choice].expand(inputs.shape[0], -1)
            for gate, choice in zip(self.selection_gates(), chosen, strict=True)
        ]
        choices = [[run.index(expert) for expert in choice] for choice in chosen]
        return self.by_task(combine(weights, outputs, choices))

    def _chosen(self) -> list[list[int]] | None:
        """Per task the experts that its static gate has a weight for; None where gates read rows."""
        if self._decided is not None:
            return self._decided
        gates = self.selection_gates()
        if not gates or not gates[0].is_static:
            return None
        wanted = torch.stack([gate.choice() for gate in gates]).detach() > 0
        # A gate all of whose selectors stand on codes of no expert has no weight for any: it hears the first.
        return [[expert for expert, there in enumerate(row) if there] or [0] for row in wanted.tolist()]

    @contextmanager
    def decided(self) -> Iterator[None]:
        self._decided = self._chosen()
        try:
            yield
        finally:
            self._decided = None

    def set_step(self, step: int | None) -> None:
        super().set_step(step)
        for gate in self.selection_gates():
            gate.begin_step(joins=step is not None)

    def penalty(self) -> Tensor:
        """Sum of the gates' penalties; see `SelectionGate.penalty`."""
        total = super().penalty()
        for gate in self.selection_gates():
            if gate.has_penalty:
                total = total + gate.penalty()
        return total

    def special_groups(self) -> list[ParameterGroup]:
        gates = [p for gate in self.selection_gates() for p in gate.parameters() if p.requires_grad]
        return [ParameterGroup("gates", gates, self.lr_multiplier, decays=False)]

    def gate_means(self) -> dict[str, Tensor]:
        """Every task's weights over the experts, [T, n], by the run's last stage; of rows, running means."""
        gates = self.selection_gates()
        if not gates:
            return {}
        weights = [gate.choice().detach() if gate.is_static else gate.mean for gate in gates]
        return {self.stage_names[self.levels[0][-1]]: torch.stack(weights)}

    def describe(self) -> str:
        """A table of stages by tasks; the letters of a cell are the experts that the task may read.

        Static gates show those that they have a weight for.
        """
        gates = self.selection_gates()
        if not gates:
            return super().describe()
        every = [list(range(self.shared_experts))] * len(self.tasks)
        cells = ["".join(map(letter, choice)) for choice in self._chosen() or every]
        first = gates[0]
        remark = f"{self.shared_experts} experts"
        how = f", {first.num_selected} selected" + (" for all rows" if first.is_static else " per row")
        rows = self.trunk_rows(self._before)
        for index in self.levels[0]:
            rows.append([self.stage_names[index], *cells, remark + how * (index == self.levels[0][-1])])
        return self.table([*rows, *self.tower_rows(self._after)])


@register_module("dselect_k")
def dselect_k(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    experts: int = 4,
    selected: int = 2,
    stages: Stages = "all",
    gate_input: SelectionInput = "flat",
    gamma: float = 1.0,
    entropy: float = 0.01,
    lr_multiplier: float = 1.0,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> SelectionNetwork:
    """DSelect-k (Hazimeh et al. 2021): experts for all tasks, of which each task selects at most k.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        experts: n, the number of experts; 1 is hard sharing.
        selected: k, from 1 to n: the number of selectors of every task, which may agree.
        stages: Which stages an expert consists of, as in `mmoe`.
        gate_input: What the gates read: "flat" or "pooled" as in `mmoe`, a choice per row; or "static",
            nothing: one choice per task.
        gamma: Width of the smooth step, above 0: choices are made once codes have gone gamma / 2 from 0.
        entropy: Factor on the entropy of every selector, which makes choices sooner; 0 for none.
        lr_multiplier: Factor on the learning rate of the gates.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, or a stage that works in place on an input others read.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = dselect_k(encoder, tasks, experts=4, selected=1, gate_input="static")
        >>> for gate, code in zip(network.selection_gates(), ([-1.0, -1.0], [1.0, -1.0])):
        ...     _ = gate.codes.data.copy_(torch.tensor([code]))
        >>> print(network.describe())
        stage    a  b  how
        dense_0  A  C  4 experts
        dense_1  A  C  4 experts, 1 selected for all rows
        head     A  B  -
    """
    if gate_input not in get_args(SelectionInput):
        raise ConfigError(f"dselect_k.gate_input: flat, pooled or static expected, found {gate_input!r}.")
    count = check_count("dselect_k.experts", experts)
    if check_count("dselect_k.selected", selected) > count:
        raise ConfigError(
            f"dselect_k.selected: at most {count}, the number of experts, expected, found {selected}."
        )
    return SelectionNetwork(
        encoder,
        tasks,
        stages=stage_run(stages, encoder, "dselect_k.stages"),
        experts=count,
        selected=selected,
        gate_input=gate_input,
        gamma=check_number("dselect_k.gamma", gamma, above=True),
        entropy=check_number("dselect_k.entropy", entropy),
        lr_multiplier=check_number("dselect_k.lr_multiplier", lr_multiplier, above=True),
        head=head,
        copies=copies,
    )
