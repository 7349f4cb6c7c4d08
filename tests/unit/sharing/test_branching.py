"""Fully-adaptive branching: before, at and after a split, in training, on disk, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from _module_networks import (
    HEAD,
    KINDS,
    NUMBERS,
    check_training,
    gradients,
    head_parameters,
    inputs_of,
    load_where_named_alike,
    names_of,
    network_of,
    num_parameters,
    stage_parameters,
)
from _planted import planted, planted_encoder, planted_tasks
from taskloom.balancing import WeightedSum
from taskloom.deploy import load_bundle, save_bundle
from taskloom.errors import ConfigError
from taskloom.sharing import Look, build
from taskloom.sharing.modules import BranchingNetwork
from taskloom.training import Callback, History, TrainingConfig, TrainingState, fit
from taskloom.training.changes import regroup
from taskloom.training.checkpoints import load_checkpoint
from taskloom.training.optimizers import learning_rates, make_optimizer


def branching(kind: str, number: int, **settings: Any) -> BranchingNetwork:
    network = network_of("adaptive_branching", kind, number, **{"after_epochs": [1, 2, 3], **settings})
    assert isinstance(network, BranchingNetwork)
    return network


def part(network: BranchingNetwork, *partitions: list[list[int]]) -> BranchingNetwork:
    """Gives the stages these groups of task numbers, as loading a state does."""
    groups = torch.zeros_like(network.groups)
    for stage, partition in enumerate(partitions):
        for number, members in enumerate(partition):
            groups[stage, members] = number
    network.take_structure({"groups": groups})
    return network


def look_of(tasks: tl.TaskSet, hard: dict[str, list[bool]]) -> Look:
    """Regressions with a margin of 1 where a row is hard for the task and 0 where it is easy."""
    margins = {name: torch.tensor([[float(h)] for h in hard[name]]) for name in tasks}
    rows = len(next(iter(hard.values())))
    zeros = {name: torch.zeros(rows) for name in tasks}
    return Look(margins, tl.Labels(zeros, {name: torch.ones(rows).bool() for name in tasks}))


PAIRS = {
    "task_0": [True, False, True, False],
    "task_1": [True, False, True, False],
    "task_2": [True, True, False, False],
    "task_3": [True, True, False, False],
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, number: int) -> None:
    check_training("adaptive_branching", kind, number, after_epochs=[1, 2])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_branch_it_is_hard_sharing(kind: str, number: int) -> None:
    network = branching(kind, number)
    shared = network_of("hard_sharing", kind, number, stages=3)
    inputs = inputs_of(kind)
    ours, theirs = network(inputs), shared(inputs)
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_network = gradients(network, ours.values())
    for name, gradient in gradients(shared, theirs.values()).items():
        assert torch.equal(of_network[name], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_changes_no_prediction_and_shares_no_gradient(kind: str) -> None:
    network = branching(kind, 3).eval()
    inputs = inputs_of(kind)
    before = network(inputs)
    part(network, [[0, 1, 2]], [[0, 1], [2]], [[0], [1], [2]])
    after = network(inputs)
    for task, output in before.items():
        torch.testing.assert_close(after[task], output, rtol=1e-12, atol=1e-13)
    for task, output in after.items():
        touched = {name for name, g in gradients(network, [output]).items() if g.any()}
        for other in network.tasks:
            if other != task:
                assert not touched & names_of(network.task_parameters(other), network)
    grouped = [id(p) for group in network.parameter_groups() for p in group.parameters]
    assert len(grouped) == len(set(grouped)) == len(list(network.parameters()))
    encoder, tasks = planted_encoder(kind), planted_tasks(3)
    sizes = stage_parameters(encoder)
    expected = sizes[0] + 2 * sizes[1] + 3 * sizes[2] + head_parameters(encoder, tasks)
    assert num_parameters(network) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_parted_throughout_it_is_single_task_and_comes_back(kind: str) -> None:
    network = branching(kind, 3)
    alone = [[0], [1], [2]]
    part(network, alone, alone, alone)
    single = network_of("single_task", kind, 3, seed=8)
    load_where_named_alike(single, network)
    inputs = inputs_of(kind)
    for task, output in single(inputs).items():
        assert torch.equal(network(inputs)[task], output)
    joined = branching(kind, 3, seed=9)
    network.load_state_dict(joined.state_dict())
    assert network.state_dict().keys() == joined.state_dict().keys()
    for task, output in joined(inputs).items():
        assert torch.equal(network(inputs)[task], output)


def test_stages_part_from_the_top_down_by_the_tasks_errors() -> None:
    tasks = planted_tasks(4, equal=True)
    encoder = tl.encoders.mlp((10,), hidden=[6, 5, 4])
    network = build("adaptive_branching", encoder, tasks, after_epochs=[2, 3, 5])
    assert isinstance(network, BranchingNetwork)
    looks: list[int] = []

    def look() -> Look:
        looks.append(1)
        return look_of(tasks, PAIRS)

    changes = {epoch: network.change(epoch, look) for epoch in range(1, 7)}
    notes = {epoch: change.note for epoch, change in changes.items() if change is not None}
    assert notes == {
        3: "stage dense_2 parted into task_0+task_1, task_2+task_3",
        4: "stage dense_1 parted into task_0+task_1, task_2+task_3",
        6: "stage dense_0 parted into task_0+task_1, task_2+task_3",
    }
    assert len(looks) == 3
    assert network.mixing_matrices()["dense_1"].tolist() == [
        [1.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]
    assert network.plan.stages[0].partition == (("task_0", "task_1"), ("task_2", "task_3"))


def test_a_stage_that_stays_whole_is_the_last_one_looked_at() -> None:
    tasks = planted_tasks(4, equal=True)
    network = build(
        "adaptive_branching",
        tl.encoders.mlp((10,), hidden=[6, 5, 4]),
        tasks,
        after_epochs=[1, 2, 3],
        branch_cost=1.0,
    )
    assert isinstance(network, BranchingNetwork)
    change = network.change(2, lambda: look_of(tasks, PAIRS))
    assert change is not None
    assert change.note.startswith("stage dense_2 stays whole")
    assert not change.origin

    def never() -> Look:
        raise AssertionError("nothing is left to look at")

    assert network.change(3, never) is None
    assert network.change(4, never) is None


def test_permuting_tasks_permutes_the_tree() -> None:
    tasks = planted_tasks(4, equal=True)
    turned = tl.TaskSet(*(tasks[name] for name in ("task_3", "task_0", "task_2", "task_1")))
    trees = []
    for order in (tasks, turned):
        network = build("adaptive_branching", tl.encoders.mlp((10,), hidden=[6, 5]), order, after_epochs=[1])
        assert isinstance(network, BranchingNetwork)
        network.change(2, lambda order=order: look_of(order, PAIRS))  # type: ignore[misc]
        trees.append({frozenset(group) for group in network.plan.stages[1].partition})
    assert trees[0] == trees[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_branches_go_on_with_their_parents_moments_and_rates(optimizer: str) -> None:
    network = branching("mlp", 3).float()
    settings: dict[str, Any] = {"lr": 0.1, **({"momentum": 0.9} if optimizer == "sgd" else {})}
    config = TrainingConfig(optimizer={optimizer: settings}, lr_multipliers={"shared": 0.5})  # type: ignore[arg-type]
    steps = make_optimizer(network, config, WeightedSum())
    inputs = inputs_of("mlp").float()
    sum(output.square().sum() for output in network(inputs).values()).backward()
    steps.step()
    for group in steps.param_groups:
        group["lr"] *= 0.1  # as a schedule does
    old = {name: steps.state[p] for name, p in network.named_parameters()}
    last = list(network.stages)[-1]
    parents = dict(network.stages[last].shared.named_parameters())
    origin = network._part([(tuple(network.tasks),)] * 2 + [(("task_0", "task_1"), ("task_2",))])
    regroup(steps, network, origin)
    rates = learning_rates(steps)
    assert {name: round(rate, 6) for name, rate in rates.items()} == {
        "shared": 0.005, "task:task_0": 0.01, "task:task_1": 0.01, "task:task_2": 0.01
    }  # fmt: skip
    held = {id(p): group for group in steps.param_groups for p in group["params"]}
    assert held.keys() == {id(p) for p in network.parameters()} == {id(p) for p in steps.state}
    for name, parameter in network.stages[last].task_2.named_parameters():
        assert held[id(parameter)]["lr"] == pytest.approx(0.01)
        assert parameter is not parents[name]
        for key, value in steps.state[parameter].items():
            parent = old[f"stages.{last}.shared.{name}"][key]
            assert value is not parent or not isinstance(value, Tensor)
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(parent))
    for name, parameter in parents.items():
        assert dict(network.stages[last].get_submodule("task_0+task_1").named_parameters())[name] is parameter
    # Everything alone: "shared" has nothing left and is no longer named.
    apart = tuple((task,) for task in network.tasks)
    regroup(steps, network, network._part([apart] * 3))
    assert sorted(learning_rates(steps)) == ["task:task_0", "task:task_1", "task:task_2"]


SETTINGS: dict[str, Any] = {
    "epochs": 6,
    "batch": 16,
    "optimizer": {"adam": {"lr": 0.01}},
    "schedule": {"cosine": {}},
    "device": "cpu",
}
CHEAP = {"after_epochs": [2, 3], "branch_cost": 0.1}


class Crash(Callback):
    """Raises at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch_end(self, state: TrainingState) -> None:
        if state.epoch == self.at:
            raise KeyboardInterrupt


def trained(folder: Path | None, crash: int = 0, **more: Any) -> tuple[BranchingNetwork, History]:
    torch.manual_seed(3)
    train, validation = planted("mlp", 3, equal=True), planted("mlp", 3, seed=1, equal=True)
    network = build("adaptive_branching", planted_encoder("mlp"), train.tasks, head=HEAD, **CHEAP)
    assert isinstance(network, BranchingNetwork)
    history = fit(
        network, train, validation, folder=folder, seed=3, callbacks=[Crash(crash)], **{**SETTINGS, **more}
    )
    return network, history


def test_training_parts_the_network_and_says_so(tmp_path: Path) -> None:
    network, history = trained(tmp_path / "run")
    notes = [note for note in history.notes if "parted" in note]
    assert notes
    assert notes[0].startswith("before epoch 3: stage dense_2 parted into ")
    assert history.num_parameters > num_parameters(branching("mlp", 3))
    first, last = history.epochs[0].mixing["dense_2"], history.epochs[-1].mixing["dense_2"]
    assert first == torch.ones(3, 3).tolist() != last
    # The best weights are those of an epoch, with its structure.
    best = history.epochs[history.best_epoch - 1].mixing
    assert {stage: m.tolist() for stage, m in network.mixing_matrices().items()} == best
    assert set(load_checkpoint(tmp_path / "run" / "best.ckpt")["model"]) == set(network.state_dict())


@pytest.mark.parametrize("crash", [1, 2, 3, 4])
def test_resumed_equals_never_interrupted(crash: int, tmp_path: Path) -> None:
    whole, history = trained(None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, crash=crash)
    again, resumed = trained(tmp_path)
    assert resumed.without_seconds() == history.without_seconds()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_early_stopping_waits_for_the_last_branch() -> None:
    def impatient(**settings: Any) -> History:
        torch.manual_seed(3)
        train = planted("mlp", 3, equal=True)
        network = build("adaptive_branching", planted_encoder("mlp"), train.tasks, **settings)
        stop = {"patience": 1, "min_delta": 100.0}  # nothing ever counts as better
        return fit(network, train, planted("mlp", 3, seed=1, equal=True), **{**SETTINGS, "stop": stop})

    history = impatient(after_epochs=[2, 4], branch_cost=0.0)
    assert len(history) == 5
    assert history.notes[-1].startswith("stopped after epoch 5")
    assert len(impatient(after_epochs=[2, 4], branch_cost=1.0)) == 3  # whole after epoch 2: no more to come


def test_two_processes_part_alike() -> None:
    network, history = trained(None, epochs=4, devices=2)
    assert any("parted" in note for note in history.notes)
    assert history.num_processes == 2
    assert network.groups.max() > 0 or history.best_epoch < 3


def test_a_bundle_holds_the_tree(tmp_path: Path) -> None:
    tasks = planted_tasks(3, equal=True)
    settings: dict[str, Any] = {
        "input_shape": (10,),
        "encoder": {"name": "mlp", "hidden": [6, 5]},
        "sharing": {"name": "adaptive_branching", "after_epochs": [1]},
    }
    network = build("adaptive_branching", tl.encoders.mlp((10,), hidden=[6, 5]), tasks, after_epochs=[1])
    assert isinstance(network, BranchingNetwork)
    part(network, [[0, 1, 2]], [[0, 2], [1]])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    found = load_bundle(save_bundle(tmp_path / "tree", network, **settings)).model
    assert isinstance(found, BranchingNetwork)
    assert found.describe() == network.describe()
    inputs = torch.randn(4, 10)
    network.eval()
    assert all(torch.equal(found(inputs)[task], output) for task, output in network(inputs).items())


def test_a_dropped_task_leaves_the_tree_of_the_others() -> None:
    network = branching("mlp", 3).eval()
    part(network, [[0, 1, 2]], [[0, 1], [2]], [[0], [1], [2]])
    inputs = inputs_of("mlp")
    before = network(inputs)
    network.drop_tasks(["task_1"])
    after = network(inputs)
    assert after.keys() == {"task_0", "task_2"}
    assert all(torch.equal(output, before[task]) for task, output in after.items())
    fresh = branching("mlp", 3, seed=4).eval()
    fresh.drop_tasks(["task_1"])
    fresh.load_state_dict(network.state_dict())
    assert all(torch.equal(fresh(inputs)[task], output) for task, output in after.items())
    assert fresh.plan.stages[1].partition == (("task_0",), ("task_2",))


WHO = tl.Multiclass("who", 3, role="adversarial", reversal=tl.tasks.Reversal("constant", 0.7))
# Of regressions an adversary's margins could be anything: here they are those of the second pair.
HARD_WITH_WHO = {name.replace("task_", "t"): hard for name, hard in PAIRS.items()}


def with_adversary(where: int, **settings: Any) -> BranchingNetwork:
    """Four tasks in two pairs, and an adversary at some place among them."""
    mains = [tl.Regression(f"t{number}") for number in range(4)]
    tasks = tl.TaskSet(*mains[:where], WHO, *mains[where:])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = tl.encoders.mlp((6,), hidden=[8, 8, 8])
        given = {"after_epochs": [1, 2], "branch_cost": 0.2, **settings}
        network = build("adaptive_branching", encoder, tasks, head={"hidden": [5]}, **given)
    assert isinstance(network, BranchingNetwork)
    return network


def look_with_who(network: BranchingNetwork, *, knows: bool) -> Look:
    mains = look_of(network.tasks.subset(list(HARD_WITH_WHO)), HARD_WITH_WHO)
    outputs = {**mains.outputs, "who": torch.tensor([[9.0 * knows, 0.0, 0.0]]).expand(4, 3)}
    values = {**mains.labels.values, "who": torch.tensor([0, 1, 0, 1])}
    present = {**mains.labels.present, "who": torch.ones(4).bool()}
    return Look(outputs, tl.Labels(values, present))


@pytest.mark.parametrize("where", [0, 2, 4])
@pytest.mark.parametrize("knows", [True, False])
def test_an_adversary_decides_nothing_and_goes_alone_where_the_others_part(where: int, knows: bool) -> None:
    network = with_adversary(where)
    change = network.change(2, lambda: look_with_who(network, knows=knows))
    assert change is not None
    assert set(network.plan.stages[2].partition) == {("t0", "t1"), ("t2", "t3"), ("who",)}
    assert network.plan.stages[2].partition == tuple(
        sorted(network.plan.stages[2].partition, key=lambda group: network.tasks.names.index(group[0]))
    )
    assert all(len(stage.partition) == 1 for stage in network.plan.stages[:2])
    network.branch_cost = 0.9
    stays = network.change(3, lambda: look_with_who(network, knows=knows))
    assert stays is not None
    assert "stays whole" in stays.note
    assert network.plan.stages[1].partition == (network.tasks.names,)


@pytest.mark.parametrize("parted", [0, 1, 2])
def test_below_the_fork_all_forget_what_the_adversary_learns_above(parted: int) -> None:
    """Against the same network with an auxiliary task: -0.7 times its gradient below, itself above."""
    tree = [[[0, 1, 2, 3, 4]], [[0, 1], [2, 3], [4]]]
    inputs, found = torch.randn(6, 6), []
    for role in (WHO, tl.Multiclass("who", 3, role="auxiliary")):
        network = with_adversary(4)
        plain = build(
            "adaptive_branching",
            tl.encoders.mlp((6,), hidden=[8, 8, 8]),
            network.tasks.replaced(role),
            after_epochs=[1, 2],
            head={"hidden": [5]},
        )
        assert isinstance(plain, BranchingNetwork)
        start = network.state_dict()
        plain.load_state_dict(start)
        part(plain, *[tree[stage >= 3 - parted] for stage in range(3)])
        plain.zero_grad()
        plain(inputs)["who"].square().sum().backward()
        found.append({n: torch.zeros(1) if p.grad is None else p.grad for n, p in plain.named_parameters()})
    adversarial, auxiliary = found
    assert adversarial.keys() == auxiliary.keys()
    for name, gradient in auxiliary.items():
        below = name.startswith("stages.") and int(name.split(".")[1][-1]) < 3 - parted
        factor = -0.7 if below else 1.0
        torch.testing.assert_close(adversarial[name], factor * gradient, msg=name)
        assert gradient.any() == (below or "who" in name), name


def test_the_reversal_moves_back_when_an_earlier_tree_is_loaded() -> None:
    network = with_adversary(4)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.change(2, lambda: look_with_who(network, knows=True))
    network.change(3, lambda: look_with_who(network, knows=True))
    assert len(network.plan.stages[1].partition) == 3
    hooked = [n for n, m in network.named_modules() if m._forward_pre_hooks]
    assert hooked == ["stages.dense_1.who"]
    network.load_state_dict(start)
    assert [n for n, m in network.named_modules() if m._forward_pre_hooks] == ["heads.who"]


def test_training_with_an_adversary_parts_saves_and_resumes(tmp_path: Path) -> None:
    base = planted("mlp", 3, num_rows=64)
    role = tl.tasks.task_from_dict({**base.tasks["task_2"].to_dict(), "role": "adversarial"})
    tasks = base.tasks.replaced(role)

    class Crash(Callback):
        at = 3

        def epoch_end(self, state: TrainingState) -> None:
            if state.epoch == self.at:
                raise KeyboardInterrupt

    def made() -> BranchingNetwork:
        torch.manual_seed(2)
        found = build(
            "adaptive_branching", planted_encoder("mlp"), tasks, after_epochs=[1, 2], branch_cost=0.0
        )
        assert isinstance(found, BranchingNetwork)
        return found

    def run(network: BranchingNetwork, folder: Path | None) -> History:
        rows = planted("mlp", 3, num_rows=32, seed=1)
        return fit(network, base, rows, epochs=4, batch=16, device="cpu", folder=folder, callbacks=[Crash()])

    killed, again, whole = made(), made(), made()
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path)
    Crash.at = 0
    run(again, tmp_path)
    run(whole, None)
    assert whole.plan.stages[-1].partition == (("task_0",), ("task_1",), ("task_2",))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_an_adversary_needs_a_stage_that_all_share() -> None:
    with pytest.raises(ConfigError, match=r"after_epochs: at most 2 expected.* found 3: who must share"):
        with_adversary(4, after_epochs=[1, 2, 3])


def test_branches_beyond_the_training_are_refused_before_it() -> None:
    with pytest.raises(ConfigError, match=r"after_epochs: epochs below the training's last, 3, .* found 3"):
        trained(None, epochs=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after_epochs": 5}, "rising epochs from 1 on expected, found 5"),
        ({"after_epochs": []}, "rising epochs from 1 on expected"),
        ({"after_epochs": [0, 1]}, "rising epochs from 1 on expected"),
        ({"after_epochs": [3, 3]}, "rising epochs from 1 on expected"),
        ({"after_epochs": [1, 2, 3, 4]}, r"at most one epoch per stage .* \(the encoder has 3\), found 4"),
        ({"after_epochs": [1], "branch_cost": -0.1}, "branch_cost: a number of at least 0"),
        ({"after_epochs": [1], "branch_cost": 2}, "branch_cost: a number of at least 0 and up to 1"),
        ({"after_epochs": [1], "branches": 2}, "adaptive_branching.branches is not a setting"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("adaptive_branching", planted_encoder("mlp"), planted_tasks(2), **settings)


def test_a_stage_that_spoils_what_another_branch_reads() -> None:
    encoder = tl.encoders.from_modules([nn.Linear(4, 8), nn.ReLU(inplace=True)], (4,))
    with pytest.raises(ConfigError, match="works in place on its input, which several branches read"):
        build("adaptive_branching", encoder, planted_tasks(2), after_epochs=[1])


def test_a_setting_without_which_it_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match=r"adaptive_branching\.after_epochs is missing; give it a value"):
        tl.sharing.build(
            "adaptive_branching", tl.encoders.mlp((5,), hidden=[4, 4]), tl.TaskSet(tl.Binary("a"))
        )
