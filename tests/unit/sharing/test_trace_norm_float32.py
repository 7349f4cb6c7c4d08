"""Trace norms of large float32 unfoldings: which precision they take, and that both equal the SVD."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from taskloom.sharing.ties import TraceNorm, matrix_trace_norm, products, stacks, tucker_trace_norm
from taskloom.sharing.ties.products import inverse_root, symmetric_times, times_transposed
from taskloom.sharing.ties.stacks import Axes, Stack


@pytest.fixture
def squared_in(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Precisions of the Gram matrices that are made, in their order."""
    found: list[torch.dtype] = []
    gram = Stack.gram

    def watched(self: Stack, axes: Axes, dtype: torch.dtype = torch.float64) -> Tensor:
        found.append(dtype)
        return gram(self, axes, dtype)

    monkeypatch.setattr(Stack, "gram", watched)
    return found


@pytest.fixture
def _lower_precision_allowed() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def with_condition(condition: float, rows: int = 128, columns: int = 300, seed: int = 0) -> Tensor:
    """A float32 matrix whose singular values fall from 1 to 1 / condition."""
    draw = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=draw))
    right, _ = torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64, generator=draw))
    singular = torch.logspace(0, -math.log10(condition), rows, dtype=torch.float64)
    return ((left * singular) @ right.T).float()


def check_against_svd(matrix: Tensor, kept: int | None = None) -> None:
    """Value to 1e-5, and the subgradient over the first `kept` singular values to 100 eps of its size."""
    leaf = matrix.clone().requires_grad_()
    value = matrix_trace_norm(leaf)
    value.backward()
    assert leaf.grad is not None
    left, singular, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert value.item() == pytest.approx(singular[:kept].sum().item(), rel=1e-5)
    expected = left[:, :kept] @ right[:kept]
    torch.testing.assert_close(leaf.grad.double(), expected, rtol=0, atol=2e-5)
    assert matrix_trace_norm(matrix).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("condition", [1.0, 1.5, 3.0, 5.0, 7.0])
def test_what_is_well_conditioned_takes_float32(condition: float, squared_in: list[torch.dtype]) -> None:
    check_against_svd(with_condition(condition))
    assert set(squared_in) == {torch.float32}


@pytest.mark.parametrize("condition", [12.0, 30.0, 99.0, 101.0, 1e3])
def test_what_is_not_takes_float64(condition: float, squared_in: list[torch.dtype]) -> None:
    check_against_svd(with_condition(condition))
    assert squared_in == [torch.float32, torch.float64] * 2  # of the value with and without gradient


@pytest.mark.parametrize("condition", [7.5, 8.0, 8.5, 9.0, 10.0, 11.0])
def test_at_the_border_both_are_right(condition: float, squared_in: list[torch.dtype]) -> None:
    for seed in range(3):
        check_against_svd(with_condition(condition, seed=seed))
    assert len(squared_in) >= 6


@pytest.mark.parametrize("rank", [1, 40, 127])
def test_what_lacks_rank_takes_float64(rank: int, squared_in: list[torch.dtype]) -> None:
    draw = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(128, rank, generator=draw))
    right = torch.randn(rank, 400, generator=draw)
    check_against_svd(left @ right, kept=rank)
    assert torch.float64 in squared_in


def test_one_direction_far_above_the_others(squared_in: list[torch.dtype]) -> None:
    draw = torch.Generator().manual_seed(2)
    matrix = with_condition(1.2) + 3.0 * torch.outer(
        torch.randn(128, generator=draw), torch.randn(300, generator=draw)
    ) / math.sqrt(128 * 300)
    check_against_svd(matrix)
    check_against_svd(with_condition(1.2) + (100.0 / 128.0) * torch.ones(128, 300))
    assert set(squared_in) == {torch.float32, torch.float64}


def test_a_kernel_of_a_backbone_equals_the_svd(squared_in: list[torch.dtype]) -> None:
    """[256, 128, 3, 3] of two tasks: axes of 256 and 128, and kernel and tasks together, in float32."""
    draw = torch.Generator().manual_seed(3)
    copies = [(0.05 * torch.randn(256, 128, 3, 3, generator=draw)).requires_grad_() for _ in range(2)]
    value = TraceNorm(weight=1.0).measure(copies)
    (0.5 * value).backward()
    assert squared_in == [torch.float32] * 3
    stack = torch.stack([copy.detach() for copy in copies], dim=-1).double()
    expected, gradient = 0.0, torch.zeros_like(stack)
    for mode in range(stack.dim()):
        moved = stack.movedim(mode, 0)
        left, singular, right = torch.linalg.svd(moved.flatten(1), full_matrices=False)
        expected += singular.sum().item()
        gradient += (left @ right).reshape(moved.shape).movedim(0, mode)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    for number, copy in enumerate(copies):
        assert copy.grad is not None
        torch.testing.assert_close(copy.grad.double(), 0.5 * gradient[..., number], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("apart", "precisions"), [(1.0, 1), (0.3, 1), (0.2, 2), (1e-4, 2), (0.0, 2)])
def test_kernel_and_tasks_take_float64_where_copies_are_close(
    apart: float, precisions: int, squared_in: list[torch.dtype]
) -> None:
    """Copies W and W + apart N, N of W's size: their singular values along the tasks lie apart."""
    draw = torch.Generator().manual_seed(8)
    first, noise = torch.randn(2, 96, 64, 3, 3, generator=draw)
    copies = [first.clone().requires_grad_(), (first + apart * noise).requires_grad_()]
    value = TraceNorm(weight=1.0).measure(copies)
    value.backward()
    assert squared_in[-precisions:] == [torch.float32, torch.float64][:precisions]
    assert squared_in.count(torch.float32) == 1
    expected, gradient = 0.0, torch.zeros(2, 96, 64, 3, 3, dtype=torch.float64)
    stack = torch.stack([copy.detach() for copy in copies]).double()
    for axis in range(5):
        moved = stack.movedim(axis, 0)
        left, singular, right = torch.linalg.svd(moved.flatten(1), full_matrices=False)
        kept = singular > 1e-6 * singular[0]
        expected += singular[kept].sum().item()
        gradient += (left[:, kept] @ right[kept]).reshape(moved.shape).movedim(0, axis)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    largest = gradient.abs().max().item()
    for copy, one in zip(copies, gradient, strict=True):
        assert copy.grad is not None
        torch.testing.assert_close(copy.grad.double(), one, rtol=0, atol=1e-5 * largest)


def test_identical_copies_of_a_large_kernel() -> None:
    """Along the tasks rank one, along the outputs the copy's own directions: sqrt(2) times its norms."""
    draw = torch.Generator().manual_seed(4)
    copy = torch.randn(128, 150, 2, generator=draw)
    pair = torch.stack([copy, copy])
    norms = [torch.linalg.svdvals(copy.double().movedim(axis, 0).flatten(1)).sum() for axis in range(3)]
    expected = math.sqrt(2) * (sum(norms) + copy.double().norm())
    assert TraceNorm().measure(list(pair)).item() == pytest.approx(expected.item(), rel=1e-6)
    assert tucker_trace_norm(pair).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="this PyTorch has the older switch alone"
)
@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.float64), ("ieee", torch.float32)])
def test_the_newer_switch_of_precision_is_read(
    asked: str, dtype: torch.dtype, squared_in: list[torch.dtype]
) -> None:
    """Where it was used PyTorch's older getter may answer with an error."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = asked
        matrix_trace_norm(with_condition(1.5))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert squared_in == [dtype]


@pytest.mark.usefixtures("_lower_precision_allowed")
def test_float32_that_may_be_something_else_is_not_trusted(squared_in: list[torch.dtype]) -> None:
    matrix_trace_norm(with_condition(1.5))
    assert squared_in == [torch.float64]


def test_the_gradient_may_be_taken_twice_and_in_a_batch() -> None:
    leaf = with_condition(2.0).requires_grad_()
    value = matrix_trace_norm(leaf)
    (once,) = torch.autograd.grad(value, leaf, retain_graph=True)
    upstream = torch.tensor([1.0, -2.0])
    (batched,) = torch.autograd.grad(value, leaf, upstream, is_grads_batched=True, retain_graph=True)
    (again,) = torch.autograd.grad(3.0 * value, leaf)
    torch.testing.assert_close(batched, torch.stack([once, -2.0 * once]))
    torch.testing.assert_close(again, 3.0 * once)


def test_the_gradient_of_weights_that_changed_since_is_refused() -> None:
    """The backward pass reads the copies again."""
    leaf = torch.nn.Parameter(with_condition(2.0))
    value = matrix_trace_norm(leaf)
    with torch.no_grad():
        leaf.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("piece", [1, 7, 64, 10**6])
def test_products_of_unfoldings_by_pieces(
    piece: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "_PIECE", piece)
    monkeypatch.setattr(stacks, "_VIEWED", 2 * piece)
    monkeypatch.setattr(stacks, "_ROWS", 3)
    draw = torch.Generator().manual_seed(5)
    copies = tuple(torch.randn(4, 3, 2, dtype=dtype, generator=draw) for _ in range(3))
    stack, whole = Stack(copies), torch.stack(copies, dim=-1)
    for number in (1, 2, 3):
        for axes in itertools.combinations(range(4), number):
            others = [axis for axis in range(4) if axis not in axes]
            moved = whole.permute(*axes, *others)
            rows = math.prod(whole.shape[axis] for axis in axes)
            matrix = moved.reshape(rows, -1)
            torch.testing.assert_close(stack.matrix(axes), matrix, rtol=0, atol=0)
            gram = (matrix.double() @ matrix.double().T).tril()
            torch.testing.assert_close(stack.gram(axes).tril(), gram)
            factor = torch.randn(rows, rows, dtype=dtype, generator=draw)
            factor = factor + factor.T
            if dtype == torch.float32:
                in_float32 = stack.gram(axes, torch.float32).tril()
                torch.testing.assert_close(in_float32, gram, rtol=0, atol=1e-4)
            targets = [torch.full_like(copy, math.nan) for copy in copies]
            stack.add_product(targets, axes, factor, first=True)
            stack.add_product(targets, axes, factor, first=False)
            back = [(*axes, *others).index(axis) for axis in range(4)]
            expected = (2.0 * factor @ matrix).reshape(moved.shape).permute(back)
            torch.testing.assert_close(torch.stack(targets, dim=-1), expected)


@pytest.mark.parametrize("shapes", [(1, 1, 1), (3, 64, 70), (64, 64, 64), (130, 200, 90), (512, 128, 1000)])
def test_a_product_is_the_product(shapes: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(6)
    rows, inner, columns = shapes
    first, second = (torch.randn(count, inner, generator=draw) for count in (rows, columns))
    expected = first.double() @ second.double().T
    torch.testing.assert_close(times_transposed(first, second).double(), expected, rtol=0, atol=1e-4)
    turned = torch.randn(inner, columns, generator=draw).T
    with_gaps = torch.randn(columns, 2 * inner, generator=draw)[:, ::2]
    beside = torch.randn(columns, inner + 5, generator=draw)[:, 5:]
    for strided in (turned, with_gaps, beside):
        expected = first.double() @ strided.double().T
        for left in (first, first.T.contiguous().T):
            found = times_transposed(left, strided)
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
            assert found.is_contiguous()


def test_a_symmetric_product_lies_as_the_matrix_does() -> None:
    draw = torch.Generator().manual_seed(9)
    for rows, columns in ((5, 7), (70, 130)):
        factor = torch.randn(rows, rows, generator=draw)
        factor = factor + factor.T
        for matrix in (
            torch.randn(rows, columns, generator=draw),
            torch.randn(columns, rows, generator=draw).T,
        ):
            found = symmetric_times(factor, matrix)
            assert found.stride() == matrix.stride()
            torch.testing.assert_close(found.double(), factor.double() @ matrix.double(), rtol=0, atol=1e-4)


def test_without_onednn_products_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_condition(2.0)
    with_it = matrix_trace_norm(matrix).item()
    monkeypatch.setattr("taskloom.sharing.onednn.serves", lambda tensor: False)
    assert matrix_trace_norm(matrix).item() == pytest.approx(with_it, rel=1e-6)


def test_inverse_root_equals_the_eigenvectors() -> None:
    for condition in (1.0, 2.0, 5.0):
        matrix = 1e-3 * with_condition(condition).double()
        gram = matrix @ matrix.T
        root = inverse_root(gram.tril())
        values, vectors = torch.linalg.eigh(gram)
        assert root is not None
        expected = (vectors / values.sqrt()) @ vectors.T
        torch.testing.assert_close(root.double(), expected, rtol=0, atol=1e-5 * 5e3)
        assert torch.equal(root, root.T)


def spread(kind: str, ratio: float, size: int = 130) -> Tensor:
    """Eigenvalues between 1 / ratio and 1, in float64."""
    low = 1.0 / ratio
    if kind == "dense":
        return torch.linspace(low, 1.0, size, dtype=torch.float64)
    if kind == "two groups":
        return torch.tensor([low] * (size // 2) + [1.0] * (size - size // 2)).double()
    alone, others = (low, 1.0) if kind == "one small" else (1.0, low)
    return torch.tensor([alone] + [others] * (size - 1)).double()


@pytest.mark.parametrize("blocks", [None, (2,)])
@pytest.mark.parametrize("kind", ["dense", "two groups", "one small", "one large"])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 8.0, 50.0])
def test_inverse_root_of_every_spectrum(
    kind: str, ratio: float, blocks: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the polynomial alone, or with steps behind one that is too short."""
    if blocks is not None:
        monkeypatch.setattr(products, "_BLOCKS", blocks)
    turn = torch.linalg.qr(torch.randn(130, 130, generator=torch.Generator().manual_seed(3)).double()).Q
    eigenvalues = 1e3 * spread(kind, ratio)
    root = inverse_root((turn * eigenvalues) @ turn.T)
    assert root is not None
    expected = (turn / eigenvalues.sqrt()) @ turn.T
    error = torch.linalg.matrix_norm(root.double() - expected, 2) / torch.linalg.matrix_norm(expected, 2)
    assert error < (6 + ratio) * torch.finfo(torch.float32).eps


def test_four_products_are_enough_for_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    paid: list[int] = []

    def counted(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        paid.append(len(first))
        return times_transposed(first, second)

    monkeypatch.setattr("taskloom.sharing.ties.products.times_transposed", counted)
    weights = torch.randn(128, 18 * 128, generator=torch.Generator().manual_seed(4)).double()
    root = inverse_root(weights @ weights.T)
    assert root is not None
    assert len(paid) == 4
    around = root.double() @ weights  # its rows are orthonormal
    torch.testing.assert_close(around @ around.T, torch.eye(128).double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("spectrum", [[1.0, 1e-3], [1.0, 1.0, -0.9, 1.0], [1.0, 0.0], [1.0, 1.0 / 200]])
def test_a_wide_spectrum_is_known_before_the_products_are_paid(
    spectrum: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its eigenvectors are needed then, and products of the size of G would come on top."""
    paid: list[int] = []

    def counted(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        paid.append(len(first))
        return times_transposed(first, second)

    monkeypatch.setattr("taskloom.sharing.ties.products.times_transposed", counted)
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum)).double()).Q
    assert inverse_root(turn @ torch.diag(torch.tensor(spectrum).double()) @ turn.T) is None
    assert paid == []
    assert inverse_root(torch.eye(3).double()) is not None
    assert paid


def test_what_has_no_inverse_root_is_told() -> None:
    identity = torch.eye(4, dtype=torch.float64)
    for gram in (0.0 * identity, math.nan * identity, math.inf * identity, -identity):
        assert inverse_root(gram) is None
    assert inverse_root(torch.diag(torch.tensor([1.0, 1.0, -1e-3, 1.0]).double())) is None
    assert inverse_root(torch.diag(torch.tensor([1.0, 1e-2]).double())) is None


@pytest.mark.parametrize("unfolding", ["tucker", "tt", "laf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_with_their_channels_last_in_memory(unfolding: str, dtype: torch.dtype) -> None:
    """As convolutions of images have them: the same values, and gradients that lie as the weights do."""
    draw = torch.Generator().manual_seed(7)
    plain = [torch.randn(6, 5, 3, 2, dtype=dtype, generator=draw).requires_grad_() for _ in range(3)]
    last = [copy.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for copy in plain]
    mixed = [copy.detach().requires_grad_() for copy in (last[0], plain[1], last[2])]
    values, gradients = [], []
    for copies in (plain, last, mixed):
        value = TraceNorm(unfolding=unfolding).measure(copies)  # type: ignore[arg-type]
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, copies))
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
    for one, other, third in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(third, one, rtol=1e-5, atol=1e-6)
        assert other.stride() == last[0].stride() != one.stride()
    stack = Stack(tuple(copy.detach() for copy in last))
    whole = torch.stack([copy.detach() for copy in plain], dim=-1)
    for axes in ((0,), (1,), (3,), (2, 3, 4), (1, 0)):
        rows = stack.matrix(axes).double()
        others = [axis for axis in range(5) if axis not in axes]
        expected = whole.permute(*axes, *others).reshape(len(rows), -1).double()
        torch.testing.assert_close(rows @ rows.T, expected @ expected.T)
