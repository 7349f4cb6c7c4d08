"""Ties: penalties that pull the copies of a stage together, by name.

W_t is the weight of copy t, summed over the weights of a stage; biases are left out. Pairs are s < t.

| name | penalty (times `weight`) | source |
|---|---|---|
| `trace_norm`, unfolding `tucker` | sum over axes i of norm_*(W_(i)), W = copies stacked | 002, 3.3 and 3.4 |
| `trace_norm`, unfolding `tt` | sum over cuts k of norm_*([D_1 .. D_k, D_(k+1) .. D_m]) | 002, 3.1.3 [YH16] |
| `trace_norm`, unfolding `laf` | norm_*([all entries, tasks]) | 002, 3.1.3 [YH16] |
| `l2` | sum over pairs of norm_F(W_s - W_t)^2 | 004, 3.3; 000, 3.2.2 |
| `l1` | sum over pairs and entries of abs(W_s - W_t) | beside L2 |
| `exponential_affine` | sum over pairs of n (exp(d / n) - 1), d = norm_F(a W_s + b - W_t)^2 | 004, 7 |
| `row_sparse` | norm_q of the norm_p of the rows of W = [features, tasks] | 000, 3.2.1 |
| `low_rank` | min over Theta, V of norm_F(W - Theta^T V)^2 = tail of squared singular values | 000, 3.2.2 |

Every tie has `every` besides: k evaluates it at every k-th training step with k times the weight (see `Tie`).

norm_* is the sum of the singular values; 3.3, 3.4 and 7 are equations, the other numbers sections.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from taskloom.errors import ConfigError, did_you_mean
from taskloom.registry import Registry
from taskloom.sharing.ties.affine import ExponentialAffine
from taskloom.sharing.ties.distances import L1, L2
from taskloom.sharing.ties.features import LowRank, RowSparse, feature_matrix
from taskloom.sharing.ties.tie import Tie, check_every, matching_weights
from taskloom.sharing.ties.trace_norm import (
    TraceNorm,
    last_axis_trace_norm,
    matrix_trace_norm,
    tensor_train_trace_norm,
    tucker_trace_norm,
)

TIES: Registry[Callable[..., Tie]] = Registry("tie")
"""Classes or functions `(weight=..., **settings) -> Tie`."""

TIES.register("trace_norm")(TraceNorm)


TIES.register("l2")(L2)
TIES.register("l1")(L1)
TIES.register("exponential_affine")(ExponentialAffine)
TIES.register("row_sparse")(RowSparse)
TIES.register("low_rank")(LowRank)


def build(name: str, *, every: int = 1, **settings: Any) -> Tie:
    """Builds a tie by its registered name.

    Args:
        name: A name of `TIES`.
        every: The tie is evaluated at every k-th training step with k times its weight; see `Tie`.
        **settings: The tie's own settings.

    Raises:
        ConfigError: Unknown tie, unknown setting, or a setting out of range.

    Example:
        >>> build("trace_norm", weight=0.01, every=8)
        TraceNorm(weight=0.01, every=8, unfolding=tucker)
    """
    if name not in TIES:
        raise ConfigError(
            f"`{name}` is not a known tie.{did_you_mean(name, TIES)} Known: {', '.join(TIES)}; your own by "
            "`code: FILE.py` in a study, and `taskloom --code FILE.py` before other commands."
        )
    make = TIES[name]
    known = [*inspect.signature(make).parameters, "every"]
    check_every(every, f"{name}.every")
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"`{setting}` is not a setting of tie {name}.{did_you_mean(setting, known)} "
                f"Settings: {', '.join(known)}."
            )
    tie: object = make(**settings)
    if not isinstance(tie, Tie):
        raise ConfigError(f"tie {name} is a {type(tie).__name__}; a taskloom.sharing.ties.Tie is expected.")
    tie.every = every
    return tie


__all__ = [
    "L1",
    "L2",
    "TIES",
    "ExponentialAffine",
    "LowRank",
    "RowSparse",
    "Tie",
    "TraceNorm",
    "build",
    "check_every",
    "feature_matrix",
    "last_axis_trace_norm",
    "matching_weights",
    "matrix_trace_norm",
    "tensor_train_trace_norm",
    "tucker_trace_norm",
]
