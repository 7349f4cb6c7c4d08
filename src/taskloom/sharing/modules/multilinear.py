"""Multilinear relationship networks: a tensor-normal prior over the fully connected layers of all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.keys import module_keys
from taskloom.sharing.mixing import among_all
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    after_loading,
    check_count,
    check_inputs_stay,
    check_number,
)
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.modules.tensor_normal import Covariances, TensorNormal
from taskloom.sharing.network import Features
from taskloom.sharing.plan import Copies
from taskloom.tasks import TaskSet


class RelationNetwork(ModuleNetwork):
    """A trunk for all tasks and towers of their own, whose fully connected layers have a tensor-normal prior.

    Related are, layer by layer, the `nn.Linear` modules of the towers and of the heads wherever they have one
    shape in all tasks (an output layer does where all tasks are equally wide). The covariances are updated
    in training mode, in every `update_every`-th forward pass; `update_covariances` does it by hand.

    An adversarial task stands outside the prior: behind its reversal its layers learn to predict what the
    trunk is to forget, and nothing may draw the others' towers towards that.

    `penalty()` is weight / 2 times the sum over related layers of `TensorNormal.quadratic`: the paper's
    objective without the log-determinants, which no weight depends on (`negative_log_density` has them).
    For losses that are means over N rows, weight 1/N is the maximum a posteriori.

    State dict: `stages.<stage>.shared`, `stages.<stage>.<task>`, `heads.<task>`,
    `priors.<layer>.<covariance>`, `passes`. The trunk is shared, towers and heads belong to their task.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        task_stages: Number of last stages that every task has a copy of.
        weight: Factor on the penalty.
        update_every: Forward passes from one update of the covariances to the next; those of the parts of one
            batch count once.
        shrinkage, covariances: See `TensorNormal`.
        head, copies: See `PlanNetwork`.

    Raises:
        ConfigError: Several tasks without a single fully connected layer of one shape; an adversarial task
            without a trunk.
    """

    passes: Tensor
    stays = ("passes",)

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        task_stages: int = 1,
        weight: float = 1e-4,
        update_every: int = 100,
        shrinkage: float = 0.1,
        covariances: Covariances = "all",
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        self.weight, self.update_every = weight, update_every
        total = len(encoder.stages)
        self._trunk, self._towers = range(total - task_stages), range(total - task_stages, total)
        if not self._trunk and len(tasks) > 1:
            check_inputs_stay(encoder, [0], "other tasks read")
        self.add_trunk(encoder, self._trunk)
        self.add_towers(encoder, self._towers)
        self.add_heads(encoder, head)
        self._related = [number for number, task in enumerate(tasks) if task not in self.reversals]
        self._layers = self._related_layers(self._related) if len(self._related) > 1 else {}
        if len(self._related) > 1 and not self._layers:
            raise ConfigError(
                "multilinear_relationship: no fully connected layer has one shape in all tasks, so there is "
                "nothing to relate; give the heads a hidden layer (head.hidden), or raise task_stages."
            )
        self.priors = nn.ModuleDict()
        for key, label in self._prior_keys().items():
            self.priors[key] = TensorNormal(
                self.weights_of(label).shape, shrinkage=shrinkage, covariances=covariances
            )
        self.register_buffer("passes", torch.tensor(0))
        self._num_passes = 0
        self._step: int | None = None
        self._counted: int | None = None
        after_loading(self, _take_state)

    def features(self, inputs: Tensor) -> Features:
        """The trunk's output, [N, ...]; without a trunk {task: [N, ...]}, the towers' outputs.

        Args:
            inputs: [N, *encoder.input_shape].
        """
        if self.training:
            self._count_pass()
        if self._trunk:
            return self.run_trunk(self._trunk, inputs)
        return self._tower_features(inputs)

    def from_features(self, features: Features) -> dict[str, Tensor]:
        return super().from_features(
            self._tower_features(features) if isinstance(features, Tensor) else features
        )

    @property
    def has_shared_feature(self) -> bool:
        return bool(self._trunk)

    def _tower_features(self, inputs: Tensor) -> dict[str, Tensor]:
        return self.by_task(self.run_each(self._towers, [inputs] * len(self.tasks)))

    def entrance(self, task: str) -> nn.Module:
        if not self._trunk:
            raise ConfigError(
                f"tasks.{task}.role: adversarial: with task_stages {len(self._towers)} the task shares no "
                "stage with another one, and the prior leaves it out, so nothing can forget it; lower "
                "multilinear_relationship.task_stages, or make it `role: auxiliary`."
            )
        if not self._towers:
            return super().entrance(task)
        return self.copies_of(self._towers[0])[self.tasks.index(task)]

    def task_modules(self, task: str) -> list[nn.Module]:
        position = self.tasks.index(task)
        return [*(self.copies_of(index)[position] for index in self._towers), self.head_of(task)]

    def heard_modules(self, task: str) -> list[nn.Module]:
        del task  # the prior relates towers through the penalty alone
        return []

    # -- the prior

    @property
    def related_layers(self) -> tuple[str, ...]:
        """Names of the layers that have a prior: a stage or "head", numbered where it has several."""
        return tuple(self._layers)

    def weights_of(self, layer: str) -> Tensor:
        """The stacked weights of a related layer, [T, outputs, inputs]; adversarial tasks are left out."""
        return torch.stack([self.get_submodule(path).get_parameter("weight") for path in self._layers[layer]])

    def prior_of(self, layer: str) -> TensorNormal:
        """The prior of a related layer."""
        key = next(key for key, label in self._prior_keys().items() if label == layer)
        prior = self.priors[key]
        assert isinstance(prior, TensorNormal)
        return prior

    def penalty(self) -> Tensor:
        """weight / 2 times the sum of the quadratic forms; see the class. 0 for a single task."""
        total = super().penalty()
        if self.weight == 0.0:
            return total
        for layer in self._layers:
            total = total + self.prior_of(layer).quadratic(self.weights_of(layer))
        return self.weight / 2 * total

    def update_covariances(self) -> None:
        """Fits the covariances of every related layer to its present weights, once."""
        for layer in self._layers:
            self.prior_of(layer).update(self.weights_of(layer))

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Correlations between tasks by related layer, [T, T]; zeros for adversarial tasks."""
        found = {}
        for layer in self._layers:
            covariance = self.prior_of(layer).tasks
            scale = covariance.diagonal().rsqrt()
            found[layer] = among_all(
                covariance * scale[:, None] * scale[None], self._related, len(self.tasks)
            )
        return found

    def describe(self) -> str:
        """A table of stages by tasks, with the layers that have a prior."""
        rows = [*self.trunk_rows(self._trunk), *self.tower_rows(self._towers)]
        for row in rows:
            if any(layer.split(".")[0] == row[0] for layer in self._layers):
                row[-1] = "tensor-normal prior"
        return self.table(rows)

    def set_step(self, step: int | None) -> None:
        super().set_step(step)
        self._step = step
        self._counted = None if step is None else self._counted

    def _count_pass(self) -> None:
        if self._step is not None and self._step == self._counted:
            return  # a further part of the same batch
        self._counted = self._step
        self.passes += 1
        self._num_passes += 1  # beside the buffer, which a GPU would have to be asked for
        if self._num_passes % self.update_every == 0:
            self.update_covariances()

    def _prior_keys(self) -> dict[str, str]:
        """Layers by their keys in `priors`."""
        return dict(zip(module_keys(list(self._layers)), self._layers, strict=True))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        # Called before the submodules are loaded: they then find the priors that they have.
        if 0 < len(self._related) < len(self.tasks):
            self._without_adversaries(state_dict, prefix + "priors.")
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _without_adversaries(self, state: dict[str, Any], prefix: str) -> None:
        """Takes adversarial tasks out of priors that were saved when these still stood in them.

        What is left of a normal prior over all tasks is that of the others: their part of its covariance. A
        layer that had no prior, because it was of another shape for the adversary, has that of the start.
        """
        everybody = self._related_layers(range(len(self.tasks)))
        keys = dict(zip(module_keys(list(everybody)), everybody.values(), strict=True))
        sizes = {key: len(state.get(f"{prefix}{key}.tasks", ())) for key in keys}
        if set(sizes.values()) != {len(self.tasks)}:
            return  # saved without them
        earlier = {
            paths[self._related[0]]: {name: state.pop(f"{prefix}{key}.{name}") for name in TensorNormal.NAMES}
            for key, paths in keys.items()
        }
        for key, label in self._prior_keys().items():
            found = earlier.get(self._layers[label][0])
            for name in TensorNormal.NAMES:
                tensor = self.prior_of(label).get_buffer(name) if found is None else found[name]
                if found is not None and name == "tasks":
                    tensor = tensor[self._related][:, self._related]
                state[f"{prefix}{key}.{name}"] = tensor

    def _related_layers(self, numbers: Sequence[int]) -> dict[str, list[str]]:
        """Per related layer of these tasks its name and the paths of its linear modules, one per task."""
        found: dict[str, list[str]] = {}
        places = [(self.stage_names[index], f"stages.{self._stage_keys[index]}") for index in self._towers]
        for label, place in [*places, ("head", "heads")]:
            keys = list(self.get_submodule(place)._modules)
            copies = [f"{place}.{keys[number]}" for number in numbers]
            paths = [
                [
                    f"{path}.{name}" if name else path
                    for name, module in self.get_submodule(path).named_modules()
                    if isinstance(module, nn.Linear)
                ]
                for path in copies
            ]
            layers = [
                list(layer)
                for layer in zip(*paths, strict=False)
                if len({self.get_submodule(path).get_parameter("weight").shape for path in layer}) == 1
            ]
            for number, layer in enumerate(layers, start=1):
                found[label if len(layers) == 1 else f"{label}.{number}"] = layer
        return found


def _take_state(network: nn.Module, _: object) -> None:
    assert isinstance(network, RelationNetwork)
    network._num_passes = int(network.passes)
    for layer in network.related_layers:
        network.prior_of(layer).invert()


@register_module("multilinear_relationship")
def multilinear_relationship(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    task_stages: int = 1,
    weight: float = 1e-4,
    update_every: int = 100,
    shrinkage: float = 0.1,
    covariances: Covariances = "all",
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> RelationNetwork:
    """Multilinear relationship network (Long et al. 2017): tasks' own layers under a tensor-normal prior.

    Args:
        encoder: The backbone.
        tasks: The tasks; a single one has no prior, and an adversarial one no part in it.
        task_stages: Number of last stages that every task has a copy of; the others are shared.
        weight: Factor on the prior, at least 0; 1 / (number of training rows) is the maximum a posteriori.
        update_every: Forward passes in training from one update of the covariances to the next; those of the
            parts of one batch count once.
        shrinkage: How far covariances are drawn towards a multiple of the identity, from 0.001 (below
            it single precision cannot invert singular ones) to 1.
        covariances: "all" three are fitted, as in the paper, or those of the "tasks" alone.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, no fully connected layer of one shape in all tasks, or an
            adversarial task without a trunk (`task_stages` all).

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = multilinear_relationship(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")))
        >>> network.related_layers
        ('dense_1', 'head')
        >>> network.mixing_matrices()["dense_1"].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    total = len(encoder.stages)
    if check_count("multilinear_relationship.task_stages", task_stages, least=0) > total:
        raise ConfigError(
            f"multilinear_relationship.task_stages: at most {total} (the encoder has {total} stages) "
            f"expected, found {task_stages}."
        )
    if covariances not in get_args(Covariances):
        raise ConfigError(
            f"multilinear_relationship.covariances: all or tasks expected, found {covariances!r}."
        )
    check_number("multilinear_relationship.weight", weight)
    check_number("multilinear_relationship.shrinkage", shrinkage, least=1e-3, most=1.0)
    return RelationNetwork(
        encoder,
        tasks,
        task_stages=task_stages,
        weight=weight,
        update_every=check_count("multilinear_relationship.update_every", update_every),
        shrinkage=shrinkage,
        covariances=covariances,
        head=head,
        copies=copies,
    )
