"""Copies as one kernel per layer give what they give one by one: outputs, gradients, running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _module_networks import KINDS, gradients, inputs_of
from _planted import planted_encoder, planted_tasks
from taskloom.errors import ConfigError
from taskloom.sharing import PlanNetwork, build
from taskloom.sharing.grouped import run_grouped, why_not, why_not_now

WAYS: list[tuple[str, dict[str, Any]]] = [
    ("single_task", {}),
    ("cross_stitch", {"start": {"same": 0.7, "other": 0.3}}),
    ("hard_sharing", {"stages": 1}),
    ("hard_sharing", {"stages": 1, "from": "output"}),
    ("plan", {"partition": {"2": [["task_0", "task_2"], ["task_1"]]}, "joined": False}),
]


def networks(
    name: str, encoder: tl.encoders.Encoder, number: int, dtype: torch.dtype, **settings: Any
) -> list[PlanNetwork]:
    """One by one, and grouped; the same weights."""
    found = []
    for execution in ("one_by_one", "grouped"):
        torch.manual_seed(0)
        network = build(name, encoder, planted_tasks(number), **settings, execution=execution).to(dtype)
        assert isinstance(network, PlanNetwork)
        found.append(network)
    return found


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_the_same_numbers(
    name: str, settings: dict[str, Any], kind: str, dtype: torch.dtype, near: float
) -> None:
    single, joined = networks(name, planted_encoder(kind), 3, dtype, **settings)
    inputs = inputs_of(kind).to(dtype)
    for training in (True, False):
        single.train(training)
        joined.train(training)
        expected, found = single(inputs), joined(inputs)
        for task, output in expected.items():
            torch.testing.assert_close(found[task], output, rtol=near, atol=near)
        of_single, of_joined = gradients(single, expected.values()), gradients(joined, found.values())
        largest = max(g.abs().max().item() for g in of_single.values())
        for parameter, gradient in of_single.items():
            torch.testing.assert_close(of_joined[parameter], gradient, rtol=0, atol=10 * near * largest)
    for key, value in single.state_dict().items():  # running means and counts of batch norm
        torch.testing.assert_close(joined.state_dict()[key], value, rtol=near, atol=near)


@pytest.mark.parametrize(
    ("encoder", "shape", "settings"),
    [
        ("opportunity_cnn", (64, 5), {"width": 0.1}),
        ("deap_cnn", (128, 4), {}),
        ("conv1d", (32, 3), {"dropout": 0.5}),
        ("mlp", (7,), {"dropout": 0.5, "activation": "gelu"}),
    ],
)
def test_encoders_of_the_library(encoder: str, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    built = tl.encoders.build(encoder, shape, **settings)
    single, joined = networks("cross_stitch", built, 3, torch.float64)
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    assert joined.one_by_one() == {}
    for training in (False, True):
        single.train(training)
        joined.train(training)
        torch.manual_seed(1)
        expected = single(inputs)
        torch.manual_seed(1)
        found = joined(inputs)  # in training, stages with dropout run one by one, with the same draws
        for task, output in expected.items():
            torch.testing.assert_close(found[task], output, rtol=1e-12, atol=1e-12)


def test_mixed_precision() -> None:
    encoder = tl.encoders.build("opportunity_cnn", (64, 5), width=0.1, dense=(12,))
    single, joined = networks("single_task", encoder, 4, torch.float32)
    single.eval()  # dropout draws
    joined.eval()
    inputs = torch.randn(6, 64, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = single(inputs), joined(inputs)
    for task, output in expected.items():
        assert found[task].dtype == output.dtype
        torch.testing.assert_close(found[task], output, rtol=0.03, atol=0.03)
    for gradient in gradients(joined, [output.float() for output in found.values()]).values():
        assert torch.isfinite(gradient).all()


def test_really_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    convolve = torch.nn.functional.conv1d

    def counted(inputs: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        calls.append((rest[-1], len(weight)))
        return convolve(inputs, weight, *rest)

    _, joined = networks(
        "single_task", tl.encoders.build("conv1d", (16, 3), filters=[4, 5]), 3, torch.float64
    )
    monkeypatch.setattr(torch.nn.functional, "conv1d", counted)
    joined(torch.randn(2, 16, 3, dtype=torch.float64))
    # The first stage reads one input: one convolution with the filters of all; the second has three groups.
    assert calls == [(1, 3 * 4), (3, 3 * 5)]


def test_what_stands_against_it_is_said() -> None:
    encoder = tl.encoders.from_modules([nn.Linear(3, 3), nn.Sequential(nn.LayerNorm(3), nn.ReLU())], (3,))
    network = build("single_task", encoder, planted_tasks(2), execution="grouped")
    assert isinstance(network, PlanNetwork)
    assert network.one_by_one() == {"stage_1": "LayerNorm has no grouped form"}
    assert network.describe().endswith("grouped execution, except stage_1: LayerNorm has no grouped form")
    copies = [nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)) for _ in range(2)]
    x = torch.ones(2, 3)
    assert why_not(copies) is None
    assert why_not_now(copies, [x, x]) == "dropout draws for one copy after the other"
    copies[0].eval()
    assert why_not_now(copies, [x, x]) == "some copies train and others do not"
    copies[1].eval()
    assert why_not_now(copies, [x, x]) is None
    assert why_not_now(copies, [x, x[:1]]) == "inputs of different shapes"
    assert why_not_now([copies[0], copies[0]], [x, x]) == "a copy runs on several tensors"
    copies[1][0].register_forward_hook(lambda *_: None)
    assert why_not_now(copies, [x, x]) == "a hook stands at a layer"
    assert why_not([nn.Linear(3, 2), nn.Linear(3, 3)]) == "Linear layers of different shapes"
    assert why_not([nn.Linear(3, 2), nn.ReLU()]) == "the copies are made of different layers"
    assert why_not([nn.Conv1d(4, 4, 3, groups=2) for _ in range(2)]) is not None
    assert why_not([nn.BatchNorm1d(3, momentum=None) for _ in range(2)]) is not None


def test_outputs_may_be_worked_on_in_place() -> None:
    copies = [nn.Linear(3, 3).double() for _ in range(2)]
    x = torch.randn(4, 3, dtype=torch.float64)
    outputs = run_grouped(copies, [x, x])
    (outputs[0].relu_().sum() + outputs[1].sum()).backward()
    expected = (copies[0](x) > 0).sum(dim=0).double()
    torch.testing.assert_close(copies[0].bias.grad, expected)


def test_a_setting_that_does_not_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"sharing\.execution: one of auto, one_by_one, grouped expected, found 'fast'"
    ):
        build("single_task", planted_encoder("mlp"), planted_tasks(2), execution="fast")


@pytest.mark.parametrize(("name", "settings"), [("hard_sharing", {"stages": 2}), ("cross_stitch", {})])
@pytest.mark.filterwarnings("ignore")
def test_compiled_outputs_and_gradients_are_those_of_eager(name: str, settings: dict[str, Any]) -> None:
    """Graph capture and its backward, without the compiler behind it (a C++ compiler may be absent)."""
    torch.manual_seed(0)
    network = build(
        name, tl.encoders.build("mlp", (5,), hidden=[6, 4]), planted_tasks(2), **settings
    ).double()
    compiled = torch.compile(network, backend="aot_eager")
    inputs = torch.randn(4, 5, dtype=torch.float64)
    expected, found = network(inputs), compiled(inputs)
    for task, output in expected.items():
        torch.testing.assert_close(found[task], output, rtol=1e-12, atol=1e-12)
    of_compiled = gradients(network, found.values())
    for parameter, gradient in gradients(network, expected.values()).items():
        torch.testing.assert_close(of_compiled[parameter], gradient, rtol=1e-10, atol=1e-12)
