"""What a relatedness makes of one side's probabilities: a mixture over the other side's labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Tables that turn probabilities of R rows into probabilities of A columns (equation 2).

    q = (P @ positive) / (P @ (positive + negative)); the denominator is 1 where every entry is known.

    Args:
        positive: p(column | row), times the row's share in the column's mixture, [R, A]; 0 where unknown.
        negative: 1 - p(column | row), times the same share, [R, A]; 0 where unknown.
        complete: Whether the denominator is 1 whatever P.
    """

    positive: Tensor
    negative: Tensor
    complete: bool

    @staticmethod
    def of(conditional: Tensor) -> Mixture:
        """Mixture over exclusive classes.

        Args:
            conditional: p(attribute | class), [C, A]; NaN is unknown: the mixture is then over the other
                classes.
        """
        known = ~conditional.isnan()
        values = torch.where(known, conditional, 0).double()
        return Mixture(values, torch.where(known, 1 - values, 0), bool(known.all()))

    def to(self, device: torch.device | str) -> Mixture:
        dtype = wide_dtype(torch.device(device))
        return Mixture(self.positive.to(device, dtype), self.negative.to(device, dtype), self.complete)

    def log_probabilities(self, log_rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logarithms of q and of 1 - q from those of the rows' probabilities.

        Args:
            log_rows: Log-probabilities of the rows, [M, R].

        Returns:
            log q and log(1 - q), [M, A]; and the probability of the rows whose entry is known, [M, A],
            without gradient, None where all are: what is matched counts only as far as it is known.
        """
        rows = log_rows.to(self.positive.dtype).exp()
        active, inactive = rows @ self.positive, rows @ self.negative
        floor = least_probability(self.positive.dtype)
        log_active, log_inactive = active.clamp(min=floor).log(), inactive.clamp(min=floor).log()
        covered = None
        if not self.complete:
            total = active + inactive
            log_total = total.clamp(min=floor).log()
            log_active, log_inactive = log_active - log_total, log_inactive - log_total
            covered = total.detach().to(log_rows.dtype)
        return log_active.to(log_rows.dtype), log_inactive.to(log_rows.dtype), covered


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64 holds what a softmax in float32 logits can give; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def least_probability(dtype: torch.dtype) -> float:
    """What probabilities count as at least, so that their logarithm is finite."""
    return 1e-280 if dtype == torch.float64 else 1e-30
