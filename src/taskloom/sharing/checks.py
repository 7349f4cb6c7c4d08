"""What is refused when a network is built, because it would go wrong or mean nothing when it runs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.executor import Step, read_by_several
from taskloom.sharing.plan import Plan


def check_encoder(encoder: object) -> None:
    """Refuses anything but an encoder.

    Raises:
        ConfigError: Says how other networks become one.

    Example:
        >>> check_encoder(tl.encoders.mlp((5,), hidden=[8, 4]))
    """
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"sharing: an encoder expected, found a {type(encoder).__name__}; of modules of your own, "
            "`tl.encoders.from_modules([first stage, ...], input_shape)` makes one."
        )


def check_meetings(plan: Plan, steps: Sequence[Step], stage_names: Sequence[str]) -> None:
    """Refuses a stage shared by tasks that an earlier one has parted, where nobody said how it is to run.

    Args:
        plan: The plan.
        steps: Its compiled steps.
        stage_names: Names of the stages.

    Raises:
        ConfigError: Names the stage, the tasks and the two choices.
    """
    for name, stage, step in zip(stage_names, plan.stages, steps, strict=True):
        for number, group in enumerate(stage.partition):
            streams = {source for call in step.calls if call.group == number for source in call.inputs}
            if stage.joined is None and len(streams) > 1:
                raise ConfigError(
                    f"sharing: stage `{name}` is shared by {', '.join(group)}, which an earlier stage has "
                    "parted, so they feed it different tensors; set `joined: true` (it runs once on the "
                    "batch of all, batch norm sees joint statistics) or `joined: false` (once per task)."
                )


def check_inputs_stay(encoder: Encoder, steps: Sequence[Step], read: Collection[int] = ()) -> None:
    """Refuses a stage that works in place on an input which others read: it would spoil it for them.

    Args:
        encoder: The backbone.
        steps: The compiled steps of its plan.
        read: Positions of stages whose outputs heads read.

    Raises:
        ConfigError: Names the stage.
    """
    for index, (name, step) in enumerate(zip(encoder.stage_names, steps, strict=True)):
        if not step.calls or not (read_by_several(step) or index - 1 in read):
            continue
        if works_in_place(encoder, index):
            raise ConfigError(
                f"sharing: stage `{name}` works in place on its input, which other copies of it "
                "or heads read too; set inplace=False in its first layer."
            )


def works_in_place(encoder: Encoder, index: int) -> bool:
    """Whether a stage writes into its input: a copy of it runs once in training mode, where dropout works."""
    with _traced(encoder) as example:
        inputs = torch.zeros_like(_rows(encoder, index, example))
        version = inputs._version
        encoder.copy_stage(index, fresh=False).train()(inputs)
        return inputs._version != version


def check_side_effects(encoder: Encoder) -> None:
    """Refuses an encoder whose stages depend on anything but their input, or write into the network's.

    A copy of the encoder runs in evaluation mode on two rows, then on two others, and each stage alone,
    the last first, on what it was given the first time: it must give again what it gave. A stage that keeps
    hidden state does not, nor one that reads what another left behind: copies of them would mean something
    else. Stages that draw random numbers get the same ones each time.

    Raises:
        ConfigError: Names the stage.

    Example:
        >>> check_side_effects(tl.encoders.mlp((5,), hidden=[8, 4]))
    """
    if works_in_place(encoder, 0):
        raise ConfigError(
            f"sharing: stage `{encoder.stage_names[0]}` works in place on the network's input, which "
            "belongs to whoever calls it; set inplace=False in its first layer."
        )
    with _traced(encoder) as example:
        stages = [module.eval() for module in copy.deepcopy(encoder).stages]
        given: list[Tensor] = []
        gave: list[Tensor] = []
        for chain in range(2):
            torch.manual_seed(chain)
            rows = _rows(encoder, 0, example)
            for number, stage in enumerate(stages):
                torch.manual_seed(number)
                before = rows.clone()  # a stage may work in place: what it leaves there is not its input
                rows = stage(rows)
                if chain == 0:
                    given.append(before)
                    gave.append(rows.clone())
        for number in reversed(range(len(stages))):
            torch.manual_seed(number)
            again = stages[number](given[number].clone())
            if again.shape != gave[number].shape or not torch.allclose(
                again, gave[number], rtol=1e-4, atol=1e-5, equal_nan=True
            ):
                raise ConfigError(
                    f"sharing: stage `{encoder.stage_names[number]}` gives another output for the same input "
                    "when it runs again: it keeps state between calls, or reads what another stage left "
                    "behind; a stage must depend on its input alone."
                )


def check_copies_alike(copies: Sequence[nn.Module], encoder: Encoder, index: int) -> None:
    """Refuses to mix copies that do not give the shape of the encoder's stage, as a `rebuild` may build them.

    Args:
        copies: The copies of the stage.
        encoder: The backbone.
        index: Position of the stage.

    Raises:
        ConfigError: Names the stage and both shapes.
    """
    expected = encoder.stage_shapes[index]
    with _traced(encoder) as example:
        for module in copies:
            training = {part: part.training for part in module.modules()}
            found = tuple(module.eval()(_rows(encoder, index, example)).shape[1:])
            for part, mode in training.items():
                part.training = mode
            if found != expected:
                raise ConfigError(
                    f"sharing: stage `{encoder.stage_names[index]}` gives {expected} per row and a copy of "
                    f"it {found}; only outputs of one shape can be mixed."
                )


@contextmanager
def _traced(encoder: Encoder) -> Iterator[Tensor]:
    """Without gradients and without a trace in the random state; gives an example of dtype and device."""
    example = next(encoder.parameters(), torch.zeros(()))
    with torch.no_grad(), torch.random.fork_rng(devices=[example.device] if example.is_cuda else []):
        yield example


def _rows(encoder: Encoder, index: int, example: Tensor) -> Tensor:
    """Two drawn rows for a stage, in [0, 1): also fit where inputs are taken for whole numbers."""
    shape = encoder.stage_shapes[index - 1] if index else encoder.input_shape
    return torch.rand(2, *shape, device=example.device, dtype=example.dtype)
