"""The shared feature: where the trunk ends, gradients per task cost the heads only.

MGDA-UB (Sener and Koltun 2018, section 3.3) bounds the norm of the update by the norm of the gradient at the
shared features Z = g(x): the Gramian is that of dL_t / dZ, and one backward pass takes the weighted sum
through the trunk. Every method that needs only the Gramian can be used so.

Where all heads are linear layers over the feature, they are run as one, and the gradients at its outputs say
everything (`read_outs`). Elsewhere, where every task is alone behind the feature, each reads it through a
*tap* of its own, one of T views of the feature laid T times side by side. One backward pass of the sum of all
losses then gives every head's gradient and, at what the taps are views of, every dL_t / dZ as one tensor;
without taps that takes a pass per task through all that follows the feature. Exact aggregation gains as much:
what is left for it is the trunk alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from taskloom.balancing.read_outs import ReadOuts, are_hooked, linear_heads, only_known, read_out
from taskloom.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from taskloom.balancing.gradients import Seam
    from taskloom.sharing.network import Features, MultiTaskNetwork


class SharedFeature:
    """Takes hold of the shared feature during a forward pass.

    Args:
        name: What messages call the method.

    Attributes:
        trunk: The feature, with the graph of the trunk behind it; None where there is none to hold.
        leaf: What the heads read in its place where the graph is parted there.
        taps: What each task reads in its place where it is not; empty otherwise.
        beside: What the taps are views of, [T, *feature], in the order of the tasks; None without taps.
        read_outs: The heads in place of taps, where they are linear; None otherwise.
        watched: Whether the forward pass came by.
        plain: Whether nobody can have put hooks on the tensors inside the trunk: autograd's graph, from which
            formulas are read, does not show them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.trunk: Tensor | None = None
        self.leaf: Tensor | None = None
        self.beside: Tensor | None = None
        self.taps: dict[str, Tensor] = {}
        self.read_outs: ReadOuts | None = None
        self.watched = self.plain = False
        self._of: tuple[object, ...] = ()
        self._alone = False
        self._heads: dict[str, nn.Linear] | None = None
        self._inside_heads: list[nn.Module] = []
        self._inside_trunk: list[nn.Module] | None = None
        self._tails: dict[str, list[nn.Module]] | None = None

    @contextmanager
    def watching(
        self, model: MultiTaskNetwork, *, required: bool = True, apart: bool = True
    ) -> Iterator[None]:
        """Context of one forward pass: the tasks read taps, or where that cannot be, a leaf of its values.

        A trunk that is frozen gives a feature without gradient; nothing is held then.

        Args:
            model: The network.
            required: Whether the balancer works at the feature; otherwise nothing happens without taps.
            apart: Whether tasks may have taps: no loss depends on the predictions of two of them.

        Raises:
            ConfigError: A feature is required and the network has none that all tasks read.
            TrainingError: A feature is required, and the network ran a second time.
        """
        if required:
            check_has_feature(model, self.name)
        self.clear()
        self._look_at(model)
        apart = apart and self._alone
        if not (required or apart):
            yield
            return
        # On the instance, for this pass alone: `forward` calls it as it calls the method.
        method = model.from_features

        def held(features: Features) -> dict[str, Tensor]:
            if not isinstance(features, Tensor):
                raise no_feature(self.name)
            if self.watched:
                return self._second_pass(method, features, required)
            self.watched = True
            if not features.requires_grad:
                return method(features)
            self.trunk = features
            self.plain = self._inside_trunk is not None and not are_hooked(self._inside_trunk)
            if apart and not getattr(model, "deeply_supervised", False):
                heads = self._heads
                self.read_outs = None if heads is None else read_out(heads, features, self._inside_heads)
            if self.read_outs is not None:
                return self.read_outs.predictions()
            if apart and _may_run_apart(model, features):
                self.beside = features.expand(len(model.tasks), *features.shape)
                self.taps = dict(zip(model.tasks, self.beside.unbind(), strict=True))
                return self._run_apart(model, method)
            if not required:
                return method(features)
            self.leaf = features.detach().requires_grad_()
            return method(self.leaf)

        vars(model)["from_features"] = held
        try:
            yield
        finally:
            del vars(model)["from_features"]

    def has_taps(self, losses: Iterable[str]) -> bool:
        """Whether all these losses are of tasks that have taps, or read-outs in their place."""
        having = self.taps if self.read_outs is None else self.read_outs.heads
        return bool(having) and all(name in having for name in losses)

    def is_passed(self, losses: Iterable[Tensor], seam: Seam) -> bool:
        """Whether a loss reaches what is trained by another way than the taps or read-outs of this pass."""
        end = self.beside if self.read_outs is None else self.read_outs.outputs
        if end is None:
            return False
        looked_for = {id(parameter) for parameter in seam.shared}
        if self.read_outs is not None:
            looked_for |= {id(parameter) for own in seam.own.values() for parameter in own}
        waiting, seen = [loss.grad_fn for loss in losses], {end.grad_fn}
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if id(getattr(node, "variable", None)) in looked_for:
                return True
            waiting.extend(function for function, _ in node.next_functions)
        return False

    def clear(self) -> None:
        """Lets go of the feature and its graph."""
        self.trunk = self.leaf = self.beside = self.read_outs = None
        self.taps = {}
        self.watched = self.plain = False

    def _second_pass(self, method: Any, features: Tensor, required: bool) -> dict[str, Tensor]:
        if required:
            raise TrainingError(
                f"balancing.{self.name} works at the shared feature, but the network ran twice inside "
                "`balancer.watching(model)`, so that there is no one feature; enter the context for every "
                "forward pass."
            )
        # The graph is whole: gradients by parameters are right without taps.
        self.trunk, self.beside, self.taps, self.read_outs = None, None, {}, None
        predictions: dict[str, Tensor] = method(features)
        return predictions

    def _look_at(self, model: MultiTaskNetwork) -> None:
        """Looks once what the network is: a small one takes no longer for its layers."""
        heads: Any = getattr(model, "heads", None)
        now = (model, vars(model).get("plan"), model.tasks, *(heads.values() if heads is not None else ()))
        if len(self._of) == len(now) and all(a is b for a, b in zip(self._of, now, strict=True)):
            return
        self._of, self._alone, self._tails = now, is_alone_behind(model), None
        self._heads = linear_heads(model) if self._alone else None
        self._inside_heads = [
            module for task in self._heads or () for module in model.task_modules(task)[-1].modules()
        ]
        inside = _trunk_modules(model) if self._alone else []
        self._inside_trunk = inside if inside and only_known(inside) else None

    def _run_apart(self, model: MultiTaskNetwork, method: Any) -> dict[str, Tensor]:
        """Predictions, each from the task's own tap."""
        plan: Any = vars(model).get("plan")
        if plan.num_shared_stages == len(plan.stages):
            predictions: dict[str, Tensor] = method(self.taps)
            return predictions
        if self._tails is None:
            copies_of: Any = getattr(model, "task_copies")  # noqa: B009  of networks with a plan
            self._tails = {task: copies_of(task)[plan.num_shared_stages :] for task in model.tasks}
        # Stage by stage, then the heads: what draws, draws in the order of a plain forward pass. A task that
        # is read out at a lower stage has fewer of them.
        tails = self._tails
        flow = dict(self.taps)
        for number in range(len(plan.stages) - plan.num_shared_stages):
            for task, (*copies, _) in tails.items():
                if number < len(copies):
                    flow[task] = copies[number](flow[task])
        return {task: tails[task][-1](tensor) for task, tensor in flow.items()}

    def __getstate__(self) -> dict[str, object]:
        return vars(SharedFeature(self.name))


def is_alone_behind(model: MultiTaskNetwork) -> bool:
    """Whether of the network it is known that behind the shared feature every task is alone."""
    plan = getattr(model, "plan", None)
    if plan is None or plan.num_shared_stages == 0 or len(model.tasks) < 2:
        return False
    apart = all(
        stage.mixing is None and all(len(group) == 1 for group in stage.partition)
        for stage in plan.stages[plan.num_shared_stages :]
    )
    return apart and not _are_tied(model, plan.num_shared_stages)


def _trunk_modules(model: MultiTaskNetwork) -> list[nn.Module]:
    """All modules of the stages that every task shares, of a network of which a plan says them."""
    plan: Any = getattr(model, "plan", None)
    copies_of: Any = getattr(model, "task_copies", None)
    if plan is None or copies_of is None:
        return []
    shared = copies_of(next(iter(model.tasks)))[: plan.num_shared_stages]
    return [module for copy in shared for module in copy.modules()]


def _are_tied(model: MultiTaskNetwork, num_shared: int) -> bool:
    """Whether a parameter behind the shared feature stands in the copies of two tasks."""
    copies_of: Any = getattr(model, "task_copies", None)
    if copies_of is None:
        return False
    seen: set[int] = set()
    for task in model.tasks:
        own = {id(p) for module in copies_of(task)[num_shared:] for p in module.parameters()}
        if own & seen:
            return True
        seen |= own
    return False


def _may_run_apart(model: MultiTaskNetwork, features: Tensor) -> bool:
    """Whether nothing else is to happen behind the feature.

    There heads of deep supervision read what passes by, and copies may run as one grouped kernel.
    """
    plan: Any = vars(model).get("plan")
    if plan.num_shared_stages == len(plan.stages):
        return True
    return not (features.is_cuda or getattr(model, "deeply_supervised", False))


def check_has_feature(model: MultiTaskNetwork, name: str) -> None:
    """Refuses a network of which it is known that its tasks do not all read one feature.

    Args:
        model: The network.
        name: What messages call the method.

    Raises:
        ConfigError: Says so.
    """
    if not getattr(model, "has_shared_feature", hasattr(model, "from_features")):
        raise no_feature(name)
    if getattr(model, "may_share_nothing", False):
        raise ConfigError(
            f"balancing.{name} works at the shared feature, but this network may part its first stage while "
            "it is trained, and then no feature is left that all tasks read; leave out the last of its "
            f"`after_epochs`, or {on_parameters(name)}."
        )
    if getattr(model, "deeply_supervised", False):
        raise ConfigError(
            f"balancing.{name} works at the shared feature, but heads of deep supervision read the trunk "
            f"before it; {on_parameters(name)}, or leave `deep_supervision` out."
        )


def no_feature(name: str) -> ConfigError:
    """The error for a network without a shared feature."""
    return ConfigError(
        f"balancing.{name} works at the shared feature, but this network has no feature that all tasks read; "
        f"{on_parameters(name)}, or an architecture with one trunk for all tasks, as `hard_sharing`."
    )


def on_parameters(name: str) -> str:
    """What a study file says for the same method on parameters, for messages.

    Example:
        >>> on_parameters("mgda_ub"), on_parameters("pcgrad")
        ('use `mgda`', 'use `at: parameters`')
    """
    return "use `mgda`" if name == "mgda_ub" else "use `at: parameters`"
