"""Cross-stitch units against the double loop over tasks, finite differences and pinned starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing import memory
from taskloom.sharing.mixing import CrossStitch, mix

SHAPES = [(7, 3), (5, 3, 4), (5, 2, 3, 4)]


def double_loop(alpha: Tensor, copies: list[Tensor]) -> list[Tensor]:
    """x'_i = sum over j of alpha_ij x_j, written out; alpha [T, T] or [C, T, T] with channels on axis 1."""
    outputs = []
    for i in range(len(copies)):
        total = torch.zeros_like(copies[0])
        for j in range(len(copies)):
            factor = alpha[..., i, j]
            if factor.dim() == 1:
                factor = factor.reshape(1, -1, *[1] * (copies[0].dim() - 2))
            total = total + factor * copies[j]
        outputs.append(total)
    return outputs


def drawn(shape: tuple[int, ...], num_tasks: int, per: str) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(num_tasks)
    alpha_shape = (num_tasks, num_tasks) if per == "layer" else (shape[1], num_tasks, num_tasks)
    alpha = torch.randn(alpha_shape, generator=generator, dtype=torch.float64).requires_grad_()
    copies = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(num_tasks)
    ]
    return alpha, copies


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 8])
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_double_loop(
    shape: tuple[int, ...], per: str, num_tasks: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(memory.BLOCK_BYTES, "cpu", block_bytes)
    alpha, copies = drawn(shape, num_tasks, per)
    outputs, expected = mix(alpha, copies), double_loop(alpha, copies)
    torch.testing.assert_close(list(outputs), expected, rtol=1e-12, atol=1e-12)

    given = [torch.randn_like(output) for output in expected]
    gradients = torch.autograd.grad(outputs, [alpha, *copies], given)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, [alpha, *copies], given), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("mixed", [False, True], ids=["channels last", "one of them channels first"])
def test_memory_orders_give_the_same(per: str, num_tasks: int, mixed: bool) -> None:
    alpha, copies = drawn((5, 2, 3, 4), num_tasks, per)
    lie = [copy.contiguous(memory_format=torch.channels_last) for copy in copies]
    if mixed:
        lie[1] = copies[1]
    outputs, expected = mix(alpha, lie), double_loop(alpha, copies)
    torch.testing.assert_close(list(outputs), expected, rtol=1e-12, atol=1e-12)
    assert per == "channel" or outputs[0].is_contiguous(memory_format=torch.channels_last)

    given = [torch.randn_like(output) for output in expected]  # channels first
    gradients = torch.autograd.grad(outputs, [alpha, *copies], given)
    expected_gradients = torch.autograd.grad(expected, [alpha, *copies], given)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_gradients_by_finite_differences(per: str) -> None:
    alpha, copies = drawn((2, 2, 3), 3, per)
    assert torch.autograd.gradcheck(lambda matrix, *rest: mix(matrix, rest), (alpha, *copies))


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_one_task_of_three_in_the_loss(per: str) -> None:
    """The other outputs then have no gradient at all, not one of zeros."""
    alpha, copies = drawn((4, 2, 3), 3, per)
    gradients = torch.autograd.grad(mix(alpha, copies)[1].square().sum(), [alpha, *copies])
    expected = torch.autograd.grad(double_loop(alpha, copies)[1].square().sum(), [alpha, *copies])
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)
    assert gradients[0][..., 0, :].abs().sum() == 0


def test_only_what_needs_a_gradient_gets_one() -> None:
    alpha, copies = drawn((4, 2), 2, "layer")
    frozen = alpha.detach()
    (gradient,) = torch.autograd.grad(mix(frozen, copies)[0].sum(), copies[:1])
    torch.testing.assert_close(gradient, frozen[0, 0].expand(4, 2))
    outputs = mix(alpha, [copy.detach() for copy in copies])
    (of_alpha,) = torch.autograd.grad(outputs[1].sum(), [alpha])
    torch.testing.assert_close(of_alpha[1], torch.stack([copy.sum() for copy in copies]))


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_many_gradients_at_once_are_those_one_by_one(per: str) -> None:
    """Jacobian descent asks for them by a vmap over the backward pass."""
    alpha, copies = drawn((3, 2, 2), 2, per)
    output = mix(alpha, copies)[0]
    directions = torch.randn(4, *output.shape, dtype=torch.float64)

    def backward(direction: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, [alpha, *copies], direction, retain_graph=True)

    batched = torch.vmap(backward)(directions)
    for number, direction in enumerate(directions):
        torch.testing.assert_close([part[number] for part in batched], list(backward(direction)))


def test_vmap_over_inputs_gives_the_same() -> None:
    alpha, copies = drawn((3, 2), 2, "layer")
    mapped = torch.vmap(lambda a, b: mix(alpha, [a, b]))(*(copy.unsqueeze(1) for copy in copies))
    torch.testing.assert_close(mapped[0].squeeze(1), mix(alpha, copies)[0])


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_half_precision_copies_and_a_matrix_in_full(per: str) -> None:
    alpha, copies = drawn((64, 2, 16), 2, per)
    matrix = alpha.detach().float().requires_grad_()
    halves = [copy.detach().bfloat16().requires_grad_() for copy in copies]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = mix(matrix, halves)
        loss = sum(output.float().square().sum() for output in outputs)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    loss.backward()
    wide = [half.detach().double().requires_grad_() for half in halves]
    exact = sum(output.square().sum() for output in double_loop(alpha, wide))
    (expected,) = torch.autograd.grad(exact, [alpha])
    assert matrix.grad is not None
    assert matrix.grad.dtype == torch.float32
    torch.testing.assert_close(matrix.grad.double(), expected, rtol=0.02, atol=1.0)
    assert halves[0].grad is not None
    assert halves[0].grad.dtype == torch.bfloat16


def test_autocast_leaves_copies_in_full_precision_alone() -> None:
    alpha, copies = drawn((4, 2), 2, "layer")
    matrix, full = alpha.detach().float(), [copy.detach().float() for copy in copies]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mix(matrix, full)
    assert torch.equal(inside[0], mix(matrix, full)[0])


def test_outputs_may_be_worked_on_in_place_and_keep_their_memory_format() -> None:
    alpha, copies = drawn((2, 3, 4, 5), 2, "layer")
    outputs = mix(alpha, [copy.to(memory_format=torch.channels_last) for copy in copies])
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in outputs)
    expected = [output.relu() for output in double_loop(alpha, copies)]
    torch.testing.assert_close([output.relu_() for output in outputs], expected)


def test_starts() -> None:
    third = 1.0 / 3.0
    for start, expected in [
        ("identity", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("equal", [[third] * 3] * 3),
        ({"same": 0.9, "other": 0.1}, [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]),
    ]:
        torch.testing.assert_close(CrossStitch(3, start=start).alpha.data, torch.tensor(expected))
    per_channel = CrossStitch(2, per="channel", num_channels=4, start={"same": 0.9, "other": 0.1})
    torch.testing.assert_close(per_channel.alpha.data, torch.tensor([[0.9, 0.1], [0.1, 0.9]]).expand(4, 2, 2))


def test_a_uniform_start_is_drawn_from_0_to_1_by_the_seed() -> None:
    def draw() -> Tensor:
        torch.manual_seed(5)
        return CrossStitch(8, per="channel", num_channels=50, start="uniform").alpha.detach()

    alpha = draw()
    assert torch.equal(alpha, draw())
    assert 0 <= alpha.min() < 0.01
    assert 0.99 < alpha.max() <= 1
    assert abs(alpha.mean().item() - 0.5) < 4 / (12 * alpha.numel()) ** 0.5  # four standard errors


def test_identity_passes_on_the_very_bits() -> None:
    copies = [torch.randn(6, 5) for _ in range(3)]
    assert all(torch.equal(got, copy) for got, copy in zip(CrossStitch(3)(copies), copies, strict=True))


def test_matrices_move_against_the_loss() -> None:
    """Task 0 wants what copy 1 gives: the unit learns to let it through."""
    torch.manual_seed(0)
    unit = CrossStitch(2)
    copies = [torch.randn(50, 3), torch.randn(50, 3)]
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(unit(copies)[0], copies[1]).backward()
        optimizer.step()
    torch.testing.assert_close(unit.alpha.data, torch.tensor([[0.0, 1.0], [0.0, 1.0]]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "pixel"}, "per must be layer or channel, found 'pixel'"),
        ({"per": "channel"}, "number of channels"),
        ({"start": "zeros"}, "start must be identity, equal, uniform or {same"),
        ({"start": {"same": 0.9}}, "start must be"),
        ({"start": {"same": 0.9, "other": float("nan")}}, "start must be"),
        ({"num_tasks": 0}, "at least 1 task"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CrossStitch(**{"num_tasks": 2, **settings})


def test_copies_that_do_not_match_are_refused() -> None:
    unit = CrossStitch(2, per="channel", num_channels=3)
    with pytest.raises(ValueError, match=r"shapes \[\(2, 3\), \(2, 4\)\]"):
        unit([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="3 channels on axis 1 expected"):
        unit([torch.zeros(2, 4), torch.zeros(2, 4)])


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_of_copies_in_half_precision_alphas_gradient_is_summed_in_its_own(per: str) -> None:
    """Against sums in float64 of the same rounded numbers; sums kept to eight bits would be off by 1e-3."""
    generator = torch.Generator().manual_seed(2)
    copies = [torch.randn(3000, 4, generator=generator).bfloat16() for _ in range(3)]
    slopes = [torch.randn(3000, 4, generator=generator).bfloat16() for _ in range(3)]
    alpha = (
        torch.rand(3, 3, generator=generator) if per == "layer" else torch.rand(4, 3, 3, generator=generator)
    )
    alpha.requires_grad_()
    torch.autograd.backward(mix(alpha, copies), slopes)
    equation = "inc,jnc->ij" if per == "layer" else "inc,jnc->cij"
    expected = torch.einsum(equation, torch.stack(slopes).double(), torch.stack(copies).double())
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("num_tasks", "per"), [(3, "layer"), (6, "layer"), (3, "channel")])
def test_autocast_does_not_round_what_is_mixed(num_tasks: int, per: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(20, 8, generator=generator) for _ in range(num_tasks)]
    found = []
    for cast in (False, True):
        unit = CrossStitch(num_tasks, per=per, num_channels=8, start={"same": 0.7, "other": 0.3})
        copies = [value.clone().requires_grad_() for value in values]
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            mixed = unit(copies)
        torch.stack(mixed).square().sum().backward()
        assert unit.alpha.grad is not None
        found.append([*mixed, unit.alpha.grad, *(copy.grad for copy in copies)])
    for plain, under in zip(*found, strict=True):
        torch.testing.assert_close(under, plain, rtol=1e-6, atol=1e-6)


def test_a_unit_per_channel_needs_an_axis_of_channels() -> None:
    with pytest.raises(ValueError, match=r"2 channels on axis 1 expected, found shape \(3,\)"):
        CrossStitch(2, per="channel", num_channels=2)([torch.zeros(3), torch.zeros(3)])
