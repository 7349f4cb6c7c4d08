"""A task set to say nothing (reversed by 0, or of weight 0) counts in no method; solvers that fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from _balancing import NEEDS_ALL, batch, descend, gradients, losses_of, make, network
from _training import TASKS
from taskloom import Multiclass, Reversal, TaskSet
from taskloom.balancing import GradientAggregation, build
from taskloom.balancing.gradients import leaves
from taskloom.balancing.weightings import NashMTL
from taskloom.errors import TrainingError
from taskloom.losses import weighted
from taskloom.sharing import MultiTaskNetwork

REVERSED = dataclasses.replace(
    TASKS["mood"], role="adversarial", reversal=Reversal("linear", warmup=0.5), loss="", metric=""
)
WEIGHTLESS = Multiclass("mood", 3, role="auxiliary", weight=0.0)
METHODS = (
    "nash_mtl",
    "fairgrad",
    "mgda",
    "cagrad",
    "upgrad",
    "aligned_mtl",
    "gradient_mean",
    "config",
    "graddrop",
)


def with_mood(mood: Multiclass) -> TaskSet:
    return TaskSet(TASKS["age"], TASKS["gender"], mood)


def update(name: str, model: MultiTaskNetwork, **settings: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Gradients on what is shared after one step, and the tasks that got a weight."""
    balancer = make(name, **settings)
    balancer.start(model, seed=2)
    model.zero_grad()
    losses = weighted(losses_of(model, batch(), balancer), model.tasks)
    balancer.backward(losses, model)
    shared = {name: found for name, found in gradients(model).items() if ".shared." in name}
    heard = [key.split("/")[1] for key in balancer.report_state() if key.startswith("weight/")]
    return shared, heard


@pytest.mark.parametrize("mood", [REVERSED, WEIGHTLESS])
@pytest.mark.parametrize(("name", "settings"), [*((n, {}) for n in METHODS), ("mgda", {"at": "features"})])
def test_what_is_shared_moves_as_without_the_silent_task(
    name: str, settings: dict[str, str], mood: Multiclass
) -> None:
    assert isinstance(mood, Multiclass)
    model, small = network(tasks=with_mood(mood)), network(tasks=TASKS.subset(["age", "gender"]))
    model.set_progress(0.25)
    small.load_state_dict({k: v for k, v in model.state_dict().items() if "mood" not in k})
    (found, heard), (expected, _) = update(name, model, **settings), update(name, small, **settings)
    assert any(gradient.any() for gradient in expected.values())
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-5, atol=1e-8)
    assert heard in (["age", "gender"], [])  # GradDrop gives no weights


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "gradient_mean"])
def test_what_a_silent_task_learns_in_its_own_row_of_a_unit_is_nobody_elses_business(name: str) -> None:
    """While its reversal stands at 0, its row in the last cross-stitch unit has a gradient all the same."""
    reports, found = [], []
    for mood in (REVERSED, WEIGHTLESS):  # the same network
        assert isinstance(mood, Multiclass)
        model, balancer = network("cross_stitch", with_mood(mood)), make(name)
        model.set_progress(0.25)
        balancer.start(model, seed=2)
        balancer.backward(weighted(losses_of(model, batch(), balancer), model.tasks), model)
        reports.append(balancer.report_state())
        found.append(gradients(model))
    assert reports[0] == reports[1]
    assert {"weight/age", "weight/gender"} <= set(reports[0])
    for parameter, gradient in found[1].items():
        if "mood" not in parameter:
            torch.testing.assert_close(found[0][parameter], gradient)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mean", {}),
        ("learned_weights", {"start": "equal"}),
        ("uncertainty", {}),
        ("imtl_l", {}),
        ("famo", {}),
        ("stch", {}),
        ("geometric_mean", {}),
        ("gradnorm", {}),
    ],
)
def test_weights_of_the_others_are_those_without_the_weightless_task(
    name: str, settings: dict[str, str], few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss of 0 is no small loss: learned weights would go to it, and a product of losses would be 0."""
    if not few:
        monkeypatch.setattr("taskloom.balancing.weights.FEW", 0)
    ends, reports = [], []
    large, small = network(tasks=with_mood(WEIGHTLESS)), network(tasks=TASKS.subset(["age", "gender"]))
    small.load_state_dict({k: v for k, v in large.state_dict().items() if "mood" not in k})
    for model in (large, small):
        balancer = make(name, **settings)
        balancer.start(model)
        for seed in range(5):
            losses = weighted(losses_of(model, batch(seed=seed), balancer), model.tasks)
            balancer.backward(losses, model)
            descend(balancer, model, 0.1)
        ends.append(model.state_dict())
        reports.append(balancer.report_state())
    for parameter, tensor in ends[1].items():
        torch.testing.assert_close(ends[0][parameter], tensor, rtol=1e-4, atol=1e-6)
    assert {key: reports[0][key] for key in reports[1]} == pytest.approx(reports[1], rel=1e-4)


def test_the_silent_task_learns_in_its_own_head_and_speaks_after_the_warm_up() -> None:
    model = network(tasks=with_mood(REVERSED))
    balancer = make("nash_mtl")
    for progress, heard in ((0.25, False), (0.75, True)):
        model.set_progress(progress)
        model.zero_grad()
        balancer.backward(losses_of(model, batch(), balancer), model)
        assert all(found.any() for name, found in gradients(model).items() if "heads.mood" in name)
        assert ("weight/mood" in balancer.report_state()) is heard


@pytest.mark.parametrize("name", NEEDS_ALL)
def test_methods_that_need_every_task_get_every_task(name: str) -> None:
    model = network(tasks=with_mood(REVERSED))
    model.set_progress(0.0)
    found, _ = update(name, model)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_gradnorm_leaves_weights_of_the_others_to_the_others() -> None:
    model = network(tasks=with_mood(REVERSED))
    model.set_progress(0.0)
    balancer = make("gradnorm", lr=0.1)
    balancer.start(model)
    for seed in range(5):
        balancer.backward(losses_of(model, batch(seed=seed), balancer), model)
    weights = balancer.report_state()
    assert weights["weight/mood"] == 1.0
    assert weights["weight/age"] + weights["weight/gender"] == pytest.approx(2.0)


def test_a_gradient_of_zeros_of_any_other_task_is_still_no_solution() -> None:
    model, balancer = network(), make("nash_mtl")
    losses = losses_of(model, batch(), balancer)
    assert leaves(losses["age"].sum)
    silenced = {**losses, "age": dataclasses.replace(losses["age"], sum=losses["age"].sum * 0.0)}
    with pytest.raises(TrainingError, match="the gradient of one task is 0, at step 1 for the tasks age"):
        balancer.backward(silenced, model)


def test_a_failure_of_linear_algebra_names_method_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, balancer = network(), make("fairgrad")
    assert isinstance(balancer, GradientAggregation)

    def fails(*_: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(balancer._method, "weights", fails)
    with pytest.raises(TrainingError, match=r"balancing fairgrad: Singular matrix, at step 1 for .* age,"):
        balancer.backward(losses_of(model, batch(), balancer), model)


def test_a_task_without_a_bargain_yet_is_not_given_a_weight_in_silence() -> None:
    """Between two solutions a task may come that stood in none: it is solved for then."""
    method, fresh = NashMTL(0.0, update_every=10), NashMTL(0.0, update_every=1)
    gramian = np.diag([4.0, 0.25, 100.0])
    method.start(3, 0)
    fresh.start(3, 0)
    first = method.weights(gramian[:2, :2], [0, 1])
    np.testing.assert_array_equal(method.weights(2 * gramian[:2, :2], [0, 1]), first)
    np.testing.assert_allclose(method.weights(gramian, [0, 1, 2]), fresh.weights(gramian, [0, 1, 2]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dwa", {}), ("self_paced", {"start": 1.0}), ("curriculum", {"measure": 1, "every": 3})],
)
def test_weights_from_epoch_to_epoch_go_by_the_losses_of_those_that_count(
    name: str, settings: dict[str, object]
) -> None:
    """The weightless loss is the smallest at first and rises; the weights of the others are as without it."""
    table = [{"age": 9.0, "gender": 3.0, "mood": 1.0}, {"age": 6.0, "gender": 2.9, "mood": 30.0}]
    found = []
    for mood in (WEIGHTLESS, None):
        tasks = with_mood(WEIGHTLESS) if mood else TASKS.subset(["age", "gender"])
        balancer = build(name, settings)
        balancer.start(network("hard_sharing", tasks=tasks, stages=2))
        for losses in [*table, *table]:
            balancer.epoch_end({task: losses[task] for task in tasks})
        weights = balancer.report_state()
        found.append([weights[f"weight/{task}"] for task in ("age", "gender")])
        assert not balancer.enters("mood")
    assert found[0] == pytest.approx(found[1])
    assert sum(found[0]) > 0
