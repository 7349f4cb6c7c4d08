"""The exponential affine tie of paper 004 (equation 7), in a form that float32 can hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties.tie import Tie, is_finite_number, matching_weights, stacked_rows

Exponent = Literal["mean", "sum"]
"""What stands in the exponent: the mean or the sum of the squared differences."""

LARGEST_EXPONENT = 40.0
"""From here on the exponential goes on as its tangent: e^40 = 2e17, whose square, which Adam keeps of a
gradient, is still far inside float32 (3e38)."""


class ExponentialAffine(Tie):
    """Exponential of the distance between one copy and an affine image of another, with learnable a and b.

    Paper 004, equation 7, has for two copies of layer j

        r = exp(d) - 1,    d = ||a_j W_s + b_j - W_t||^2    (sum over all n entries),

    with scalars a_j, b_j, learned with the network and started at 1 and 0. Two copies of a layer with `out`
    outputs begin with a d of about 0.7 out (PyTorch's start) to 4 out (He's), and float32 overflows from
    d = 89 on (float64 from 710). Here instead

        r = n * g(d / n),    g(x) = exp(x) - 1            for x <= 40,
                             g(x) = e^40 (1 + x - 40) - 1    for x > 40, the tangent at 40.

    The mean stands inside the exponent and n outside, so that r = d + d^2 / (2 n) + ..., which starts with
    the slope of equation 7 (the weight means the same as that of the L2 tie) and then grows more slowly. r is
    a strictly increasing and convex function of d, as equation 7 is: for two copies both have the same
    minimisers over W, a and b and order any two states alike. The trade-off with the losses at d > 0 is
    another one: in wide layers, where d / n is small, r is close to d itself. `exponent="sum"` has r = g(d):
    equation 7 itself up to d = 40, then its tangent; for small stages or copies with one start. exp(x) - 1 is
    computed as expm1(x), which keeps its digits near 0.

    For T > 2 copies r is summed over the pairs s < t in the order of the tasks, each pair with an a and a b
    of its own per weight. At a = 1, b = 0 the order of the tasks does not matter; later it does, since the
    copy of the earlier task is the one that is transformed.

    d comes from the Gram matrix of the copies' differences from the first copy, in float64, so that all pairs
    together cost one reading of the T copies.

    Args:
        weight: Factor (lambda_w of equation 6).
        exponent: "mean" or "sum", see above.
        learnable: Whether a and b are learned; if not they stay at 1 and 0, which is the plain exponential
            loss of section 3.3.
        lr_multiplier: Factor on the learning rate of a and b.

    Attributes:
        a: Factors, [weights of the stage, pairs]; pairs are (0, 1), (0, 2), ..., (1, 2), ... `attach` creates
            them.
        b: Offsets, shaped like `a`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> copies = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
        >>> tie = ExponentialAffine(weight=1.0)
        >>> tie.attach(copies)  # before the optimiser is built
        >>> with torch.no_grad():
        ...     _ = copies[1].weight.copy_(2.0 * copies[0].weight - 1.0)
        ...     _ = tie.a.fill_(2.0), tie.b.fill_(-1.0)
        >>> abs(tie.penalty(copies).item()) < 1e-6
        True
    """

    a: nn.Parameter | None
    b: nn.Parameter | None

    def __init__(
        self,
        weight: float = 0.001,
        exponent: Exponent = "mean",
        learnable: bool = True,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if exponent not in get_args(Exponent):
            raise ConfigError(f"exponential_affine.exponent: mean or sum expected, found {exponent!r}.")
        if not isinstance(learnable, bool):
            raise ConfigError(f"exponential_affine.learnable: true or false expected, found {learnable!r}.")
        if not is_finite_number(lr_multiplier) or lr_multiplier <= 0:
            raise ConfigError(
                f"exponential_affine.lr_multiplier: a number above 0 expected, found {lr_multiplier!r}."
            )
        self.exponent: Exponent = exponent
        self.learnable = learnable
        self.lr_multiplier = float(lr_multiplier)
        self.register_parameter("a", None)
        self.register_parameter("b", None)

    def attach(self, copies: Sequence[nn.Module]) -> None:
        """Creates a (ones) and b (zeros), [weights, pairs], on the device and in the precision of the copies.

        Args:
            copies: The T copies of one stage.

        Raises:
            ConfigError: Fewer than two copies, or copies whose parameters differ in name or shape.
        """
        groups = list(matching_weights(copies))
        shape = (len(groups), math.comb(len(copies), 2))
        example = stacked_rows([weight.detach() for weight in groups[0]]) if groups else torch.empty(0)
        self.a = nn.Parameter(example.new_ones(shape), requires_grad=self.learnable)
        self.b = nn.Parameter(example.new_zeros(shape), requires_grad=self.learnable)

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        return self.measure_at(0, weights)

    def measure_at(self, position: int, weights: Sequence[Tensor]) -> Tensor:
        if self.a is None or self.b is None:
            raise ConfigError(
                "exponential_affine: a and b do not exist yet; call attach(copies) when the network is built."
            )
        if position >= len(self.a) or self.a.shape[1] != math.comb(len(weights), 2):
            raise ConfigError(
                f"exponential_affine: attached to a stage with {self.a.shape[0]} weights and "
                f"{self.a.shape[1]} pairs of copies; found weight {position} of {len(weights)} copies."
            )
        rows = stacked_rows(weights)
        distances = _affine_distances(rows.double(), self.a[position].double(), self.b[position].double())
        scale = rows.shape[1] if self.exponent == "mean" else 1
        return (scale * _growth(distances / scale)).sum().to(rows.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, exponent={self.exponent}, learnable={self.learnable}"


def _affine_distances(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """|a w_s + b - w_t|^2 of all pairs s < t of the float64 rows [T, n]; a, b and the result are [pairs]."""
    num_copies = len(rows)
    # With differences to copy 0 the coefficients of w_0 are a - 1: equal copies give 0 without rounding.
    basis = torch.cat([rows[1:] - rows[0], rows[:1], torch.ones_like(rows[:1])])
    sources, targets = zip(*itertools.combinations(range(num_copies), 2), strict=True)
    chosen = torch.eye(num_copies, dtype=rows.dtype, device=rows.device)[:, 1:]
    differences = a[:, None] * chosen[list(sources)] - chosen[list(targets)]
    coefficients = torch.cat([differences, (a - 1.0)[:, None], b[:, None]], dim=1)
    return ((coefficients @ (basis @ basis.T)) * coefficients).sum(dim=1).clamp(min=0.0)


def _growth(distance: Tensor) -> Tensor:
    """exp(x) - 1, continued as a straight line above `LARGEST_EXPONENT`."""
    # Two parts of which one is constant: their gradients add up without cancelling.
    below, above = distance.clamp(max=LARGEST_EXPONENT), torch.relu(distance - LARGEST_EXPONENT)
    return torch.expm1(below) + math.exp(LARGEST_EXPONENT) * above
