"""The whole state of a run: written after every epoch, and taken up where a checkpoint has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskloom.errors import ConfigError
from taskloom.training.changes import follow
from taskloom.training.history import History
from taskloom.training.processes import gather_objects
from taskloom.training.reproducibility import random_states

if TYPE_CHECKING:
    from taskloom.training.trainer import Trainer


def save_state(trainer: Trainer) -> None:
    """Writes the checkpoint of the epoch that just ended; one process writes for all."""
    random = gather_objects(trainer.fabric, random_states())
    if trainer.checkpoints is None or not trainer.fabric.is_global_zero:
        return
    state = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.state.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict() if trainer.schedule else {},
        "precision": trainer.fabric.strategy.precision.state_dict(),
        "balancer": trainer.balancer.state_dict(),
        "callbacks": [callback.state_dict() for callback in trainer.run.callbacks],
        "freezing": trainer.state.freezing.state_dict(),
        "random": random,
        "history": trainer.state.history.to_dict(),
    }
    trainer.checkpoints.save(state, trainer.best)


def take_up(trainer: Trainer) -> Mapping[str, Any] | None:
    """Puts everything as it stood in the checkpoint, if there is one; the random states to start with."""
    if trainer.checkpoints is None:
        return None
    if not trainer.run.resume:
        trainer.fabric.barrier()
        if trainer.fabric.is_global_zero:
            trainer.checkpoints.delete()
        return None
    if not trainer.checkpoints.exist():
        return None
    state = trainer.checkpoints.load(trainer.best)
    trainer.model.load_state_dict(state["model"])
    follow(trainer)
    # First: it takes parameters out of the optimiser, which then has no state for them.
    trainer.state.freezing.load_state_dict(state["freezing"])
    try:
        trainer.state.optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:  # what PyTorch raises where groups differ in number or size
        raise ConfigError(
            f"{trainer.checkpoints.last} holds the state of an optimiser whose parameters are grouped in "
            "another way; it is of another version of taskloom: delete it, or train with resume=False or in "
            "another folder."
        ) from error
    if trainer.schedule:
        trainer.schedule.load_state_dict(state["schedule"])
    trainer.fabric.strategy.precision.load_state_dict(state["precision"])
    trainer.balancer.load_state_dict(state["balancer"])
    for callback, kept in zip(trainer.run.callbacks, state["callbacks"], strict=True):
        callback.load_state_dict(kept)
    history = trainer.state.history = History.from_dict(state["history"])
    if not history.finished:
        history.resumed_after.append(len(history))
    states: Mapping[str, Any] = state["random"][trainer.fabric.global_rank]
    return states
