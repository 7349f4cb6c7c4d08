"""The penalties of thesis 000, section 3.2, over the matrix of features by tasks: row-sparse and low-rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties.tie import Tie, matching_weights

Rows = Literal["inputs", "entries"]
"""What the rows of the matrix of features by tasks are; see `feature_matrix`."""


_OTHER_LAYERS = (nn.modules.conv._ConvTransposeNd, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)


def feature_matrix(weights: Sequence[Tensor], rows: Rows) -> Tensor:
    """The T copies of one weight as the matrix W of thesis 000, section 3.2: features down, tasks across.

    A linear model of d features per task gives W [d, T]. A weight of a stage, [out, in, *kernel], has several
    outputs, which leaves two ways:

    - "inputs": every input (of a convolution: input channel) is a feature and every output of every task a
      predictor, [in, out * kernel * T];
    - "entries": every entry of the weight is a feature, and every task one flattened column,
      [out * in * kernel, T].

    With one output and no kernel they are the same. Inputs are axis 1 of the weight, as in linear and
    ordinary convolution layers; in a grouped convolution these are the inputs of a group.

    Args:
        weights: T tensors [out, in, ...].
        rows: "inputs" or "entries".

    Returns:
        Matrix of at least float32.

    Example:
        >>> copies = [torch.zeros(5, 3), torch.zeros(5, 3)]
        >>> feature_matrix(copies, "inputs").shape, feature_matrix(copies, "entries").shape
        (torch.Size([3, 10]), torch.Size([15, 2]))
    """
    if rows == "inputs":
        matrix = torch.cat([weight.movedim(1, 0).flatten(1) for weight in weights], dim=1)
    else:
        matrix = torch.stack([weight.flatten() for weight in weights], dim=1)
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()


def check_layers(stage: nn.Module, tie: str) -> None:
    """Refuses a stage with weights that are no [out, in, ...], of which there are no features by tasks.

    Thesis 000 has linear models, which is what linear and fully connected layers are; a convolution is one of
    its patches, a recurrent layer of input and state. A transposed convolution has its inputs on the other
    axis, an embedding has none, a bilinear layer two.

    Args:
        stage: A copy of the stage.
        tie: What the message calls the tie.

    Raises:
        ConfigError: Names the layer.

    Example:
        >>> check_layers(torch.nn.Linear(3, 2), "low_rank")
    """
    for layer in stage.modules():
        if isinstance(layer, _OTHER_LAYERS):
            raise ConfigError(
                f"{tie}: weights [outputs, inputs, ...] of linear, convolution or recurrent layers expected, "
                f"found those of a {type(layer).__name__}; leave its stage out of the tied ones."
            )


class RowSparse(Tie):
    """The row-sparse norm: ||W||_{p,q} = || (|w_1|_p, ..., |w_d|_p) ||_q over the rows (features) of W.

    With p > 1 and q = 1 it makes whole rows 0, so that all tasks drop a feature together. Thesis 000,
    section 3.2.1. Where a norm has no gradient the subgradient is that of PyTorch's norms: 0 for rows of
    zeros, shared evenly between equal maxima.

    Args:
        weight: Factor (lambda).
        p: Norm within a row, over tasks (with "inputs" over all outputs of all tasks): 1, 2 or "inf".
        q: Norm over the rows: 1, 2 or "inf".
        rows: What is a feature, "inputs" or "entries"; see `feature_matrix`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> copies = [torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 0.0]])]  # 2 features, one output
        >>> RowSparse(weight=1.0).measure(copies).item()  # |(3, 4)|_2 + |(0, 0)|_2
        5.0
    """

    def __init__(
        self,
        weight: float = 0.001,
        p: int | float | str = 2,
        q: int | float | str = 1,
        rows: Rows = "inputs",
    ) -> None:
        super().__init__(weight)
        self.p, self.q = _order(p, "row_sparse.p"), _order(q, "row_sparse.q")
        self.rows = _checked_rows(rows, "row_sparse.rows")

    def attach(self, copies: Sequence[nn.Module]) -> None:
        """Checks that the tie fits these copies.

        Raises:
            ConfigError: See `Tie.attach` and `check_layers`.
        """
        super().attach(copies)
        check_layers(copies[0], "row_sparse")

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        row_norms = torch.linalg.vector_norm(feature_matrix(weights, self.rows), ord=self.p, dim=1)
        norm: Tensor = torch.linalg.vector_norm(row_norms, ord=self.q)
        return norm

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}, q={self.q:g}, rows={self.rows}"


class LowRank(Tie):
    """The low-rank decomposition w_t = u_t + Theta^T v_t with a price on u alone (Ando and Zhang, 2005).

    Thesis 000, section 3.2.2: minimise L(W) + lambda ||U||_F^2 over W = U + Theta^T V, where the `rank` rows
    of Theta [rank, d] are orthonormal (the thesis writes Theta^T Theta = I, which no rank < d can fulfil;
    Ando and Zhang have Theta Theta^T = I). The loss depends on the sum W alone, so that U, V and Theta can be
    minimised out exactly at every step instead of by turns: with the singular values s_1 >= s_2 >= ... of
    W [d, T],

        min over Theta, V of ||W - Theta^T V||_F^2 = sum over k > rank of s_k^2,

    where the rows of Theta are the first `rank` singular vectors on the side of the features (Eckart and
    Young). The penalty is weight times this sum, its gradient 2 weight U. Nothing is to be learned beside
    the copies, and training minimises the same objective as with U, V and Theta as parameters; `decompose`
    gives them. The gradient is unique where s_rank > s_(rank + 1); else it is that of one of the best
    subspaces.

    With `rows="entries"` and rank 1 copies cost nothing where they are multiples of one weight.

    Args:
        weight: Factor (lambda).
        rank: Dimension h of the common subspace, at least 1. With "entries" it must be below the number of
            copies; with "inputs" a weight costs nothing that has no more inputs than `rank`, or no more
            outputs of all tasks.
        rows: What is a feature, "entries" or "inputs"; see `feature_matrix`. "inputs" looks for few common
            directions of the inputs, of all outputs of all tasks.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> copies = [torch.diag(torch.tensor([2.0, 0.0])), torch.diag(torch.tensor([0.0, 3.0]))]
        >>> LowRank(weight=1.0, rank=1).measure(copies).item()  # singular values 3 and 2
        4.0
    """

    def __init__(self, weight: float = 0.001, rank: int = 1, rows: Rows = "entries") -> None:
        super().__init__(weight)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ConfigError(f"low_rank.rank: a whole number of at least 1 expected, found {rank!r}.")
        self.rank = rank
        self.rows = _checked_rows(rows, "low_rank.rows")

    def attach(self, copies: Sequence[nn.Module]) -> None:
        """Checks that the tie fits these copies.

        Raises:
            ConfigError: See `Tie.attach` and `check_layers`; or with "entries" a rank that is no less than
                the number of copies, which would cost nothing whatever the weights.
        """
        for weights in matching_weights(copies):
            self._check(weights)
        check_layers(copies[0], "low_rank")

    def measure(self, weights: Sequence[Tensor]) -> Tensor:
        self._check(weights)
        matrix = feature_matrix(weights, self.rows)
        # In float64: the rest is small beside the copies, and the rounding of float32 would be most of it.
        tall = (matrix.T if matrix.shape[0] < matrix.shape[1] else matrix).double()
        rest = tall @ _last_directions(tall.detach(), self.rank)
        # The directions are those that minimise the rest, so their own change has no first-order effect.
        return rest.square().sum().to(matrix.dtype)

    @torch.no_grad()
    def decompose(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """U, Theta and V of W = U + Theta^T V, the minimisers behind the penalty.

        Args:
            weights: The T copies of one weight.

        Returns:
            U [d, columns], Theta [rank, d] with orthonormal rows, V [rank, columns], in float64; the shape of
            W is that of `feature_matrix`.

        Example:
            >>> parts = LowRank(rank=1).decompose([torch.eye(2), 3.0 * torch.eye(2)])
            >>> [tuple(part.shape) for part in parts], bool(parts[0].abs().max() < 1e-12)
            ([(4, 2), (1, 4), (1, 2)], True)
        """
        self._check(weights)
        matrix = feature_matrix(weights, self.rows).double()
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        theta, v = left[:, : self.rank].T, singular[: self.rank, None] * right[: self.rank]
        return matrix - theta.T @ v, theta, v

    def _check(self, weights: Sequence[Tensor]) -> None:
        if self.rows == "entries" and self.rank >= len(weights):
            raise ConfigError(
                f"low_rank.rank: a rank below the number of copies expected, found {self.rank} for "
                f"{len(weights)} copies; lower it or set rows to inputs."
            )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, rows={self.rows}"


@torch.no_grad()
def _last_directions(tall: Tensor, rank: int) -> Tensor:
    """All right singular vectors of a float64 matrix [n, m], n >= m, but the first `rank`: [m, m - rank]."""
    gram = tall.T @ tall
    if not bool(gram.diagonal().sum().isfinite()):
        # Weights that are not finite have no directions: NaN, for the training loop to find.
        return torch.full_like(gram, math.nan)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors  # by ascending eigenvalue
    return vectors[:, : max(gram.shape[0] - rank, 0)]


def _order(value: object, setting: str) -> float:
    for allowed in (1.0, 2.0, math.inf):
        if not isinstance(value, bool) and value in (allowed, "inf" if allowed == math.inf else allowed):
            return allowed
    raise ConfigError(f"{setting}: 1, 2 or inf expected, found {value!r}.")


def _checked_rows(rows: Rows, setting: str) -> Rows:
    if rows not in get_args(Rows):
        raise ConfigError(f"{setting}: inputs or entries expected, found {rows!r}.")
    return rows
