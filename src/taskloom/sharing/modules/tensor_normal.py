"""A prior over the weights of several tasks' layers of one shape: normal, with a Kronecker covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Covariances = Literal["all", "tasks"]


class TensorNormal(nn.Module):
    """The prior of one layer's weights W [T, O, I]: vec(W) is normal, S_tasks x S_outputs x S_inputs.

    Source: Long et al. 2017, section 4. S is a Kronecker product of three covariances. They are not learned
    by gradient but fitted to the weights now and then, one after the other (flip-flop): given the two others,
    with W_k the unfolding along axis k of size D_k and D = T O I,

        S_k = D_k / D  W_k (S_i x S_j)^-1 W_k^T

    is the maximum of the likelihood. It may be singular (few tasks, many inputs), so it is shrunk:
    (1 - r) S_k + r tr(S_k) / D_k I, plus a trace of I for weights that are all zero. S_outputs and S_inputs
    have a mean diagonal of 1; the scale stands in S_tasks.

    Args:
        shape: (T, O, I).
        shrinkage: r, above 0 and up to 1.
        covariances: "all", or "tasks": the two others stay identities (the authors' code).

    Attributes:
        tasks, outputs, inputs: The covariances, [T, T], [O, O], [I, I]; buffers, identities at the start.

    Example:
        >>> prior = TensorNormal((2, 3, 4))
        >>> prior.quadratic(torch.ones(2, 3, 4)).item()
        24.0
    """

    tasks: Tensor
    outputs: Tensor
    inputs: Tensor

    NAMES = ("tasks", "outputs", "inputs")

    def __init__(
        self, shape: Sequence[int], *, shrinkage: float = 0.1, covariances: Covariances = "all"
    ) -> None:
        super().__init__()
        self.shape, self.shrinkage = tuple(shape), shrinkage
        self.fitted = ("outputs", "inputs", "tasks") if covariances == "all" else ("tasks",)
        for name, size in zip(self.NAMES, shape, strict=True):
            self.register_buffer(name, torch.eye(size))
            # Not saved: it follows from the covariance.
            self.register_buffer(f"{name}_inverse", torch.eye(size), persistent=False)

    def quadratic(self, weights: Tensor) -> Tensor:
        """vec(W)^T (S_tasks x S_outputs x S_inputs)^-1 vec(W), a scalar.

        Args:
            weights: [T, O, I].
        """
        return (weights * self._whitened(weights, self.NAMES)).sum()

    def negative_log_density(self, weights: Tensor) -> Tensor:
        """-log of the prior up to a constant: (quadratic + sum over k of D / D_k log det S_k) / 2.

        The determinants do not depend on the weights. This is what an update without shrinkage lowers.
        """
        total = math.prod(self.shape)
        determinants = [
            total / size * torch.linalg.slogdet(self.get_buffer(name)).logabsdet
            for name, size in zip(self.NAMES, self.shape, strict=True)
        ]
        return (self.quadratic(weights) + torch.stack(determinants).sum()) / 2

    @torch.no_grad()
    def update(self, weights: Tensor) -> None:
        """Fits every covariance once to the weights [T, O, I], given the two others."""
        weights = weights.detach()
        for name in self.fitted:
            axis = self.NAMES.index(name)
            others = [other for other in self.NAMES if other != name]
            unfolded = weights.movedim(axis, 0).flatten(1).double()
            white = self._whitened(weights.double(), others).movedim(axis, 0).flatten(1)
            covariance = unfolded @ white.T / unfolded.shape[1]
            scale = covariance.diagonal().mean()
            identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            covariance = (1 - self.shrinkage) * covariance + (self.shrinkage * scale + 1e-8) * identity
            if name != "tasks":
                scale = covariance.diagonal().mean()
                covariance = covariance / scale
                self._set("tasks", self.tasks.double() * scale)
            self._set(name, covariance)

    def invert(self) -> None:
        """Computes the inverses anew from the covariances."""
        for name in self.NAMES:
            self._set(name, self.get_buffer(name).double())

    def extra_repr(self) -> str:
        return f"{self.shape}, shrinkage={self.shrinkage:g}"

    def _whitened(self, weights: Tensor, names: Sequence[str]) -> Tensor:
        """The weights times the inverses along the named axes."""
        inverse = {name: self.get_buffer(f"{name}_inverse").to(weights.dtype) for name in names}
        if "inputs" in inverse:
            weights = weights @ inverse["inputs"]
        if "outputs" in inverse:
            weights = inverse["outputs"] @ weights
        if "tasks" in inverse:
            weights = (inverse["tasks"] @ weights.flatten(1)).reshape_as(weights)
        return weights

    def _set(self, name: str, covariance: Tensor) -> None:
        # A new tensor, not the old one overwritten: a graph that is still to run backward holds the old one.
        old = self.get_buffer(name)
        rounded = ((covariance + covariance.T) / 2).to(old)
        # From the rounded covariance: a loaded network computes the same inverse, bit for bit.
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(rounded.double()))
        setattr(self, name, rounded)
        setattr(self, f"{name}_inverse", ((inverse + inverse.T) / 2).to(old))
