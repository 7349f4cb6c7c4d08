"""Class activation maps: where in an input a task looks, on any stage of any network (Grad-CAM).

Selvaraju et al. 2017, equations 1 and 2: the gradient of a score y with respect to the maps A_k of a stage,
averaged over all Z places, gives a weight per channel, a_k = 1/Z sum_p dy/dA_kp; the map is
ReLU(sum_k a_k A_k). Where global average pooling and a linear layer with weights w_k follow the stage, a_k is
w_k / Z, and Grad-CAM is the class activation map of Zhou et al. 2016, sum_k w_k A_k, divided by Z.

A stage of a multi-task network may have several copies (columns of a cross-stitch network, experts), and one
copy may run on the streams of several tasks. All maps that reach the task's score count as channels of one
stage; those that do not have gradient 0 and fall out. By the chain rule that is also the map of what the task
hears behind a cross-stitch unit right after the stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.explain.targets import Target, target_score
from taskloom.sharing import MultiTaskNetwork
from taskloom.sharing.reversal import without_reversal
from taskloom.training.evaluation import in_evaluation_mode


@dataclass(frozen=True)
class ActivationMaps:
    """Where a task looked.

    Args:
        task: The task.
        stage: Name of the stage.
        maps: What speaks for the target at every place of the stage, [N, H, W] or [N, L]; at least 0 unless
            asked for with signs. In the target's unit per unit of activation: compare maps of one row by
            their shape, not by their height.
        scores: The score that was explained, [N].
        targets: What it is a score for, per row: "female", "age".
    """

    task: str
    stage: str
    maps: Tensor
    scores: Tensor
    targets: tuple[str, ...]

    def resized(self, size: Sequence[int]) -> Tensor:
        """The maps at the inputs' resolution, by linear interpolation, each divided by its largest value.

        Args:
            size: (H, W) or (L,).

        Returns:
            [N, *size] within 0..1; all 0 where nothing speaks for the target.
        """
        if len(size) != self.maps.ndim - 1:
            raise ValueError(f"a size of {self.maps.ndim - 1} axes expected, found {tuple(size)}")
        mode = "linear" if self.maps.ndim == 2 else "bilinear"
        maps = nn.functional.interpolate(
            self.maps.clamp(min=0).unsqueeze(1), size=tuple(size), mode=mode, align_corners=False
        ).squeeze(1)
        largest = maps.flatten(1).amax(dim=1).reshape(-1, *(1,) * (maps.ndim - 1))
        return torch.where(largest > 0, maps / largest.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


def activation_maps(
    model: MultiTaskNetwork,
    inputs: Tensor,
    task: str,
    stage: int | str | None = -1,
    target: Target = None,
    *,
    copies: Literal["heard", "own"] = "heard",
    signed: bool = False,
) -> ActivationMaps:
    """Where a task looks for a target, by Grad-CAM; see the module for the formula.

    The network runs in evaluation mode and is left as it was: modes, gradients, hooks, statistics.

    Args:
        model: The network.
        inputs: Preprocessed inputs, [N, *input_shape].
        task: The task.
        stage: Position of the encoder's stage (-1 the last one) or its name; None takes the last one that
            gives maps. Where several stages are after one another, the later one says more about the
            decision, the earlier one more about the place.
        target: What the score is for. Of a binary task 0 or 1 or a class's name, of a multiclass task a class
            (None: the one that is predicted); of a multilabel task a label (needed); of a regression with
            several values or landmarks the position of the output (needed; landmarks also "nose_x"). Numbers
            and ordinal tasks need none: the map shows what raises the prediction.
        copies: "heard": everything that the task hears at the stage; "own": only the copies that the task
            runs through itself, a single column of a cross-stitch network.
        signed: Whether negative values, what speaks against the target, are kept (no ReLU).

    Raises:
        ConfigError: No such task, stage or target, or a stage that gives one vector per row.
        DataError: Inputs without a row.

    Example:
        >>> from torch import nn
        >>> stages = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4)]
        >>> encoder = tl.encoders.from_modules(stages, (3, 8, 8))
        >>> tasks = tl.TaskSet(tl.Binary("gender"), tl.Regression("age"))
        >>> model = tl.sharing.build("hard_sharing", encoder, tasks, stages=3)
        >>> found = activation_maps(model, torch.rand(2, 3, 8, 8), "age", stage=1)
        >>> found.maps.shape, found.targets
        (torch.Size([2, 8, 8]), ('age', 'age'))
        >>> found.resized((16, 16)).shape
        torch.Size([2, 16, 16])
    """
    if len(inputs) == 0:
        raise DataError("activation_maps: inputs without a row; at least one expected.")
    if task not in model.tasks:
        raise ConfigError(
            f"activation_maps: `{task}` is not a task.{did_you_mean(task, model.tasks)} "
            f"Tasks: {', '.join(model.tasks)}."
        )
    names, kept = _stages(model)
    index = None if stage is None else _index(stage, names)
    observed = range(len(names)) if index is None else [index]
    with _differentiable(model), without_reversal(model), in_evaluation_mode(model):
        # Gradients arrive at every stage, also where all weights below it are fixed.
        given = inputs.detach().clone().requires_grad_(inputs.is_floating_point())
        with _watched({number: kept[number] for number in observed}) as seen:
            output = model(given)[task]
        scores, targets = target_score(model.tasks[task], output, target)
        if index is None:
            index = _last_with_maps(seen, names)
        activations = [
            tensor for module, tensor in seen[index] if copies == "heard" or _own(model, task, module)
        ]
        _check_maps(model, names, index, activations)
        gradients = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
    maps = _weighted(activations, gradients, len(inputs))
    return ActivationMaps(
        task, names[index], (maps if signed else maps.clamp(min=0)).detach(), scores.detach(), targets
    )


def stages_with_maps(model: MultiTaskNetwork, inputs: Tensor) -> list[str]:
    """Names of the stages whose output has places, so that there is a map of them.

    Args:
        model: The network.
        inputs: [N, *input_shape]; the first row is run.

    Example:
        >>> encoder = tl.encoders.vgg5((3, 32, 32))
        >>> model = tl.sharing.build("single_task", encoder, tl.TaskSet(tl.Binary("gender")))
        >>> len(stages_with_maps(model, torch.zeros(1, 3, 32, 32))) > 0
        True
    """
    names, kept = _stages(model)
    with torch.no_grad(), in_evaluation_mode(model), _watched(dict(enumerate(kept))) as seen:
        model(inputs[:1])
    return [name for number, name in enumerate(names) if seen[number] and _has_places(seen[number])]


Seen = dict[int, list[tuple[nn.Module, Tensor]]]


def _stages(model: nn.Module) -> tuple[Sequence[str], list[list[nn.Module]]]:
    """Names of the stages, and the copies of each."""
    for module in model.modules():  # a network whose auxiliary tasks were dropped is wrapped
        stages, names = getattr(module, "stages", None), getattr(module, "stage_names", None)
        if isinstance(stages, nn.ModuleDict) and names is not None and len(stages) == len(names):
            return names, [list(copies.children()) for copies in stages.values()]
    raise ConfigError(
        f"activation_maps: {type(model).__name__} has no `stages` and `stage_names`; a network of "
        "`taskloom.sharing` expected."
    )


def _index(stage: int | str, names: Sequence[str]) -> int:
    if isinstance(stage, str):
        if stage not in names:
            raise ConfigError(
                f"activation_maps: `{stage}` is not a stage.{did_you_mean(stage, names)} "
                f"Stages: {', '.join(names)}."
            )
        return list(names).index(stage)
    if not -len(names) <= stage < len(names):
        raise ConfigError(
            f"activation_maps: stage {stage}: the network has {len(names)} stages, 0 to {len(names) - 1} "
            f"({', '.join(names)})."
        )
    return stage % len(names)


@contextlib.contextmanager
def _watched(wanted: dict[int, list[nn.Module]]) -> Iterator[Seen]:
    """Collects what the modules give, run by run; the hooks go when the block ends, however it ends."""
    seen: Seen = {number: [] for number in wanted}
    handles = []

    def watch(number: int, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            seen[number].append((module, output))
            return output.clone()  # what follows may work in place

        return module.register_forward_hook(hook)

    try:
        handles = [watch(number, module) for number, modules in wanted.items() for module in modules]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Gradients flow, whatever the caller has set; cuDNN has none of recurrent layers in evaluation mode."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    own = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), own:
        yield


def _has_places(outputs: Sequence[tuple[nn.Module, Tensor]]) -> bool:
    return all(tensor.ndim in (3, 4) and tensor[0, 0].numel() > 1 for _, tensor in outputs)


def _last_with_maps(seen: Seen, names: Sequence[str]) -> int:
    found = [number for number, outputs in seen.items() if outputs and _has_places(outputs)]
    if not found:
        raise ConfigError(
            f"activation_maps: no stage ({', '.join(names)}) gives maps, each gives one vector per row; an "
            "encoder with convolutions expected."
        )
    return max(found)


def _own(model: MultiTaskNetwork, task: str, module: nn.Module) -> bool:
    """Whether the task runs through this copy itself."""
    task_copies = getattr(model, "task_copies", None)
    if task_copies is None:
        raise ConfigError(
            f"activation_maps: copies `own`: {type(model).__name__} does not say which copies a task runs "
            "through; use `heard`."
        )
    return any(module is copy for copy in task_copies(task))


def _check_maps(model: nn.Module, names: Sequence[str], index: int, activations: Sequence[Tensor]) -> None:
    if not activations:
        raise ConfigError(
            f"activation_maps: stage `{names[index]}` does not run here: the task is read out below it, or "
            "a policy skips it."
        )
    shape = list(activations[0].shape[1:])
    if not _has_places([(model, activations[0])]):
        raise ConfigError(
            f"activation_maps: stage `{names[index]}` gives {shape} per row, which has no places to show; "
            f"maps [channels, height, width] or [channels, length] expected: name another stage of "
            f"{', '.join(names)}, or None for the last one with maps."
        )


def _weighted(activations: Sequence[Tensor], gradients: Sequence[Tensor | None], rows: int) -> Tensor:
    """sum_k a_k A_k over the channels of all copies and streams, [N, ...]."""
    total: Tensor | None = None
    for tensor, gradient in zip(activations, gradients, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(tensor)
        weights = gradient.flatten(2).mean(dim=2).reshape(*tensor.shape[:2], *(1,) * (tensor.ndim - 2))
        # A joined batch holds the streams one after the other.
        found = (weights * tensor).sum(dim=1)
        found = found.reshape(-1, rows, *found.shape[1:]).sum(dim=0)
        total = found if total is None else total + found
    assert total is not None
    return total
