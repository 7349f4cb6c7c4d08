"""Gates that select a few experts by binary codes of smooth steps (DSelect-k, Hazimeh et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.sharing.memory import transformed
from taskloom.sharing.modules.gates import MOMENTUM, ExpertGate

SelectionInput = Literal["flat", "pooled", "static"]

_SMALLEST = 1e-6
"""What a logarithm is kept above."""
_LEAST_REACHED = 0.25
"""Below it the reciprocal's tangent goes on: one step by its own slope near 0 throws codes far out."""
_WEIGHT_SPREAD = 0.05
"""Weights of selectors are drawn between plus and minus this, as in the authors' code."""


def smooth_step(values: Tensor, gamma: float = 1.0) -> Tensor:
    """0 up to -gamma / 2, 1 from gamma / 2 on, a cubic between: 1/2 + 3/2 u - 2 u^3 with u = t / gamma.

    Source: Hazimeh et al. 2021, where S(t) is defined; this is their cubic in u.

    Args:
        values: Of any shape.
        gamma: Width of what is between, above 0.

    Returns:
        Of the same shape.

    Example:
        >>> smooth_step(torch.tensor([-0.7, -0.25, 0.0, 0.25, 0.5])).tolist()
        [0.0, 0.15625, 0.5, 0.84375, 1.0]
    """
    position = (values / gamma).clamp(-0.5, 0.5)
    return position * (1.5 - 2 * position.square()) + 0.5


def code_products(digits: Tensor, num_experts: int) -> Tensor:
    """How much a code is that of each expert: per expert the product of its digits, or of 1 less them.

    Source: Hazimeh et al. 2021, r(z); the first expert's code is 0, and the first digit counts most.

    Args:
        digits: [..., m], each from 0 to 1.
        num_experts: n, at most 2^m.

    Returns:
        [..., n]; they sum to 1, less what stands on codes of no expert.

    Example:
        >>> code_products(torch.tensor([1.0, 0.25]), 3).tolist()
        [0.0, 0.0, 0.75]
    """
    products = torch.ones_like(digits[..., :1])
    for digit in digits.unbind(-1):
        both = torch.stack([1 - digit, digit], dim=-1)
        products = (products.unsqueeze(-1) * both.unsqueeze(-2)).flatten(-2)
    return products[..., :num_experts]


class SelectionGate(ExpertGate):
    """Weights of at most k of n experts: q = sum over l of softmax(alpha)_l r(z_l).

    r(z) holds the products of the digits s(z), `smooth_step`, over the codes of the n experts. Static gates
    have parameters z [k, m] and alpha [k], m = ceil(log2 n); the others z = G x + b and alpha = A x + c.

    Source: Hazimeh et al. 2021, static and per-example gating; biases and starts as in the authors' code.

    Args:
        input_shape: Shape of one row of x.
        num_experts: n, at least 2.
        num_selected: k, the number of selectors.
        gate_input: "static": one choice for all rows; "flat": x is the whole row; "pooled": the mean over all
            axes but the first (the channels).
        gamma: Of `smooth_step`.
        entropy: Factor on the entropy of the selectors in `penalty`.

    Attributes:
        codes, weights: A matrix [k, m] and a vector [k] (static), or layers that give them.
        cost: Running mean of the penalty over batches in training mode, a scalar; a buffer of gates that are
            not static.

    Example:
        >>> gate = SelectionGate((4,), 4, 2, gate_input="static")
        >>> _ = gate.codes.data.copy_(torch.tensor([[-1.0, 1.0], [1.0, 1.0]])), gate.weights.data.zero_()
        >>> gate(torch.zeros(1, 4)).tolist()
        [[0.0, 0.5, 0.0, 0.5]]
    """

    cost: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        num_experts: int,
        num_selected: int,
        *,
        gate_input: SelectionInput = "flat",
        gamma: float = 1.0,
        entropy: float = 0.0,
    ) -> None:
        super().__init__(num_experts)
        self.num_experts, self.num_selected = num_experts, num_selected
        self.num_digits = (num_experts - 1).bit_length()
        self.gate_input, self.gamma, self.entropy = gate_input, gamma, entropy
        self.codes: nn.Parameter | nn.Linear
        self.weights: nn.Parameter | nn.Linear
        if gate_input == "static":
            self.codes = nn.Parameter(torch.empty(num_selected, self.num_digits))
            self.weights = nn.Parameter(torch.empty(num_selected))
        else:
            size = math.prod(input_shape) if gate_input == "flat" else input_shape[0]
            self.codes = nn.Linear(size, num_selected * self.num_digits)
            self.weights = nn.Linear(size, num_selected)
            self.register_buffer("cost", torch.zeros(()))
        self.reset_parameters()
        self._rows: list[Tensor] = []
        self._joins = False

    def reset_parameters(self) -> None:
        """Draws codes near 1/2 (z within gamma / 100) and weights of selectors near equal ones."""
        for spread, part in ((self.gamma / 100, self.codes), (_WEIGHT_SPREAD, self.weights)):
            for parameter in [part] if isinstance(part, nn.Parameter) else part.parameters():
                nn.init.uniform_(parameter, -spread, spread)

    @property
    def is_static(self) -> bool:
        """Whether all rows have one choice."""
        return self.gate_input == "static"

    @property
    def has_penalty(self) -> bool:
        """Whether there is anything to be punished: entropy, or codes of no expert."""
        return self.entropy > 0 or self.num_experts < 2**self.num_digits

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, *input_shape] to weights [N, n]."""
        rows = None if self.is_static else self._read_rows(inputs)
        selected = self._selected(rows)
        weights = self._mixed(rows, selected)
        if rows is not None and self.training:
            self._remember(rows, selected)
        if self.is_static:
            weights = weights.expand(inputs.shape[0], -1)
        self.note(weights)
        return weights

    def choice(self) -> Tensor:
        """Weights [n] of a static gate."""
        return self._mixed(None, self._selected(None))[0]

    def begin_step(self, *, joins: bool) -> None:
        """Forgets the rows seen; with `joins` those of all passes until the next call count in `penalty`."""
        self._rows, self._joins = [], joins

    def penalty(self) -> Tensor:
        """Entropy of the selectors by its factor, and what stands on codes of no expert; a scalar.

            entropy * sum over l of H(r(z_l)) + sum over l of (1 / sum over the n experts of r(z_l) - 1)

        The second term is there where n is no power of 2; it is 0 where every code is an expert's, and its
        tangent goes on where selectors give the experts less than a quarter. Of gates that read rows both
        are means over the rows of the training step, through z alone: the penalty does not reach what makes
        the rows. In evaluation, and before the first rows, it is `cost`.
        """
        if self.is_static:
            return self._cost(self._selected(None))
        if not (self._rows and self.training):
            return self.cost.clone()
        assert isinstance(self.codes, nn.Linear)
        # Under mixed precision the rows are halves; a penalty is computed outside of it, in single precision.
        return self._cost(self._selected(torch.cat(self._rows).to(self.codes.weight.dtype)))

    def _read_rows(self, inputs: Tensor) -> Tensor:
        if self.gate_input == "pooled" and inputs.dim() > 2:
            inputs = inputs.flatten(2).mean(2)
        return inputs.flatten(1)

    def _selected(self, rows: Tensor | None) -> Tensor:
        """What every selector gives every expert, [N or 1, k, n]."""
        codes = _at(self.codes, rows)
        digits = smooth_step(codes.reshape(-1, self.num_selected, self.num_digits), self.gamma)
        return code_products(digits, self.num_experts)

    def _mixed(self, rows: Tensor | None, selected: Tensor) -> Tensor:
        """Weights of the experts, [N or 1, n]."""
        scores = _at(self.weights, rows).reshape(-1, self.num_selected)
        shares = scores.softmax(dim=1).to(selected.dtype)
        return (shares[:, :, None] * selected).sum(1)

    def _cost(self, selected: Tensor) -> Tensor:
        total = selected.new_zeros(())
        if self.entropy > 0:
            # 0 log 0 is 0, and its slope stays finite.
            entropies = -(selected * selected.clamp(min=_SMALLEST).log()).sum(2)
            total = total + self.entropy * entropies.mean(0).sum()
        if self.num_experts < 2**self.num_digits:
            total = total + _astray(selected.sum(2)).mean(0).sum()
        return total

    def _remember(self, rows: Tensor, selected: Tensor) -> None:
        """Keeps the rows for `penalty`, and takes the batch into `cost`."""
        if not self.has_penalty:
            return
        if torch.is_grad_enabled() and not transformed():
            self._rows = [*(self._rows if self._joins else ()), rows.detach()]
        with torch.no_grad():
            self.cost.lerp_(self._cost(selected).to(self.cost.dtype), MOMENTUM)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": []}


def _at(part: Tensor | nn.Linear, rows: Tensor | None) -> Tensor:
    """What a layer gives for rows, or a parameter of its own; in functional calls it is any tensor."""
    if isinstance(part, nn.Linear):
        assert rows is not None
        found: Tensor = part(rows)
        return found
    return part


def _astray(reached: Tensor) -> Tensor:
    """1 / s - 1 of what selectors give the experts, from 0 to 1; its tangent below `_LEAST_REACHED`."""
    within = reached.clamp(min=_LEAST_REACHED)
    below = (_LEAST_REACHED - reached).clamp(min=0.0)
    return 1 / within - 1 + below / _LEAST_REACHED**2
