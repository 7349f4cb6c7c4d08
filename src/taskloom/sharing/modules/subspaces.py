"""Subspaces of a stage's channels: mixing them, what keeps them apart, and which layer gives them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.mixing import CrossStitch, Start
from taskloom.sharing.mixing_kernel import mix


class SubspaceMixing(CrossStitch):
    """Mixes the subspaces of the T copies of a stage: one matrix over all T G of them.

    The channels (axis 1) of a copy are G subspaces of equal size, one after the other. Source: Ruder et al.
    2017, equation 1, with G = 2. One product, as in `CrossStitch`; with G = 1 it is that unit.

    Args:
        num_tasks: T, the number of copies.
        subspaces: G.
        start: How alpha begins, see `CrossStitch`; "same" is the share of a subspace in itself, and "other"
            is divided over the T G - 1 others, those of the same task among them.

    Attributes:
        alpha: [T G, T G]; row = receiving subspace, column = donor; the subspaces of the first task first.

    Example:
        >>> unit = SubspaceMixing(1, 2)
        >>> _ = unit.alpha.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        >>> unit([torch.tensor([[1.0, 1.0, 5.0, 6.0]])])[0].tolist()
        [[6.0, 7.0, 10.0, 12.0]]
    """

    def __init__(self, num_tasks: int, subspaces: int, *, start: Start = "identity") -> None:
        super().__init__(num_tasks * subspaces, start=start)
        self.num_copies, self.subspaces = num_tasks, subspaces

    def matrix(self) -> Tensor:
        """What a task hears of another, [T, T]: sums over the donor's, mean over the receiver's subspaces."""
        blocks = self.alpha.reshape(self.num_copies, self.subspaces, self.num_copies, self.subspaces)
        return blocks.sum(dim=3).mean(dim=1)

    def forward(self, copies: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mixes T tensors [N, C, ...] of one shape; returns T tensors of that shape, in the same order."""
        shapes = [tuple(copy.shape) for copy in copies]
        alike = len(copies) == self.num_copies and all(shape == shapes[0] for shape in shapes)
        if not alike or shapes[0][1] % self.subspaces:
            raise ValueError(
                f"{self.num_copies} tensors of one shape with {self.subspaces} subspaces of channels "
                f"expected, found shapes {shapes}"
            )
        return mix(self.alpha, copies, self.subspaces)


def channel_weights(stage: nn.Module, num_channels: int) -> list[nn.Parameter]:
    """The weights that give a stage's channels: those of its last layer with that many outputs.

    Args:
        stage: A stage of an encoder.
        num_channels: C, axis 1 of its output.

    Returns:
        `weight` [C, in, ...] of a linear or convolution layer, or of the last layer of a recurrent one those
        of inputs and state, [gates * C, in]; nothing where there is no such layer (an LSTM of two directions
        among them: its channels come from two layers).

    Example:
        >>> [tuple(w.shape) for w in channel_weights(torch.nn.LSTM(3, 4), 4)]
        [(16, 3), (16, 4)]
    """
    found: list[nn.Parameter] = []
    for layer in stage.modules():
        weights: list[nn.Parameter] = []
        if isinstance(layer, nn.RNNBase):
            if not layer.bidirectional and layer.hidden_size == num_channels and layer.proj_size == 0:
                last = layer.num_layers - 1
                weights = [getattr(layer, f"weight_{of}_l{last}") for of in ("ih", "hh")]
        elif not isinstance(layer, nn.modules.conv._ConvTransposeNd):
            weight = getattr(layer, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() > 1 and len(weight) == num_channels:
                weights = [weight]
        found = weights or found
    return found


def subspace_overlap(weight: Tensor, num_channels: int, subspaces: int) -> Tensor:
    """Sum over pairs g < h of norm_F(W_g W_h^T)^2; 0 where the subspaces' weights are orthogonal.

    Args:
        weight: [C, in, ...], or [gates * C, in] of a recurrent layer: a channel's weights of all gates belong
            to its subspace.
        num_channels: C.
        subspaces: G, which divides C.

    Example:
        >>> subspace_overlap(torch.tensor([[1.0, 0.0], [3.0, 1.0]]), 2, 2).item()
        9.0
    """
    gates = weight.reshape(-1, subspaces, num_channels // subspaces, weight[0].numel())
    parts = [part.flatten(0, 1) for part in gates.unbind(1)]
    pairs = [(one @ other.T).square().sum() for one, other in itertools.combinations(parts, 2)]
    return torch.stack(pairs).sum() if pairs else weight.new_zeros(())


def check_subspaces(encoder: Encoder, mixed: Sequence[int], subspaces: int) -> None:
    """Refuses a number of subspaces that does not divide the channels of a mixed stage.

    Raises:
        ConfigError: Names the first such stage.
    """
    for index in mixed:
        channels = encoder.stage_shapes[index][0]
        if channels % subspaces:
            raise ConfigError(
                f"sluice.subspaces: {subspaces} subspaces of equal size expected, but stage "
                f"`{encoder.stage_names[index]}` has {channels} channels; take a divisor, or leave the stage "
                "out of `after`."
            )
