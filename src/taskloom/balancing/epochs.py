"""Weights that change from epoch to epoch: by falling losses, by key metrics, and those of `entering`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskloom.balancing.base import BALANCERS, EpochValues
from taskloom.balancing.checks import check_number
from taskloom.balancing.entering import Curriculum, SelfPaced
from taskloom.balancing.epoch_weights import EpochWeights, Values, falling
from taskloom.errors import ConfigError
from taskloom.tasks import Task, TaskSet

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

__all__ = [
    "Curriculum",
    "DynamicTaskPrioritization",
    "DynamicWeightAverage",
    "EpochWeights",
    "SelfPaced",
    "key_metric",
]


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
        rates = [falling(train_loss.get(task), before.get(task)) / self.temperature for task in heard]
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
            value = max(value, 0.0)  # an r2 of a network that has learned nothing yet has no lower bound
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
