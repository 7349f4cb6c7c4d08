"""What every balancer promises: one step with holes, resuming, several processes, settings, mistakes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from _balancing import NEEDS_ALL, batch, descend, in_two_processes, losses_of, make, network, step
from _training import TASKS, rows_with_holes
from taskloom.balancing import BALANCERS, Balancer, build
from taskloom.errors import ConfigError, MissingExtraError
from taskloom.training import Callback, TrainingConfig, fit
from taskloom.training.callbacks import TrainingState
from taskloom.training.checkpoints import load_checkpoint, save_checkpoint

ALL = list(BALANCERS)
EXTRA_SETTINGS: dict[str, dict[str, Any]] = {"cagrad": {"smooth": 0.5}, "nash_mtl": {"update_every": 2}}
METRICS = {"age": {"r2": 0.3}, "gender": {"accuracy": 0.8}, "mood": {"accuracy": 0.5}}


def absent_for(name: str) -> tuple[str, ...]:
    return () if name in NEEDS_ALL else ("gender",)


@pytest.mark.parametrize("name", ALL)
def test_a_step_with_a_hole_is_finite_and_leaves_the_absent_head_alone(name: str) -> None:
    model, balancer = network(), make(name)
    balancer.start(model, seed=2)
    found = step(balancer, model, batch(absent=absent_for(name)))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert balancer.total is not None
    assert balancer.total.isfinite()
    assert not balancer.total.requires_grad
    moved = {task for task in TASKS if any(found[p].any() for p in found if f"heads.{task}" in p)}
    assert moved <= set(TASKS.names) - set(absent_for(name))
    assert moved or name == "geometric_mean"
    balancer.epoch_end({"age": 1.0, "gender": None, "mood": 0.5}, METRICS)
    for key, value in balancer.report_state().items():
        assert key.split("/")[0] in ("weight", "cosine", "conflicts", "conflict_rate")
        assert isinstance(value, float)


def run_epochs(balancer: Balancer, model: Any, epochs: range) -> None:
    """Training by hand: two batches an epoch, the second with a hole where the method can have one."""
    for epoch in epochs:
        for number in range(2):
            rows = batch(seed=10 * epoch + number)
            losses = losses_of(model, rows, balancer)
            balancer.backward(losses, model)
            descend(balancer, model, 0.05)
        balancer.epoch_end({"age": 1 / epoch, "gender": 2 / epoch**2, "mood": 3.0}, METRICS)


@pytest.mark.parametrize("name", ALL)
def test_resumed_equals_never_interrupted(name: str, tmp_path: Path) -> None:
    through, stopped = make(name, **EXTRA_SETTINGS.get(name, {})), make(name, **EXTRA_SETTINGS.get(name, {}))
    model, other = network(), network()
    for balancer, trained in ((through, model), (stopped, other)):
        balancer.start(trained, seed=5)
        run_epochs(balancer, trained, range(1, 4))
    # Through a file, as a checkpoint is: what cannot be read back safely fails here.
    save_checkpoint(tmp_path / "x.ckpt", {"balancer": stopped.state_dict(), "model": other.state_dict()})
    kept = load_checkpoint(tmp_path / "x.ckpt")
    resumed, again = make(name, **EXTRA_SETTINGS.get(name, {})), network(seed=9)
    again.load_state_dict(kept["model"])
    resumed.start(again, seed=77)
    resumed.load_state_dict(kept["balancer"])
    run_epochs(through, model, range(4, 7))
    run_epochs(resumed, again, range(4, 7))
    for parameter, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[parameter], tensor), parameter
    for key, value in through.state_dict().items():
        assert str(resumed.state_dict()[key]) == str(value)


# Of three tasks the two nearest to each other tie in Krum: rounding decides.
@pytest.mark.parametrize("name", [name for name in ALL if name != "krum"])
def test_two_processes_follow_the_joined_batch(name: str) -> None:
    rows = batch(12)
    if name not in NEEDS_ALL:
        rows.labels.present["mood"][6:] = False  # absent in one process, present in the other
    shares = [rows.__getitems__(list(range(6))), rows.__getitems__(list(range(6, 12)))]
    model, balancer = network(), make(name)
    alone = network()
    balancer.start(alone, seed=3)
    for _ in range(2):
        alone.zero_grad()
        balancer.backward(losses_of(alone, rows, balancer), alone)
        descend(balancer, alone)
    fresh = make(name)
    for joined in in_two_processes(fresh, model, shares, steps=2):  # type: ignore[arg-type]
        for parameter, tensor in alone.state_dict().items():
            torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mgda", "upgrad", "nash_mtl", "pcgrad", "fairgrad", "config"])
def test_two_processes_at_the_shared_feature(name: str) -> None:
    rows = batch(12)
    shares = [rows.__getitems__(list(range(6))), rows.__getitems__(list(range(6, 12)))]
    balancer, alone = make(name, at="features"), network()
    balancer.start(alone, seed=3)
    step(balancer, alone, rows)
    descend(balancer, alone)
    for joined in in_two_processes(make(name, at="features"), network(), shares):  # type: ignore[arg-type]
        for parameter, tensor in alone.state_dict().items():
            torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


# -- in training

SETTINGS: dict[str, Any] = {"batch": 8, "device": "cpu", "threads": 1, "clip": 1.0}


class Killed(Exception):
    pass


class KillAfter(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def epoch_start(self, state: TrainingState) -> None:
        if state.epoch > self.epoch:
            raise Killed


@pytest.mark.parametrize("name", ["gradvac", "learned_weights", "mgda_ub", "dynamic_task_prioritization"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    train, validation = rows_with_holes(30, 1), rows_with_holes(15, 2)
    runs = []
    for folder, kill in (("whole", 99), ("killed", 2)):
        model = network()
        for last in (kill, 99):
            try:
                history = fit(
                    model,
                    train,
                    validation,
                    epochs=4,
                    folder=tmp_path / folder,
                    balancer=make(name),
                    callbacks=[KillAfter(last)],
                    **SETTINGS,
                )
                break
            except Killed:
                model = network(seed=8)
        runs.append((model, history))
    (whole, first), (resumed, second) = runs
    assert second.resumed_after == [2]
    assert first.without_seconds() == second.without_seconds()
    for parameter, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[parameter], tensor)
    assert any(key.startswith("weight/") for key in first.epochs[-1].balancing)
    if name in ("gradvac", "mgda_ub"):
        assert 0 <= first.epochs[0].balancing["conflict_rate"] <= 1
        assert -1 <= first.epochs[0].balancing["cosine/age/gender"] <= 1


def test_two_real_processes_equal_one() -> None:
    train, validation = rows_with_holes(26, seed=1, holes=0.6), rows_with_holes(15, seed=2)
    alone, joined = network(), network()
    settings = {**SETTINGS, "epochs": 2}
    one = fit(alone, train, validation, balancer=make("pcgrad"), **settings)
    two = fit(joined, train, validation, balancer=make("pcgrad"), devices=2, **settings)
    for first, second in zip(one.epochs, two.epochs, strict=True):
        assert first.train_loss == pytest.approx(second.train_loss, rel=1e-4)
        assert first.balancing == pytest.approx(second.balancing, rel=1e-3, abs=1e-5)
    for parameter, tensor in alone.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[parameter], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["pcgrad", "mgda_ub", "gradnorm", "uncertainty"])
def test_bfloat16_follows_single_precision(name: str) -> None:
    train, validation = rows_with_holes(30, 1), rows_with_holes(15, 2)
    losses = []
    for precision in ("32", "bf16-mixed"):
        history = fit(
            network(), train, validation, epochs=2, balancer=make(name), precision=precision, **SETTINGS
        )
        losses.append(list(history.epochs[-1].train_loss.values()))
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    train, validation = rows_with_holes(20, 1), rows_with_holes(15, 2)
    config = TrainingConfig(epochs=1, **SETTINGS)
    fit(network(), train, validation, config, folder=tmp_path, balancer=make("cagrad", c=0.5))
    with pytest.raises(ConfigError, match=r"balancing\.c was 0\.5 and is now 0\.2"):
        fit(network(), train, validation, config, folder=tmp_path, balancer=make("cagrad", c=0.2))


# -- mistakes


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pc_grad", {}, r"`pc_grad` is not a known balancer\. Did you mean `pcgrad`\?"),
        ("pcgrad", {"attt": 1}, r"balancing\.pcgrad\.attt is not a setting\. Did you mean `at`\?"),
        ("mean", {"at": 1}, r"balancing\.mean\.at is not a setting\. mean has no settings\."),
        ("pbi", {}, r"balancing\.pbi\.weights: this setting is required"),
        (
            "learned_weights",
            {"lambda": -0.1},
            r"learned_weights\.lambda: a number of 0 or more .* found -0\.1",
        ),
        ("learned_weights", {"lambda": "x"}, r"learned_weights\.lambda: a number of 0 or more .* found 'x'"),
        ("learned_weights", {"start": "ones"}, "start: random or equal expected"),
        ("cagrad", {"c": -1}, r"cagrad\.c: a number of 0 or more"),
        ("cagrad", {"c": True}, r"cagrad\.c: a number of 0 or more"),
        ("cagrad", {"solver": "ecos"}, r"cagrad\.solver: own or torchjd expected, found 'ecos'"),
        ("mgda", {"at": "heads"}, r"mgda\.at: parameters or features expected, found 'heads'"),
        ("mgda", {"smooth": 1.0}, r"mgda\.smooth: .* at most 0\.999999 expected, found 1\.0"),
        ("nash_mtl", {"update_every": 0}, r"update_every: a whole number of 1 or more expected, found 0"),
        ("fairgrad", {"alpha": 0}, r"fairgrad\.alpha: a number above 0"),
        ("gradvac", {"beta": 2}, r"gradvac\.beta: a number of 0 or more, at most 1"),
        ("aligned_mtl", {"scale": "max"}, "min, median or rmse expected"),
        ("dwa", {"temperature": 0}, r"dwa\.temperature: a number above 0"),
        ("self_paced", {"regularizer": "soft"}, "linear or hard expected"),
        ("gradnorm", {"alpha": -1}, r"gradnorm\.alpha"),
        ("weighted_sum", {"weights": ["age"]}, r"weights: a number per task expected, .* found \['age'\]"),
        ("stch", {"weights": 3}, r"balancing\.stch\.weights: a number per task expected, .* found 3"),
        ("curriculum", {"order": "age"}, r"curriculum\.order: a list of tasks.* expected, found 'age'"),
    ],
)
def test_refuses_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, settings)


@pytest.mark.parametrize(
    ("name", "package"), [("upgrad", "quadprog"), ("dualproj", "quadprog"), ("cagrad", "cvxpy")]
)
def test_a_solver_whose_package_is_missing(name: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingExtraError, match=rf"{package}.* pip install 'taskloom\[balancing\]'"):
        build(name, {"solver": "torchjd"})


def test_refuses_a_task_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"stch\.weights\.moood: .* Did you mean `mood`\?"):
        make("stch", weights={"moood": 1.0}).start(network())
    with pytest.raises(
        ConfigError, match=r"stch\.weights\.gender: a number of 0 or more expected, found None"
    ):
        make("stch", weights={"age": 1.0}).start(network())


@pytest.mark.parametrize("name", ["pcgrad", "learned_weights", "dwa", "famo", "gradnorm"])
def test_refuses_the_state_of_other_tasks(name: str) -> None:
    first, second = make(name), make(name)
    first.start(network())
    second.start(network(tasks=TASKS.subset(["age", "mood"])))
    with pytest.raises(
        ConfigError, match="the saved state is about age, gender, mood, the run about age, mood"
    ):
        second.load_state_dict(first.state_dict())
