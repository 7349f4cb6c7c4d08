"""What each task's predictions depend on in a network that a plan describes."""

from __future__ import annotations

from torch import nn

from taskloom.sharing.network import PlanNetwork


def modules_reached(network: PlanNetwork) -> dict[str, list[nn.Module]]:
    """Per task the modules that its predictions depend on, in the order of the stages, its heads last.

    A task depends on the copies that it uses and, through mixing units, on all that the others it hears have
    used up to there. The plan says this exactly; autograd's graph says more where several tasks go through
    one node, as copies that run as one kernel do.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
        >>> network = tl.sharing.cross_stitch(tl.encoders.mlp((5,), hidden=[8, 8]), tasks, after=[1])
        >>> names = {module: name for name, module in network.named_modules()}
        >>> [names[module] for module in modules_reached(network)["a"]]
        ['stages.dense_0.a', 'stages.dense_0.b', 'mixing.dense_0', 'stages.dense_1.a', 'heads.a']
    """
    found: dict[str, list[nn.Module]] = {task: [] for task in network.tasks}
    for number, (stage, (key, copies)) in enumerate(
        zip(network.plan.stages, network.stages.named_children(), strict=True), start=1
    ):
        present = [task for task in network.plan.active(number) if task in found]
        modules = list(copies.children())
        for task in present:
            found[task].append(modules[stage.group_of(task)])
        if stage.mixing is not None and key in network.mixing:
            heard = {id(module): module for task in present for module in found[task]}
            for task in present:
                found[task] = [*heard.values(), network.mixing[key]]
    for task in network.tasks:
        lower = [head for _, head in network.lower_heads(task).values()]
        found[task] += [*lower, network.task_copies(task)[-1]]
    return found
