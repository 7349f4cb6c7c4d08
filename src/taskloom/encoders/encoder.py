"""An encoder is an ordered list of stages; a sharing plan shares, mixes and ties one stage at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from taskloom.errors import ConfigError

if TYPE_CHECKING:
    from taskloom.encoders.checkpoints import LoadReport
    from taskloom.encoders.preparation import InputSpec

StageFactory = Callable[[], nn.Module]
"""Builds one stage anew, with a start of its own."""

Rebuild = Sequence[StageFactory] | Callable[[], Sequence[nn.Module]]
"""One factory per stage (preferred: a copy costs one stage), or one that builds the whole list of stages."""


class Encoder(nn.Module):
    """A backbone as ordered stages: stage i+1 takes the tensor that stage i gives.

    Shapes are traced once, at construction, on a batch of two rows of zeros in evaluation mode. The trace
    leaves no mark: modes, batch norm statistics, gradients and the random state are what they were before.

    Args:
        stages: The stages in order; each takes and gives one tensor whose first axis is the batch.
        input_shape: Shape of one row's input, without the batch axis: (window_samples, channels) for
            recordings, (F,) for tables, (3, H, W) for images.
        names: One name per stage; `stage_0`, `stage_1` ... where None.
        rebuild: How `copy_stage` builds a stage with a fresh start; see there.

    Attributes:
        stages: The stages, an `nn.ModuleList`.
        stage_names: Their names.
        input_shape: As given.
        stage_shapes: Output shape of each stage, without the batch axis.
        num_features: Number of values that the last stage gives per row: the product of its shape. A last
            stage that gives [N, C, ...] is flattened by the head, not here, so that mixing after it may be
            per channel.
        input_spec: How the first stage prepares images; None where it takes its input as it is.
        pretrained: Positions of the stages whose weights came from a file; their copies start from these.
        loaded: What that file gave; None where there was none.

    Raises:
        ConfigError: No stage; a name twice or with a dot; a parameter in two stages; a lazy parameter; a
            stage that fails on its input or does not give one tensor with the batch as first axis.

    Example:
        >>> encoder = Encoder([nn.Linear(5, 8), nn.ReLU()], input_shape=(5,), names=["dense", "activation"])
        >>> encoder.stage_shapes, encoder.num_features
        (((8,), (8,)), 8)
        >>> encoder(torch.zeros(3, 5)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        *,
        input_shape: Sequence[int],
        names: Sequence[str] | None = None,
        rebuild: Rebuild | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = check_input_shape(input_shape)
        if len(stages) == 0:
            raise ConfigError("An encoder needs at least one stage; got none.")
        self.stages = nn.ModuleList(stages)
        self.stage_names = _check_names(names, len(self.stages))
        self.input_spec: InputSpec | None = None
        self.pretrained: frozenset[int] = frozenset()
        self.loaded: LoadReport | None = None
        self._rebuild = rebuild
        if isinstance(rebuild, Sequence) and len(rebuild) != len(self.stages):
            raise ConfigError(
                f"rebuild has {len(rebuild)} factories for {len(self.stages)} stages; give one each."
            )
        self._check_parameters()
        self.stage_shapes = self._trace()
        self.num_features = math.prod(self.stage_shapes[-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Runs all stages: [N, *input_shape] to [N, *stage_shapes[-1]]."""
        for stage in self.stages:
            inputs = stage(inputs)
        return inputs

    def copy_stage(self, index: int, fresh: bool = True) -> nn.Module:
        """Returns a new module that can stand in for stage `index`; this encoder stays as it is.

        Args:
            index: Position of the stage, 0 the first.
            fresh: Whether the copy draws its own start. Through `rebuild` where there is one; else it is a
                deep copy on which `reset_parameters` (or `_reset_parameters`, as torch's attention spells it)
                of every submodule is called. A submodule with parameters of its own and neither method, and
                a parametrised weight (weight norm), keeps the weights it has: give `rebuild` for those.
                A stage whose weights came from a file (`pretrained`) keeps them: they are its start.

        Returns:
            The copy, on the device and in the dtype, mode and `requires_grad` of the original.
        """
        original = self.stages[index]
        if not fresh or index in self.pretrained:
            return copy.deepcopy(original)
        if self._rebuild is None:
            replica = copy.deepcopy(original)
            for module in replica.modules():
                reset = getattr(module, "reset_parameters", None) or getattr(
                    module, "_reset_parameters", None
                )
                if callable(reset):
                    reset()
            return replica
        if isinstance(self._rebuild, Sequence):
            replica = self._rebuild[index]()
        else:
            replica = self._rebuild()[index]
        return _made_like(replica, original)

    def mark_loaded(self, report: LoadReport, stages: Iterable[int]) -> None:
        """Notes what a file gave, and which stages' weights came from it; `taskloom.encoders.checkpoints`."""
        self.loaded = report
        self.pretrained = self.pretrained | frozenset(stages)

    def _check_parameters(self) -> None:
        owners: dict[int, str] = {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            for parameter_name, parameter in stage.named_parameters():
                if isinstance(parameter, UninitializedParameter):
                    raise ConfigError(
                        f"Stage `{name}` has a lazy parameter (`{parameter_name}`), whose size is not known; "
                        "run the stage once on an input, or use the module that takes its size."
                    )
                owner = owners.setdefault(id(parameter), name)
                if owner != name:
                    raise ConfigError(
                        f"Stages `{owner}` and `{name}` have one parameter in common (`{parameter_name}`); "
                        "a stage owns its parameters, so put both uses into one stage."
                    )

    def _trace(self) -> tuple[tuple[int, ...], ...]:
        """Output shape of every stage, found by running two rows; leaves modules and random state alone."""
        modes = [(module, module.training) for module in self.modules()]
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        first = next(self.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
        dtype = first.dtype if first is not None and first.is_floating_point() else torch.get_default_dtype()
        shapes = []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                self.eval()
                inputs = torch.zeros(2, *self.input_shape, device=device, dtype=dtype)
                for name, stage in zip(self.stage_names, self.stages, strict=True):
                    inputs = _run_stage(stage, name, inputs)
                    shapes.append(tuple(inputs.shape[1:]))
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
            for module, training in modes:
                module.training = training
        return tuple(shapes)


def from_modules(
    modules: nn.Sequential | Sequence[nn.Module],
    input_shape: Sequence[int],
    names: Sequence[str] | None = None,
) -> Encoder:
    """Makes an encoder of a user's own modules: each entry is one stage.

    Args:
        modules: An `nn.Sequential`, whose own names become the stages' names where they are not numbers, or
            a list of modules.
        input_shape: Shape of one row's input, without the batch axis.
        names: One name per stage, instead of those.

    Example:
        >>> network = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3))
        >>> from_modules(network, (4,)).stage_shapes
        ((6,), (3,))
    """
    if isinstance(modules, nn.Sequential):
        own = [name for name, _ in modules.named_children()]
        if names is None and len(own) == len(modules) and not any(name.isdigit() for name in own):
            names = own
    try:
        stages = list(modules)
    except TypeError as error:
        raise ConfigError(
            "from_modules takes an nn.Sequential or a list of modules, one per stage; "
            f"got a {type(modules).__name__}: put it into a list to use it as one stage."
        ) from error
    for place, stage in enumerate(stages):
        if not isinstance(stage, nn.Module):
            raise ConfigError(
                f"from_modules takes modules, one per stage; stage {place} is a {type(stage).__name__}."
            )
    return Encoder(stages, input_shape=input_shape, names=names)


def check_input_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape as a tuple; raises ConfigError where it is not whole numbers above 0."""
    if not isinstance(input_shape, Sequence):
        raise ConfigError(
            f"input_shape: the shape of one row expected, such as (20,), found {input_shape!r}."
        )
    shape = tuple(input_shape)
    if not shape or not all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape
    ):
        raise ConfigError(
            f"input_shape must be whole numbers above 0, without the batch axis, as (64, 107); got {shape}."
        )
    return shape


def _check_names(names: Sequence[str] | None, num_stages: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"stage_{index}" for index in range(num_stages))
    if len(names) != num_stages:
        raise ConfigError(f"{len(names)} names for {num_stages} stages; give one each.")
    for name in names:
        if not name or "." in name:
            raise ConfigError(f"`{name}` cannot be a stage's name: it must not be empty or have a dot in it.")
        if list(names).count(name) > 1:
            raise ConfigError(f"Two stages are named `{name}`; give every stage a name of its own.")
    return tuple(names)


def _run_stage(stage: nn.Module, name: str, inputs: Tensor) -> Tensor:
    """Runs one stage of the trace; whatever it raises is told as a setting that does not fit."""
    given = tuple(inputs.shape[1:])
    try:
        outputs = stage(inputs)
    except Exception as error:  # a user's own module may raise anything
        raise ConfigError(
            f"Stage `{name}` fails on an input of shape {given} per row: "
            f"{str(error).strip() or type(error).__name__}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"Stage `{name}` must give one tensor; it gave a {type(outputs).__name__}.")
    if outputs.dim() < 2 or outputs.shape[0] != inputs.shape[0]:
        raise ConfigError(
            f"Stage `{name}` must give a tensor [N, ...] with the batch as its first axis; two rows of shape "
            f"{given} gave {tuple(outputs.shape)}."
        )
    return outputs


def _made_like(replica: nn.Module, original: nn.Module) -> nn.Module:
    """Gives a newly built stage the device, dtype, mode and frozen parameters of the one it stands in for."""
    originals = dict(original.named_parameters())
    if len(originals) > 0:
        example = next(iter(originals.values()))
        replica = replica.to(device=example.device, dtype=example.dtype)
    for name, parameter in replica.named_parameters():
        if name not in originals or originals[name].shape != parameter.shape:
            raise ConfigError(
                f"rebuild gave a stage whose parameter `{name}` ({tuple(parameter.shape)}) is not in the "
                "original; it must build the same stage again."
            )
        parameter.requires_grad_(originals[name].requires_grad)
    return replica.train(original.training)
