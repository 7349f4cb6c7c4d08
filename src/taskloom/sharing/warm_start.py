"""Warm start: a network takes over the weights of trained ones, stage by stage, by name.

Thesis 000 (section 5.5) starts the columns of its first cross-stitch network from the trained single-task
networks, and each further placement of units from the network before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.changing import SelfChanging
from taskloom.sharing.modules.base import ModuleNetwork
from taskloom.sharing.network import MultiTaskNetwork, PlanNetwork


@dataclass(frozen=True)
class Transfer:
    """What a warm start did.

    Args:
        copied: Parts of the network that took weights over, as `stages.conv_0.age`, `mixing.conv_0`,
            `heads.age`; single entries of the state dict for networks that are no filling of the plan.
        fresh: Parts that had no counterpart and keep their own start.
    """

    copied: tuple[str, ...]
    fresh: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A part of a plan network: what it is (`stage`, `mixing`, `tie`, `head`), where, and whose."""

    name: str
    kind: str
    place: str
    tasks: tuple[str, ...]
    module: nn.Module


def start_from(network: MultiTaskNetwork, sources: Sequence[MultiTaskNetwork]) -> Transfer:
    """Gives a network the weights, and the batch-norm statistics, of trained ones where they correspond.

    For fillings of the plan: a copy of a stage that some tasks use starts from the copy of that stage, by
    name, that all of these tasks use in a source (their own where they were alone; the shared one where they
    were together and part now). A head starts from the same task's after the same stage; a mixing matrix and
    the parameters of a tie from those at the same stage for the same tasks. For other networks, entries of
    the state dict start from those of one name and shape, but for those that say what the network is or how
    far it has come (masks, fixed policies, counts: `ModuleNetwork.stays`). Of several sources the first that
    has a counterpart gives it. What has none, or one of another shape, keeps its start.

    A network that starts anew while it is trained (`SelfChanging`) goes back to this start.

    Args:
        network: The network to start; its weights are replaced.
        sources: Trained networks; they stay as they are.

    Returns:
        What was copied and what was not.

    Raises:
        ConfigError: Nothing of the network's stages has a counterpart.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
        >>> encoder = tl.encoders.mlp((5,), hidden=[8])
        >>> alone = [tl.sharing.single_task(encoder, tasks.subset([name])) for name in tasks]
        >>> network = tl.sharing.cross_stitch(encoder, tasks)  # its units start at the identity
        >>> start_from(network, alone).fresh
        ('mixing.dense_0',)
        >>> rows = torch.ones(3, 5)
        >>> torch.equal(network(rows)["b"], alone[1](rows)["b"])
        True
    """
    if isinstance(network, PlanNetwork) and all(isinstance(source, PlanNetwork) for source in sources):
        pairs = _by_part(network, [source for source in sources if isinstance(source, PlanNetwork)])
    else:
        pairs = _by_entry(network, sources)
    copied = tuple(name for name, found in pairs.items() if found is not None)
    if not any(name.startswith("stages.") for name in copied):
        raise ConfigError(
            "warm start: no stage of this network has a counterpart, by name, tasks and shape, in what it is "
            "to start from, so it would start as without; leave `warm_start` out, or use an architecture in "
            "which tasks have stages of their own."
        )
    state = network.state_dict()
    for found in pairs.values():
        state |= found or {}
    network.load_state_dict(state)  # not written in place: a network may work out more from what it loads
    if isinstance(network, SelfChanging):
        network.starts_here()
    return Transfer(copied, tuple(name for name, found in pairs.items() if found is None))


def _by_part(network: PlanNetwork, sources: Sequence[PlanNetwork]) -> dict[str, dict[str, Tensor] | None]:
    """Per part of the network, the new values of its entries, or None where there is no counterpart."""
    offered = [part for source in sources for part in _parts(source)]
    found: dict[str, dict[str, Tensor] | None] = {}
    for part in _parts(network):
        if not part.module.state_dict():
            continue  # a pooling stage has nothing to take over
        other = next((other for other in offered if _corresponds(part, other)), None)
        found[part.name] = (
            None
            if other is None
            else {f"{part.name}.{entry}": value for entry, value in other.module.state_dict().items()}
        )
    return found


def _parts(network: PlanNetwork) -> Iterator[_Part]:
    tasks = network.tasks.names
    for name, stage, (key, copies) in zip(
        network.stage_names, network.plan.stages, network.stages.named_children(), strict=True
    ):
        for group, (copy_key, module) in zip(stage.partition, copies.named_children(), strict=True):
            yield _Part(f"stages.{key}.{copy_key}", "stage", name, group, module)
        if key in network.mixing:
            yield _Part(f"mixing.{key}", "mixing", name, tasks, network.mixing[key])
        if key in network.ties:
            yield _Part(f"ties.{key}", "tie", name, tasks, network.ties[key])
    for task, (key, head) in zip(tasks, network.heads.named_children(), strict=True):
        yield _Part(f"heads.{key}", "head", f"after {network.plan.depth(task)}", (task,), head)
    for key, head in network.deep_heads.named_children():
        yield _Part(f"deep_heads.{key}", "deep head", key, (), head)


def _corresponds(part: _Part, other: _Part) -> bool:
    if (part.kind, part.place) != (other.kind, other.place):
        return False
    fits = set(part.tasks) <= set(other.tasks) if part.kind == "stage" else part.tasks == other.tasks
    return fits and _shapes(part.module) == _shapes(other.module)


def _shapes(module: nn.Module) -> Mapping[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _by_entry(
    network: MultiTaskNetwork, sources: Sequence[MultiTaskNetwork]
) -> dict[str, dict[str, Tensor] | None]:
    offered = [source.state_dict() for source in sources]
    found: dict[str, dict[str, Tensor] | None] = {}
    stays = network.stays if isinstance(network, ModuleNetwork) else ()
    for name, tensor in network.state_dict().items():
        if name.startswith(stays):
            continue
        state = next(
            (state for state in offered if name in state and state[name].shape == tensor.shape), None
        )
        found[name] = None if state is None else {name: state[name]}
    return found
