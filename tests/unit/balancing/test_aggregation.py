"""One update from gradients per task: against gradients taken one by one, and what a step may not do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from _balancing import (
    batch,
    descend,
    gradients,
    jacobian,
    losses_of,
    make,
    network,
    step,
    task_gradients,
)
from _training import TASKS
from taskloom import Regression, TaskSet
from taskloom.balancing import GradientAggregation
from taskloom.balancing.gradients import Rows, find_seam, gramian
from taskloom.errors import ConfigError, TrainingError
from taskloom.losses import SumCount


def shared_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if ".shared." in name]


@pytest.mark.parametrize("name", ["mgda", "upgrad", "cagrad", "imtl_g", "aligned_mtl"])
def test_shared_part_is_aggregated_and_heads_follow_their_task(name: str) -> None:
    model, rows, balancer = network(), batch(), make(name)
    assert isinstance(balancer, GradientAggregation)
    by_task = task_gradients(model, rows)
    shared = shared_names(model)
    assert shared
    found = step(balancer, model, rows)
    matrix = jacobian(by_task, shared).double().numpy()
    method = balancer._method
    expected = method.weights(matrix @ matrix.T, range(3)) @ matrix  # type: ignore[union-attr]
    ours = torch.cat([found[name].flatten() for name in shared]).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    for parameter in found:
        if parameter not in shared:
            torch.testing.assert_close(found[parameter], sum(g[parameter] for g in by_task.values()))


@pytest.mark.parametrize("architecture", ["hard_sharing", "cross_stitch", "soft_sharing", "single_task"])
def test_sum_of_gradients_is_the_plain_sum(architecture: str) -> None:
    settings = {"soft_sharing": {"tie": "l2", "weight": 0.1}}.get(architecture, {})
    model, rows = network(architecture, **settings), batch()
    plain = step(make("weighted_sum"), model, rows)
    for at in ["parameters", "features"] if architecture == "hard_sharing" else ["parameters"]:
        balancer, reference = make("gradient_sum", at=at), make("weighted_sum")
        found = step(balancer, model, rows)
        step(reference, model, rows)
        assert balancer.total is not None
        assert reference.total is not None
        torch.testing.assert_close(balancer.total, reference.total)
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_penalty_is_added_outside_the_aggregation() -> None:
    model, rows = network("soft_sharing", tie="l2", weight=0.5), batch()
    loose = network("soft_sharing", tie="l2", weight=0.0)
    loose.load_state_dict(model.state_dict())
    with_tie, without = step(make("mgda"), model, rows), step(make("mgda"), loose, rows)
    model.zero_grad()
    model.penalty().backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(with_tie[name] - without[name], gradient, rtol=1e-4, atol=1e-5)


def test_own_copies_that_others_hear_are_aggregated() -> None:
    # Cross-stitch: task A's own copies are heard by all, so conflicts arise on them too.
    model, rows = network("cross_stitch", start={"same": 0.7, "other": 0.15}), batch()
    seam = find_seam(losses_of(model, rows), model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {name for name in names.values() if name.startswith("stages.")} == {
        names[id(p)] for p in seam.shared if names[id(p)].startswith("stages.")
    }
    for task, own in seam.own.items():
        assert all(names[id(p)].startswith(f"heads.{task}") for p in own)
        assert own
    # A grouped plan: nothing is mixed, a task's own stages stay its own.
    seam = find_seam(losses_of(hard := network(), rows), hard)
    names = {id(p): name for name, p in hard.named_parameters()}
    assert sorted(names[id(p)] for p in seam.shared) == sorted(shared_names(hard))


class Counting(torch.autograd.Function):
    """The identity; counts backward passes."""

    passes = 0

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        Counting.passes += 1
        return gradient


@pytest.mark.parametrize(
    ("settings", "absent", "passes"),
    [({}, (), 3), ({}, ("mood",), 2), ({}, TASKS.names, 0), ({"at": "features"}, (), 1)],
)
def test_passes_through_the_trunk(settings: dict[str, str], absent: tuple[str, ...], passes: int) -> None:
    model, rows, balancer = network(), batch(absent=absent), make("pcgrad", **settings)
    trunk = model.features
    # At the end of the trunk, before the feature is taken hold of.
    object.__setattr__(model, "features", lambda inputs: Counting.apply(trunk(inputs)))
    Counting.passes = 0
    step(balancer, model, rows)
    assert Counting.passes == passes


def test_an_absent_task_counts_nothing() -> None:
    rows = batch(absent=("mood",))
    model = network()
    pair = TASKS.subset(["age", "gender"])
    small = network(tasks=pair)
    small.load_state_dict({k: v for k, v in model.state_dict().items() if "mood" not in k})
    for name in ("mgda", "upgrad", "cagrad", "nash_mtl", "gradvac", "config", "graddrop", "aligned_mtl"):
        found, expected = step(make(name), model, rows), step(make(name), small, rows)
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[parameter], gradient, msg=name)
        assert not any(found[p].any() for p in found if "mood" in p)


def test_a_batch_without_any_label_moves_only_the_ties() -> None:
    rows = batch(absent=TASKS.names)
    tied = network("soft_sharing", tie="l2", weight=0.5)
    found = step(make("nash_mtl"), tied, rows)
    tied.zero_grad()
    tied.penalty().backward()
    for name, gradient in gradients(tied).items():
        torch.testing.assert_close(found[name], gradient)
    for at in ("parameters", "features"):
        assert not any(gradient.any() for gradient in step(make("mgda", at=at), network(), rows).values())


def test_gramian_at_the_shared_feature_is_mgda_ub() -> None:
    model, rows, balancer = network(), batch(), make("mgda_ub")
    feature = model.features(rows.inputs).detach().requires_grad_()
    from taskloom.losses import per_task

    losses = per_task(model.from_features(feature), rows.labels, TASKS)
    matrix = torch.stack(
        [torch.autograd.grad(loss.mean, feature, retain_graph=True)[0].flatten() for loss in losses.values()]
    )
    from taskloom.balancing.solvers import min_norm

    weights = min_norm((matrix @ matrix.T).double().numpy())
    found = step(balancer, model, rows)
    by_task = task_gradients(model, rows)
    for name in shared_names(model):
        expected = sum(float(w) * by_task[task][name] for w, task in zip(weights, TASKS, strict=True))
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-6)
    assert balancer.report_state()["weight/age"] == pytest.approx(weights[0], rel=1e-4)


def test_a_batch_in_parts_equals_the_whole() -> None:
    model, rows = network(), batch(12)
    for name in ("mgda", "pcgrad", "weighted_sum", "dwa", "graddrop"):
        whole = step(make(name), model, rows)
        counts = {task: loss.count for task, loss in losses_of(model, rows).items()}
        model.zero_grad()
        parted = make(name)
        for number, begin in enumerate(range(0, 12, 4)):
            part = rows.__getitems__(list(range(begin, begin + 4)))
            losses = losses_of(model, part)  # type: ignore[arg-type]
            given = {task: SumCount(loss.sum, counts[task]) for task, loss in losses.items()}
            (parted.backward if number == 2 else parted.accumulate)(given, model)
        for parameter, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, whole[parameter], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("absent", [(), ("gender",), ("age", "gender")])
def test_batched_rows_are_those_taken_one_by_one(absent: tuple[str, ...]) -> None:
    model, rows = network(), batch(absent=absent)
    balancer = make("aligned_mtl")
    expected = step(balancer, model, rows)
    batched = make("aligned_mtl")
    assert isinstance(batched, GradientAggregation)
    batched.batched = True
    found = step(batched, model, rows)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["stch", "famo", "mgda_ub"])
def test_refuses_a_batch_in_parts_where_it_cannot_be_right(name: str) -> None:
    model, balancer = network(), make(name)
    losses = losses_of(model, batch(), balancer)
    with pytest.raises(ConfigError, match="in parts"):
        balancer.accumulate(losses, model)


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "graddrop", "mgda_ub", "gradnorm"])
def test_scaled_losses_give_scaled_gradients_and_the_same_decisions(name: str) -> None:
    # What a gradient scaler for 16-bit precision does; the optimiser's step divides by it.
    model, rows = network(), batch()
    plain, scaled = make(name), make(name)
    scaled.scale = lambda tensor: tensor * 512.0
    expected, found = step(plain, model, rows), step(scaled, model, rows)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], 512.0 * gradient, rtol=1e-3, atol=1e-3)
    first, second = plain.report_state(), scaled.report_state()
    assert first == pytest.approx(second, rel=1e-4, abs=1e-6)


def test_an_overflow_of_scaled_gradients_reaches_the_scaler() -> None:
    model, balancer = network(), make("mgda")
    balancer.scale = lambda tensor: tensor * 3e38 * 1e6
    found = step(balancer, model, batch())
    assert not all(found[name].isfinite().all() for name in shared_names(model))


@pytest.mark.parametrize("name", ["mgda", "upgrad", "cagrad", "pcgrad", "fairgrad", "imtl_g"])
def test_finds_a_pareto_point_of_a_convex_problem(name: str) -> None:
    """Two squared distances in the plane: Pareto-optimal is the segment between the two targets."""
    tasks = TaskSet(Regression("left"), Regression("right"))
    targets = {"left": torch.tensor([-1.0, 0.0]), "right": torch.tensor([2.0, 1.0])}

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tasks, self.at = tasks, nn.Parameter(torch.tensor([1.0, -2.0]))

        def shared_parameters(self) -> list[nn.Parameter]:
            return [self.at]

        def task_parameters(self, task: str) -> list[nn.Parameter]:
            return []

        def penalty(self) -> Tensor:
            return torch.zeros(())

    model, balancer = Point(), make(name)
    for _ in range(400):
        losses = {
            task: SumCount((model.at - target).square().sum(), torch.tensor(1))
            for task, target in targets.items()
        }
        # At the point itself no direction helps both: IMTL-G and FairGrad have no solution, and say so.
        try:
            balancer.backward(losses, model)  # type: ignore[arg-type]
        except TrainingError:
            break
        descend(balancer, model, 0.03)  # type: ignore[arg-type]
    rows = [2 * (model.at.detach() - target) for target in targets.values()]
    lengths = sum(float(row.norm()) for row in rows)
    share = float((rows[1] - rows[0]) @ rows[1] / (rows[1] - rows[0]).square().sum())
    shortest = share * rows[0] + (1 - share) * rows[1]
    assert 0 <= share <= 1
    assert float(shortest.norm()) < 0.02 * lengths


# -- mistakes


def test_a_solver_that_fails_names_method_step_and_tasks() -> None:
    model, balancer, rows = network(), make("nash_mtl"), batch()
    step(balancer, model, rows)
    losses = losses_of(model, rows)
    opposed = {"age": losses["age"], "gender": SumCount(-losses["age"].sum, losses["age"].count)}
    with pytest.raises(
        TrainingError,
        match=r"balancing nash_mtl: there is no solution: .*stationary\), at step 2 for .* age, gender",
    ):
        balancer.backward(opposed, model)
    step(balancer, model, rows)  # nothing of the failed step is left


def test_too_few_tasks_for_krum() -> None:
    message = r"balancing\.krum: at least 4 tasks expected with these settings, found 3 \(age, gender, mood\)"
    with pytest.raises(ConfigError, match=message):
        make("krum", byzantine=1).start(network())
    with pytest.raises(
        TrainingError, match=r"balancing krum: it needs 3 tasks .*but 2 of .*larger batches.* at step 1"
    ):
        step(make("krum"), network(), batch(absent=("mood",)))


def test_a_gradient_that_is_not_finite_names_its_task() -> None:
    model, balancer, rows = network(), make("mgda"), batch()
    losses = losses_of(model, rows)
    losses["gender"] = SumCount(losses["gender"].sum * float("nan"), losses["gender"].count)
    with pytest.raises(
        TrainingError, match=r"balancing mgda: the gradient of task gender is not finite at step 1"
    ):
        balancer.backward(losses, model)


@pytest.mark.parametrize("name", ["weighted_sum", "learned_weights", "pcgrad", "gradnorm"])
def test_a_loss_without_gradient(name: str) -> None:
    model, balancer, rows = network(), make(name), batch()
    balancer.start(model)
    losses = losses_of(model, rows)
    losses["mood"] = SumCount(losses["mood"].sum.detach(), losses["mood"].count)
    with pytest.raises(TrainingError, match="the loss of task mood has no gradient"):
        balancer.backward(losses, model)
    # Where nothing of the task is left to train, such a loss is judged and nothing else.
    for parameter in model.task_parameters("mood"):
        parameter.requires_grad_(False)
    balancer.backward(losses, model)


def test_features_without_a_shared_feature() -> None:
    for architecture in ("cross_stitch", "single_task", "soft_sharing"):
        settings = {"tie": "l2", "weight": 0.1} if architecture == "soft_sharing" else {}
        with pytest.raises(ConfigError, match="this network has no feature that all tasks read"):
            make("mgda_ub").start(network(architecture, **settings))


def test_features_outside_of_the_context() -> None:
    model, balancer = network(), make("mgda_ub")
    with pytest.raises(ConfigError, match=r"inside `with balancer\.watching\(model\):`"):
        balancer.backward(losses_of(model, batch()), model)


def test_the_context_leaves_the_network_as_it_was() -> None:
    model, balancer = network(), make("mgda_ub")
    before = set(vars(model))
    step(balancer, model, batch())
    assert set(vars(model)) == before
    pickle.loads(pickle.dumps(balancer))


# -- rows


def test_gramian_adds_up_blocks() -> None:
    matrix = torch.randn(4, 100_001, generator=torch.Generator().manual_seed(0))
    expected = (matrix.double() @ matrix.double().T).numpy()
    np.testing.assert_allclose(gramian(matrix), expected, rtol=1e-5, atol=1e-2)


def test_rows_use_their_memory_again() -> None:
    rows, tensors = Rows(), [torch.zeros(2, 3), torch.zeros(4)]
    rows.begin(2, tensors)
    memory = rows._memory.data_ptr()
    rows.put("a", [torch.ones(2, 3), None], tensors)
    rows.put("a", [torch.ones(2, 3), torch.full((4,), 2.0)], tensors)
    assert rows.matrix.tolist() == [[2.0] * 6 + [2.0] * 4]
    rows.clear()
    rows.begin(2, tensors)
    assert rows._memory.data_ptr() == memory
    assert len(rows.matrix) == 0
    assert rows._memory.shape == (2, 10)
