"""The exponential affine tie against equation 7 of paper 004, and where float32 cannot hold that."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from taskloom.errors import ConfigError
from taskloom.sharing.ties import ExponentialAffine, build
from taskloom.sharing.ties.affine import LARGEST_EXPONENT


class Kernel(nn.Module):
    """A stage with one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def attached(weights: list[Tensor], **settings: object) -> tuple[ExponentialAffine, list[Kernel]]:
    tie = build("exponential_affine", weight=1.0, **settings)
    assert isinstance(tie, ExponentialAffine)
    copies = [Kernel(weight) for weight in weights]
    tie.attach(copies)
    return tie, copies


def set_scalars(tie: ExponentialAffine, a: Tensor, b: Tensor) -> None:
    assert tie.a is not None
    assert tie.b is not None
    with torch.no_grad():
        tie.a.copy_(a.expand_as(tie.a))
        tie.b.copy_(b.expand_as(tie.b))


def plain_formula(weights: list[Tensor], a: Tensor, b: Tensor, exponent: str) -> float:
    """Loop over pairs with torch.exp in float64: equation 7, or with its mean inside and n outside."""
    total = 0.0
    for pair, (s, t) in enumerate(itertools.combinations(range(len(weights)), 2)):
        squared = (a[pair] * weights[s].double() + b[pair] - weights[t].double()).square()
        if exponent == "sum":
            total += (squared.sum().exp() - 1.0).item()
        else:
            total += squared.numel() * (squared.mean().exp() - 1.0).item()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", ["mean", "sum"])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2), (2, 3, 2, 2), (2, 2, 1, 2, 2)])
def test_equals_the_plain_formula_where_that_does_not_overflow(
    shape: tuple[int, ...], num_tasks: int, exponent: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(num_tasks)
    weights = [0.3 * torch.randn(shape, dtype=dtype, generator=generator) for _ in range(num_tasks)]
    tie, copies = attached(weights, exponent=exponent)
    pairs = num_tasks * (num_tasks - 1) // 2
    a = 1.0 + 0.3 * torch.randn(pairs, dtype=torch.float64, generator=generator)
    b = 0.2 * torch.randn(pairs, dtype=torch.float64, generator=generator)
    a, b = a.to(dtype), b.to(dtype)
    set_scalars(tie, a, b)
    expected = plain_formula(weights, a.double(), b.double(), exponent)
    value = tie.penalty(copies)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-11)


def test_pinned_numbers() -> None:
    """d = (2 * 1 + 0.5 - 2)^2 + (2 * 0 + 0.5 - 0)^2 = 0.5."""
    weights = [torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])]
    for exponent, expected in (("sum", math.expm1(0.5)), ("mean", 2.0 * math.expm1(0.25))):
        tie, copies = attached(weights, exponent=exponent)
        set_scalars(tie, torch.tensor(2.0), torch.tensor(0.5))
        assert tie.penalty(copies).item() == pytest.approx(expected, rel=1e-6)


def test_starts_at_one_and_zero_with_one_pair_of_scalars_per_weight_and_pair() -> None:
    tie = ExponentialAffine()
    tie.attach([nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 2), nn.BatchNorm1d(2)) for _ in range(4)])
    assert tie.a is not None
    assert tie.b is not None
    torch.testing.assert_close(tie.a.detach(), torch.ones(2, 6))
    torch.testing.assert_close(tie.b.detach(), torch.zeros(2, 6))
    assert sorted(tie.state_dict()) == ["a", "b"]
    assert sum(parameter.numel() for parameter in tie.parameters()) == 24


def test_exact_images_are_at_no_negative_distance() -> None:
    """The distance is a difference of large numbers there, which rounding leaves on either side of 0."""
    for seed in range(20):
        source = 10 * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        tie, copies = attached([source, 3.1 * source - 1.3])
        set_scalars(tie, torch.tensor(3.1, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64))
        assert 0.0 <= tie.penalty(copies).item() < 1e-9


@pytest.mark.parametrize("exponent", ["mean", "sum"])
@pytest.mark.parametrize("num_tasks", [2, 3])
def test_gradcheck_of_weights_and_scalars(num_tasks: int, exponent: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [
        (0.4 * torch.randn(3, 2, dtype=torch.float64, generator=generator)).requires_grad_()
        for _ in range(num_tasks)
    ]
    tie, _ = attached([weight.detach() for weight in weights], exponent=exponent)
    assert tie.a is not None
    assert tie.b is not None
    a = (tie.a.detach() + 0.2).requires_grad_()
    b = (tie.b.detach() - 0.1).requires_grad_()

    def measure(a: Tensor, b: Tensor, *weights: Tensor) -> Tensor:
        own = {"a": a, "b": b}
        return torch.func.functional_call(_Measure(tie), {f"tie.{k}": v for k, v in own.items()}, weights)

    assert torch.autograd.gradcheck(measure, (a, b, *weights))


class _Measure(nn.Module):
    def __init__(self, tie: ExponentialAffine) -> None:
        super().__init__()
        self.tie = tie

    def forward(self, *weights: Tensor) -> Tensor:
        return self.tie.measure(weights)


def test_gradcheck_on_the_tangent() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(2, 2, dtype=torch.float64, generator=generator) for _ in range(2)]
    weights[1] = (weights[1] + 2.0 * math.sqrt(LARGEST_EXPONENT)).requires_grad_()
    tie, _ = attached([weight.detach() for weight in weights])
    scaled = torch.autograd.gradcheck(
        lambda weight: tie.measure([weights[0], weight]) / math.exp(LARGEST_EXPONENT), weights[1]
    )
    assert scaled


def test_value_and_slope_are_continuous_where_the_tangent_begins() -> None:
    tie, _ = attached([torch.zeros(1, 1, dtype=torch.float64)] * 2, exponent="sum")

    def at(distance: float) -> tuple[float, float]:
        other = torch.full((1, 1), math.sqrt(distance), dtype=torch.float64, requires_grad=True)
        value = tie.measure([torch.zeros(1, 1, dtype=torch.float64), other])
        (gradient,) = torch.autograd.grad(value, other)
        return value.item(), gradient.item() / (2.0 * other.item())  # by the distance

    for distance in (LARGEST_EXPONENT - 1e-9, LARGEST_EXPONENT + 1e-9):
        value, slope = at(distance)
        assert value == pytest.approx(math.exp(LARGEST_EXPONENT), rel=1e-8)
        assert slope == pytest.approx(math.exp(LARGEST_EXPONENT), rel=1e-8)
    value, slope = at(LARGEST_EXPONENT + 3.0)
    assert value == pytest.approx(4.0 * math.exp(LARGEST_EXPONENT), rel=1e-9)
    assert slope == pytest.approx(math.exp(LARGEST_EXPONENT), rel=1e-9)


@pytest.mark.parametrize("exponent", ["mean", "sum"])
def test_strictly_increasing_in_the_distance_far_beyond_the_range_of_exp(exponent: str) -> None:
    direction = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    tie, _ = attached([direction, direction], exponent=exponent)
    values = [
        tie.measure([torch.zeros(8, 6), scale * direction]).item()
        for scale in (0.0, 1e-4, 1e-2, 0.1, 1.0, 3.0, 6.0, 7.0, 10.0, 100.0, 1e4)
    ]
    assert values[0] == 0.0
    assert all(low < high < math.inf for low, high in itertools.pairwise(values))


@pytest.mark.parametrize("exponent", ["mean", "sum"])
def test_real_layers_with_fresh_starts_have_finite_values_and_gradients(exponent: str) -> None:
    """Two fresh copies of a linear layer with 500 outputs have d = 2 / 3 * 500 = 333 or so."""
    torch.manual_seed(4)
    copies = [nn.Sequential(nn.Linear(100, 500), nn.Conv2d(32, 64, 5)) for _ in range(3)]
    distance = (copies[0].get_parameter("0.weight") - copies[1].get_parameter("0.weight")).square().sum()
    assert math.isinf(distance.exp().item())  # the plain formula
    tie = ExponentialAffine(weight=0.001, exponent=exponent)  # type: ignore[arg-type]
    tie.attach(copies)
    penalty = tie.penalty(copies)
    penalty.backward()
    assert math.isfinite(penalty.item())
    for parameter in [*tie.parameters(), *(copies[0].get_parameter(f"{i}.weight") for i in range(2))]:
        assert parameter.grad is not None
        assert parameter.grad.square().isfinite().all()  # Adam keeps the squares
        assert parameter.grad.abs().sum() > 0


def test_near_equality_it_is_the_l2_tie_and_keeps_its_digits() -> None:
    """exp(d) - 1 in float32 would be 0 for d = 1e-9."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(6, 4, generator=generator)
    second = first + 1e-5 * torch.randn(6, 4, generator=generator)
    for exponent in ("mean", "sum"):
        tie, copies = attached([first, second], exponent=exponent)
        expected = (first.double() - second.double()).square().sum().item()
        assert 0.0 < expected < 1e-8
        assert tie.penalty(copies).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_identical_copies_cost_exactly_nothing(num_tasks: int, dtype: torch.dtype) -> None:
    weight = torch.randn(7, 5, dtype=dtype, generator=torch.Generator().manual_seed(6))
    tie, copies = attached([weight] * num_tasks)
    penalty = tie.penalty(copies)
    penalty.backward()
    assert penalty.item() == 0.0
    for stage in copies:
        assert stage.weight.grad is not None
        assert stage.weight.grad.count_nonzero().item() == 0


def test_same_minimiser_as_the_plain_formula() -> None:
    """The best a and b for given copies are those of linear regression of one copy on the other."""
    generator = torch.Generator().manual_seed(7)
    first = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    second = 1.7 * first - 0.4 + 0.1 * torch.randn(5, 4, dtype=torch.float64, generator=generator)
    design = torch.stack([first.flatten(), torch.ones(20, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(design, second.flatten()[:, None]).solution.flatten()
    for exponent in ("mean", "sum"):
        tie, _ = attached([first, second], exponent=exponent)
        optimizer = torch.optim.LBFGS(tie.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure(tie: ExponentialAffine = tie, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = tie.measure([first, second])
            value.backward()
            return value

        optimizer.step(closure)
        found = torch.cat([parameter.detach().flatten() for parameter in (tie.a, tie.b)])  # type: ignore[union-attr]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_order_of_tasks_does_not_matter_at_the_start(num_tasks: int) -> None:
    weights = list(torch.randn(num_tasks, 4, 3, generator=torch.Generator().manual_seed(8)))
    tie, _ = attached(weights)
    assert tie.measure(weights[::-1]).item() == pytest.approx(tie.measure(weights).item(), rel=1e-6)


def test_order_of_tasks_and_scalars_together_does_not_matter() -> None:
    """Copies 1 and 2 change places; the pairs (0, 1) and (0, 2) change places with them."""
    weights = list(torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(9)))
    tie, _ = attached(weights)
    set_scalars(tie, torch.tensor([1.5, 0.5, -1.0]), torch.tensor([0.1, 0.2, 0.0]))
    expected = tie.measure(weights).item()
    # |-w_1 - w_2| is the same in both directions.
    set_scalars(tie, torch.tensor([0.5, 1.5, -1.0]), torch.tensor([0.2, 0.1, 0.0]))
    assert tie.measure([weights[0], weights[2], weights[1]]).item() == pytest.approx(expected, rel=1e-6)


def test_fixed_scalars_are_the_plain_exponential_loss() -> None:
    weights = list(0.2 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(10)))
    tie, copies = attached(weights, learnable=False, exponent="sum")
    assert not any(parameter.requires_grad for parameter in tie.parameters())
    distance = (weights[0] - weights[1]).square().sum().item()
    assert tie.penalty(copies).item() == pytest.approx(math.exp(distance) - 1.0, rel=1e-5)


def test_training_learns_the_affine_relation_and_the_state_goes_on_elsewhere() -> None:
    torch.manual_seed(11)
    first, second = nn.Linear(6, 5), nn.Linear(6, 5)
    with torch.no_grad():
        second.weight.copy_(2.0 * first.weight + 0.3)
    tie = ExponentialAffine(weight=1.0)
    tie.attach([first, second])
    optimizer = torch.optim.Adam(tie.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        tie.penalty([first, second]).backward()
        optimizer.step()
    assert tie.a is not None
    assert tie.b is not None
    assert tie.a.item() == pytest.approx(2.0, abs=0.01)
    assert tie.b.item() == pytest.approx(0.3, abs=0.01)
    other = ExponentialAffine(weight=1.0)
    other.attach([first, second])
    other.load_state_dict(tie.state_dict())
    assert other.penalty([first, second]).item() == tie.penalty([first, second]).item()
    assert copy.deepcopy(tie).penalty([first, second]).item() == tie.penalty([first, second]).item()


def test_autocast_and_half_precision_compute_in_full() -> None:
    weights = list(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(12)))
    tie, copies = attached(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = tie.penalty(copies)
    assert value.dtype == torch.float32
    assert value.item() == tie.penalty(copies).item()
    halves = [weight.bfloat16() for weight in weights]
    assert tie.measure(halves).item() == tie.measure([half.float() for half in halves]).item()


def test_weight_zero_is_no_tie() -> None:
    copies = [nn.Linear(3, 2), nn.Linear(3, 2)]
    tie = ExponentialAffine(weight=0.0)
    assert tie.penalty(copies).item() == 0.0
    assert not tie.penalty(copies).requires_grad


def test_what_is_not_finite_gives_no_number() -> None:
    tie, _ = attached([torch.zeros(2, 2)] * 2)
    assert math.isnan(tie.measure([torch.zeros(2, 2), torch.full((2, 2), math.nan)]).item())


def test_bad_input_is_told_in_one_sentence() -> None:
    for settings, message in [
        ({"exponent": "max"}, r"exponential_affine\.exponent: mean or sum expected, found 'max'"),
        ({"learnable": 1}, r"exponential_affine\.learnable: true or false expected, found 1"),
        ({"lr_multiplier": 0.0}, r"exponential_affine\.lr_multiplier: a number above 0 expected, found 0\.0"),
        ({"lr_multiplier": math.inf}, r"a number above 0 expected, found inf"),
        ({"weight": -0.1}, r"must be a number of at least 0; got -0\.1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build("exponential_affine", **settings)
    two = [nn.Linear(3, 2), nn.Linear(3, 2)]
    tie = ExponentialAffine()
    with pytest.raises(ConfigError, match=r"a and b do not exist yet; call attach\(copies\)"):
        tie.penalty(two)
    with pytest.raises(ConfigError, match=r"`weight` has shape \(2, 3\) in copy 0 and \(2, 4\) in copy 1"):
        tie.attach([nn.Linear(3, 2), nn.Linear(4, 2)])
    tie.attach(two)
    with pytest.raises(ConfigError, match="1 weights and 1 pairs of copies; found weight 0 of 3 copies"):
        tie.penalty([*two, nn.Linear(3, 2)])
