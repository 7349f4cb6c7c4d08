"""Tasks that enter the training one after the other: self-paced by their loss, by a curriculum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from taskloom.balancing.base import BALANCERS, EpochValues
from taskloom.balancing.checks import check_count, check_names, check_number
from taskloom.balancing.epoch_weights import EpochWeights, Values, falling
from taskloom.errors import ConfigError
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork


@BALANCERS.register("self_paced")
class SelfPaced(EpochWeights):
    """Self-paced weights (thesis 000, section 3.2.3; Kumar et al. 2010, Jiang et al. 2014): easy tasks first.

    The weights minimise sum of v_i l_i + f(v, age) over v in [0, 1], where l_i is the task's mean training
    loss of the last epoch over that of the first:
    "linear", f = age (||v||^2 / 2 - sum v): v_i = max(0, 1 - l_i / age);
    "hard", f = -age sum v: v_i = 1 where l_i < age, else 0.
    In the first two epochs, before which nothing is known of it, every weight is 1. Then the age is such that
    a share `start` of the tasks has l_i < age, and grows by `growth` every epoch, until all tasks are in.

    Args:
        regularizer: "linear" or "hard".
        start: Share of tasks that are in after the first two epochs, above 0, at most 1.
        growth: Factor on the age per epoch, above 1.
    """

    def __init__(
        self, regularizer: Literal["linear", "hard"] = "linear", start: float = 0.5, growth: float = 1.3
    ) -> None:
        super().__init__()
        if regularizer not in ("linear", "hard"):
            raise ConfigError(
                f"balancing.self_paced.regularizer: linear or hard expected, found {regularizer!r}."
            )
        self.regularizer = regularizer
        self.begin = check_number("balancing.self_paced.start", start, above=0, most=1)
        self.growth = check_number("balancing.self_paced.growth", growth, above=1)
        self._first: Values = {}
        self._age = 0.0

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._first, self._age = {}, 0.0

    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        del validation_metrics
        for task, loss in train_loss.items():
            if loss is not None and 0 < loss < math.inf:
                self._first.setdefault(task, loss)
        heard, nobody = self._heard_names, dict.fromkeys(self._names, 0.0)
        relative = {task: falling(train_loss.get(task), self._first.get(task)) for task in heard}
        if self._epoch == 1 or not heard:
            return dict(self._weights)
        if self._epoch == 2:
            ordered = sorted(relative.values())
            # Just above the loss of the last task that is in.
            self._age = ordered[max(0, math.ceil(self.begin * len(ordered)) - 1)] * 1.01 + 1e-12
        else:
            self._age *= self.growth
        if self.regularizer == "hard":
            return {**nobody, **{task: float(loss < self._age) for task, loss in relative.items()}}
        return {**nobody, **{task: max(0.0, 1.0 - loss / self._age) for task, loss in relative.items()}}

    def enters(self, task: str) -> bool:
        if task in self._weightless:
            return False
        # Two epochs measure, as a curriculum's do: some of those that trained in them are to enter later.
        number = len(self._heard_names)
        measuring = self._epoch <= 2 and math.ceil(self.begin * number) < number
        return measuring or not self.trains(task)  # the age grows until all are in

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first": dict(self._first), "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._first, self._age = dict(state["first"]), state["age"]


@BALANCERS.register("curriculum")
class Curriculum(EpochWeights):
    """Tasks enter one group after the other and stay (curriculum learning; thesis 000, section 3.2.3).

    By plan: `order` names the groups, easiest first. Measured: all tasks train for `measure` epochs, then the
    order is that of their remaining loss (mean training loss of the last of these epochs over that of the
    first; the loss itself where `measure` is 1), smallest first, one by one. A task that has not entered
    has weight 0.

    Args:
        order: Task names, or lists of names that enter together; None measures the order.
        every: Epochs from one entrance to the next, 1 or more.
        measure: Epochs of measuring, 1 or more; of no use with an `order`.

    Raises:
        ConfigError: A task that is named twice or not at all, or is not there (at `check_tasks`).
    """

    def __init__(
        self, order: Sequence[str | Sequence[str]] | None = None, every: int = 1, measure: int = 2
    ) -> None:
        super().__init__()
        self.every = check_count("balancing.curriculum.every", every)
        self.measure = check_count("balancing.curriculum.measure", measure)
        if order is not None and (isinstance(order, str) or not isinstance(order, Sequence)):
            raise ConfigError(
                f"balancing.curriculum.order: a list of tasks or of lists of tasks expected, found {order!r}."
            )
        self.order = None if order is None else [_group(entry) for entry in order]
        self._groups = self.order
        self._first: Values = {}

    def check_tasks(self, tasks: TaskSet) -> None:
        if self.order is None:
            return
        named = [task for group in self.order for task in group]
        check_names("balancing.curriculum.order", named, self.names_of(tasks))
        for task in tasks:
            if named.count(task) != 1:
                how = "more than once" if named.count(task) else "nowhere"
                raise ConfigError(
                    f"balancing.curriculum.order: every task is to be named once, but {task} is named {how}."
                )

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        self._groups, self._first = self.order, {}
        super().start(model, seed=seed)

    def remarks(self, epochs: int) -> list[str]:
        groups = [[task] for task in self._heard_names] if self.order is None else self.order
        first = 1 if self.order is not None else self.measure + 1
        entrances = [first + number * self.every for number in range(len(groups))]
        late = [number for number, epoch in enumerate(entrances) if epoch > epochs]
        if not late:
            return []
        who = "the last in the measured order"
        if self.order is not None:
            who = ", ".join(task for number in late for task in self.order[number])
        return [
            f"balancing.curriculum: {who} would enter in epoch {entrances[-1]}, but the training has "
            f"{epochs}: lower `every`, or train longer"
        ]

    def first_weights(self) -> Values:
        return self._entered(0)

    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        del validation_metrics
        if self._groups is None:
            if self._epoch == 1:
                self._first = {task: loss for task, loss in train_loss.items() if loss}
            if self._epoch < self.measure:
                return dict(self._weights)
            first = self._first if self.measure > 1 else dict.fromkeys(self._names, 1.0)
            hard = {task: falling(train_loss.get(task), first.get(task)) for task in self._heard_names}
            self._groups = [[task] for task in sorted(hard, key=lambda task: hard[task])]
        return self._entered(self._epoch - (self.measure if self.order is None else 0))

    def enters(self, task: str) -> bool:
        if task in self._weightless:
            return False
        measuring = self.order is None and self._epoch <= self.measure and len(self._heard_names) > 1
        return measuring or not self.trains(task)

    def _entered(self, epochs: int) -> Values:
        if self._groups is None:
            return dict.fromkeys(self._names, 1.0)
        inside = {task for group in self._groups[: 1 + epochs // self.every] for task in group}
        if 1 + epochs // self.every >= len(self._groups):
            inside |= set(self._terms)  # a term that the order does not name enters last
        return {task: float(task in inside) for task in self._names}

    def state_dict(self) -> dict[str, Any]:
        groups = None if self._groups is None else [list(group) for group in self._groups]
        return {**super().state_dict(), "groups": groups, "first": dict(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._groups, self._first = state["groups"], dict(state["first"])


def _group(entry: str | Sequence[str]) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry)
