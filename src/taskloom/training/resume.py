"""What a run leaves on disk after every epoch, and how it is taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.errors import DataError
from taskloom.training.checkpoints import check_same_settings, load_checkpoint, save_checkpoint


class BestWeights:
    """The weights of the best epoch so far, on the CPU.

    Attributes:
        epoch: The epoch they come from; where they are composed, the last one that gave some of them.
        weights: As the network's state dict has them.
        composed: Whether tasks have weights of different epochs, each its own best; the monitor then no
            longer decides.
        unsaved: Whether they changed since they were last written.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.composed = False
        self.unsaved = False

    def keep(self, model: nn.Module, epoch: int) -> None:
        """Copies the model's weights."""
        self.epoch, self.weights, self.unsaved = epoch, copied(model), True

    def compose(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        """Takes weights as a start, of which `take` replaces parts from now on."""
        self.epoch, self.weights, self.composed, self.unsaved = epoch, dict(weights), True, True

    def take(self, model: nn.Module, names: Iterable[str], epoch: int) -> None:
        """Copies these entries of the model's state dict."""
        present = model.state_dict()
        self.weights |= {name: present[name].detach().cpu().clone() for name in names}
        self.epoch, self.unsaved = epoch, True

    def load_entries_into(self, model: nn.Module, names: Iterable[str]) -> None:
        """Gives the model these entries."""
        present = model.state_dict()
        with torch.no_grad():
            for name in names:
                present[name].copy_(self.weights[name])

    def load_into(self, model: nn.Module) -> None:
        """Gives the model the weights that were kept."""
        model.load_state_dict(self.weights)


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state dict on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


class Checkpoints:
    """`last.ckpt` (everything, each epoch) and `best.ckpt` (weights of the best epoch) in a run's folder.

    Args:
        folder: The run's folder; made when the first file is written.
        settings: What a run that goes on from here must agree on; plain values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.settings = settings

    def exist(self) -> bool:
        return self.last.exists()

    def delete(self) -> None:
        """Removes what an earlier run left in the folder."""
        self.last.unlink(missing_ok=True)
        self.best.unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any], best: BestWeights) -> None:
        """Writes the state after an epoch, and the best weights if this epoch is the best.

        In this order: killed between the two files, `load` finds the best weights in the state itself.
        Weights composed of several epochs stand in it in full.

        Raises:
            TrainingError: The folder cannot be written, or the disk is full.
        """
        kept = {"epoch": best.epoch, "model": best.weights}
        composed = {"composed": kept} if best.composed else {}
        save_checkpoint(self.last, {**state, **composed, "settings": dict(self.settings)})
        if best.unsaved:
            save_checkpoint(self.best, kept)
            best.unsaved = False

    def load(self, best: BestWeights) -> dict[str, Any]:
        """Reads the state and fills `best`.

        Raises:
            ConfigError: The checkpoint belongs to other settings, or to another version.
            DataError: A file is damaged, or the best weights are missing.
        """
        state = load_checkpoint(self.last)
        check_same_settings(self.last, state["settings"], self.settings)
        if "composed" in state:
            best.compose(state["composed"]["model"], state["composed"]["epoch"])
            best.unsaved = False
            save_checkpoint(self.best, state["composed"])
            return state
        epoch, history = len(state["history"]["epochs"]), state["history"]
        if history["best_epoch"] == epoch:
            best.epoch, best.weights = epoch, state["model"]
            # Killed between the two files, best.ckpt is still an older one.
            save_checkpoint(self.best, {"epoch": best.epoch, "model": best.weights})
            return state
        if not self.best.exists():
            raise DataError(
                f"{self.best} is missing beside {self.last.name}; delete that as well, or train "
                "with resume=False."
            )
        kept = load_checkpoint(self.best)
        if kept["epoch"] != history["best_epoch"]:
            raise DataError(
                f"{self.best} holds epoch {kept['epoch']}, but epoch {history['best_epoch']} was the best by "
                f"{self.last.name}; the files belong to different runs: delete both, or train with "
                "resume=False."
            )
        best.epoch, best.weights = kept["epoch"], kept["model"]
        return state
