"""Weights that follow gradient norms or a function of the losses: GradNorm, TorchJD's scalarisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchjd import scalarization

from taskloom.balancing.base import BALANCERS
from taskloom.balancing.checks import check_names, check_number, check_per_task
from taskloom.balancing.gradients import add_gradient, flattened, leaves, parts, planned_reach, reached_by
from taskloom.balancing.numbers import Numbers, Weighed, numbers
from taskloom.balancing.silence import silent_tasks
from taskloom.balancing.weights import LossWeighting, check_state_tasks
from taskloom.errors import ConfigError, TrainingError
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork


@BALANCERS.register("gradnorm")
class GradNorm(LossWeighting):
    """GradNorm (Chen et al. 2018, equations 1 and 2, algorithm 1): equal training rates by gradient norms.

    total = sum of w_i L_i. With G_i = w_i ||dL_i / dW|| on the last shared weights W, G their mean over
    tasks, and r_i = (L_i / L_i(first)) / mean of the same, w goes down the gradient of
    sum |G_i - G r_i^alpha| (the target is a constant), and is then scaled to its sum before. W is the last
    weight matrix or kernel of `shared_parameters()` that every loss reaches (of a tree of tasks, that of the
    last stage before they part; with cross-stitch units the last one's matrix). Where tasks share none but
    hear each other's copies (`proportional_addition`), W are the last such copies, one of each task. The
    backward passes for the norms go through the heads and down to W, no further. Over the tasks present; an
    absent one keeps its w. A task of weight 0 has no norm to compare and may stand apart from the others.
    No weight falls below 0.01: the paper does not say what a negative one should do. Once nothing shared is
    trainable any more (early freeze), there is no W and no rivalry over it: the weights stay as they are, and
    `report_state` says so.

    Args:
        alpha: Strength, 0 or more; the paper uses 0.12 to 1.5.
        lr: Learning rate for w, above 0.
    """

    takes_gradients: ClassVar[bool] = True

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.alpha = check_number("balancing.gradnorm.alpha", alpha, least=0)
        self.lr = check_number("balancing.gradnorm.lr", lr, above=0)
        self._weights: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._rests = False

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        if not _may_reach_all(model):
            raise _no_shared_weights(_compared(model))
        if getattr(model, "may_share_nothing", False):
            raise ConfigError(
                "balancing.gradnorm: this network may part its first stage while it is trained, and then no "
                "weights are left that the losses of all tasks reach; leave out the last of its "
                "`after_epochs`, or choose another balancing."
            )
        self._weights, self._first = dict.fromkeys(self._names, 1.0), {}
        self._rests = False

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        del present
        given = torch.tensor([self._weights[self._names[place]] for place in index], dtype=torch.float64)
        return Weighed(numbers(given.to(means.device) if isinstance(means, Tensor) else given))

    def _weighed(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork
    ) -> tuple[Tensor, Tensor, Weighed]:
        # The weights of this step are those of the steps before; what its norms say comes after.
        found = super()._weighed(losses, model)
        here = {task: loss for task, loss in losses.items() if int(loss.count) > 0}
        means = [loss.mean.detach() for loss in here.values()]
        values = self.joint(numbers(torch.stack(means))).tolist() if means else []
        for task, value in zip(here, values, strict=True):
            if 0 < value < torch.inf:
                self._first.setdefault(task, value)
        known = {task: value for task, value in zip(here, values, strict=True) if task in self._first}
        silent = silent_tasks(model)  # a norm of 0 there would pull the mean down, and with it every weight
        heard = {task: here[task] for task in known if task not in silent}
        trainable = {task: loss for task, loss in heard.items() if loss.sum.requires_grad}
        self._rests = not _kernels(model) and not _heard_kernels(_planned_reach(model), model)
        if len(trainable) > 1 and not self._rests:
            self.follow(self._norms(trainable, model), {task: known[task] for task in trainable})
        return found

    def follow(self, norms: Mapping[str, float], losses: Mapping[str, float]) -> None:
        """One step on the weights, by the paper's rule.

        Args:
            norms: Per task ||dL_i / dW||, without its weight.
            losses: Per task its loss.
        """
        ratios = {task: losses[task] / self._first[task] for task in norms}
        mean_ratio = sum(ratios.values()) / len(ratios)
        weighted = {task: self._weights[task] * norm for task, norm in norms.items()}
        mean_norm = sum(weighted.values()) / len(weighted)
        total = sum(self._weights[task] for task in norms)
        for task, norm in norms.items():
            target = mean_norm * (ratios[task] / max(mean_ratio, 1e-30)) ** self.alpha
            sign = (weighted[task] > target) - (weighted[task] < target)
            self._weights[task] = max(self._weights[task] - self.lr * sign * norm, 0.01)
        scale = total / sum(self._weights[task] for task in norms)
        for task in norms:
            self._weights[task] *= scale

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        self.backpropagate, given = self._through_all(model), self.backpropagate
        try:
            super().backward(losses, model, beside)
        finally:
            self.backpropagate = given

    def _through_all(self, model: MultiTaskNetwork) -> Any:
        """What `backward` calls: scaled, and averaged over processes, which DDP does not do here."""

        def backpropagate(total: Tensor, gradient: Tensor | None = None) -> None:
            if self.processes.count == 1:
                self.scale(total).backward(gradient)  # type: ignore[no-untyped-call]
                return
            reached = leaves(total)
            parameters = [p for p in model.parameters() if id(p) in reached]
            found = torch.autograd.grad(self.scale(total), parameters, gradient)
            flat = self.processes.mean(flattened(found, parameters))
            for parameter, gradient in zip(parameters, parts(flat, parameters), strict=True):
                add_gradient(parameter, gradient)

        return backpropagate

    def _norms(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> dict[str, float]:
        weights = last_shared_weights(losses, model)
        factor = self.scale(torch.ones((), device=weights[0].device))
        gradients = [
            torch.autograd.grad(self.scale(loss.mean), weights, retain_graph=True) for loss in losses.values()
        ]
        rows = torch.stack([torch.cat([part.flatten() for part in found]) for found in gradients])
        rows = self.processes.mean(rows) / factor
        norms = rows.norm(dim=1)
        finite = norms.isfinite()
        if not finite.all() and float(factor) == 1.0:
            worst = list(losses)[finite.tolist().index(False)]
            raise TrainingError(
                f"balancing gradnorm: the gradient of task {worst} at the last shared weights is not finite; "
                "a smaller learning rate may help."
            )
        return dict(zip(losses, torch.nan_to_num(norms, posinf=0.0).tolist(), strict=True))

    def report_state(self) -> dict[str, float]:
        weights = {f"weight/{task}": weight for task, weight in self._weights.items()}
        return {**weights, "shared_frozen": 1.0} if self._rests else weights

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": list(self._names), "weights": dict(self._weights), "first": dict(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._names = check_state_tasks(self, state, self._names)
        self._weights, self._first = dict(state["weights"]), dict(state["first"])


def last_shared_weights(losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> list[Tensor]:
    """What GradNorm calls W: the last matrix or kernel that all losses reach; see `GradNorm`.

    Raises:
        ConfigError: There is none.
    """
    reached = reached_by(losses, model)
    for parameter in reversed(_kernels(model)):
        if all(id(parameter) in inside for inside in reached.values()):
            return [parameter]
    heard = _heard_kernels(reached, model)
    if not heard:
        raise _no_shared_weights(losses)
    return heard


def _kernels(model: MultiTaskNetwork) -> list[Tensor]:
    """The trainable matrices and kernels among the shared parameters."""
    return [p for p in model.shared_parameters() if p.requires_grad and p.ndim >= 2]


def _heard_kernels(reached: Mapping[str, set[int]] | None, model: MultiTaskNetwork) -> list[Tensor]:
    """Per task the last trainable matrix or kernel of its own that all hear; none where there is no plan."""
    if planned_reach(model) is None or not reached:
        return []  # what belongs to a task is heard through mixing units alone, and these stand in a plan
    found: list[Tensor] = []
    for task in model.tasks:
        own = [p for p in model.task_parameters(task) if p.requires_grad and p.ndim >= 2]
        found += [p for p in own if all(id(p) in inside for inside in reached.values())][-1:]
    return found


def _compared(model: MultiTaskNetwork) -> list[str]:
    """The tasks whose norms may be compared: all but those of weight 0, where two or more are left.

    A reversal that stands at 0 does not stay there, so that its task has to share what the others do.
    """
    weighty = [name for name, task in model.tasks.items() if task.weight != 0]
    return weighty if len(weighty) > 1 else list(model.tasks)


def _planned_reach(model: MultiTaskNetwork) -> dict[str, set[int]] | None:
    """`planned_reach` of the tasks whose norms may be compared."""
    reached = planned_reach(model)
    return None if reached is None else {task: reached[task] for task in _compared(model)}


def _may_reach_all(model: MultiTaskNetwork) -> bool:
    """Whether the losses of all tasks may have a kernel in common; of a plan it is known."""
    kernels, reached = _kernels(model), _planned_reach(model)
    if reached is None:
        return bool(kernels)
    shared = any(all(id(kernel) in inside for inside in reached.values()) for kernel in kernels)
    return shared or bool(_heard_kernels(reached, model))


def _no_shared_weights(tasks: Iterable[str]) -> ConfigError:
    return ConfigError(
        "balancing.gradnorm: this network has no weights that the losses of all tasks reach, where it would "
        f"compare them; share one stage among all of {', '.join(tasks)} (they may part after it), or choose "
        "a balancing that looks at losses alone, as dwa, famo or uncertainty."
    )


_LEAST_LOSS = 1e-8
"""A loss counts as at least this where it divides."""


class Scalarization(LossWeighting):
    """A function S of the losses, as TorchJD's: the weights are dS / dL_i at the losses of the joined batch.

    S is taken over the tasks present in the batch. The gradient is that of S; so several processes, which
    each know their part of the losses, follow the joined batch.

    Args:
        name: The name in a study file.
        make: Builds TorchJD's object, or S, for the tasks at given places.
        per_task: Settings that are one number per task: `{setting: {task: number}}`.
        settings: The other settings, for `settings()`.
    """

    def __init__(
        self,
        name: str,
        make: Any,
        per_task: Mapping[str, Mapping[str, float] | None] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self._make, self._plain = name, make, dict(settings or {})
        self._per_task = {
            key: check_per_task(f"balancing.{name}.{key}", value)
            for key, value in (per_task or {}).items()
            if value is not None
        }
        self._sums = torch.zeros(1, dtype=torch.float64)
        self._seen = torch.zeros(1)

    def check_tasks(self, tasks: TaskSet) -> None:
        for key, values in self._per_task.items():
            check_names(f"balancing.{self.name}.{key}", values, self.names_of(tasks))
            for task in self.names_of(tasks):
                least = None if key == "reference" else 0.0
                check_number(f"balancing.{self.name}.{key}.{task}", values.get(task), least=least)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        self._clear()

    def weigh(self, means: Numbers, present: Numbers, index: list[int]) -> Weighed:
        places = [number for number, there in enumerate(present.tolist()) if there]
        filled = torch.zeros(len(index), dtype=torch.float64, device=torch.as_tensor(means).device)
        if not places:
            return Weighed(numbers(filled))
        values = torch.as_tensor(self.joint(means)).double()[places].requires_grad_()
        names = [self._names[index[place]] for place in places]
        per_task = {
            key: values.new_tensor([given[name] for name in names]) for key, given in self._per_task.items()
        }
        with torch.enable_grad():
            try:
                (weights,) = torch.autograd.grad(self._make(**per_task)(values), values)
            except ValueError as error:
                raise TrainingError(f"balancing {self.name}: {error}") from error
        where = [self._names.index(name) for name in names]
        shown = weights.cpu()
        self._sums[where] += torch.where(shown.isfinite(), shown, 0.0)
        self._seen[where] += shown.isfinite()
        filled[places] = weights
        return Weighed(numbers(filled))

    def report_state(self) -> dict[str, float]:
        means = (self._sums / self._seen.clamp(min=1)).tolist()
        found = {
            f"weight/{task}": mean
            for task, mean, seen in zip(self._names, means, self._seen.tolist(), strict=True)
            if seen
        }
        self._clear()
        return found

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self._plain, **self._per_task}

    def _clear(self) -> None:
        self._sums = torch.zeros(len(self._names), dtype=torch.float64)
        self._seen = torch.zeros(len(self._names))


PerTask = Mapping[str, float]


class _Maker:
    """Builds TorchJD's object; a class, because what travels to other processes is pickled."""

    def __init__(self, kind: Callable[..., Callable[[Tensor], Tensor]], **settings: float) -> None:
        self.kind, self.given = kind, settings

    def __call__(self, **per_task: Tensor) -> Any:
        return self.kind(**self.given, **per_task)


@BALANCERS.register("stch")
def stch(mu: float = 0.1, weights: PerTask | None = None, reference: PerTask | None = None) -> Scalarization:
    """Smooth Tchebycheff (Lin et al. 2024): mu log sum exp(weights (L - reference) / mu), a soft maximum."""
    mu = check_number("balancing.stch.mu", mu, above=0)
    per_task = {"weights": weights, "reference": reference}
    return Scalarization("stch", _Maker(scalarization.STCH, mu=mu), per_task, {"mu": mu})


@BALANCERS.register("geometric_mean")
def geometric_mean() -> Scalarization:
    """The geometric mean of the losses (Chennupati et al. 2019); losses of 0 or more."""
    return Scalarization("geometric_mean", _Maker(scalarization.GeometricMean))


class SoftInverses:
    """The sum of the losses by weights softmax(1 / (temperature L)), which have no slope.

    Args:
        temperature: Above 0; weights are equal as it grows.

    Example:
        >>> losses = torch.tensor([1.0, 0.5], requires_grad=True)
        >>> torch.autograd.grad(SoftInverses(1.0)(losses), losses)[0]
        tensor([0.2689, 0.7311])
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, losses: Tensor) -> Tensor:
        inverses = 1 / losses.detach().clamp(min=_LEAST_LOSS)
        return (inverses / self.temperature).softmax(0) @ losses


@BALANCERS.register("uw_so")
def uw_so(temperature: float = 1.0) -> Scalarization:
    """UW-SO (Kirchdorfer et al. 2024): weights softmax(1 / (temperature L)), not learned ones.

    More for small losses, whose labels are the less uncertain ones; losses of 0 or more.
    """
    temperature = check_number("balancing.uw_so.temperature", temperature, above=0)
    maker = _Maker(SoftInverses, temperature=temperature)
    return Scalarization("uw_so", maker, settings={"temperature": temperature})


@BALANCERS.register("pbi")
def pbi(weights: PerTask, theta: float = 5.0, reference: PerTask | None = None) -> Scalarization:
    """Penalty-based boundary intersection (Zhang and Li 2007): along `weights`, theta times beside it."""
    theta = check_number("balancing.pbi.theta", theta, least=0)
    per_task = {"weights": weights, "reference": reference}
    return Scalarization("pbi", _Maker(scalarization.PBI, theta=theta), per_task, {"theta": theta})


@BALANCERS.register("cosmos")
def cosmos(weights: PerTask, lambda_: float = 1.0) -> Scalarization:
    """COSMOS (Ruchte and Grabocka 2021): the weighted sum less lambda times its cosine with the weights."""
    lambda_ = check_number("balancing.cosmos.lambda", lambda_, least=0)
    make = _Maker(scalarization.COSMOS, lambda_=lambda_)
    return Scalarization("cosmos", make, {"weights": weights}, {"lambda": lambda_})
