"""Following a network that changes itself: the optimiser's groups, the wrappers, the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

from taskloom.sharing.changing import Change, Look, SelfChanging
from taskloom.training.callbacks import EarlyStopping
from taskloom.training.judging import predicted

if TYPE_CHECKING:
    from taskloom.sharing.network import MultiTaskNetwork
    from taskloom.training.trainer import Trainer


def let_change(trainer: Trainer, epoch: int) -> None:
    """Lets the network change itself before an epoch, and follows it; nothing once a task has stopped."""
    model, state = trainer.model, trainer.state
    if not isinstance(model, SelfChanging) or state.freezing.stopped:
        return  # what a stopped task reads must stay as it is
    change = model.change(epoch, lambda: look(trainer))
    if change is None:
        return
    state.history.notes.append(f"before epoch {epoch}: {change.note}")
    wait_anew(trainer, forget=change.anew)
    follow(trainer, change)


def more_changes(trainer: Trainer, epoch: int) -> bool:
    """Whether the network will still change after this epoch, so that training must not end."""
    model = trainer.model
    stopped = trainer.state.freezing.stopped
    return isinstance(model, SelfChanging) and not stopped and model.changes_after(epoch)


def follow(trainer: Trainer, change: Change | None = None) -> None:
    """Brings optimiser, wrappers and the number of parameters to where the network is.

    Also after a checkpoint was loaded, before the optimiser takes its state from it.
    """
    model, optimizer = trainer.model, trainer.state.optimizer
    if not isinstance(model, SelfChanging):
        return
    learned = trainer.balancer.parameters()
    regroup(optimizer, model, {} if change is None else change.origin, learned)
    trainer.state.history.num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # Several processes exchange the gradients of a fixed set of parameters: it has changed.
    trainer.wrap(model, optimizer)


def wait_anew(trainer: Trainer, *, forget: bool) -> None:
    """Gives a changed network its patience, and forgets weights that are no longer there where asked."""
    if forget:
        trainer.state.freezing.forget_moments()
        trainer.state.history.best_epoch = 0
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping):
            callback.waited = 0
            callback.best = None if forget else callback.best


def look(trainer: Trainer) -> Look:
    """The network's outputs on all training rows, the same in every process."""
    rows = trainer.run.train
    found = predicted(trainer, trainer.model, trainer.loader_of(rows, training=False), rows)
    return Look(found.outputs, rows.labels)


def regroup(
    optimizer: Optimizer,
    model: MultiTaskNetwork,
    origin: Mapping[nn.Parameter, nn.Parameter],
    learned: Iterable[nn.Parameter] = (),
) -> None:
    """Puts the network's present parameters into the optimiser's groups, which keep their rates.

    A parameter group keeps its place by its name; one that has no parameters any more loses it. Parameters
    that are gone take their state with them; new ones go on with a copy of their origin's.

    Args:
        optimizer: Its groups have `names`, as `make_optimizer` gives them.
        model: The network, changed.
        origin: New parameters, and those whose state they begin with.
        learned: What the balancer learns, which stays where it is.
    """
    present = {group.name: group.parameters for group in model.parameter_groups()}
    present["balancer"] = list(learned)
    for group in optimizer.param_groups:
        group["names"] = [name for name in group["names"] if name in present]
        group["params"] = [parameter for name in group["names"] for parameter in present[name]]
    for new, old in origin.items():
        if old in optimizer.state:
            optimizer.state[new] = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in optimizer.state[old].items()
            }
    used = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in [p for p in optimizer.state if id(p) not in used]:
        del optimizer.state[parameter]
