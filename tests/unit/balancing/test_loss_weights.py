"""Weights on losses: where they end up, what absent tasks do, hand-computed updates, TorchJD's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchjd import scalarization

from _balancing import batch, descend, losses_of, make, network, step, weigh
from _training import TASKS, TinyNetwork
from taskloom import Regression, TaskSet
from taskloom.balancing import LearnedWeights
from taskloom.balancing.adaptive import GradNorm
from taskloom.balancing.famo import FAMO
from taskloom.balancing.learned import LearnedVector
from taskloom.errors import ConfigError


def settled(balancer: LearnedVector, losses: list[float], steps: int = 4000, rate: float = 0.5) -> None:
    """Gradient descent on the balancer's own numbers until nothing moves."""
    model = TinyNetwork(weight=0.0)
    balancer.start(model)  # type: ignore[arg-type]
    for _ in range(steps):
        balancer.vector.grad = torch.from_numpy(weigh(balancer, losses).slope).float()
        descend(balancer, model, rate)  # type: ignore[arg-type]


def projected(losses: list[float], lambda_: float) -> np.ndarray:
    """The point of the simplex nearest to -L / (2 lambda), by bisection on its threshold."""
    target = -np.array(losses) / (2 * lambda_)
    low, high = target.min() - 1, target.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(target - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(target - low, 0)


@pytest.mark.parametrize("lambda_", [10.0, 1.0, 0.6, 0.2])
def test_learned_weights_end_at_the_projection(lambda_: float) -> None:
    losses, balancer = [0.5, 0.8, 0.3], LearnedWeights(lambda_=lambda_, start="equal")
    settled(balancer, losses, rate=0.5 / lambda_)
    found = list(balancer.report_state().values())
    np.testing.assert_allclose(found, projected(losses, lambda_), atol=5e-3)


def test_small_lambda_gives_all_weight_to_the_smallest_loss() -> None:
    balancer = LearnedWeights(lambda_=0.001)
    settled(balancer, [0.5, 0.8, 0.3], rate=5.0)
    assert balancer.report_state()["weight/mood"] > 0.99


def test_learned_weights_start_uniform_on_the_simplex() -> None:
    found = []
    for seed in range(400):
        balancer = LearnedWeights()
        balancer.start(TinyNetwork(), seed=seed)  # type: ignore[arg-type]
        found.append(list(balancer.report_state().values()))
    weights = np.array(found)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    # Each is distributed as 1 - (1 - x)^2: mean 1 / 3, variance 1 / 18.
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.04)
    np.testing.assert_allclose(weights.var(0), 1 / 18, atol=0.012)


def test_learned_weights_total_is_equation_3_5() -> None:
    model, rows, balancer = network(), batch(), LearnedWeights(lambda_=0.1)
    balancer.start(model, seed=4)
    weights = torch.tensor(list(balancer.report_state().values()))
    losses = losses_of(model, rows)
    means = torch.stack([loss.mean for loss in losses.values()])
    balancer.backward(losses, model)
    assert balancer.total is not None
    torch.testing.assert_close(balancer.total, (weights @ means + 0.1 * weights.square().sum()).detach())


@pytest.mark.parametrize("name", ["learned_weights", "uncertainty", "imtl_l"])
def test_an_absent_task_moves_nothing_it_owns(name: str) -> None:
    model, balancer = network(), make(name)
    balancer.start(model)
    step(balancer, model, batch(absent=("gender",)))
    (vector,) = balancer.parameters()
    assert vector.grad is not None
    assert vector.grad[1] == 0
    assert vector.grad[[0, 2]].all()
    step(balancer, model, batch(absent=TASKS.names))
    assert vector.grad is not None
    assert not vector.grad.any()
    assert balancer.total is not None
    assert balancer.total.isfinite()


def test_uncertainty_and_imtl_l_end_where_their_papers_say() -> None:
    losses = [0.7, 2.0, 0.1]
    uncertainty, impartial = make("uncertainty"), make("imtl_l")
    assert isinstance(uncertainty, LearnedVector)
    assert isinstance(impartial, LearnedVector)
    settled(uncertainty, losses)
    # age is a regression (squared error, factor 1/2): s = log L; the others s = log 2 L.
    torch.testing.assert_close(uncertainty.vector.exp(), torch.tensor([0.7, 4.0, 0.2]), rtol=1e-3, atol=0)
    settled(impartial, losses)
    torch.testing.assert_close(impartial.vector.exp(), 1 / torch.tensor(losses), rtol=1e-3, atol=0)


def test_uncertainty_of_squared_errors_and_imtl_l_are_torchjds() -> None:
    values = torch.tensor([0.7, 2.0], requires_grad=True)
    tasks = TaskSet(Regression("a"), Regression("b"))
    for name, theirs in (("uncertainty", scalarization.UW(2)), ("imtl_l", scalarization.IMTLL(2))):
        ours = make(name)
        ours.start(network(tasks=tasks))
        (vector,), (expected,) = list(ours.parameters()), list(theirs.parameters())
        with torch.no_grad():
            vector.copy_(torch.tensor([0.3, -0.2]))
            expected.copy_(vector)
        found, total = weigh(ours, values.tolist()), theirs(values)
        slopes = torch.autograd.grad(total, [values, expected])
        assert found.total == pytest.approx(total.item())
        np.testing.assert_allclose(found.weights, slopes[0], rtol=1e-6)
        np.testing.assert_allclose(found.slope, slopes[1], rtol=1e-5)


def test_mean_counts_the_tasks_that_are_there() -> None:
    model, rows, balancer = network(), batch(absent=("mood",)), make("mean")
    losses = losses_of(model, rows)
    balancer.backward(losses, model)
    assert balancer.total is not None
    expected = (losses["age"].mean + losses["gender"].mean) / 2
    torch.testing.assert_close(balancer.total, expected.detach())


def test_random_weights_sum_to_one_over_what_is_there() -> None:
    balancer, model = make("random_weights"), TinyNetwork(weight=0.0)
    balancer.start(model, seed=1)  # type: ignore[arg-type]
    drawn = np.stack([weigh(balancer, [1.0, 0.0, 1.0], [True, False, True]).weights for _ in range(5)])
    np.testing.assert_allclose(drawn.sum(1), 1.0)
    assert not drawn[:, 1].any()
    assert len(set(drawn[:, 0].round(6))) == 5


# -- GradNorm


def test_gradnorm_is_the_papers_update_by_hand() -> None:
    balancer = GradNorm(alpha=1.5, lr=0.1)
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    balancer._first = {"age": 2.0, "gender": 1.0, "mood": 4.0}
    norms, losses = {"age": 3.0, "gender": 1.0, "mood": 2.0}, {"age": 1.0, "gender": 0.8, "mood": 1.0}
    # Ratios 0.5, 0.8, 0.25, mean 0.51666; relative 0.96774, 1.54839, 0.48387; mean norm 2.
    # Targets 2 r^1.5 = 1.90399, 3.85346, 0.67316: signs +, -, +. Steps: 1 - 0.3, 1 + 0.1, 1 - 0.2; sum 2.6.
    balancer.follow(norms, losses)
    weights = balancer.report_state()
    expected = [0.7 * 3 / 2.6, 1.1 * 3 / 2.6, 0.8 * 3 / 2.6]
    assert list(weights.values()) == pytest.approx(expected)


def test_gradnorm_goes_down_its_loss_by_finite_differences() -> None:
    first, norms = {"age": 2.0, "gender": 1.0, "mood": 4.0}, {"age": 3.0, "gender": 1.0, "mood": 2.0}
    losses, start = {"age": 1.0, "gender": 0.8, "mood": 1.0}, {"age": 0.5, "gender": 1.5, "mood": 1.0}
    ratios = {task: losses[task] / first[task] for task in losses}
    mean_ratio = sum(ratios.values()) / 3
    mean_norm = sum(start[task] * norms[task] for task in norms) / 3

    def loss(weights: dict[str, float]) -> float:
        """Equation 2 with the target as the constant that the paper makes it."""
        return sum(abs(weights[t] * norms[t] - mean_norm * (ratios[t] / mean_ratio) ** 0.5) for t in weights)

    slopes = {
        t: (loss({**start, t: start[t] + 1e-6}) - loss({**start, t: start[t] - 1e-6})) / 2e-6 for t in start
    }
    moved = {task: start[task] - 0.01 * slopes[task] for task in start}
    expected = {task: weight * 3 / sum(moved.values()) for task, weight in moved.items()}
    balancer = GradNorm(alpha=0.5, lr=0.01)
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    balancer._first, balancer._weights = first, dict(start)
    balancer.follow(norms, losses)
    assert balancer._weights == pytest.approx(expected, rel=1e-6)


def test_gradnorm_measures_norms_at_the_last_shared_weights() -> None:
    model, rows = network(), batch()
    balancer = GradNorm(alpha=1.0, lr=0.05)
    weights = [p for name, p in model.named_parameters() if ".shared." in name and p.ndim == 2][-1]
    norms = {}
    for task, loss in losses_of(model, rows).items():
        norms[task] = float(torch.autograd.grad(loss.mean, weights, retain_graph=True)[0].norm())
    values = {task: float(loss.mean.detach()) for task, loss in losses_of(model, rows).items()}
    by_hand = GradNorm(alpha=1.0, lr=0.05)
    by_hand.start(model)
    by_hand._first = dict(values)
    by_hand.follow(norms, values)
    plain = step(make("weighted_sum"), model, rows)
    found = step(balancer, model, rows)
    assert balancer._weights == pytest.approx(by_hand._weights, rel=1e-5)
    for name, gradient in plain.items():  # the first step has weights 1
        torch.testing.assert_close(found[name], gradient)


def test_gradnorm_leaves_the_weight_of_an_absent_task() -> None:
    model, balancer = network(), GradNorm()
    step(balancer, model, batch())
    before = dict(balancer._weights)
    step(balancer, model, batch(seed=5, absent=("gender",)))
    assert balancer._weights["gender"] == before["gender"]
    assert balancer._weights["age"] != before["age"]
    assert sum(balancer._weights.values()) == pytest.approx(3.0)


def test_gradnorm_without_shared_weights() -> None:
    with pytest.raises(ConfigError, match="no weights that the losses of all tasks reach"):
        step(GradNorm(), network("single_task"), batch())


# -- FAMO and TorchJD's scalarisations


def test_famo_is_torchjds_on_the_next_losses() -> None:
    ours, theirs = FAMO(), scalarization.FAMO(3)
    ours.start(TinyNetwork())  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    before = None
    for _ in range(6):
        values = torch.rand(3, generator=draw) + 0.1
        if before is not None:
            theirs.update(values)
        other = values.clone().requires_grad_()
        theirs(other).backward()
        np.testing.assert_allclose(weigh(ours, values.tolist()).weights, other.grad, rtol=1e-4, atol=1e-6)
        before = values
    assert ours.report_state()["weight/age"] == pytest.approx(theirs._w.softmax(0)[0].item(), rel=1e-4)


def test_famo_rests_for_an_absent_task() -> None:
    balancer = FAMO()
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    for values in ([1.0, 2.0, 3.0], [0.5, 1.9, 2.9]):
        weigh(balancer, values)
    kept = balancer.state_dict()
    weights = weigh(balancer, [0.4, 0.0, 2.0], [True, False, True]).weights
    state = balancer.state_dict()
    for name in ("logits", "before", "steps", "moments"):
        assert torch.equal(state[name][..., 1], kept[name][..., 1])
        assert (state[name][..., 0] != kept[name][..., 0]).all()
    assert weights[1] == 0
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    ("name", "settings", "theirs"),
    [
        ("stch", {"mu": 0.3}, scalarization.STCH(mu=0.3)),
        ("geometric_mean", {}, scalarization.GeometricMean()),
        ("pbi", {}, scalarization.PBI(5.0, torch.tensor([1.0, 1.0, 2.0]))),
        ("cosmos", {"lambda": 0.5}, scalarization.COSMOS(0.5, torch.tensor([1.0, 1.0, 2.0]))),
    ],
)
def test_gradient_is_that_of_torchjds_scalarisation(name: str, settings: dict, theirs: object) -> None:
    balancer = make(name, **settings)
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    other = torch.tensor([0.5, 1.5, 0.9], requires_grad=True)
    theirs(other).backward()  # type: ignore[operator]
    assert other.grad is not None
    np.testing.assert_allclose(weigh(balancer, [0.5, 1.5, 0.9]).weights, other.grad, rtol=1e-5)
    assert balancer.report_state()["weight/mood"] == pytest.approx(other.grad[2].item())


def test_a_scalarisation_leaves_out_what_is_absent() -> None:
    balancer = make("stch", weights={"age": 1.0, "gender": 2.0, "mood": 3.0})
    balancer.start(TinyNetwork())  # type: ignore[arg-type]
    weights = weigh(balancer, [0.5, 0.0, 0.4], [True, False, True]).weights
    pair = torch.tensor([0.5, 0.4], requires_grad=True)
    scalarization.STCH(0.1, torch.tensor([1.0, 3.0]))(pair).backward()
    assert pair.grad is not None
    np.testing.assert_allclose(weights[[0, 2]], pair.grad, rtol=1e-5)
    assert weights[1] == 0


@pytest.mark.parametrize("name", ["learned_weights", "uncertainty", "imtl_l"])
def test_what_no_optimiser_knows_is_not_learned_in_silence(name: str) -> None:
    """Before `start` there is nothing to give to the optimiser: weights would stay at their random start."""
    model, other = network(), network(tasks=TASKS.subset(["age", "mood"]))
    balancer = make(name)
    for take in (balancer.backward, balancer.accumulate):
        with pytest.raises(
            ConfigError, match=r"was not started, .* about age, gender, mood; call .*start\(mod"
        ):
            take(losses_of(model, batch()), model)
    balancer.start(model)
    balancer.backward(losses_of(model, batch()), model)
    with pytest.raises(ConfigError, match=r"was started for age, gender, mood, .* about age, mood; call"):
        balancer.backward(losses_of(other, batch()), other)
