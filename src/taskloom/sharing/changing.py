"""Networks that change themselves between two epochs of training: their parameters come, go or start anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from taskloom.tasks import Labels


@dataclass(frozen=True)
class Look:
    """What a network sees of itself: all training rows, in evaluation mode.

    Args:
        outputs: Head outputs per task, [N, width] (or [N, width, W]), on the CPU.
        labels: Labels of the same N rows.
    """

    outputs: Mapping[str, Tensor]
    labels: Labels


@dataclass(frozen=True)
class Change:
    """What a network did to itself.

    Args:
        note: In words, for the record of the training.
        origin: New parameters, and the one whose optimiser state each goes on with.
        anew: Whether every weight starts anew: the optimiser forgets what it knows, and earlier epochs no
            longer stand for the best one.
    """

    note: str
    origin: Mapping[nn.Parameter, nn.Parameter] = field(default_factory=dict)
    anew: bool = False


class SelfChanging(ABC):
    """Beside `MultiTaskNetwork`: what the training loop and bundles ask of a network that changes itself.

    Whatever it changes into stands in its state dict, and loading a state dict changes it accordingly.
    """

    @abstractmethod
    def check_epochs(self, epochs: int) -> None:
        """Refuses changes that a training of so many epochs does not reach.

        Raises:
            ConfigError: Names the setting.
        """

    @abstractmethod
    def change(self, epoch: int, look: Callable[[], Look]) -> Change | None:
        """Called before every epoch (1 is the first), after `set_epoch`; not once a task has stopped.

        Args:
            epoch: The epoch that is about to begin.
            look: Runs the network over the training rows; to be called only where it is needed.
        """

    @abstractmethod
    def changes_after(self, epoch: int) -> bool:
        """Whether it may change after this epoch; early stopping waits until it does no more."""

    def starts_here(self) -> None:  # noqa: B027
        """Called when a warm start gave the network its weights: what starts anew goes back to these."""

    def take_structure(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Becomes the network that a state dict was taken from, with weights yet to be loaded."""


def weights_to_return_to(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the present weights of stages and heads, by their names: what retraining starts from."""
    return {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if name.startswith(("stages.", "heads."))
    }


class TakesTurns(ABC):
    """Beside `MultiTaskNetwork`: a network whose parameters learn by turns, each from its own rows."""

    @abstractmethod
    def turns(self) -> Sequence[Sequence[nn.Parameter]]:
        """The sets of parameters in their order; fewer than two: all learn from all rows at once."""
