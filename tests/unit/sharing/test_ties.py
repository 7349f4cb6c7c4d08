"""What every tie promises, over one table that is the registry; distances and thesis 000 3.2 by loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties import L1, L2, TIES, LowRank, RowSparse, Tie, build, feature_matrix

CASES: list[tuple[str, dict[str, Any]]] = [
    ("exponential_affine", {}),
    ("exponential_affine", {"exponent": "sum", "learnable": False}),
    ("l1", {}),
    ("l2", {}),
    ("low_rank", {}),
    ("low_rank", {"rows": "inputs", "rank": 2}),
    *(("row_sparse", {"p": p, "q": q}) for p in (1, 2, "inf") for q in (1, 2, "inf")),
    ("row_sparse", {"rows": "entries"}),
    ("trace_norm", {}),
    ("trace_norm", {"unfolding": "tt"}),
    ("trace_norm", {"unfolding": "laf"}),
]
IDS = [f"{name} {settings}" for name, settings in CASES]
SHAPES = [(4, 3), (3, 4, 2), (3, 2, 2, 2), (2, 3, 1, 2, 2)]


class Kernel(nn.Module):
    """A stage with one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def draw(shape: tuple[int, ...], num_tasks: int, seed: int = 0, scale: float = 0.3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(num_tasks)]


def attached(name: str, settings: dict[str, Any], weights: list[Tensor], weight: float = 1.0) -> Tie:
    tie = build(name, weight=weight, **settings)
    tie.attach([Kernel(weight) for weight in weights])
    return tie


def test_the_table_is_the_registry() -> None:
    assert sorted({name for name, _ in CASES}) == list(TIES)


@pytest.mark.parametrize("num_tasks", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_finite_differences(
    name: str, settings: dict[str, Any], shape: tuple[int, ...], num_tasks: int
) -> None:
    weights = [weight.requires_grad_() for weight in draw(shape, num_tasks)]
    tie = attached(name, settings, [weight.detach() for weight in weights])
    assert torch.autograd.gradcheck(lambda *copies: tie.measure(copies), weights)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_order_of_tasks_does_not_matter(
    name: str, settings: dict[str, Any], shape: tuple[int, ...], num_tasks: int
) -> None:
    weights = draw(shape, num_tasks, seed=1)
    tie = attached(name, settings, weights)
    order = [*range(1, num_tasks), 0]
    shuffled = tie.measure([weights[task] for task in order])
    assert shuffled.item() == pytest.approx(tie.measure(weights).item(), rel=1e-10)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_float32_agrees_with_float64(name: str, settings: dict[str, Any]) -> None:
    weights = draw((6, 5, 3), 3, seed=2)
    exact = attached(name, settings, weights).measure(weights)
    singles = [weight.float() for weight in weights]
    value = attached(name, settings, singles).measure(singles)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    halves = [weight.bfloat16() for weight in weights]
    assert attached(name, settings, halves).measure(halves).dtype == torch.float32


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_penalty_is_weight_times_the_sum_over_the_weights_of_the_stage(
    name: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(3)
    copies = [nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(4, 3)) for _ in range(3)]
    tie = build(name, weight=0.25, **settings)
    tie.attach(copies)
    expected = 0.0
    for layer in ("0.weight", "2.weight"):
        weights = [copy.get_parameter(layer).detach() for copy in copies]
        expected += 0.25 * attached(name, settings, weights).measure(weights).item()
    penalty = tie.penalty(copies)
    penalty.backward()
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    for copy in copies:
        for parameter_name, parameter in copy.named_parameters():
            assert (parameter.grad is None) == (parameter.dim() < 2), parameter_name


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_weight_zero_is_no_tie(name: str, settings: dict[str, Any]) -> None:
    copies = [nn.Linear(4, 3) for _ in range(2)]
    tie = build(name, weight=0.0, **settings)
    tie.attach(copies)
    penalty = tie.penalty(copies)
    assert penalty.item() == 0.0
    assert not penalty.requires_grad


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_zeros_have_penalty_and_subgradient_zero(name: str, settings: dict[str, Any]) -> None:
    copies = [Kernel(torch.zeros(4, 3)) for _ in range(3)]
    tie = build(name, weight=2.0, **settings)
    tie.attach(copies)
    penalty = tie.penalty(copies)
    penalty.backward()
    assert penalty.item() == 0.0
    for copy in copies:
        assert copy.weight.grad is not None
        assert copy.weight.grad.count_nonzero().item() == 0


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_descent_on_the_penalty_alone_lowers_it(name: str, settings: dict[str, Any]) -> None:
    copies = [Kernel(weight) for weight in draw((4, 3), 3, seed=4)]
    tie = build(name, weight=1.0, **settings)
    tie.attach(copies)
    before = tie.penalty(copies).item()
    optimizer = torch.optim.SGD([copy.weight for copy in copies], lr=0.003)
    for _ in range(20):
        optimizer.zero_grad()
        tie.penalty(copies).backward()
        optimizer.step()
    assert tie.penalty(copies).item() < 0.97 * before


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_gradient_aggregation_may_ask_for_several_gradients_at_once(
    name: str, settings: dict[str, Any]
) -> None:
    weights = draw((4, 3), 3, seed=5)
    tie = attached(name, settings, weights)
    stack = torch.stack(weights).requires_grad_()
    value = tie.measure(list(stack))
    upstream = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (batched,) = torch.autograd.grad(value, stack, upstream, is_grads_batched=True, retain_graph=True)
    (single,) = torch.autograd.grad(value, stack)
    torch.testing.assert_close(batched, torch.stack([single, -2.0 * single]))


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_bad_weights_copies_and_settings_are_refused(name: str) -> None:
    for weight in (-1.0, math.inf, math.nan, "0.1", True):
        with pytest.raises(ConfigError, match="The weight of a tie must be a number of at least 0"):
            build(name, weight=weight)
    with pytest.raises(ConfigError, match=rf"`wieght` is not a setting of tie {name}.*`weight`"):
        build(name, wieght=1.0)
    tie = build(name)
    for check in (tie.attach, tie.penalty):
        with pytest.raises(ConfigError, match=r"at least two copies of a stage; got 1"):
            check([nn.Linear(2, 2)])
        with pytest.raises(
            ConfigError, match=r"`0\.weight` has shape \(2, 3\) in copy 0 and \(2, 4\) in copy 2"
        ):
            check([nn.Sequential(nn.Linear(inputs, 2)) for inputs in (3, 3, 4)])
        with pytest.raises(ConfigError, match=r"`bias` has shape \(2,\) in copy 0 and None in copy 1"):
            check([nn.Linear(3, 2), nn.Linear(3, 2, bias=False)])


def test_a_tie_of_ones_own_that_gives_several_numbers_is_refused() -> None:
    """They would be added to the losses one by one, and fail in the backward pass without a word of it."""

    class PerRow(Tie):
        def measure(self, weights: Sequence[Tensor]) -> Tensor:
            return (weights[0] - weights[1]).square().sum(dim=1)

    with pytest.raises(ConfigError, match=r"Tie PerRow measures a tensor of shape \(4,\); one number"):
        PerRow(weight=1.0).penalty([Kernel(weight) for weight in draw((4, 3), 2)])


def pairs(weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.combinations(weights, 2))


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_distances_equal_the_loop_over_pairs(shape: tuple[int, ...], num_tasks: int) -> None:
    weights = draw(shape, num_tasks, seed=6)
    squared = sum((s - t).square().sum().item() for s, t in pairs(weights))
    absolute = sum((s - t).abs().sum().item() for s, t in pairs(weights))
    assert L2(1.0).measure(weights).item() == pytest.approx(squared, rel=1e-12)
    assert L1(1.0).measure(weights).item() == pytest.approx(absolute, rel=1e-12)


def test_pinned_distances() -> None:
    """Entries 0, 1, 3: pairs 1, 3, 2 apart."""
    weights = [torch.full((1, 1), value) for value in (0.0, 1.0, 3.0)]
    assert L1(1.0).measure(weights).item() == 6.0
    assert L2(1.0).measure(weights).item() == pytest.approx(14.0)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_identical_copies_are_at_distance_zero(num_tasks: int) -> None:
    weights = [weight.float().requires_grad_() for weight in draw((5, 4), 1, seed=7) * num_tasks]
    (absolute,) = torch.autograd.grad(L1(1.0).measure(weights), weights[0])
    assert L1(1.0).measure(weights).item() == 0.0
    assert absolute.count_nonzero().item() == 0
    assert L2(1.0).measure(weights).item() == pytest.approx(0.0, abs=1e-11)


def test_l1_subgradient_counts_larger_and_smaller_copies() -> None:
    """Entry values 2, 2, 5: nothing between the equal ones, one sign for each other pair."""
    stack = torch.tensor([2.0, 2.0, 5.0])[:, None, None].requires_grad_()
    (gradient,) = torch.autograd.grad(L1(1.0).measure(list(stack)), stack)
    assert gradient.flatten().tolist() == [-1.0, -1.0, 2.0]


NUMPY_ORDER = {1: 1, 2: 2, "inf": np.inf}


@pytest.mark.parametrize("rows", ["inputs", "entries"])
@pytest.mark.parametrize("q", [1, 2, "inf"])
@pytest.mark.parametrize("p", [1, 2, "inf"])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_row_sparse_equals_the_loop_over_features(
    num_tasks: int, p: int | str, q: int | str, rows: str
) -> None:
    weights = draw((3, 4, 2), num_tasks, seed=8)
    arrays = [weight.numpy() for weight in weights]
    if rows == "inputs":
        features = [np.concatenate([array[:, i].ravel() for array in arrays]) for i in range(4)]
    else:
        features = [
            np.array([array[o, i, k] for array in arrays])
            for o in range(3)
            for i in range(4)
            for k in range(2)
        ]
    norms = [np.linalg.norm(feature, ord=NUMPY_ORDER[p]) for feature in features]
    expected = float(np.linalg.norm(norms, ord=NUMPY_ORDER[q]))
    tie = build("row_sparse", weight=1.0, p=p, q=q, rows=rows)
    assert tie.measure(weights).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        (1, 1, 9.0), (1, 2, math.sqrt(53.0)), (1, "inf", 7.0),
        (2, 1, 7.0), (2, 2, math.sqrt(29.0)), (2, "inf", 5.0),
        ("inf", 1, 6.0), ("inf", 2, math.sqrt(20.0)), (math.inf, math.inf, 4.0),
    ],
)  # fmt: skip
def test_pinned_row_sparse(p: float | str, q: float | str, expected: float) -> None:
    """Two tasks of three features: rows (3, -4), (0, 0), (-2, 0)."""
    weights = [torch.tensor([[3.0, 0.0, -2.0]]), torch.tensor([[-4.0, 0.0, 0.0]])]
    for rows in ("inputs", "entries"):  # one output: the same
        tie = build("row_sparse", weight=1.0, p=p, q=q, rows=rows)
        assert tie.measure(weights).item() == pytest.approx(expected)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_row_sparse_of_identical_copies(num_tasks: int) -> None:
    """A row repeated T times has T^(1/p) times its norm."""
    weight = draw((3, 4), 1, seed=9)[0]
    for p, factor in ((1, num_tasks), (2, math.sqrt(num_tasks)), ("inf", 1.0)):
        tie = RowSparse(1.0, p=p)
        assert tie.measure([weight] * num_tasks).item() == pytest.approx(
            factor * tie.measure([weight]).item(), rel=1e-12
        )


def test_row_sparse_proximal_descent_drops_the_useless_feature_for_all_tasks() -> None:
    """The subgradient of an empty row is 0, and a row pulled hard enough goes towards 0 as a whole."""
    generator = torch.Generator().manual_seed(10)
    inputs = torch.randn(200, 3, generator=generator)
    targets = [inputs @ torch.tensor([2.0, -1.0, 0.0]), inputs @ torch.tensor([1.0, 1.0, 0.0])]
    copies = [nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)]
    for copy in copies:
        nn.init.constant_(copy.weight, 0.5)
    tie = RowSparse(0.1)
    optimizer = torch.optim.SGD([copy.weight for copy in copies], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = sum(
            (
                (copy(inputs)[:, 0] - target).square().mean()
                for copy, target in zip(copies, targets, strict=True)
            ),
            start=tie.penalty(copies),
        )
        loss.backward()
        optimizer.step()
    norms = feature_matrix([copy.weight for copy in copies], "inputs").norm(dim=1)
    assert norms[2] < 0.01
    assert norms[:2].min() > 1.0


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("rows", ["inputs", "entries"])
@pytest.mark.parametrize("num_tasks", [3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_low_rank_equals_the_tail_of_the_svd(
    shape: tuple[int, ...], num_tasks: int, rows: str, rank: int
) -> None:
    weights = [weight.requires_grad_() for weight in draw(shape, num_tasks, seed=11)]
    tie = build("low_rank", weight=1.0, rank=rank, rows=rows)
    assert isinstance(tie, LowRank)
    value = tie.measure(weights)
    matrix = feature_matrix([weight.detach() for weight in weights], tie.rows)
    expected = torch.linalg.svdvals(matrix)[rank:].square().sum().item()
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-25)
    # The gradient is 2 U of the decomposition.
    u, _, _ = tie.decompose(weights)
    gradients = torch.autograd.grad(value, weights)
    torch.testing.assert_close(feature_matrix(gradients, tie.rows), 2.0 * u, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("rows", ["inputs", "entries"])
def test_low_rank_decomposition_is_feasible_and_none_is_better(rows: str) -> None:
    weights = draw((4, 3, 2), 4, seed=12)
    tie = LowRank(1.0, rank=2, rows=rows)  # type: ignore[arg-type]
    matrix = feature_matrix(weights, tie.rows)
    u, theta, v = tie.decompose(weights)
    torch.testing.assert_close(u + theta.T @ v, matrix)
    torch.testing.assert_close(theta @ theta.T, torch.eye(2, dtype=torch.float64))
    best = tie.measure(weights).item()
    assert u.square().sum().item() == pytest.approx(best, rel=1e-10)
    generator = torch.Generator().manual_seed(13)
    for size in (1e-3, 0.1, 10.0):
        moved = theta.T + size * torch.randn(theta.T.shape, dtype=torch.float64, generator=generator)
        basis, _ = torch.linalg.qr(moved)  # another Theta, with its best V
        assert (matrix - basis @ (basis.T @ matrix)).square().sum().item() >= best - 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_low_rank_of_identical_copies_and_multiples_is_nothing(num_tasks: int, dtype: torch.dtype) -> None:
    weight = draw((6, 5), 1, seed=14)[0].to(dtype)
    copies = [(-1.0) ** task * 2.0**task * weight for task in range(num_tasks)]
    total = sum(copy.square().sum().item() for copy in copies)
    assert LowRank(1.0).measure([weight] * num_tasks).item() <= 1e-13 * total
    assert LowRank(1.0).measure(copies).item() <= 1e-13 * total
    # Along the inputs T copies repeat the columns: T times the tail of one of them.
    tail = torch.linalg.svdvals(weight.double())[2:].square().sum().item()
    value = LowRank(1.0, rank=2, rows="inputs").measure([weight] * num_tasks).item()
    assert value == pytest.approx(num_tasks * tail, rel=1e-5)


def test_low_rank_keeps_its_digits_where_copies_are_nearly_equal() -> None:
    """Rounding of float32 in the products would be larger than the distance of the copies."""
    generator = torch.Generator().manual_seed(15)
    weight = torch.randn(40, 30, generator=generator)
    other = weight + 1e-5 * torch.randn(40, 30, generator=generator)
    matrix = feature_matrix([weight.double(), other.double()], "entries")
    expected = torch.linalg.svdvals(matrix)[1].square().item()
    assert LowRank(1.0).measure([weight, other]).item() == pytest.approx(expected, rel=1e-5)


def test_low_rank_finds_the_planted_subspace() -> None:
    generator = torch.Generator().manual_seed(16)
    basis, _ = torch.linalg.qr(torch.randn(10, 2, dtype=torch.float64, generator=generator))
    weights = [(basis @ torch.randn(2, 3, dtype=torch.float64, generator=generator)).T for _ in range(4)]
    tie = LowRank(1.0, rank=2, rows="inputs")
    assert tie.measure(weights).item() == pytest.approx(0.0, abs=1e-24)
    _, theta, _ = tie.decompose(weights)
    torch.testing.assert_close(theta.T @ theta, basis @ basis.T)
    # Nothing beyond the subspace is left where there are no more inputs than the rank.
    assert LowRank(1.0, rank=10, rows="inputs").measure(weights).item() == 0.0


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_what_is_not_finite_gives_no_number(name: str, settings: dict[str, Any]) -> None:
    weights = [torch.ones(3, 3), torch.full((3, 3), math.nan), torch.ones(3, 3)]
    tie = attached(name, settings, [torch.ones(3, 3)] * 3)
    assert math.isnan(tie.measure(weights).item())


def test_settings_out_of_range_are_told_in_one_sentence() -> None:
    for name, settings, message in [
        ("row_sparse", {"p": 3}, r"row_sparse\.p: 1, 2 or inf expected, found 3"),
        ("row_sparse", {"q": True}, r"row_sparse\.q: 1, 2 or inf expected, found True"),
        ("row_sparse", {"q": "two"}, r"row_sparse\.q: 1, 2 or inf expected, found 'two'"),
        ("row_sparse", {"p": [2]}, r"row_sparse\.p: 1, 2 or inf expected, found \[2\]"),
        ("row_sparse", {"rows": "outputs"}, r"row_sparse\.rows: inputs or entries expected, found 'outputs'"),
        ("low_rank", {"rows": None}, r"low_rank\.rows: inputs or entries expected, found None"),
        ("low_rank", {"rank": 0}, r"low_rank\.rank: a whole number of at least 1 expected, found 0"),
        ("low_rank", {"rank": 1.0}, r"low_rank\.rank: a whole number of at least 1 expected, found 1\.0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(name, **settings)
    two = [nn.Linear(3, 2), nn.Linear(3, 2)]
    tie = build("low_rank", rank=2)
    for check in (tie.attach, tie.penalty):
        with pytest.raises(ConfigError, match="below the number of copies expected, found 2 for 2 copies"):
            check(two)
    build("low_rank", rank=2, rows="inputs").attach(two)
