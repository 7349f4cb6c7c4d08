"""From settings to an optimiser over the network's parameter groups, and to a learning-rate schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from taskloom.balancing import Balancer
from taskloom.balancing.gradients import laid_out
from taskloom.errors import ConfigError, did_you_mean
from taskloom.training.config import CosineConfig, PlateauConfig, TrainingConfig

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork

SHARED_GROUPS = ("shared", "mixing", "tie", "balancer")
"""What `lr_multipliers` may name besides tasks, whether or not a network has it."""

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def make_optimizer(model: MultiTaskNetwork, config: TrainingConfig, balancer: Balancer) -> Optimizer:
    """Builds the optimiser over `model.parameter_groups()`, each with its own multiple of the learning rate.

    Groups of one multiple become one group of the optimiser (a dozen heads would cost a dozen updates); its
    `names` are those of the network's groups. What the balancer itself learns is one more, named "balancer",
    and goes with others of its rate that do not decay.
    Weight decay acts on groups that decay, and on the others only where `config.decay_mixing` asks for it.

    Raises:
        ConfigError: `lr_multipliers` names something that is no group of any network.
    """
    settings = config.optimizer.settings.model_dump()
    factors = lr_factors(model, config)
    merged: dict[tuple[float, bool], dict[str, Any]] = {}
    for group in model.parameter_groups():
        rate = settings["lr"] * group.lr_multiplier * factors.get(_kind(group.name), 1.0)
        into = _group_of(merged, rate, decays=group.decays or config.decay_mixing, settings=settings)
        into["params"].extend(group.parameters)
        into["names"].append(group.name)
    if learned := list(balancer.parameters()):
        rate = settings["lr"] * factors.get("balancer", 1.0)
        # No weight decay: it would pull learned weights to equal ones, whatever the losses say.
        into = _group_of(merged, rate, decays=False, settings=settings)
        into["params"].extend(learned)
        into["names"].append("balancer")
    groups = list(merged.values())
    # One kernel for all parameters; with a gradient scaler it would forbid clipping, and RMSprop has none.
    if config.optimizer.name != "rmsprop" and config.precision != "16-mixed":
        settings["fused"] = True
    optimizer: Optimizer = _OPTIMIZERS[config.optimizer.name](groups, **settings)
    if "fused" in settings:
        optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def _lay_out_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Gives every gradient the memory layout of its parameter, which fused updates take for granted.

    PyTorch (2.13) walks through both memories side by side. Where they differ, it updates with the wrong
    numbers on a CPU without a word, and refuses on a GPU. A backward pass lays gradients out so; what
    sets `.grad` itself may not.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = laid_out(parameter.grad, parameter)


def _group_of(
    groups: dict[tuple[float, bool], dict[str, Any]], rate: float, *, decays: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    """The optimiser's group of this rate and decay, begun where it is the first."""
    decays = decays or settings["weight_decay"] == 0.0
    no_decay = {} if decays else {"weight_decay": 0.0}
    return groups.setdefault((rate, decays), {"params": [], "lr": rate, "names": [], **no_decay})


def lr_factors(model: MultiTaskNetwork, config: TrainingConfig) -> dict[str, float]:
    """`TrainingConfig.lr_multipliers` by the kind of parameter group: "task:<name>", "shared", "mixing", ...

    Raises:
        ConfigError: A name that is neither a task nor a kind of group.
    """
    groups = _kinds(model)
    factors: dict[str, float] = {}
    for name, factor in config.lr_multipliers.items():
        kind = f"task:{name}" if name in model.tasks else name
        if kind not in groups and kind not in SHARED_GROUPS:
            known = [*model.tasks, *SHARED_GROUPS]
            raise ConfigError(
                f"training.lr_multipliers.{name} is neither a task nor a parameter group."
                f"{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
        factors[kind] = factor
    return factors


def unused_lr_multipliers(model: MultiTaskNetwork, config: TrainingConfig, balancer: Balancer) -> list[str]:
    """Names in `lr_multipliers` that stand for nothing in this network and balancer."""
    groups = _kinds(model) | ({"balancer"} if list(balancer.parameters()) else set())
    return [name for name in config.lr_multipliers if name not in model.tasks and name not in groups]


def _kinds(model: MultiTaskNetwork) -> set[str]:
    return {_kind(group.name) for group in model.parameter_groups()}


def _kind(group: str) -> str:
    """A group's name without the multiplier that tells it from its like: "mixing:10" is "mixing"."""
    return group if group.startswith("task:") else group.partition(":")[0]


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Present learning rate by the name of each of the network's parameter groups."""
    return {name: float(group["lr"]) for group in optimizer.param_groups for name in group["names"]}


class Schedule(ABC):
    """Changes the learning rates of an optimiser once per epoch."""

    @abstractmethod
    def step(self, epoch: int, monitor: float) -> None:
        """Sets the rates for the epoch after `epoch`, given its monitor value."""

    def state_dict(self) -> dict[str, Any]:
        """State beyond the optimiser's own learning rates."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        del state


class Plateau(Schedule):
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` on the monitor."""

    def __init__(self, optimizer: Optimizer, config: PlateauConfig, *, larger_is_better: bool) -> None:
        self.scheduler = ReduceLROnPlateau(
            optimizer,
            mode="max" if larger_is_better else "min",
            factor=config.factor,
            patience=config.patience,
            threshold=config.min_delta,
            threshold_mode="abs",
            min_lr=config.min_lr,
        )

    def step(self, epoch: int, monitor: float) -> None:
        del epoch
        self.scheduler.step(monitor)

    def state_dict(self) -> dict[str, Any]:
        state = self.scheduler.state_dict()
        # Only what changes: the rest follows from the settings.
        return {name: state[name] for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


class Cosine(Schedule):
    """Rates as a function of the epoch alone: linear warm-up, then a half cosine (SGDR, 2017).

    In epoch e = 1..W of the warm-up the rate is e / (W + 1) of its start; after it, with E epochs in all,
    final + (1 - final) * (1 + cos(pi * (e - W - 1) / (E - W))) / 2 of it.
    """

    def __init__(self, optimizer: Optimizer, config: CosineConfig, *, epochs: int) -> None:
        self.optimizer, self.config, self.epochs = optimizer, config, epochs
        self.start = [float(group["lr"]) for group in optimizer.param_groups]
        self.step(0, math.nan)

    def factor(self, epoch: int) -> float:
        """Share of the starting rate used in `epoch`, counted from 1."""
        warmup, final = self.config.warmup, self.config.final
        if epoch <= warmup:
            return epoch / (warmup + 1)
        progress = min(1.0, (epoch - warmup - 1) / max(1, self.epochs - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    def step(self, epoch: int, monitor: float) -> None:
        del monitor
        for group, start in zip(self.optimizer.param_groups, self.start, strict=True):
            group["lr"] = start * self.factor(epoch + 1)


def make_schedule(optimizer: Optimizer, config: TrainingConfig) -> Schedule | None:
    """Builds the schedule that `config` asks for; None where the rates stay."""
    if config.schedule is None:
        return None
    settings = config.schedule.settings
    if isinstance(settings, PlateauConfig):
        return Plateau(optimizer, settings, larger_is_better=config.monitor == "metric")
    assert isinstance(settings, CosineConfig)
    return Cosine(optimizer, settings, epochs=config.epochs)
