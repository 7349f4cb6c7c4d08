"""The five methods that every multi-task network has, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.reversal import GradientReversal
from taskloom.tasks import Reversal, TaskSet

Features = Tensor | dict[str, Tensor]
"""The seam between shared and task parameters; a dictionary where no stage is shared by all tasks."""


@dataclass
class ParameterGroup:
    """Parameters that one learning rate applies to.

    Args:
        name: "shared", "task:<name>", "mixing", "tie" (with ":<multiplier>" where stages differ).
        parameters: Trainable parameters; each stands in one group of a network.
        lr_multiplier: Factor on the learning rate.
        decays: Whether the optimiser's weight decay acts on them. It must not on mixing matrices, stage
            weights, policies and parameters of ties: their neutral value is not 0.
    """

    name: str
    parameters: list[nn.Parameter]
    lr_multiplier: float = 1.0
    decays: bool = True


class MultiTaskNetwork(nn.Module, ABC):
    """What training, balancing and reports need of a network, whatever its architecture.

    Args:
        tasks: The tasks it predicts.

    Attributes:
        reversals: The gradient reversal of every adversarial task.

    Raises:
        ConfigError: Adversarial tasks without any other: there is nothing to learn while they are forgotten.
    """

    def __init__(self, tasks: TaskSet) -> None:
        super().__init__()
        self.tasks = tasks
        self.reversals = {
            name: GradientReversal(task.reversal or Reversal())
            for name, task in tasks.items()
            if task.role == "adversarial"
        }
        if len(self.reversals) == len(tasks):
            raise ConfigError(
                f"tasks: {', '.join(tasks)} {'is' if len(tasks) == 1 else 'are'} adversarial, without any "
                "other task: train it together with a main task, or make it `role: auxiliary`."
            )

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Predicts every task from one pass.

        Args:
            inputs: [N, ...].

        Returns:
            Per task its head's outputs, [N, width] ([N, width, W] for labels per sample).
        """
        return self.from_features(self.features(inputs))

    @abstractmethod
    def features(self, inputs: Tensor) -> Features:
        """The seam between shared and task parameters: what `from_features` predicts all tasks from."""

    @abstractmethod
    def from_features(self, features: Features) -> dict[str, Tensor]:
        """Predictions from what `features` gave; `forward` is one after the other."""

    @property
    def has_shared_feature(self) -> bool:
        """Whether `features` gives one tensor that all tasks read, as far as it is known before it runs."""
        return True

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that do not belong to a single task."""

    @abstractmethod
    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Trainable parameters that belong to this task alone.

        Raises:
            ConfigError: There is no such task.
        """

    def task_modules(self, task: str) -> list[nn.Module]:
        """The modules that belong to this task alone; what stands in no task's list is shared.

        Unless overridden: the largest modules that have parameters, all of them this task's.
        """
        return _largest_within(self, {id(parameter) for parameter in self.task_parameters(task)})

    def penalty(self) -> Tensor:
        """What is added to the losses for ties between copies: a scalar, 0 where there is none."""
        return next(self.parameters()).new_zeros(())

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Mixing matrices by stage name, [T, T] or [C, T, T]; row = receiving task, column = donor."""
        return {}

    def special_groups(self) -> list[ParameterGroup]:
        """Parameters that have a learning rate of their own; `parameter_groups` sets them apart."""
        return []

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter in exactly one group; groups without parameters are left out."""
        special = self.special_groups()
        apart = {id(parameter) for group in special for parameter in group.parameters}
        plain = [
            ParameterGroup("shared", self.shared_parameters()),
            *(ParameterGroup(f"task:{task}", self.task_parameters(task)) for task in self.tasks),
        ]
        for group in plain:
            group.parameters = [parameter for parameter in group.parameters if id(parameter) not in apart]
        return [group for group in [*plain, *special] if group.parameters]

    def decided(self) -> AbstractContextManager[None]:
        """Within it, what evaluation reads off the weights to choose its way stays as it is now.

        For exporters: they see shapes, not values. Nothing to decide unless overridden.
        """
        return nullcontext()

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch of training (1 is the first), for architectures with a curriculum."""

    def set_progress(self, progress: float) -> None:
        """Called before every step with the share of the training that is done, for gradient reversals.

        In a loop of one's own that never calls it, reversals have their largest factor.

        Args:
            progress: In [0, 1].
        """
        for reversal in self.reversals.values():
            reversal.progress(progress)

    def set_step(self, step: int | None) -> None:
        """Called before every training step with its number from 0, for ties that rest in between (`every`).

        A batch in parts is one step, and so is a batch that several processes share. In a loop of one's own
        that never calls it, ties are evaluated at every step.

        Args:
            step: Steps of training that are done; None after the last one of an epoch, so that `penalty` is
                the whole penalty.
        """

    def entrance(self, task: str) -> nn.Module:
        """The first module that the task uses alone: where the reversal of an adversarial one stands.

        Raises:
            ConfigError: The task shares nothing with others.
        """
        raise ConfigError(
            f"tasks.{task}.role: adversarial: this network does not say where the task leaves what it "
            "shares; use another way of sharing."
        )

    def put_reversals(self) -> None:
        """Puts the reversals before the entrances: at the end of building, and where these have moved."""
        for task, reversal in self.reversals.items():
            reversal.stand_before(self.entrance(task))


def _largest_within(module: nn.Module, wanted: set[int]) -> list[nn.Module]:
    """The largest submodules that have parameters, all of them among the wanted ones (by `id`)."""
    parameters = {id(parameter) for parameter in module.parameters()}
    if parameters and parameters <= wanted:
        return [module]
    if not parameters & wanted:
        return []
    return [found for child in module.children() for found in _largest_within(child, wanted)]


def trainable(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All parameters of the modules that are to be trained."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def by_multiplier(name: str, modules: Sequence[tuple[nn.Module, float]]) -> list[ParameterGroup]:
    """One group without weight decay per factor on the rate: `name`, `name:<factor>` where several."""
    groups: dict[float, list[nn.Parameter]] = {}
    for module, multiplier in modules:
        if parameters := trainable([module]):
            groups.setdefault(multiplier, []).extend(parameters)
    return [
        ParameterGroup(
            name if len(groups) == 1 else f"{name}:{multiplier:g}", parameters, multiplier, decays=False
        )
        for multiplier, parameters in groups.items()
    ]
