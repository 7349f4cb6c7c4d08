"""Where formulas for linear trunks and heads do not hold, gradients are taken as everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.balancing import build
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError, TrainingError
from taskloom.losses import SumCount
from taskloom.sharing import MultiTaskNetwork

TASKS = tl.TaskSet(tl.Regression("a"), tl.Regression("b"), tl.Regression("c"))
Loss = Callable[[MultiTaskNetwork, dict[str, Tensor], str], Tensor]


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 1)
        self.factors = nn.Buffer(torch.arange(1.0, 7.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.one(inputs) * self.factors  # type: ignore[no-any-return]


def network(*stages: nn.Module) -> MultiTaskNetwork:
    torch.manual_seed(0)
    stages = stages or (nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 6))
    encoder = Encoder(list(stages), input_shape=(5,))
    return tl.sharing.build("hard_sharing", encoder, TASKS, stages=len(stages), head={"hidden": []})


def squares(model: MultiTaskNetwork, outputs: dict[str, Tensor], task: str) -> Tensor:
    return (outputs[task] - 1.0).square().sum()


def reads_the_trunk(model: MultiTaskNetwork, outputs: dict[str, Tensor], task: str) -> Tensor:
    return squares(model, outputs, task) + 3.0 * model.shared_parameters()[0].square().sum() * (task == "a")


def reads_its_head(model: MultiTaskNetwork, outputs: dict[str, Tensor], task: str) -> Tensor:
    return squares(model, outputs, task) + 5.0 * model.task_parameters(task)[0].square().sum()


def update(model: MultiTaskNetwork, method: str, loss: Loss, *, plain: bool) -> list[Tensor]:
    """Gradients of one step; `plain`: by a row per task, with no look at what the network is."""
    inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    balancer = build(method)
    balancer.start(model, seed=2)
    if plain:
        outputs = model(inputs)
    else:
        with balancer.watching(model):
            outputs = model(inputs)
    model.zero_grad()
    count = torch.tensor(7.0)
    balancer.backward({task: SumCount(loss(model, outputs, task), count) for task in TASKS}, model)
    return [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()]


def tied() -> MultiTaskNetwork:
    model = network()
    first, second = (model.task_modules(task)[-1] for task in ("a", "b"))
    layers = [next(m for m in head.modules() if isinstance(m, nn.Linear)) for head in (first, second)]
    layers[1].weight = layers[0].weight
    return model


def hooked(where: int) -> MultiTaskNetwork:
    model = network()
    list(model.parameters())[where].register_hook(lambda gradient: gradient * 0.0)
    return model


@pytest.mark.parametrize("method", ["pcgrad", "mgda", "upgrad"])
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda: network(Repeated()), squares),
        (lambda: network(nn.Linear(5, 5), Repeated()), squares),
        (network, reads_the_trunk),
        (network, reads_its_head),
        (tied, squares),
        (lambda: hooked(0), squares),
        (lambda: hooked(-1), squares),
    ],
    ids=["repeated", "repeated behind", "reads the trunk", "reads its head", "tied", "hook", "head hook"],
)
def test_the_update_is_that_of_rows(method: str, make: Callable[[], MultiTaskNetwork], loss: Loss) -> None:
    found = update(make(), method, loss, plain=False)
    expected = update(make(), method, loss, plain=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_plain_network_takes_the_formulas_and_agrees() -> None:
    for ours, theirs in zip(
        update(network(), "pcgrad", squares, plain=False),
        update(network(), "pcgrad", squares, plain=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_losses_of_an_older_pass_count_in_full() -> None:
    model, other = network(), network()
    balancer = build("pcgrad")
    balancer.start(model, seed=2)
    inputs, count = torch.randn(7, 5), torch.tensor(7.0)
    with balancer.watching(model):
        outputs = model(inputs)
    with balancer.watching(model):
        model(torch.zeros(2, 5))
    balancer.backward({t: SumCount(squares(model, outputs, t), count) for t in TASKS}, model)
    plain, outputs = build("pcgrad"), other(inputs)
    plain.start(other, seed=2)
    plain.backward({t: SumCount(squares(other, outputs, t), count) for t in TASKS}, other)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_at_the_feature_a_loss_past_it_is_refused() -> None:
    model, balancer = network(), build("mgda_ub")
    balancer.start(model)
    with balancer.watching(model):
        outputs = model(torch.randn(7, 5))
    losses = {t: SumCount(reads_the_trunk(model, outputs, t), torch.tensor(7.0)) for t in TASKS}
    with pytest.raises(TrainingError, match=r"otherwise than through the shared feature.*at: parameters"):
        balancer.backward(losses, model)


def test_networks_in_half_precision_keep_their_rows() -> None:
    model = network().bfloat16()
    balancer = build("pcgrad")
    balancer.start(model)
    with balancer.watching(model):
        outputs = model(torch.randn(7, 5).bfloat16())
    balancer.backward({t: SumCount(squares(model, outputs, t), torch.tensor(7.0)) for t in TASKS}, model)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parts_have_the_same_losses() -> None:
    model, balancer = network(), build("uncertainty")
    balancer.start(model)
    outputs = model(torch.randn(7, 5))
    losses = {t: SumCount(squares(model, outputs, t), torch.tensor(14.0)) for t in TASKS}
    balancer.accumulate({t: losses[t] for t in ("a", "b")}, model)
    with pytest.raises(ConfigError, match="the parts before it had a, b; give every part"):
        balancer.backward(losses, model)


def test_counts_need_not_be_whole() -> None:
    found = []
    for name in ("mean", "weighted_sum"):
        model, balancer = network(), build(name)
        outputs = model(torch.ones(7, 5))
        losses = {t: SumCount(squares(model, outputs, t), torch.tensor(2.7)) for t in TASKS}
        balancer.backward(losses, model)
        found.append([parameter.grad for parameter in model.parameters()])
    for mean, total in zip(*found, strict=True):
        torch.testing.assert_close(3 * mean, total)


class Clamped(nn.Module):
    """A layer that bounds the gradient it lets through, as one does against explosion."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer(inputs)
        if hidden.requires_grad:
            hidden.register_hook(bounded)
        return torch.relu(hidden)


def bounded(gradient: Tensor) -> Tensor:
    largest = float(gradient.abs().max())  # looks at one row of gradients: no vectorised pass can do so
    return gradient.clamp(-0.05, 0.1) * (1.0 + largest)


def on_what_it_gives(module: nn.Module, given: object, output: object) -> None:
    del module, given
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(bounded)


def on_what_it_gets(module: nn.Module, given: tuple[Tensor]) -> None:
    del module
    if given[0].requires_grad:
        given[0].register_hook(bounded)


def with_hook(where: str) -> MultiTaskNetwork:
    if where == "in a module's own pass":
        return network(Clamped(), nn.Linear(8, 6))
    model = network()
    first, last = [m for m in model.stages.modules() if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
    if where == "before a layer":
        last.register_forward_pre_hook(on_what_it_gets)
    elif where == "on an instance's pass":
        plain = first.forward

        def clamped(inputs: Tensor) -> Tensor:
            hidden = plain(inputs)
            on_what_it_gives(first, None, hidden)
            return hidden

        vars(first)["forward"] = clamped
    else:
        layer = first if where == "behind a layer" else last
        layer.register_forward_hook(on_what_it_gives)
    return model


FIVE = tl.TaskSet(*(tl.Regression(name) for name in "abcde"))


@pytest.mark.parametrize("method", ["pcgrad", "mgda", "upgrad", "graddrop"])
@pytest.mark.parametrize(
    "where",
    [
        "behind a layer",
        "before a layer",
        "behind the last layer",
        "in a module's own pass",
        "on an instance's pass",
    ],
)
@pytest.mark.parametrize("tasks", [TASKS, FIVE], ids=["three", "five"])
def test_hooks_on_tensors_inside_the_trunk_change_every_row(
    method: str, where: str, tasks: tl.TaskSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TASKS", tasks)
    found = update(with_hook(where), method, squares, plain=False)
    expected = update(with_hook(where), method, squares, plain=True)
    without = update(network(), method, squares, plain=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], without[0], rtol=1e-2)


def test_hooks_on_all_modules_change_every_row() -> None:
    with nn.modules.module.register_module_forward_hook(on_what_it_gives):
        found = update(network(), "pcgrad", squares, plain=False)
        expected = update(network(), "pcgrad", squares, plain=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_trunk_of_known_layers_without_hooks_needs_no_rows() -> None:
    model, balancer = network(), build("pcgrad")
    balancer.start(model)
    with balancer.watching(model):
        model(torch.randn(7, 5))
    assert balancer._feature.plain  # type: ignore[attr-defined]
    handle = next(iter(model.stages.modules())).register_forward_hook(on_what_it_gives)  # type: ignore[union-attr]
    handle.remove()
    layer = next(m for m in model.stages.modules() if isinstance(m, nn.Linear))  # type: ignore[union-attr]
    handle = layer.register_forward_hook(lambda *_: None)
    with balancer.watching(model):
        model(torch.randn(7, 5))
    assert not balancer._feature.plain  # type: ignore[attr-defined]
    handle.remove()
    with balancer.watching(model):
        model(torch.randn(7, 5))
    assert balancer._feature.plain  # type: ignore[attr-defined]
