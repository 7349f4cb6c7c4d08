"""One update from the gradients of all tasks: the balancer that every aggregation method runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.balancing.base import Balancer, check_gradients, check_known, check_number
from taskloom.balancing.conflicts import Conflicts
from taskloom.balancing.features import SharedFeature, check_has_feature
from taskloom.balancing.gradients import (
    Rows,
    Seam,
    add_gradient,
    combine,
    find_seam,
    gramian,
    leaves,
    parts,
    takes_one_pass,
)
from taskloom.balancing.solvers import SolverError
from taskloom.balancing.weightings import Smoothed, Weighting
from taskloom.errors import ConfigError, TrainingError
from taskloom.tasks import TaskSet

if TYPE_CHECKING:
    from taskloom.losses import SumCount
    from taskloom.sharing.network import MultiTaskNetwork

Place = Literal["parameters", "features"]


class MatrixMethod(ABC):
    """An aggregation that looks at every number of the gradients, not at their inner products alone."""

    def start(self, num_tasks: int, seed: int) -> None:
        """Forgets everything; `seed` decides what is drawn."""
        del num_tasks, seed

    def least_tasks(self, num_tasks: int) -> int:
        """How many of `num_tasks` tasks must be there in every step; 0 unless overridden."""
        del num_tasks
        return 0

    @abstractmethod
    def aggregate(self, matrix: Tensor, index: Sequence[int]) -> Tensor:
        """The update [n] from the gradients [m, n] of the tasks at `index`.

        Raises:
            SolverError: There is none; says why.
        """

    def state_dict(self) -> dict[str, Any]:
        """What is remembered from step to step: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave, after `start`."""
        del state


class GradientAggregation(Balancer):
    """Gradients per task on what is shared, aggregated by a method; every head follows its own task.

    A parameter is aggregated where more than one task's loss reaches it; what belongs to one task gets its
    own gradient as it is. A task without a label in the batch costs no backward pass and has no row. The
    penalty of ties is added as it is, outside the aggregation. Over several processes the rows are averaged
    before they are aggregated, so that the update is that of the joined batch.

    Rows are taken one by one, except where one vectorised pass is faster. By measurement on a CPU that is
    where the trunk is a small multilayer perceptron: four tasks or more, all rows together at most 131,072
    numbers (`taskloom.balancing.gradients.takes_one_pass`). Up to three tasks gain nothing, larger rows wait
    for the memory that the vectorised pass takes anew in every step, and convolutions are slower. `batched`
    decides by hand: True takes rows in one pass, with up to twice the memory, for devices where launching
    many small kernels is what costs; PyTorch refuses it for some operations (RNNs on CUDA).

    Args:
        name: What messages call the method.
        method: Weights from the Gramian, or an aggregation of the matrix.
        at: "parameters", or "features": the Gramian is taken at the feature that all tasks read, and one
            backward pass goes through the trunk (see `taskloom.balancing.features`).
        smooth: Share of the weights of the step before (CR-MOGM), 0 to below 1; 0 is off.
        settings: The method's own settings, for `settings()`.

    Raises:
        ConfigError: A setting out of range; `at="features"` or `smooth` for a method that is no weighting.
    """

    takes_gradients: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        method: Weighting | MatrixMethod,
        *,
        at: Place = "parameters",
        smooth: float = 0.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.at, self._settings = name, at, dict(settings or {})
        self.batched: bool | None = None
        self.smooth = check_number(f"balancing.{name}.smooth", smooth, least=0, most=0.999999)
        if at not in ("parameters", "features"):
            raise ConfigError(f"balancing.{name}.at: parameters or features expected, found {at!r}.")
        if isinstance(method, MatrixMethod) and (at == "features" or smooth):
            what = "at: features" if at == "features" else "smooth"
            raise ConfigError(
                f"balancing.{name}: `{what}` needs a method that gives weights, which {name} does not."
            )
        if isinstance(method, Weighting) and self.smooth:
            method = Smoothed(method, self.smooth)
        self._method = method
        self._step = 0
        self._names: tuple[str, ...] = ()
        self._rows, self._feature = Rows(), SharedFeature()
        self._conflicts = Conflicts(())
        self._seam: Seam | None = None
        self._seam_key: object = None
        self._parameters: tuple[object, list[nn.Parameter]] = (None, [])

    def check_tasks(self, tasks: TaskSet) -> None:
        least = self._method.least_tasks(len(tasks))
        if least > len(tasks):
            raise ConfigError(
                f"balancing.{self.name}: at least {least} tasks expected with these settings, found "
                f"{len(tasks)} ({', '.join(tasks)}); choose another method, or other settings of this one."
            )

    def least_tasks(self, num_tasks: int) -> int:
        return self._method.least_tasks(num_tasks)

    def start(self, model: MultiTaskNetwork, *, seed: int = 0) -> None:
        super().start(model, seed=seed)
        if self.at == "features":
            check_has_feature(model)
        self._names, self._step = self.names_of(model.tasks), 0
        self._conflicts = Conflicts(self._names)
        self._method.start(len(self._names), seed)
        self._rows.clear()
        self._parameters = (None, [])

    def watching(self, model: MultiTaskNetwork) -> AbstractContextManager[None]:
        return self._feature.watching(model, required=self.at == "features")

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self._settings}

    # -- one step

    def accumulate(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self.at == "features":
            raise ConfigError(
                f"balancing.{self.name}: a batch in parts has no one shared feature; use `at: parameters`."
            )
        if beside is not None:
            self._add_beside(beside, model)
        self._collect(losses, model)

    def backward(
        self, losses: Mapping[str, SumCount], model: MultiTaskNetwork, beside: Tensor | None = None
    ) -> None:
        if self._names != self.names_of(model.tasks):
            self.start(model)
        self._step += 1
        try:
            # First: the last backward pass of the tasks lets go of the graph.
            at_leaf = None if beside is None else self._add_beside(beside, model)
            means, feature_columns = self._collect(losses, model)
            penalty = model.penalty()
            self.total = (means + penalty).detach()
            if beside is not None:
                self.total = self.total + beside.detach()
            if self._rows.matrix.numel():
                self._apply(self._update(self._rows.matrix, feature_columns), model, at_leaf)
            elif at_leaf is not None:
                self._through_trunk(at_leaf, model)
            if penalty.requires_grad:
                self.scale(penalty).backward()  # type: ignore[no-untyped-call]
        finally:
            self._rows.clear()
            self._feature.clear()

    def _add_beside(self, beside: Tensor, model: MultiTaskNetwork) -> Tensor | None:
        """Adds the gradient of what is not aggregated; returns that at the shared feature, if any."""
        reached, leaf = leaves(beside), self._feature.leaf
        parameters = [p for p in model.parameters() if p.requires_grad and id(p) in reached]
        heard = [] if leaf is None or id(leaf) not in reached else [leaf]
        if not parameters and not heard:
            return None
        found = torch.autograd.grad(self.scale(beside), [*heard, *parameters], retain_graph=True)
        gradients = found[len(heard) :]
        if self.processes.count > 1 and parameters:
            flat = self.processes.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            gradients = tuple(parts(flat, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            add_gradient(parameter, gradient)
        return found[0].reshape(-1) if heard else None

    def _apply(self, update: Tensor, model: MultiTaskNetwork, at_leaf: Tensor | None = None) -> None:
        """Puts the aggregated gradient [n] where it belongs, and with it what was added at the feature."""
        assert self._seam is not None
        columns = self._feature_columns()
        shared = [] if self._feature.taps and columns else self._seam.shared
        for parameter, gradient in zip(shared, parts(update[columns:], shared), strict=True):
            add_gradient(parameter, gradient)
        if columns:
            gradient = update[:columns]
            self._through_trunk(gradient if at_leaf is None else gradient + at_leaf, model)

    def _collect(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> tuple[Tensor, int]:
        """Writes a row per task present and the tasks' own gradients.

        Returns:
            The sum of the mean losses, and how many columns of the rows are the feature's.
        """
        if self._names != self.names_of(model.tasks):
            self.start(model)
        check_known(losses, self._names)
        check_gradients(losses, model)
        counts = torch.stack([loss.count for loss in losses.values()])
        sums = torch.stack([loss.sum.detach() for loss in losses.values()])
        shares = counts.clamp(min=1).reciprocal().to(sums.dtype)
        # The gradient of a mean is that of the sum times 1 / count: no node of the graph is needed for it.
        factors = dict(zip(losses, self.scale(shares).unbind(), strict=True))
        trainable = {
            task: loss.sum
            for (task, loss), count in zip(losses.items(), counts.tolist(), strict=True)
            if count > 0 and loss.sum.requires_grad
        }
        seam = self._seam_of(losses, model)
        leaf = self._feature.leaf
        if self.at == "features" and not self._feature.watched and seam.shared:
            raise ConfigError(
                f"balancing.{self.name}: the forward pass must run inside `with balancer.watching(model):`, "
                "where the shared feature is taken hold of."
            )
        if self._feature.has_taps(losses):
            self._collect_at_taps(trainable, factors, seam)
            return sums @ shares, self._feature_columns()
        shared: list[Tensor] = [*seam.shared] if leaf is None else [leaf, *seam.shared]
        self._rows.begin(len(self._names), shared)
        if self.batched and len(trainable) > 1 and leaf is None and not self._rows.tasks:
            self._take_batched(trainable, factors, seam)
            return sums @ shares, 0
        last = next(reversed(trainable), None)
        for task, loss in trainable.items():
            if inputs := [*shared, *seam.own[task]]:
                found = torch.autograd.grad(
                    loss, inputs, factors[task], retain_graph=task != last, allow_unused=True
                )
                self._take(task, found, shared, seam)
        return sums @ shares, 0 if leaf is None else leaf.numel()

    def _feature_columns(self) -> int:
        """How many columns of a row are the feature's; 0 where the rows are those of parameters."""
        trunk = self._feature.trunk
        return trunk.numel() if self.at == "features" and trunk is not None else 0

    def _collect_at_taps(
        self, losses: Mapping[str, Tensor], factors: Mapping[str, Tensor], seam: Seam
    ) -> None:
        """One backward pass to the feature for all tasks; then, for rows of parameters, through the trunk."""
        trunk, tasks = self._feature.trunk, list(losses)
        assert trunk is not None
        columns: list[Tensor] = [trunk] if self.at == "features" else [*seam.shared]
        self._rows.begin(len(self._names), columns)
        if not tasks:
            return
        own = [parameter for task in tasks for parameter in seam.own[task]]
        total = torch.stack([losses[task] for task in tasks]) @ torch.stack([factors[task] for task in tasks])
        taps = [self._feature.taps[task] for task in tasks]
        found = iter(torch.autograd.grad(total, [*taps, *own], allow_unused=True))
        at_taps = [torch.zeros_like(trunk) if (gradient := next(found)) is None else gradient for _ in tasks]
        for task in tasks:
            self._take(task, [next(found) for _ in seam.own[task]], [], seam)
        rows_alone = replace(seam, own={task: [] for task in tasks})
        if self.at == "features":
            for task, gradient in zip(tasks, at_taps, strict=True):
                self._take(task, [gradient], columns, rows_alone)
        elif self._rows.tasks or self.processes.count > 1 or not self._in_one_pass(len(tasks), seam):
            for number, (task, gradient) in enumerate(zip(tasks, at_taps, strict=True), start=1):
                row = torch.autograd.grad(
                    trunk, columns, gradient, retain_graph=number < len(tasks), allow_unused=True
                )
                self._take(task, row, columns, rows_alone)
        else:
            stack = torch.stack(at_taps)
            self._rows.put_all(tasks, self._vectorised(trunk, columns, stack), columns)

    def _in_one_pass(self, num_tasks: int, seam: Seam) -> bool:
        """Whether rows are taken in one vectorised pass through the trunk."""
        if self.batched is not None:
            return self.batched and num_tasks > 1
        return seam.linear and takes_one_pass(num_tasks, sum(p.numel() for p in seam.shared))

    def _vectorised(
        self, outputs: Tensor, inputs: Sequence[Tensor], gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Per input the gradients [m, *shape] of `outputs`, for the m `gradients` given, in one pass.

        Raises:
            ConfigError: PyTorch cannot do it for this network.
        """
        try:
            return torch.autograd.grad(outputs, inputs, gradients, is_grads_batched=True, allow_unused=True)
        except RuntimeError as error:
            raise ConfigError(
                f"balancing.{self.name}: PyTorch cannot take this network's gradients in one vectorised "
                f"pass ({str(error).splitlines()[0].rstrip('.')}); leave `batched` off."
            ) from error

    def _take_batched(self, losses: Mapping[str, Tensor], factors: Mapping[str, Tensor], seam: Seam) -> None:
        """All rows from one vectorised backward pass, and one more for what belongs to single tasks."""
        stack, scales = torch.stack(list(losses.values())), torch.stack([factors[task] for task in losses])
        own = {task: seam.own[task] for task in losses}
        flat = [parameter for parameters in own.values() for parameter in parameters]
        found = iter(torch.autograd.grad(stack, flat, scales, retain_graph=True) if flat else ())
        for task, parameters in own.items():
            self._take(task, [next(found) for _ in parameters], [], seam)
        if seam.shared:
            blocks = self._vectorised(stack, seam.shared, scales.diag())
            for number, task in enumerate(losses):
                row = [None if block is None else block[number] for block in blocks]
                self._take(task, row, seam.shared, replace(seam, own={task: []}))

    def _take(self, task: str, found: Sequence[Tensor | None], shared: Sequence[Tensor], seam: Seam) -> None:
        """Files what autograd gave for one task."""
        if shared:
            self._rows.put(task, found[: len(shared)], shared)
            if self.processes.count > 1:
                # A process has its own rows of the feature, and they are nobody else's.
                columns = self._feature_columns()
                row = self._rows.matrix[self._rows.tasks.index(task), columns:]
                row.copy_(self.processes.mean(row))
        own = [(p, g) for p, g in zip(seam.own[task], found[len(shared) :], strict=True) if g is not None]
        if self.processes.count > 1 and own:
            flat = self.processes.mean(torch.cat([gradient.reshape(-1) for _, gradient in own]))
            views = parts(flat, [parameter for parameter, _ in own])
            own = [(parameter, view) for (parameter, _), view in zip(own, views, strict=True)]
        for parameter, gradient in own:
            add_gradient(parameter, gradient)

    def _update(self, matrix: Tensor, feature_columns: int) -> Tensor:
        """The aggregated gradient [n] of what is shared."""
        products = self._products(matrix[:, :feature_columns] if feature_columns else matrix)
        tasks = self._rows.tasks
        index = [self._names.index(task) for task in tasks]
        if not np.isfinite(products).all():
            return self._not_finite(matrix, products)
        self._conflicts.add(products, index)
        if not np.trace(products) > 0:
            return torch.zeros_like(matrix[0])
        try:
            if isinstance(self._method, MatrixMethod):
                return self._method.aggregate(matrix, index)
            weights = self._method.weights(products, index)
            if not np.isfinite(weights).all():
                raise SolverError(f"its weights are {weights.tolist()}")
        except SolverError as error:
            raise TrainingError(
                f"balancing {self.name}: {error}, at step {self._step:,} for the tasks {', '.join(tasks)}."
            ) from error
        self._conflicts.add_weights(weights, index)
        return combine(weights, matrix)

    def _products(self, matrix: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The Gramian over all processes, without the factor of 16-bit precision."""
        products = gramian(matrix)
        if self.processes.count > 1 and self._feature_columns():
            # Each process has its rows of the batch, scaled by the number of processes: the sum of the
            # squares is that of the joined batch times that number squared.
            local = torch.from_numpy(products).to(matrix.device)
            products = self.processes.mean(local).cpu().numpy() / self.processes.count
        factor = float(self.scale(torch.ones((), device=matrix.device)))
        return products / factor**2

    def _not_finite(self, matrix: Tensor, products: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        """Passes an overflow of 16-bit gradients on to the scaler, which skips the step; else an error."""
        if float(self.scale(torch.ones((), device=matrix.device))) != 1.0:
            return torch.full_like(matrix[0], torch.nan)
        worst = int(np.argmin(np.isfinite(np.diag(products))))
        raise TrainingError(
            f"balancing {self.name}: the gradient of task {self._rows.tasks[worst]} is not finite at step "
            f"{self._step:,}; a smaller learning rate may help."
        )

    def _through_trunk(self, gradient: Tensor, model: MultiTaskNetwork) -> None:
        """One backward pass from the feature to the trunk's parameters."""
        trunk = self._feature.trunk
        assert trunk is not None
        gradient = gradient.view(trunk.shape).to(trunk.dtype)
        if self.processes.count == 1:
            trunk.backward(gradient)  # type: ignore[no-untyped-call]
            return
        reached = leaves(trunk)
        parameters = [parameter for parameter in model.parameters() if id(parameter) in reached]
        for parameter, found in zip(
            parameters, torch.autograd.grad(trunk, parameters, gradient), strict=True
        ):
            add_gradient(parameter, self.processes.mean(found))

    def _seam_of(self, losses: Mapping[str, SumCount], model: MultiTaskNetwork) -> Seam:
        """The seam; found anew when a parameter was frozen or other tasks have losses."""
        if self._parameters[0] is not model:
            # Kept: walking through the modules costs a small network as much as a layer.
            self._parameters, self._seam = (model, list(model.parameters())), None
        frozen = tuple(parameter.requires_grad for parameter in self._parameters[1])
        key = (tuple(losses), frozen, self._feature.leaf is None)
        if self._seam is None or key != self._seam_key:
            self._seam, self._seam_key = find_seam(losses, model), key
        return self._seam

    # -- what is kept and shown

    def report_state(self) -> dict[str, float]:
        return self._conflicts.report()

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": list(self._names), "step": self._step, "method": self._method.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        names = tuple(state["tasks"])
        if self._names and names and names != self._names:
            raise ConfigError(
                f"balancing.{self.name}: the saved state is about {', '.join(names)}, the run about "
                f"{', '.join(self._names)}; train with resume=False."
            )
        if not self._names:
            self._names, self._conflicts = names, Conflicts(names)
            self._method.start(len(names), 0)
        self._step = state["step"]
        self._method.load_state_dict(state["method"])

    def __getstate__(self) -> dict[str, Any]:
        """Copies and processes find the seam anew: parameters are known by identity."""
        return {**vars(self), "_seam": None, "_seam_key": None, "_parameters": (None, [])}
