"""Trace norms of tensors (thesis 002, equation 3.3) and their subgradients, through Gram matrices.

A tensor [D_1, ..., D_m], the last axis being the task, has the trace norm of its unfoldings (Yang and
Hospedales, 2016):

- Tucker: the sum over i = 1..m of the norm of [D_i, all other axes];
- TT (tensor train): the sum over the cuts k = 1..m-1 of the norm of [D_1 ... D_k, D_(k+1) ... D_m];
- LAF (last axis flattening): the norm of [D_1 ... D_(m-1), D_m] alone.

The trace norm (nuclear norm) of a matrix W with singular values s and vectors U, V is ||W||_* = sum(s). Its
subgradient of least norm is U V^T, over the singular values that are not 0. With the eigenvalues and vectors
of the smaller Gram matrix, W W^T = E diag(s^2) E^T,

    ||W||_* = sum(s),    U V^T = E diag(1 / s) E^T W,

so that an [n, m] unfolding, n <= m, costs two matrix products and an n x n symmetric eigenproblem instead of
a singular value decomposition. Unfoldings are read by pieces that fit the processor's cache (`stacks.py`);
the forward pass keeps the small matrices E diag(1 / s) E^T, whose products the backward pass makes.

How precisely, `unfoldings.py` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from taskloom.errors import ConfigError
from taskloom.sharing.ties.stacks import Axes, Stack
from taskloom.sharing.ties.tie import Tie
from taskloom.sharing.ties.unfoldings import Unfoldings, solve_all, subgradients

Unfolding = Literal["tucker", "tt", "laf"]
"""Which unfoldings of the stacked copies have their trace norms summed."""


class TraceNorm(Tie):
    """Trace norm of the stacked copies of each weight: weight * sum over the unfoldings of ||W_(i)||_*.

    It is low where the copies, as one tensor, have low rank: tasks then use few common directions. Source:
    Yang and Hospedales, "Trace Norm Regularised Deep Multi-Task Learning" (2016), as used in thesis 002,
    equations 3.3 and 3.4; `weight` is its gamma and omega in one. The text under 3.3 gives all m flattenings
    the shape [D_1 ... D_(m-1), T], which is that of the last one alone; here the i-th has D_i rows, as Tucker
    and the authors' code, which the thesis runs, have it. The shape in the text is `unfolding: laf`.

    TT depends on the order of the axes. Weights are taken in the order of the source, kernel, inputs,
    outputs, task: [out, in, *kernel] of the T copies becomes [*kernel, in, out, T].

    Args:
        weight: Factor; the papers' start is 0.001.
        unfolding: "tucker" (every axis), "tt" (every cut of the tensor train) or "laf" (the task axis alone,
            by far the cheapest).

    Raises:
        ConfigError: An unknown unfolding, or a weight below 0.

    Example:
        >>> copies = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
        >>> TraceNorm(weight=0.001).penalty(copies).backward()
        >>> copies[0].weight.grad.shape, copies[0].bias.grad
        (torch.Size([2, 3]), None)
        >>> TraceNorm(weight=1.0, unfolding="laf").measure([torch.eye(2), torch.eye(2)]).item()  # rank one
        2.0
    """

    def __init__(self, weight: float = 0.001, unfolding: Unfolding = "tucker") -> None:
        super().__init__(weight)
        if unfolding not in get_args(Unfolding):
            raise ConfigError(f"trace_norm.unfolding: tucker, tt or laf expected, found {unfolding!r}.")
        self.unfolding: Unfolding = unfolding

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        task = weights[0].dim()
        if self.unfolding == "tucker":
            return _apply(weights, _modes(task + 1))
        if self.unfolding == "tt":
            return _apply(weights, _cuts((*range(2, task), 1, 0, task), (*weights[0].shape, len(weights))))
        return _apply(weights, (((task,), 1),))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, unfolding={self.unfolding}"


def tucker_trace_norm(stack: Tensor) -> Tensor:
    """Sum of the trace norms of all unfoldings of a tensor (thesis 002, equation 3.3 with gamma = 1).

    Args:
        stack: Tensor with at least two axes, one of them the task: [D_1, ..., D_m].

    Returns:
        Scalar; differentiable once, with the subgradient of least norm. 0 with subgradient 0 for a tensor of
        zeros, NaN where the tensor is not finite. In float32 for float32 and lower, in float64 for float64.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> tucker_trace_norm(torch.eye(2)).item()  # two unfoldings with the singular values 1, 1
        4.0
    """
    return _apply([_checked(stack)], _modes(stack.dim()))


def tensor_train_trace_norm(stack: Tensor) -> Tensor:
    """Sum of the trace norms of the cuts of a tensor into first and last axes (TT; Yang, Hospedales 2016).

    Args:
        stack: Tensor [D_1, ..., D_m], m >= 2; cut k has the unfolding [D_1 ... D_k, D_(k+1) ... D_m].

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> tensor_train_trace_norm(torch.eye(2)).item()  # a matrix has one cut
        2.0
    """
    return _apply([_checked(stack)], _cuts(tuple(range(stack.dim())), stack.shape))


def last_axis_trace_norm(stack: Tensor) -> Tensor:
    """Trace norm of a tensor flattened to [all other axes, last axis] (LAF; Yang and Hospedales, 2016).

    Args:
        stack: Tensor [D_1, ..., D_m] with m >= 2 axes, the last one being the task.

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Fewer than two axes, or not a real floating-point tensor.

    Example:
        >>> round(last_axis_trace_norm(torch.ones(2, 2, 3)).item(), 4)  # rank one: sqrt(12)
        3.4641
    """
    return _apply([_checked(stack)], (((stack.dim() - 1,), 1),))


def matrix_trace_norm(matrix: Tensor) -> Tensor:
    """Trace norm (nuclear norm) of a matrix: the sum of its singular values.

    Args:
        matrix: [n, m].

    Returns:
        Scalar; see `tucker_trace_norm`.

    Raises:
        ConfigError: Not a matrix, or not of real floating-point numbers.

    Example:
        >>> matrix_trace_norm(torch.diag(torch.tensor([3.0, -1.0]))).item()
        4.0
    """
    if matrix.dim() != 2:
        raise ConfigError(f"The trace norm is of a matrix; got a tensor of shape {tuple(matrix.shape)}.")
    return _apply([_checked(matrix)], (((0,), 1),))


def _checked(stack: Tensor) -> Tensor:
    if stack.dim() < 2 or not stack.is_floating_point():
        raise ConfigError(
            "A trace norm needs a real floating-point tensor with at least two axes; got shape "
            f"{tuple(stack.shape)} of {stack.dtype}."
        )
    return stack


def _modes(num_axes: int) -> Unfoldings:
    """Every axis against all others."""
    return tuple(((axis,), 1) for axis in range(num_axes))


def _cuts(order: Axes, shape: Sequence[int]) -> Unfoldings:
    """The first axes of an order against the last ones, for every cut."""
    found: dict[int, tuple[Axes, int]] = {}
    for cut in range(1, len(order)):
        # An axis of size 1 makes two cuts one and the same matrix.
        rows = math.prod(shape[axis] for axis in order[:cut])
        axes, times = found.get(rows, (order[:cut], 0))
        found[rows] = (axes, times + 1)
    return tuple(found.values())


def _apply(copies: Sequence[Tensor], unfoldings: Unfoldings) -> Tensor:
    """Sum of the trace norms of unfoldings of a stack of T copies, whose axes are those of a copy and T."""
    if copies[0].dtype not in (torch.float32, torch.float64):
        copies = [copy.float() for copy in copies]
    if torch.is_grad_enabled() and any(copy.requires_grad for copy in copies):
        value = _TraceNormSum.apply(unfoldings, *copies)  # type: ignore[no-untyped-call]
        assert isinstance(value, Tensor)
        return value
    stack, scale = _scaled(copies)
    parts = solve_all(stack, unfoldings, subgradient=False)
    return copies[0].new_tensor(scale * sum(part.value for part in parts))


class _TraceNormSum(torch.autograd.Function):
    """Forward keeps a small matrix per unfolding; backward multiplies it with the copies."""

    @staticmethod
    def forward(ctx: Any, unfoldings: Unfoldings, *copies: Tensor) -> Tensor:
        stack, scale = _scaled(copies)
        ctx.parts = solve_all(stack, unfoldings, subgradient=True)
        ctx.save_for_backward(*copies)
        return copies[0].new_tensor(scale * sum(part.value for part in ctx.parts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        stack, _ = _scaled(ctx.saved_tensors)
        factor = _number(upstream)
        gradients = subgradients(stack, ctx.parts, 1.0 if factor is None else factor)
        if factor is None:
            return None, *(upstream * gradient for gradient in gradients)
        return None, *gradients


def _number(upstream: Tensor) -> float | None:
    """The upstream gradient, for the small matrices to take up; None where it cannot be read at once."""
    if upstream.device.type != "cpu":
        return None  # to read it would be to wait
    try:
        return float(upstream)
    except RuntimeError:
        return None  # several of them in one batch (torch.vmap)


def _scaled(copies: Sequence[Tensor]) -> tuple[Stack, float]:
    """The copies as a stack, and what they were divided by."""
    data = tuple(copy.detach() for copy in copies)
    if data[0].dtype == torch.float64 and data[0].numel() > 0:
        # Squares of very large or very small numbers would leave the range; those of float32 do not.
        largest = max(float(copy.abs().amax()) for copy in data)
        if math.isfinite(largest) and largest > 0.0:
            return Stack(tuple(copy / largest for copy in data)), largest
    return Stack(data), 1.0
