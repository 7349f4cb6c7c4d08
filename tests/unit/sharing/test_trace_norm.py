"""The trace norm against the SVD of every unfolding: values, subgradients, and where the SVD is of no use."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties import TraceNorm, build, matrix_trace_norm, tucker_trace_norm


def svd_reference(
    stack: Tensor, modes: Iterator[int] | range, rank_tolerance: float
) -> tuple[Tensor, Tensor]:
    """Sum of trace norms and least-norm subgradient in float64; singular values below the tolerance are 0."""
    data = stack.detach().double()
    value, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(data)
    for mode in modes:
        moved = data.movedim(mode, 0)
        left, singular, right = torch.linalg.svd(moved.reshape(len(moved), -1), full_matrices=False)
        kept = singular > rank_tolerance * singular[0]
        value = value + singular[kept].sum()
        gradient += (left[:, kept] @ right[kept]).reshape(moved.shape).movedim(0, mode)
    return value, gradient


def value_and_gradient(stack: Tensor) -> tuple[Tensor, Tensor]:
    leaf = stack.detach().clone().requires_grad_()
    value = tucker_trace_norm(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def check_against_svd(stack: Tensor, rank_tolerance: float, tolerance: float) -> None:
    value, gradient = value_and_gradient(stack)
    expected_value, expected_gradient = svd_reference(stack, range(stack.dim()), rank_tolerance)
    assert value.dtype == gradient.dtype == stack.dtype
    assert value.item() == pytest.approx(expected_value.item(), rel=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance)
    assert tucker_trace_norm(stack.detach()).item() == pytest.approx(value.item(), rel=tolerance)


SHAPES = [
    (4, 7), (7, 4), (5, 5), (1, 6), (1, 1),  # matrices: wide, tall, square, with axes of size 1
    (6, 5, 2), (40, 3, 3), (3, 2, 30),
    (50, 11, 10, 2), (90, 2, 1, 3),
    (50, 1, 11, 1, 2), (16, 8, 3, 3, 2), (16, 4, 3, 3, 8), (6, 5, 4, 3, 3),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_stack_equals_svd(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    stack = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    check_against_svd(stack, rank_tolerance=1e-6, tolerance=2e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("shape", [(20, 12), (12, 6, 3, 3)])
def test_identical_copies_equal_svd_without_the_null_space(
    shape: tuple[int, ...], num_tasks: int, dtype: torch.dtype
) -> None:
    copy = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    stack = torch.stack([copy] * num_tasks, dim=-1)
    check_against_svd(stack, rank_tolerance=1e-6, tolerance=2e-5 if dtype == torch.float32 else 1e-10)
    # Along the task axis the matrix has rank one: value sqrt(T) |copy|, subgradient copy / (sqrt(T) |copy|).
    value, gradient = value_and_gradient(stack.flatten(0, -2))
    rank_one = math.sqrt(num_tasks) * copy.norm().item()
    assert value.item() == pytest.approx(2 * rank_one, rel=1e-5)
    expected = 2 * copy.flatten() / rank_one
    torch.testing.assert_close(gradient, expected[:, None].expand(-1, num_tasks), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_equals_svd_without_the_null_space(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(30, 4, dtype=dtype, generator=generator)
    right = torch.randn(4, 50, dtype=dtype, generator=generator)
    check_against_svd(left @ right, rank_tolerance=1e-5, tolerance=1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_nearly_identical_copies_are_still_told_apart(distance: float, dtype: torch.dtype) -> None:
    """A float32 Gram matrix would lose the second direction from a distance of about 3e-4 on."""
    generator = torch.Generator().manual_seed(3)
    copy = torch.randn(30, 10, 6, dtype=dtype, generator=generator)
    other = copy + distance * torch.randn(copy.shape, dtype=dtype, generator=generator)
    check_against_svd(torch.stack([copy, other], -1), rank_tolerance=1e-6, tolerance=1e-4)


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6, 1e-9, 1e-12])
def test_ill_conditioned_float64_equals_svd(smallest: float) -> None:
    generator = torch.Generator().manual_seed(4)
    left, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(20, 6, dtype=torch.float64, generator=generator))
    singular = torch.logspace(0, math.log10(smallest), 6, dtype=torch.float64)
    matrix = (left * singular) @ right.T
    leaf = matrix.clone().requires_grad_()
    value = matrix_trace_norm(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.item() == pytest.approx(singular.sum().item(), rel=1e-12)
    # The subgradient itself is only determined to about eps / smallest.
    torch.testing.assert_close(gradient, left @ right.T, rtol=0, atol=max(1e-8, 1e-14 / smallest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_value_scales_and_subgradient_does_not(scale: float, dtype: torch.dtype) -> None:
    stack = torch.randn(12, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    value, gradient = value_and_gradient(stack.to(dtype))
    scaled_value, scaled_gradient = value_and_gradient((scale * stack).to(dtype))
    assert scaled_value.item() == pytest.approx(scale * value.item(), rel=1e-6)
    torch.testing.assert_close(scaled_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_float64_beyond_the_range_of_squares() -> None:
    for scale in (1e-200, 1e200):
        value, gradient = value_and_gradient(scale * torch.eye(3, dtype=torch.float64))
        assert value.item() == pytest.approx(6 * scale)
        torch.testing.assert_close(gradient, 2 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("scales", [(1.0, 1e-6), (1e6, 1.0), (1e6, 1e-6)])
def test_rows_of_very_different_size_keep_their_value(scales: tuple[float, float]) -> None:
    matrix = torch.tensor([[scales[0], 0.0, 0.0], [0.0, scales[1], 0.0]], dtype=torch.float64)
    leaf = matrix.requires_grad_()
    value = matrix_trace_norm(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.item() == pytest.approx(sum(scales), rel=1e-15)
    torch.testing.assert_close(gradient, torch.eye(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 2), (8, 3, 3, 2), (40, 20, 5, 2)])
def test_zeros_have_norm_and_subgradient_zero(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value, gradient = value_and_gradient(torch.zeros(shape, dtype=dtype))
    assert value.item() == 0.0
    assert gradient.count_nonzero().item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan(bad: float, dtype: torch.dtype) -> None:
    stack = torch.ones(8, 3, 3, 2, dtype=dtype)
    stack[0, 0, 0, 0] = bad
    value, gradient = value_and_gradient(stack)
    assert math.isnan(value.item())
    assert gradient.isnan().any()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 3, 2), (3, 2, 2, 3), (3, 2, 2, 2, 2)])
def test_gradcheck_at_full_rank(shape: tuple[int, ...]) -> None:
    stack = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    assert torch.autograd.gradcheck(tucker_trace_norm, stack.requires_grad_())


def test_finite_differences_in_float32_along_a_direction() -> None:
    generator = torch.Generator().manual_seed(7)
    stack, direction = torch.randn(2, 24, 6, 3, 3, 2, generator=generator)
    _, gradient = value_and_gradient(stack)
    step = 1e-2
    slope = tucker_trace_norm(stack + step * direction) - tucker_trace_norm(stack - step * direction)
    assert slope.item() / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=2e-3)


def test_subgradient_inequality_at_identical_copies() -> None:
    """f(X + D) >= f(X) + <g, D> for every D: what makes g a subgradient where f has no gradient."""
    generator = torch.Generator().manual_seed(8)
    copy = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    stack = torch.stack([copy, copy, copy], -1)
    value, gradient = value_and_gradient(stack)
    for _ in range(20):
        direction = 0.1 * torch.randn(stack.shape, dtype=torch.float64, generator=generator)
        assert tucker_trace_norm(stack + direction) >= value + (gradient * direction).sum() - 1e-10


@pytest.mark.parametrize("shape", [(300, 150, 2), (130, 70, 3, 3, 2)])
def test_large_unfoldings_by_blocks_equal_svd(shape: tuple[int, ...]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    check_against_svd(stack, rank_tolerance=1e-6, tolerance=5e-5)


def test_order_of_axes_does_not_matter() -> None:
    stack = torch.randn(12, 5, 3, 3, 2, generator=torch.Generator().manual_seed(10))
    value, gradient = value_and_gradient(stack)
    for order in [(4, 0, 1, 2, 3), (2, 3, 0, 4, 1)]:
        other_value, other_gradient = value_and_gradient(stack.permute(order))
        assert other_value.item() == pytest.approx(value.item(), rel=1e-6)
        torch.testing.assert_close(other_gradient, gradient.permute(order), rtol=0, atol=1e-5)


def test_several_upstream_gradients_at_once() -> None:
    """Gradient aggregation asks for batched backward passes."""
    stack = torch.randn(8, 3, 2, generator=torch.Generator().manual_seed(11)).requires_grad_()
    upstream = torch.tensor([1.0, -2.0])
    (batched,) = torch.autograd.grad(tucker_trace_norm(stack), stack, upstream, is_grads_batched=True)
    _, gradient = value_and_gradient(stack)
    torch.testing.assert_close(batched, torch.stack([gradient, -2.0 * gradient]))


def test_half_precision_is_computed_in_float32() -> None:
    stack = torch.randn(20, 6, 2, generator=torch.Generator().manual_seed(12)).bfloat16()
    value = tucker_trace_norm(stack)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(tucker_trace_norm(stack.float()).item(), rel=1e-6)


def test_autocast_changes_nothing() -> None:
    copies = [nn.Linear(20, 10), nn.Linear(20, 10)]
    expected = TraceNorm(0.5).penalty(copies)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = TraceNorm(0.5).penalty(copies)
    assert value.dtype == torch.float32
    assert value.item() == expected.item()


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_penalty_of_copies_equals_equation_3_3(num_tasks: int) -> None:
    torch.manual_seed(13)
    copies = [nn.Sequential(nn.Conv2d(2, 6, (4, 1)), nn.Linear(5, 3)) for _ in range(num_tasks)]
    penalty = TraceNorm(weight=0.01).penalty(copies)
    penalty.backward()
    expected = 0.0
    for index in range(2):
        stack = torch.stack([copy[index].weight for copy in copies], dim=-1)  # type: ignore[arg-type]
        value, gradient = svd_reference(stack, range(stack.dim()), 1e-6)
        expected += 0.01 * value.item()
        for task, copy in enumerate(copies):
            torch.testing.assert_close(
                copy[index].weight.grad, 0.01 * gradient[..., task].float(), rtol=0, atol=1e-6
            )
            assert copy[index].bias.grad is None
    assert penalty.item() == pytest.approx(expected, rel=1e-5)


def test_penalty_pulls_copies_together() -> None:
    """Descent on the trace norm alone makes the copies' stack lose rank along the task axis."""
    torch.manual_seed(14)
    copies = [nn.Linear(6, 5), nn.Linear(6, 5)]

    def share_of_second_direction() -> float:
        stacked = torch.stack([copy.weight.detach().flatten() for copy in copies])
        singular = torch.linalg.svdvals(stacked)
        return (singular[1] / singular[0]).item()

    before = share_of_second_direction()
    optimizer = torch.optim.SGD([p for copy in copies for p in copy.parameters()], lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        TraceNorm(1.0).penalty(copies).backward()
        optimizer.step()
    assert share_of_second_direction() < 0.8 * before


def test_weight_zero_and_stages_without_kernels_are_no_tie() -> None:
    linear = [nn.Linear(3, 2), nn.Linear(3, 2)]
    assert TraceNorm(0.0).penalty(linear).item() == 0.0
    assert not TraceNorm(0.0).penalty(linear).requires_grad
    assert TraceNorm(1.0).penalty([nn.BatchNorm1d(3), nn.BatchNorm1d(3)]).item() == 0.0
    assert TraceNorm(1.0).penalty([nn.ReLU(), nn.ReLU()]).item() == 0.0


def test_bad_input_is_told_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"at least two copies of a stage; got 1"):
        TraceNorm().penalty([nn.Linear(2, 2)])
    with pytest.raises(ConfigError, match=r"`weight` has shape \(2, 3\) in copy 0 and \(2, 4\) in copy 1"):
        TraceNorm().penalty([nn.Linear(3, 2), nn.Linear(4, 2)])
    with pytest.raises(ConfigError, match=r"`bias` has shape \(2,\) in copy 0 and None in copy 1"):
        TraceNorm().penalty([nn.Linear(3, 2), nn.Linear(3, 2, bias=False)])
    for weight in (-1.0, math.inf, math.nan, "0.1", True):
        with pytest.raises(ConfigError, match="must be a number of at least 0"):
            TraceNorm(weight)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"at least two axes; got shape \(3,\)"):
        tucker_trace_norm(torch.ones(3))
    with pytest.raises(ConfigError, match=r"of torch\.int64"):
        tucker_trace_norm(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"of a matrix; got a tensor of shape \(2, 2, 2\)"):
        matrix_trace_norm(torch.ones(2, 2, 2))
    with pytest.raises(
        ConfigError, match=r"`wieght` is not a setting of tie trace_norm. Did you mean `weight`"
    ):
        build("trace_norm", wieght=1.0)
    with pytest.raises(ConfigError, match=r"`tracenorm` is not a known tie\. Did you mean `trace_norm`"):
        build("tracenorm")
