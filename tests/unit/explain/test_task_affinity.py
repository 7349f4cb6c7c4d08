"""Task affinity: equal to closed forms on linear models with squared losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.data.batch import Batch
from taskloom.errors import ConfigError, DataError
from taskloom.explain import affinity_heatmaps, mixing_heatmaps, task_affinity
from taskloom.sharing import MultiTaskNetwork

TASKS = tl.TaskSet(tl.Regression("a", loss="mse"), tl.Regression("b", loss="mse"))


def linear() -> MultiTaskNetwork:
    """Shared W [2, 3] without bias, linear read-outs."""
    torch.manual_seed(0)
    encoder = tl.encoders.from_modules([nn.Linear(3, 2, bias=False)], (3,))
    return tl.sharing.build("hard_sharing", encoder, TASKS, stages=1).double()


def batch(rows: int = 5, seed: int = 0, present_b: bool = True) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(rows, generator=draw, dtype=torch.float64) for name in TASKS}
    present = {"a": torch.ones(rows, dtype=torch.bool), "b": torch.full((rows,), present_b)}
    inputs = torch.randn(rows, 3, generator=draw, dtype=torch.float64)
    return Batch(inputs, tl.Labels(values, present), torch.arange(rows))


def closed_form(model: MultiTaskNetwork, data: Batch, lr: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and affinities from W, v_i, c_i alone: L_i(W) = mean (x W' v_i + c_i - y_i)^2."""
    parameters = {name: value.detach().numpy() for name, value in model.named_parameters()}
    w = next(value for name, value in parameters.items() if name.startswith("stages"))
    heads = [
        (
            next(v for n, v in parameters.items() if n.startswith(f"heads.{task}") and n.endswith("weight"))[
                0
            ],
            next(v for n, v in parameters.items() if n.startswith(f"heads.{task}") and n.endswith("bias"))[0],
        )
        for task in TASKS
    ]
    x, ys = data.inputs.numpy(), [data.labels.values[task].numpy() for task in TASKS]

    def loss(weight: np.ndarray, task: int) -> float:
        v, c = heads[task]
        return float(np.mean((x @ weight.T @ v + c - ys[task]) ** 2))

    gradients = []
    for task, (v, c) in enumerate(heads):
        residual = x @ w.T @ v + c - ys[task]
        gradients.append(2 / len(x) * np.outer(v, residual @ x))
    cosine = [
        [float((g * h).sum() / np.sqrt((g * g).sum() * (h * h).sum())) for h in gradients] for g in gradients
    ]
    affinity = [[1 - loss(w - lr * g, j) / loss(w, j) for g in gradients] for j in range(2)]
    return np.array(cosine), np.array(affinity)


def test_cosine_and_affinity_of_a_linear_model_in_closed_form() -> None:
    model, batches = linear(), [batch(seed=1), batch(seed=2)]
    found = task_affinity(model, batches, lr=0.05)
    expected = [closed_form(model, each, 0.05) for each in batches]
    np.testing.assert_allclose(found.cosine, np.mean([one for one, _ in expected], axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.affinity, np.mean([two for _, two in expected], axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.conflicts, np.mean([one < 0 for one, _ in expected], axis=0))
    np.testing.assert_allclose(np.diag(found.cosine), 1)
    assert found.batches == 2


def test_for_small_steps_affinity_is_the_product_of_gradients() -> None:
    """1 - L_j(s - lr g_i) / L_j = lr g_i g_j / L_j + O(lr^2)."""
    model, data = linear(), batch()
    step = 1e-7
    found = task_affinity(model, [data], lr=step).affinity / step
    slope = closed_form(model, data, 1e-5)[1] / 1e-5
    np.testing.assert_allclose(found, slope, rtol=1e-3)


def test_batches_without_labels_of_a_task_do_not_count_for_it() -> None:
    model = linear()
    mixed = task_affinity(model, [batch(seed=1), batch(seed=2, present_b=False)])
    alone = task_affinity(model, [batch(seed=1)])
    assert mixed.cosine[0, 1] == alone.cosine[0, 1]
    assert mixed.affinity[1, 1] == alone.affinity[1, 1]
    nowhere = task_affinity(model, [batch(present_b=False)])
    assert np.isnan(nowhere.cosine[0, 1])
    assert np.isnan(nowhere.affinity[1, 0])
    assert not np.isnan(nowhere.affinity[0, 0])


def test_the_network_is_not_changed() -> None:
    model = linear().train()
    before: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    task_affinity(model, [batch()], lr=10.0, max_batches=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_mistakes_are_named() -> None:
    single = tl.sharing.build("single_task", tl.encoders.mlp((3,), hidden=[2]), TASKS.subset(["a"]))
    with pytest.raises(ConfigError, match="at least two tasks share parameters expected, found 1 task and"):
        task_affinity(single, [batch()])
    with pytest.raises(ConfigError, match="lr above 0"):
        task_affinity(linear(), [batch()], lr=0.0)
    with pytest.raises(DataError, match="no batch"):
        task_affinity(linear(), [])
    with pytest.raises(ConfigError, match="with mixing matrices"):
        mixing_heatmaps(linear())


def test_heatmaps_say_which_tasks_and_stages() -> None:
    mixed = tl.sharing.build("cross_stitch", tl.encoders.mlp((3,), hidden=[4, 4]), TASKS)
    drawn = mixing_heatmaps(mixed)
    assert all(f"after {stage}" in drawn for stage in mixed.mixing_matrices())
    drawn = affinity_heatmaps(task_affinity(linear(), [batch()]))
    assert "gradient cosine" in drawn
    assert "inter-task affinity" in drawn
