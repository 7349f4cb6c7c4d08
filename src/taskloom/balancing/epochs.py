"""Weights that change from epoch to epoch: by falling losses, by key metrics, by age, by a curriculum."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from taskloom.balancing.base import BALANCERS, EpochValues, check_count, check_names, check_number
from taskloom.balancing.numbers import Numbers, Weighed, as_tensor, numbers
from taskloom.balancing.weights import LossWeighting, check_state_tasks
from taskloom.errors import ConfigError
from taskloom.tasks import Task, TaskSet

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork

Values = dict[str, float]


class EpochWeights(LossWeighting):
    """Base: total = sum of w_i L_i with weights that stand for an epoch; subclasses give `next_weights`."""

    def __init__(self) -> None:
        super().__init__()
        self._weights: Values = {}
        self._used: Values = {}
        self._epoch = 0
        self._as_tensor: Tensor | None = None
        self._tasks_in_tensor: list[str] = []

    @abstractmethod
    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        """Weights per task for the epoch after the one that just ended (`self._epoch`)."""

    def first_weights(self) -> Values:
        """Weights per task of the first epoch; 1 unless overridden."""
        return dict.fromkeys(self._names, 1.0)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._epoch, self._used = 0, {}
        self._set(self.first_weights())

    def epoch_end(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None = None
    ) -> None:
        self._epoch += 1
        self._used = dict(self._weights)
        self._set(self.next_weights(train_loss, validation_metrics))

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        del present
        given = torch.tensor([self._weights[self._names[place]] for place in index], dtype=torch.float64)
        return Weighed(numbers(given.to(means.device) if isinstance(means, Tensor) else given))

    def _weighed(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
    ) -> tuple[Tensor, Tensor, Weighed]:
        # Weights that stand for an epoch need no look at the losses: one product, as a plain sum.
        if list(losses) != self._tasks_in_tensor or self._as_tensor is None:
            _, _, weighed = super()._weighed(losses, model)
            like = next(iter(losses.values())).sum
            self._tasks_in_tensor, self._as_tensor = list(losses), as_tensor(weighed.weights, like)
        counts = torch.stack([loss.count for loss in losses.values()])
        sums = torch.stack([loss.sum for loss in losses.values()])
        return sums, self._as_tensor / counts.clamp(min=1), Weighed(self._as_tensor)

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._names != self.names_of(model.tasks):
            self.start(model)
        sums, slopes, _ = self._weighed(losses, model)
        total = sums @ slopes
        self.backpropagate(total if beside is None else total + beside)

    def report_state(self) -> dict[str, float]:
        return {f"weight/{task}": weight for task, weight in (self._used or self._weights).items()}

    @property
    def _heard_names(self) -> list[str]:
        """What has a weight above 0 in itself: the others say nothing, and nothing goes by their losses."""
        return [name for name in self._names if name not in self._weightless]

    def trains(self, task: str) -> bool:
        return (self._used or self._weights).get(task, 1.0) > 0

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": list(self._names), "epoch": self._epoch, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._names = check_state_tasks(self, state, self._names)
        self._epoch = state["epoch"]
        self._set(dict(state["weights"]))

    def _set(self, weights: Values) -> None:
        self._weights, self._as_tensor = weights, None


@BALANCERS.register("dwa")
class DynamicWeightAverage(EpochWeights):
    """DWA (Liu, Johns and Davison 2019, equation 7): tasks whose loss falls slowly get more weight.

    w_k = T exp(r_k / temperature) / sum exp(r_i / temperature) with r_k = L_k(e - 1) / L_k(e - 2) of mean
    training losses over epochs; weights are 1 in the first two epochs. A task without a label in one of the
    epochs has r = 1.

    Args:
        temperature: Above 0; large values make weights equal.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = check_number("balancing.dwa.temperature", temperature, above=0)
        self._before: dict[str, float | None] = {}

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._before = {}

    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        del validation_metrics
        before, self._before = self._before, dict(train_loss)
        if not before:
            return dict(self._weights)
        heard = self._heard_names
        if not heard:
            return dict(self._weights)
        rates = [_ratio(train_loss.get(task), before.get(task)) / self.temperature for task in heard]
        largest = max(rates)
        shares = [math.exp(rate - largest) for rate in rates]
        weights = [len(shares) * share / sum(shares) for share in shares]
        return {**dict.fromkeys(self._names, 0.0), **dict(zip(heard, weights, strict=True))}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "before": dict(self._before)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._before = dict(state["before"])


@BALANCERS.register("dynamic_task_prioritization")
class DynamicTaskPrioritization(EpochWeights):
    """Dynamic task prioritisation (Guo et al. 2018, equations 3 and 4): hard tasks get more weight.

    w_i = -(1 - k_i)^gamma log k_i, where k_i in (0, 1) is a moving average of the task's key performance
    metric: k <- alpha * metric + (1 - alpha) * k. The metric is the primary one on *validation*, once per
    epoch (the paper measures it on training batches): an accuracy, F1 or AUC as it is; r2 (0 where negative)
    for regressions; 1 - failure rate for landmarks. It is kept in [0.01, 0.99]. Weights are 1 until a task
    was measured.

    Args:
        gamma: Focus, 0 or more: large values take more weight from easy tasks.
        alpha: Share of the newest metric, above 0, at most 1.
    """

    def __init__(self, gamma: float = 1.0, alpha: float = 0.5) -> None:
        super().__init__()
        where = "balancing.dynamic_task_prioritization"
        self.gamma = check_number(f"{where}.gamma", gamma, least=0)
        self.alpha = check_number(f"{where}.alpha", alpha, above=0, most=1)
        self._metrics: dict[str, str] = {}
        self._average: Values = {}

    def check_tasks(self, tasks: TaskSet) -> None:
        for task in tasks.values():
            key_metric(task)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._average = {}
        self._metrics = {name: key_metric(task) for name, task in model.tasks.items()}

    def next_weights(
        self, train_loss: EpochValues, validation_metrics: Mapping[str, EpochValues] | None
    ) -> Values:
        del train_loss
        if validation_metrics is None:
            raise ConfigError(
                "balancing.dynamic_task_prioritization needs the metrics on validation: "
                "balancer.epoch_end(train_loss, validation_metrics)."
            )
        weights = dict(self._weights)
        for task in self._metrics:  # a term has no metric; its weight stays 1
            value = validation_metrics[task][self._metrics[task]]
            if value is None:
                continue
            if self._metrics[task] == "failure_rate":
                value = 1.0 - value
            average = self._average.get(task, value)
            average = self.alpha * value + (1 - self.alpha) * average
            self._average[task] = average
            kept = min(max(average, 0.01), 0.99)
            weights[task] = -((1 - kept) ** self.gamma) * math.log(kept)
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._average = dict(state["average"])


def key_metric(task: Task) -> str:
    """The metric in [0, 1] that says how well a task is solved.

    Raises:
        ConfigError: The task has none.
    """
    if task.higher_is_better:
        return task.primary_metric
    for metric in ("r2", "failure_rate"):
        if metric in task.metrics:
            return metric
    raise ConfigError(
        f"balancing.dynamic_task_prioritization: task {task.name} has no metric between 0 and 1 "
        f"(its metrics: {', '.join(task.metrics)})."
    )


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
        relative = {task: _ratio(train_loss.get(task), self._first.get(task)) for task in heard}
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
            hard = {task: _ratio(train_loss.get(task), first.get(task)) for task in self._heard_names}
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


def _ratio(now: float | None, before: float | None) -> float:
    """now / before; 1 where one of them is unknown or 0."""
    if now is None or before is None or before == 0 or not math.isfinite(now / before):
        return 1.0
    return now / before


def to_tensor(values: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """One number per task in the order of the names; 0 where there is none."""
    return torch.tensor([values.get(name, 0.0) for name in names])
