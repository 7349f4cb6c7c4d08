"""TT and LAF trace norms against the SVD of every unfolding written out, and the axes of the source."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties import (
    TraceNorm,
    build,
    last_axis_trace_norm,
    tensor_train_trace_norm,
    tucker_trace_norm,
)

NORMS: dict[str, Callable[[Tensor], Tensor]] = {"tt": tensor_train_trace_norm, "laf": last_axis_trace_norm}
SHAPES = [
    (4, 7), (7, 4), (5, 1),
    (6, 5, 2), (9, 4, 3), (3, 2, 30),
    (11, 5, 4, 2), (4, 1, 6, 8),
    (3, 3, 4, 6, 2), (3, 1, 4, 5, 8),
]  # fmt: skip


def unfoldings(stack: Tensor, kind: str) -> list[Tensor]:
    """Every unfolding with the shape of the stack beside it: the definition, by moving and reshaping axes."""
    if kind == "laf":
        return [stack.reshape(-1, stack.shape[-1])]
    cuts = range(1, stack.dim())
    return [stack.reshape(math.prod(stack.shape[:cut]), math.prod(stack.shape[cut:])) for cut in cuts]


def svd_reference(stack: Tensor, kind: str, rank_tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Value and least-norm subgradient in float64; singular values below the tolerance count as 0."""
    data = stack.detach().double()
    value, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(data)
    for matrix in unfoldings(data, kind):
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = singular > rank_tolerance * singular[0]
        value = value + singular[kept].sum()
        gradient += (left[:, kept] @ right[kept]).reshape(data.shape)
    return value, gradient


def check_against_svd(stack: Tensor, kind: str, tolerance: float) -> None:
    leaf = stack.detach().clone().requires_grad_()
    value = NORMS[kind](leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    expected_value, expected_gradient = svd_reference(stack, kind)
    assert value.dtype == gradient.dtype == stack.dtype
    assert value.item() == pytest.approx(expected_value.item(), rel=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance)


def tolerance_of(dtype: torch.dtype) -> float:
    return 2e-5 if dtype == torch.float32 else 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", NORMS)
def test_random_stack_equals_svd(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    stack = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    check_against_svd(stack, kind, tolerance_of(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NORMS)
def test_rank_deficient_stack_equals_svd_without_the_null_space(kind: str, dtype: torch.dtype) -> None:
    """Rank two along every cut: a sum of two outer products."""
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(2, size, dtype=torch.float64, generator=generator) for size in (6, 5, 4, 3)]
    stack = torch.einsum("ra,rb,rc,rt->abct", *factors).to(dtype)
    # A float32 stack has singular values of rounding size along each cut, which must count as 0.
    check_against_svd(stack, kind, 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("kind", NORMS)
def test_identical_copies_equal_svd_and_the_closed_form(
    kind: str, num_tasks: int, dtype: torch.dtype
) -> None:
    """Columns repeated T times multiply singular values by sqrt(T); the last cut has rank one."""
    copy = torch.randn(5, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))
    stack = torch.stack([copy] * num_tasks, dim=-1)
    check_against_svd(stack, kind, tolerance_of(dtype))
    alone = svd_reference(copy, "tt")[0].item() if kind == "tt" else 0.0
    expected = math.sqrt(num_tasks) * (alone + copy.norm().item())
    assert NORMS[kind](stack).item() == pytest.approx(expected, rel=1e-5)


def test_pinned_numbers() -> None:
    """[2, 2, 2] with W[0, 0, 0] = 3 and W[1, 1, 1] = 4: every unfolding has the singular values 4 and 3."""
    stack = torch.zeros(2, 2, 2)
    stack[0, 0, 0], stack[1, 1, 1] = 3.0, -4.0
    assert tucker_trace_norm(stack).item() == pytest.approx(21.0)
    assert tensor_train_trace_norm(stack).item() == pytest.approx(14.0)
    assert last_axis_trace_norm(stack).item() == pytest.approx(7.0)


@pytest.mark.parametrize("shape", [(7, 4), (6, 5, 2), (5, 4, 3, 2)])
def test_last_cut_of_tt_and_last_mode_of_tucker_are_laf(shape: tuple[int, ...]) -> None:
    stack = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    last = last_axis_trace_norm(stack).item()
    earlier_cuts = sum(torch.linalg.svdvals(matrix).sum().item() for matrix in unfoldings(stack, "tt")[:-1])
    earlier_modes = sum(
        torch.linalg.svdvals(stack.movedim(mode, 0).flatten(1)).sum().item() for mode in range(len(shape) - 1)
    )
    assert tensor_train_trace_norm(stack).item() - earlier_cuts == pytest.approx(last, rel=1e-10)
    assert tucker_trace_norm(stack).item() - earlier_modes == pytest.approx(last, rel=1e-10)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2), (3, 2, 2, 3), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("kind", NORMS)
def test_gradcheck_at_full_rank(kind: str, shape: tuple[int, ...]) -> None:
    stack = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.autograd.gradcheck(NORMS[kind], stack.requires_grad_())


@pytest.mark.parametrize("kind", NORMS)
def test_subgradient_inequality_at_identical_copies(kind: str) -> None:
    """f(X + D) >= f(X) + <g, D> for every D: what makes g a subgradient where f has no gradient."""
    generator = torch.Generator().manual_seed(5)
    copy = torch.randn(4, 3, 2, dtype=torch.float64, generator=generator)
    stack = torch.stack([copy] * 3, -1).requires_grad_()
    value = NORMS[kind](stack)
    (gradient,) = torch.autograd.grad(value, stack)
    for _ in range(20):
        direction = 0.1 * torch.randn(stack.shape, dtype=torch.float64, generator=generator)
        assert NORMS[kind](stack.detach() + direction) >= value + (gradient * direction).sum() - 1e-10


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("kind", NORMS)
def test_penalty_of_stages_takes_the_axes_in_the_order_of_the_source(kind: str, num_tasks: int) -> None:
    """The source's layers are [height, width, inputs, outputs] and [inputs, outputs], tasks last."""
    torch.manual_seed(6)
    copies = [nn.Sequential(nn.Conv2d(2, 6, (4, 3)), nn.Linear(5, 3)) for _ in range(num_tasks)]
    TraceNorm(0.01, unfolding=kind).penalty(copies).backward()  # type: ignore[arg-type]
    for index, order in ((0, (2, 3, 1, 0)), (1, (1, 0))):
        weights = [copy.get_parameter(f"{index}.weight") for copy in copies]
        stack = torch.stack([weight.detach().permute(order) for weight in weights], dim=-1)
        _, gradient = svd_reference(stack, kind)
        for task, weight in enumerate(weights):
            assert weight.grad is not None
            found = weight.grad.permute(order).double()
            torch.testing.assert_close(found, 0.01 * gradient[..., task], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["tucker", "tt", "laf"])
def test_order_of_tasks_does_not_matter(kind: str) -> None:
    torch.manual_seed(7)
    weights = list(torch.randn(4, 6, 5, 3))
    tie = build("trace_norm", unfolding=kind)
    shuffled = [weights[task] for task in (2, 0, 3, 1)]
    assert tie.measure(shuffled).item() == pytest.approx(tie.measure(weights).item(), rel=1e-6)


def test_settings_and_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"trace_norm\.unfolding: tucker, tt or laf expected, found 'ttt'"):
        build("trace_norm", unfolding="ttt")
    for norm in NORMS.values():
        with pytest.raises(ConfigError, match=r"at least two axes; got shape \(3,\)"):
            norm(torch.ones(3))
        with pytest.raises(ConfigError, match=r"of torch\.int64"):
            norm(torch.ones(3, 3, dtype=torch.int64))
    assert repr(build("trace_norm", unfolding="tt")) == "TraceNorm(weight=0.001, unfolding=tt)"


@pytest.mark.parametrize("kind", NORMS)
def test_zeros_and_what_is_not_finite(kind: str) -> None:
    zeros = torch.zeros(4, 3, 2, requires_grad=True)
    value = NORMS[kind](zeros)
    (gradient,) = torch.autograd.grad(value, zeros)
    assert value.item() == 0.0
    assert gradient.count_nonzero().item() == 0
    assert math.isnan(NORMS[kind](torch.full((4, 3, 2), math.nan)).item())
