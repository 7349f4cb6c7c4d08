"""Ties that rest between steps (`every`): the same pull over k steps, and the same run however it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _training import TASKS, rows_with_holes
from taskloom.errors import ConfigError
from taskloom.sharing import PlanNetwork
from taskloom.sharing.ties import TIES, Tie, build
from taskloom.training import Callback, History, TrainingState, fit

TRAIN, VALIDATION = rows_with_holes(41, seed=1), rows_with_holes(31, seed=2)
SETTINGS: dict[str, Any] = {"epochs": 3, "batch": 8, "device": "cpu", "threads": 1}
# 41 rows in batches of 8 are 6 steps an epoch: cycles of 4 reach over the epochs.


def copies_of(num_tasks: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).double() for _ in range(num_tasks)]


def tie_of(name: str, copies: list[nn.Module], **settings: Any) -> Tie:
    tie = build(name, weight=0.3, **settings)
    tie.attach(copies)
    return tie


def gradients(tie: Tie, copies: list[nn.Module]) -> list[Tensor]:
    """Of the penalty by everything that it may pull, zeros where it pulls nothing."""
    parameters = [*tie.parameters(), *(p for copy in copies for p in copy.parameters())]
    for parameter in parameters:
        parameter.grad = None
    value = tie.penalty(copies)
    if value.requires_grad:
        value.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def network_of(tie: str = "l2", seed: int = 0, **settings: Any) -> PlanNetwork:
    torch.manual_seed(seed)
    encoder = tl.encoders.build("mlp", (4,), hidden=[6, 5])
    network = tl.sharing.build("soft_sharing", encoder, TASKS, tie=tie, weight=0.1, **settings)
    assert isinstance(network, PlanNetwork)
    return network


def penalties(network: PlanNetwork, num_steps: int) -> list[float]:
    found = []
    for step in range(num_steps):
        network.set_step(step)
        found.append(network.penalty().item())
    network.set_step(None)
    return found


@pytest.mark.parametrize("num_tasks", [2, 3])
@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("name", list(TIES))
def test_gradients_of_k_steps_at_constant_weights_add_up(name: str, every: int, num_tasks: int) -> None:
    copies = copies_of(num_tasks)
    plain, lazy = tie_of(name, copies), tie_of(name, copies, every=every)
    expected = [every * gradient for gradient in gradients(plain, copies)]
    total = [torch.zeros_like(gradient) for gradient in expected]
    for step in range(3, 3 + every):  # any k steps in a row
        lazy.step = step
        total = [sum_ + gradient for sum_, gradient in zip(total, gradients(lazy, copies), strict=True)]
    torch.testing.assert_close(total, expected)
    assert any(gradient.any() for gradient in expected)


def test_one_step_of_k_has_k_times_the_weight() -> None:
    network = network_of(every=3)
    whole = network.penalty().item()
    assert whole > 0.0
    assert penalties(network, 7) == pytest.approx([3 * whole, 0, 0, 3 * whole, 0, 0, 3 * whole])
    # Outside of training's steps, as for the report: the whole penalty, training mode or not.
    assert network.penalty().item() == network.eval().penalty().item() == whole
    assert network_of(every=1).penalty().item() == whole


def test_parameters_of_a_tie_at_rest_have_a_gradient_of_zero() -> None:
    """Several processes exchange the gradients of all parameters, and wait for one that has none."""
    network = network_of("exponential_affine", every=2)
    network.set_step(1)
    network.penalty().backward()
    own = list(network.ties.parameters())
    assert own
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in own)
    assert all(parameter.grad is None for parameter in network.stages.parameters())


class Watch(Callback):
    """Penalties that the steps of training had; ends the run after a step, as a crash does."""

    def __init__(self, crash: tuple[int, int] = (0, 0)) -> None:
        self.crash, self.seen = crash, [0.0]

    def batch_end(self, state: TrainingState) -> None:
        penalty = state.model.penalty().item()
        self.seen.append(penalty)
        if (state.epoch, state.step) == self.crash:
            raise KeyboardInterrupt


def trained(every: int, folder: Path | None = None, watch: Watch | None = None, **settings: Any) -> Any:
    network = network_of(every=every)
    callbacks = [] if watch is None else [watch]
    history = fit(network, TRAIN, VALIDATION, folder=folder, callbacks=callbacks, **(SETTINGS | settings))
    return network, history


def same(first: nn.Module, second: nn.Module, **tolerances: float) -> None:
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0.0, atol=0.0, **tolerances)


def test_every_step_is_the_default() -> None:
    torch.manual_seed(0)
    encoder = tl.encoders.build("mlp", (4,), hidden=[6, 5])
    plain = tl.sharing.build("soft_sharing", encoder, TASKS, tie="l2", weight=0.1)
    fit(plain, TRAIN, VALIDATION, **SETTINGS)
    same(plain, trained(1)[0])


def test_training_evaluates_one_step_of_k_over_epochs() -> None:
    watch = Watch()
    _, history = trained(4, watch=watch)
    assert [penalty > 0.0 for penalty in watch.seen[1:]] == [step % 4 == 0 for step in range(18)]
    assert all(epoch.penalty > 0.0 for epoch in history.epochs)


def test_the_reported_penalty_is_the_whole_one() -> None:
    network, history = trained(4, epochs=1)
    assert isinstance(history, History)
    assert history.epochs[0].penalty == pytest.approx(network.penalty().item(), rel=1e-6)
    plain = network_of()
    plain.load_state_dict(network.state_dict())
    assert plain.penalty().item() == pytest.approx(history.epochs[0].penalty, rel=1e-6)


def test_a_killed_run_goes_on_where_the_tie_was(tmp_path: Path) -> None:
    through, _ = trained(4, watch=Watch())
    with pytest.raises(KeyboardInterrupt):
        trained(4, tmp_path, Watch((2, 3)))
    watch = Watch()
    resumed, _ = trained(4, tmp_path, watch)
    # Epoch 2 begins again with step 6.
    assert [penalty > 0.0 for penalty in watch.seen[1:]] == [step % 4 == 0 for step in range(6, 18)]
    same(through, resumed)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_the_whole_penalty(stop: type[BaseException]) -> None:
    class Stop(Callback):
        def batch_end(self, state: TrainingState) -> None:
            if state.step == 3:  # number 2 from 0: the tie rests
                assert state.model.penalty().item() == 0.0
                raise stop

    network = network_of(every=4)
    with pytest.raises(stop):
        fit(network, TRAIN, VALIDATION, callbacks=[Stop()], **SETTINGS)
    plain = network_of()
    plain.load_state_dict(network.state_dict())
    assert network.penalty().item() == pytest.approx(plain.penalty().item(), rel=1e-6)
    assert network.penalty().item() > 0.0


def test_a_batch_in_parts_is_one_step() -> None:
    whole, parted = trained(3)[0], trained(3, accumulate=4)[0]
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parted.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("balancer", ["uncertainty", "pcgrad"])
def test_balancers_take_steps_without_penalty(balancer: str) -> None:
    watch = Watch()
    trained(4, watch=watch, balancer=tl.balancing.build(balancer, {}))
    assert sum(penalty > 0.0 for penalty in watch.seen) == 5


def test_two_processes_equal_one(tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 2}
    alone, joined = (network_of("exponential_affine", every=4) for _ in range(2))
    fit(alone, TRAIN, VALIDATION, **settings)
    fit(joined, TRAIN, VALIDATION, devices=2, folder=tmp_path, **settings)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("every", [0, -1, 1.0, "2", True, None])
def test_what_is_no_number_of_steps_is_refused(every: Any) -> None:
    encoder = tl.encoders.build("mlp", (4,), hidden=[6, 5])
    message = "every: a whole number of training steps from 1 on expected, found "
    with pytest.raises(ConfigError, match=f"^soft_sharing.{message}"):
        network_of(every=every)
    with pytest.raises(ConfigError, match=f"^l1.{message}"):
        tl.sharing.build("cross_stitch", encoder, TASKS, tie={"l1": {"every": every}})
    with pytest.raises(ConfigError, match=r"^soft_sharing\.tie_settings: .* without `weight` and `every`"):
        network_of(tie_settings={"every": every})


def test_settings_say_it_and_the_table_of_stages_shows_it() -> None:
    network = network_of(every=8)
    assert "l2 0.1 every 8" in network.plan.describe()
    assert [tie.every for tie in network.ties.values() if isinstance(tie, Tie)] == [8, 8]
    encoder = tl.encoders.build("mlp", (4,), hidden=[6, 5])
    stitched = tl.sharing.build("cross_stitch", encoder, TASKS, tie={"l1": {"every": 3, "stages": [2]}})
    assert "every=3" in repr(stitched.ties)
    with pytest.raises(ConfigError, match=r"`evry` is not a setting of tie l2\. Did you mean `every`"):
        build("l2", evry=2)
