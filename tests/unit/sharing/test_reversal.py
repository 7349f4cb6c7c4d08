"""Gradient reversal: against finite differences, in every architecture, with balancers, and what it does."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import _architecture_table
import taskloom as tl
from _training import TensorRows, rows_with_holes
from taskloom.balancing import WeightedSum
from taskloom.balancing import build as balancer_of
from taskloom.errors import ConfigError
from taskloom.losses import per_task, weighted
from taskloom.sharing import ARCHITECTURES, MultiTaskNetwork, build, reverse_gradient
from taskloom.tasks import Reversal, task_from_dict

CONSTANT = {"schedule": "constant", "lambda": 0.7}
NOTHING_FORGETS = ("single_task",)
"""Nothing is shared, or the entrance would move."""
SHARED: dict[str, dict[str, Any]] = {
    **{name: row for name, row in _architecture_table.SETTINGS.items() if name not in NOTHING_FORGETS},
    "hard_sharing": {"stages": 2},
    "cross_stitch": {},
    "soft_sharing": {"weight": 0.01},
    "proportional_addition": {"start": 0.1},
    "plan": {"partition": ["together", [["mood", "person"], ["face"]], "alone"]},
    "sluice": {},
    "mmoe": {"experts": 2, "stages": [1, 2]},
    "dselect_k": {"experts": 3, "stages": [1, 2]},
    "ple": {"stages": [1, 2]},
    "mtan": {},
    "task_routing": {"sharing": 0.6},
    "adashare": {},
    "multilinear_relationship": {},
}
OWN_BEHIND = {
    "hard_sharing": r"stages\.",
    "multilinear_relationship": r"stages\.",
    "mmoe": r"(gates|stages)\.",
    "dselect_k": r"(gates|stages)\.",
    "ple": r"(gates\.[01]|stages\.dense_[12])\.",  # gates, experts of the last level, and the tower
    "mtan": r"attention\.",
    "sluice": r"skips\.",
}
OWN_ROWS = ("mixing.dense_2.alpha",)
"""In the last unit; of a single task's outputs only its own row there has a gradient."""


def tasks_with(role: str, reversal: Any = None) -> tl.TaskSet:
    settings = {"kind": "multiclass", "classes": 3, "name": "person", "role": role}
    person = task_from_dict({**settings, **({"reversal": reversal} if reversal else {})})
    return tl.TaskSet(tl.Multiclass("mood", 3), person, tl.Multiclass("face", 3))


def network_of(name: str, role: str = "adversarial", **settings: Any) -> MultiTaskNetwork:
    torch.manual_seed(1)
    tasks = tasks_with(role, CONSTANT if role == "adversarial" else None)
    encoder = tl.encoders.mlp((6,), hidden=[8, 8, 8])
    return build(name, encoder, tasks, **{**SHARED.get(name, {}), **settings}, head={"hidden": [5]})


def gradients(network: MultiTaskNetwork, task: str, inputs: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(5)  # AdaShare draws
    network(inputs)[task].square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in
            network.named_parameters()}  # fmt: skip


def test_the_gradient_is_minus_lambda_times_the_numerical_one() -> None:
    inputs = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def function(tensor: Tensor) -> Tensor:
        return (tensor.sin() * torch.arange(4.0, dtype=torch.float64)).sum()

    assert torch.equal(reverse_gradient(inputs, 0.3), inputs)
    (found,) = torch.autograd.grad(function(reverse_gradient(inputs, 0.3)), inputs)
    step = 1e-6
    for row in range(3):
        for column in range(4):
            shift = torch.zeros(3, 4, dtype=torch.float64)
            shift[row, column] = step
            slope = (function(inputs + shift) - function(inputs - shift)) / (2 * step)
            assert math.isclose(found[row, column].item(), -0.3 * slope.item(), rel_tol=1e-6, abs_tol=1e-9)


def test_it_works_on_stacked_copies() -> None:
    rows = torch.randn(2, 3, requires_grad=True)
    torch.vmap(lambda row: reverse_gradient(row, 2.0))(rows).sum().backward()
    torch.testing.assert_close(rows.grad, torch.full((2, 3), -2.0))


def test_schedules_against_their_formulas() -> None:
    for progress in (0.0, 0.1, 0.35, 0.9, 1.0):
        assert math.isclose(Reversal().at(progress), math.tanh(5 * progress), abs_tol=1e-12)
        rest = max(0.0, (progress - 0.2) / 0.8)
        assert math.isclose(Reversal("linear", lambda_=3.0, warmup=0.2).at(progress), 3 * rest)
        assert Reversal("constant", lambda_=0.5, warmup=0.3).at(progress) == (0.5 if progress >= 0.3 else 0.0)


def test_this_table_and_the_registry_agree() -> None:
    assert {*SHARED, *NOTHING_FORGETS} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SHARED)
def test_what_stands_before_the_entrance_is_reversed_and_what_stands_behind_is_not(name: str) -> None:
    inputs = torch.randn(7, 6)
    plain, adversarial = network_of(name, "auxiliary"), network_of(name)
    assert plain.state_dict().keys() == adversarial.state_dict().keys()
    for task in ("mood", "face"):  # the others do not notice
        expected, found = gradients(plain, task, inputs), gradients(adversarial, task, inputs)
        assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())
    expected, found = gradients(plain, "person", inputs), gradients(adversarial, "person", inputs)
    reversed_, kept = set(), set()
    for key, gradient in expected.items():
        if not gradient.any():
            assert not found[key].any()
        elif torch.allclose(found[key], gradient, rtol=1e-4, atol=1e-8):  # put back, up to rounding
            kept.add(key)
        else:
            torch.testing.assert_close(found[key], -0.7 * gradient, rtol=1e-4, atol=1e-6)
            reversed_.add(key)
    mine = {id(p) for p in adversarial.task_parameters("person")}
    names = dict(adversarial.named_parameters())
    mine |= {id(names[key]) for key in OWN_ROWS if key in names}
    assert kept
    assert {id(names[key]) for key in kept} <= mine
    assert reversed_
    assert any(key.startswith("stages.") for key in reversed_)
    if name in OWN_BEHIND:  # what it has of its own behind what is shared learns to predict it
        own = {key for key in kept | reversed_ if "person" in key and re.match(OWN_BEHIND[name], key)}
        assert own
        assert own <= kept


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        ("mmoe", {"experts": 1, "stages": "all"}, r"heads\.person"),
        ("mmoe", {"experts": 3, "stages": [2, 3]}, r"(heads|gates\.0)\.person"),
        ("ple", {"levels": 1, "stages": "all"}, r"(heads\.person|gates\.0\.person|.*\.person_1\.)"),
        ("ple", {"task_experts": 0, "stages": "all"}, r"(heads|gates\.\d)\.person"),
        ("mtan", {"stages": [1, 3]}, r"(heads\.person|attention\.\w+\.person)"),
        ("mtan", {"stages": [2]}, r"(heads|attention\.\w+)\.person"),  # a trunk stage above the mask
    ],
)
def test_gates_and_masks_of_an_adversary_do_not_hide_it(
    name: str, settings: dict[str, Any], kept: str
) -> None:
    inputs = torch.linspace(-1, 1, 42).reshape(7, 6)
    expected = gradients(network_of(name, "auxiliary", **settings), "person", inputs)
    found = gradients(network_of(name, **settings), "person", inputs)
    assert any(re.match(kept, key) for key in expected)
    for key, gradient in expected.items():
        factor = 1.0 if re.match(kept, key) else -0.7
        torch.testing.assert_close(found[key], factor * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "last"),
    [
        ("plan", {"partition": ["together", "alone", "alone"], "tie": {"l2": {"stages": [2]}}}, 1),
        ("plan", {"partition": {"1": "together"}, "tie": {"l2": {"stages": [2], "weight": 0.0}}}, 0),
        ("plan", {"partition": {"1": [["mood", "face"], ["person"]]}, "tie": {"l2": {"stages": [1]}}}, 0),
        ("soft_sharing", {"stages": [1]}, 0),
        ("soft_sharing", {"stages": [1, 2]}, 1),
        ("soft_sharing", {"stages": [1, 3], "read_out": {"person": 2}}, 0),
    ],
)
def test_copies_that_ties_pull_at_the_others_are_reversed(
    name: str, settings: dict[str, Any], last: int
) -> None:
    """Else the copy would learn to predict what is to be forgotten, and pull the others after it."""
    found = []
    for role in ("auxiliary", "adversarial"):
        network = network_of(name, role, **settings, deep_supervision=0.5)
        outputs = network(torch.linspace(-1, 1, 42).reshape(7, 6))
        mine = [out.square().sum() for key, out in outputs.items() if str(key).startswith("person")]
        torch.stack(mine).sum().backward()
        found.append({key: p.grad for key, p in network.named_parameters() if p.grad is not None})
    plain, reversed_ = found
    assert any("person" in key and key.startswith("stages.") for key in plain)
    for key, gradient in plain.items():
        below = any(key.startswith(f"stages.dense_{n}.") for n in range(last + 1))
        factor = -0.7 if below else 1.0
        torch.testing.assert_close(reversed_[key], factor * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SHARED)
def test_copies_keep_their_reversal(name: str) -> None:
    inputs, network = torch.randn(4, 6), network_of(name)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        again.reversals["person"].factor = 0.0
        assert network.reversals["person"].factor == 0.7
        found = gradients(again, "person", inputs)
        own = {id(p) for p in again.task_parameters("person")}
        for key, parameter in again.named_parameters():
            assert id(parameter) in own or key in OWN_ROWS or not found[key].any()


def test_heads_of_deep_supervision_are_reversed_on_the_trunk_only() -> None:
    inputs = torch.randn(7, 6)
    found = []
    for role in ("auxiliary", "adversarial"):
        network = network_of("hard_sharing", role, stages=2, deep_supervision=1.0)
        outputs = network(inputs)
        total = sum(outputs[key].square().sum() for key in outputs if str(key).startswith("person at"))
        assert isinstance(total, Tensor)
        total.backward()
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    plain, reversed_ = found
    assert plain.keys() == reversed_.keys()
    for key, gradient in plain.items():
        factor = -0.7 if "shared" in key else 1.0
        torch.testing.assert_close(reversed_[key], factor * gradient, rtol=1e-4, atol=1e-6)


def test_a_balancer_sees_the_reversed_gradient() -> None:
    data = rows_with_holes(40, seed=2, holes=0.0)
    tasks = data.tasks.replaced(tl.Multiclass("mood", 3, role="adversarial", reversal=Reversal("constant")))
    batch = data.__getitems__(range(40))

    def shared(role: str, how: Any) -> Tensor:
        torch.manual_seed(0)
        given = tasks if role == "adversarial" else data.tasks
        network = build("hard_sharing", tl.encoders.mlp((4,), hidden=[6]), given, stages=1)
        losses = per_task(network(batch.inputs), batch.labels, given)
        how(network, losses)
        return torch.cat([p.grad.flatten() for p in network.shared_parameters() if p.grad is not None])

    def only(*names: str) -> Any:
        return lambda network, losses: sum(losses[name].mean for name in names).backward()

    mains, beside = shared("main", only("age", "gender")), shared("main", only("mood"))

    def plain_sum(network: MultiTaskNetwork, losses: Any) -> None:
        WeightedSum().backward(losses, network)

    def mgda(network: MultiTaskNetwork, losses: Any) -> None:
        balancer = balancer_of("mgda")
        balancer.start(network)
        balancer.backward(losses, network)

    torch.testing.assert_close(shared("adversarial", plain_sum), mains - beside)
    # The shortest vector in the hull of the gradients, the adversary's among them with its sign turned.
    rows = [shared("main", only("age")), shared("main", only("gender")), -beside]
    update = shared("adversarial", mgda)
    assert update.norm() > 0.01
    for row in rows:
        assert row @ update >= update @ update - 1e-5


def test_weights_of_auxiliary_tasks_scale_their_loss() -> None:
    data = rows_with_holes(20, seed=2)
    tasks = data.tasks.replaced(tl.Multiclass("mood", 3, role="auxiliary", weight=0.25))
    network = build("hard_sharing", tl.encoders.mlp((4,), hidden=[6]), tasks, stages=1)
    batch = data.__getitems__(range(20))
    plain = per_task(network(batch.inputs), batch.labels, tasks)
    scaled = weighted(plain, tasks)
    assert scaled["age"] is plain["age"]
    torch.testing.assert_close(scaled["mood"].mean, 0.25 * plain["mood"].mean)


def nuisance_rows(num_rows: int, seed: int) -> tuple[TensorRows, Tensor]:
    """Six people who each shift the inputs; what is asked for does not depend on the shift."""
    draw = torch.Generator().manual_seed(seed)
    person = torch.arange(num_rows) % 6
    shifts = 2.5 * torch.eye(6)
    signal = torch.randn(num_rows, 4, generator=draw)
    inputs = torch.cat([signal, shifts[person] + 0.5 * torch.randn(num_rows, 6, generator=draw)], dim=1)
    values = {"mood": (signal[:, 0] + signal[:, 1] > 0).long(), "person": person}
    labels = tl.Labels(values, {name: torch.ones(num_rows).bool() for name in values})
    role = tl.Multiclass("person", 6, role="adversarial", reversal=Reversal(lambda_=2.0))
    tasks = tl.TaskSet(tl.Binary("mood"), role)
    return TensorRows(inputs, labels, person.numpy(), tasks), person


def test_the_trunk_forgets_who_it_was_and_keeps_the_main_task() -> None:
    (train, people), (test, others) = nuisance_rows(600, seed=1), nuisance_rows(600, seed=2)
    found = {}
    for role in ("auxiliary", "adversarial"):
        reversal = train.tasks["person"].reversal if role == "adversarial" else None
        tasks = train.tasks.replaced(tl.Multiclass("person", 6, role=role, reversal=reversal))
        torch.manual_seed(0)
        encoder = tl.encoders.mlp((10,), hidden=[16, 8])
        network = build("hard_sharing", encoder, tasks, stages=2, head={"hidden": [16]})
        settings = {"epochs": 25, "batch": 50, "optimizer": {"adam": {"lr": 0.01}}, "device": "cpu"}
        tl.fit(network, train, test, **settings, progress=False)
        with torch.no_grad():
            features = [network.features(rows.inputs).numpy() for rows in (train, test)]
        decoder = LogisticRegression(max_iter=2000).fit(features[0], people)
        main = tl.evaluate(network, test).value("mood")
        found[role] = decoder.score(features[1], others), main
    (knows, main), (forgot, kept) = found["auxiliary"], found["adversarial"]
    assert knows > 0.9
    assert forgot < 0.6
    assert kept > main - 0.03
    assert kept > 0.9


def test_a_resumed_run_goes_on_with_the_schedule(tmp_path: Path) -> None:
    data, _ = nuisance_rows(60, seed=3)

    class Stop(tl.training.Callback):
        def epoch_end(self, state: Any) -> None:
            if state.epoch == 2:
                raise KeyboardInterrupt

    class Nothing(Stop):
        def epoch_end(self, state: Any) -> None:
            pass

    Nothing.__name__ = Stop.__name__

    def run(folder: Path, callback: tl.training.Callback) -> tuple[MultiTaskNetwork, Any]:
        torch.manual_seed(0)
        network = build("hard_sharing", tl.encoders.mlp((10,), hidden=[6]), data.tasks, stages=1)
        settings: dict[str, Any] = {"epochs": 5, "batch": 20, "device": "cpu", "progress": False}
        history = tl.fit(network, data, data, **settings, folder=folder, callbacks=[callback])
        return network, history

    whole, history = run(tmp_path / "whole", Nothing())
    factors = [record.balancing["reversal/person"] for record in history.epochs]
    # After each epoch: the factor of its last step, the third of three.
    assert factors == pytest.approx([2 * math.tanh(5 * (epoch + 2 / 3) / 5) for epoch in range(5)])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Stop())
    again, resumed = run(tmp_path / "parts", Nothing())
    assert resumed.resumed_after
    assert [record.balancing["reversal/person"] for record in resumed.epochs] == factors
    for key, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"role": "adversary"}, r"tasks\.p\.role: `adversary` is not a role\. Did you mean `adversarial`"),
        ({"role": "auxiliary", "reversal": {}}, r"tasks\.p\.reversal: only an adversarial task is reversed"),
        ({"role": "main", "weight": 0.5}, r"tasks\.p\.weight: only auxiliary and adversarial tasks"),
        ({"role": "auxiliary", "weight": -1}, r"tasks\.p\.weight: a number of at least 0 expected, found -1"),
        ({"reversal": {"schedule": "step"}}, r"tasks\.p\.reversal\.schedule: `step` is not a schedule"),
        ({"reversal": {"lambda": 0}}, r"tasks\.p\.reversal\.lambda: a number above 0 expected, found 0"),
        ({"reversal": {"warmup": 1.0}}, r"tasks\.p\.reversal\.warmup: a number in \[0, 1\) expected"),
        ({"reversal": {"warm_up": 0.1}}, r"reversal\.warm_up is not a setting\. Did you mean `warmup`"),
        ({"reversal": 3}, r"tasks\.p\.reversal: settings by name expected, found 3"),
    ],
)
def test_settings_of_roles_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_from_dict({"kind": "binary", "name": "p", "role": "adversarial", **settings})


def test_settings_survive_as_plain_values() -> None:
    person = tl.Binary("p", role="adversarial", weight=0.5, reversal=Reversal("linear", 2.0, warmup=0.1))
    assert task_from_dict(person.to_dict()) == person
    # Checkpoints, bundles and stores of before there were roles stay what they are.
    assert tl.Binary("p").to_dict().keys() == {"kind", "name", "classes", "metric", "loss", "role"}


def test_an_adversary_alone_or_that_shares_nothing_is_refused() -> None:
    alone = tl.TaskSet(tl.Binary("p", role="adversarial"))
    encoder = tl.encoders.mlp((6,), hidden=[8])
    for name in ("hard_sharing", "mmoe"):
        with pytest.raises(ConfigError, match="p is adversarial, without any other task"):
            build(name, encoder, alone, **({"stages": 1} if name == "hard_sharing" else {}))
    nothing = (("single_task", {}), ("hard_sharing", {"stages": 0}), ("soft_sharing", {"weight": 0.0}))
    for name, settings in nothing:
        with pytest.raises(
            ConfigError, match=r"tasks\.person\.role: adversarial: the task shares, mixes and"
        ):
            network_of(name, **settings)


def test_a_reversal_before_an_input_without_gradient_does_nothing() -> None:
    network = network_of("hard_sharing", stages=3)
    for parameter in network.stages.parameters():
        parameter.requires_grad_(False)
    network(torch.randn(2, 6))["person"].sum().backward()
    assert all(p.grad is not None for p in nn.ParameterList(network.task_parameters("person")))
