"""Learning to branch: trees against the plan's, draws against a naive loop; fixed, resumed, opened again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import taskloom as tl
from _architecture_table import Crash
from _module_networks import (
    HEAD,
    KINDS,
    check_ownership,
    check_training,
    gradients,
    inputs_of,
    loss_of,
    names_of,
    network_of,
)
from _planted import planted, planted_encoder, planted_tasks
from taskloom.deploy import load_bundle, save_bundle
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.losses import per_task
from taskloom.sharing import Look, build
from taskloom.sharing.modules.branch_search import BranchSearchNetwork
from taskloom.sharing.modules.branch_trees import ParentChoice, Tree
from taskloom.tasks import Reversal
from taskloom.training import fit

TREES = [
    Tree([[0, 0, 1], [0, 1, 2]], [0, 1, 2]),  # a and b share the first stage alone
    Tree([[0, -2, -2], [0, -2, 0]], [0, 2, 2]),  # one trunk, parted at the last stage
    Tree([[-2, 2, 1], [2, -2, 1]], [2, 0, 2]),
    Tree([[-2, -2, 1], [-2, 2, -2]], [1, 1, 1]),  # hard sharing
    Tree([[0, 1, 2], [0, 1, 2]], [0, 1, 2]),  # single-task
]


def searching(kind: str, number: int, **settings: Any) -> BranchSearchNetwork:
    network = network_of("learning_to_branch", kind, number, **settings)
    assert isinstance(network, BranchSearchNetwork)
    return network


def never() -> Look:
    raise AssertionError("the search looks at no rows")


def prefer(network: BranchSearchNetwork, tree: Tree) -> None:
    """Makes a tree the likeliest; copies that it has no need of choose what they like."""
    with torch.no_grad():
        rows = zip(network.choices.values(), tree.parents, strict=True)
        for choice, parents in rows:
            choice.logits.normal_()
            for copy, parent in enumerate(parents):
                if parent >= 0:
                    choice.logits[copy, parent] = 5.0
        for choice, read in zip(network.task_choices.values(), tree.reads, strict=True):
            choice.logits.normal_()
            choice.logits[0, read] = 5.0


def as_plan(network: BranchSearchNetwork, tree: Tree, kind: str) -> Any:
    """The plan network of a tree, with the weights of the copies that it runs through."""
    names = network.tasks.names
    paths = tree.paths()
    partition = [
        [[name for name, its in zip(names, path, strict=True) if its == copy] for copy in dict.fromkeys(path)]
        for path in paths
    ]
    plan = network_of("plan", kind, len(names), partition=partition, seed=9)
    plan.heads.load_state_dict(network.heads.state_dict())
    for stage, path, groups in zip(network.stage_names, paths, partition, strict=True):
        for group, module in zip(groups, plan.stages[stage].values(), strict=True):
            copy = network.stages[stage][f"copy_{path[names.index(group[0])] + 1}"]
            module.load_state_dict(copy.state_dict())
    return plan


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_tree_is_that_plan(kind: str, tree: Tree) -> None:
    network = searching(kind, 3, retrain_from=2, retrain_weights="keep")
    prefer(network, tree)
    assert network.likeliest() == tree
    plan = as_plan(network, tree, kind)
    inputs = inputs_of(kind)
    in_use, expected = network.eval()(inputs), plan.eval()(inputs)
    assert all(torch.equal(in_use[task], output) for task, output in expected.items())
    network.train()
    plan.train()
    assert network.change(1, never) is None
    change = network.change(2, never)
    assert change is not None
    assert not change.anew
    ours, theirs = network(inputs), plan(inputs)  # in training: nothing is drawn any more
    assert all(torch.equal(ours[task], output) for task, output in theirs.items())
    of_plan = [g for g in gradients(plan, theirs.values()).values() if g.any()]
    learning = [p for p in network.parameters() if p.requires_grad]
    found = [g for g in torch.autograd.grad(loss_of(ours.values()), learning) if g.any()]
    assert len(found) == len(of_plan)
    sums = [sorted(float(g.abs().sum()) for g in all_of) for all_of in (found, of_plan)]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-12, atol=1e-12)
    expected_parameters = sum(p.numel() for p in plan.parameters())
    assert sum(p.numel() for p in learning) == expected_parameters
    check_ownership_of_tree(network, plan)
    for stage, matrix in network.mixing_matrices().items():
        path = tree.paths()[network.stage_names.index(stage)]
        alike = [[float(a == b) for a in path] for b in path]
        assert matrix.tolist() == alike


def check_ownership_of_tree(network: BranchSearchNetwork, plan: Any) -> None:
    """As many numbers are each task's, and everybody's, as in the plan."""
    assert sum(p.numel() for p in network.shared_parameters()) == sum(
        p.numel() for p in plan.shared_parameters()
    )
    for task in network.tasks:
        ours, theirs = network.task_parameters(task), plan.task_parameters(task)
        assert sum(p.numel() for p in ours) == sum(p.numel() for p in theirs)
        assert names_of(ours, network)


@pytest.mark.parametrize("kind", ["mlp", "conv2d"])
def test_a_pass_in_training_is_the_naive_sum_over_drawn_parents(kind: str) -> None:
    network = searching(kind, 2, candidates=3, temperature=0.7)
    with torch.no_grad():
        for choice in [*network.choices.values(), *network.task_choices.values()]:
            choice.logits.normal_()
    inputs = inputs_of(kind)
    torch.manual_seed(4)
    found = network(inputs)
    torch.manual_seed(4)
    outputs = [network.stages[network.stage_names[0]][f"copy_{n}"](inputs) for n in (1, 2, 3)]

    def drawn(choice: Any) -> Tensor:
        waits = torch.empty(choice.logits.shape).exponential_()  # Gumbel noise is minus their logarithm
        scores = ((choice.logits - waits.log().double()) / 0.7).exp()
        return scores / scores.sum(1, keepdim=True)

    for stage, choice in zip(network.stage_names[1:], network.choices.values(), strict=True):
        weights = drawn(choice)
        fed = [sum(weights[j, i] * outputs[i] for i in range(3)) for j in range(3)]
        outputs = [network.stages[stage][f"copy_{j + 1}"](fed[j]) for j in range(3)]
    for task, choice in network.task_choices.items():
        weights = drawn(choice)
        read = sum(weights[0, i] * outputs[i] for i in range(3))
        torch.testing.assert_close(found[task], network.heads[task](read), rtol=1e-10, atol=1e-12)


def test_cold_draws_are_choices_by_their_chances() -> None:
    """The largest of logits plus Gumbel noise is one with the chance that the softmax gives it."""
    torch.manual_seed(0)
    choice = ParentChoice(1, 3)
    with torch.no_grad():
        choice.logits.copy_(torch.tensor([[1.0, 0.0, -1.0]]))
        draws = torch.stack([choice.sample(1e-7)[0] for _ in range(3000)])
    assert float((draws.max(1).values - 1).abs().max()) < 1e-3
    frequencies = draws.mean(0)
    torch.testing.assert_close(frequencies, choice.logits.detach()[0].softmax(0), rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_warm_up_equal_copies_are_hard_sharing_and_choices_have_no_slope(kind: str) -> None:
    network = searching(kind, 3, warmup_epochs=2, copies="same")
    with torch.no_grad():
        for choice in network.task_choices.values():
            choice.logits.normal_()
    network.set_epoch(2)
    shared = network_of("hard_sharing", kind, 3, stages=3, copies="same")
    shared.heads.load_state_dict(network.heads.state_dict())
    for stage in network.stage_names:
        shared.stages[stage]["shared"].load_state_dict(network.stages[stage]["copy_1"].state_dict())
    inputs = inputs_of(kind)
    found = network(inputs)
    torch.testing.assert_close(found, shared(inputs), rtol=1e-10, atol=1e-12)
    slopes = gradients(network, found.values())
    assert not any(slope.any() for name, slope in slopes.items() if "choices" in name)
    network = searching(kind, 3, warmup_epochs=2)  # of equal copies choices mean nothing
    network.set_epoch(3)
    slopes = gradients(network, network(inputs).values())
    assert all(slope.any() for name, slope in slopes.items() if "choices" in name)


def test_the_temperature_falls_with_the_root_of_the_epochs() -> None:
    network = searching("mlp", 2, temperature=6.0, warmup_epochs=2)
    found = []
    for epoch in (1, 2, 3, 6, 11):
        network.set_epoch(epoch)
        found.append(network.temperature)
    assert found == [6.0, 6.0, 6.0, 3.0, 2.0]
    again = searching("mlp", 2, temperature=6.0, warmup_epochs=2)
    again.load_state_dict(network.state_dict())
    assert again.temperature == 2.0


def test_chances_are_sums_over_paths() -> None:
    network = searching("mlp", 2, candidates=3)
    with torch.no_grad():
        for choice in [*network.choices.values(), *network.task_choices.values()]:
            choice.logits.normal_()
    first, second = (choice.logits.softmax(1) for choice in network.choices.values())
    reads = torch.cat([choice.logits.softmax(1) for choice in network.task_choices.values()])
    expected = torch.zeros(3, 2, 3, dtype=torch.float64)
    for task, low, middle, high in itertools.product(range(2), range(3), range(3), range(3)):
        chance = float(
            reads[task, high].detach() * second[high, middle].detach() * first[middle, low].detach()
        )
        for stage, copy in enumerate((low, middle, high)):
            expected[stage, task, copy] += chance
    torch.testing.assert_close(torch.stack(network.chances()), expected)
    overlap = network.mixing_matrices()["dense_0"]
    assert float(overlap[0, 1]) == pytest.approx(float(torch.minimum(*expected[0]).sum()))
    torch.testing.assert_close(overlap.diagonal(), torch.ones(2, dtype=torch.float64))


def test_copies_that_are_not_needed_go_and_come_back_with_a_state() -> None:
    network = searching("mlp", 3, retrain_from=2)
    begun = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3)
    prefer(network, TREES[1])
    change = network.change(2, never)
    assert change is not None
    assert change.anew
    assert change.note == (
        "the tree is fixed, weights start anew: dense_0 task_0+task_1+task_2; "
        "dense_1 task_0+task_1+task_2; dense_2 task_0, task_1+task_2"
    )
    assert [list(network.stages[stage]) for stage in network.stage_names] == [
        ["copy_1"],
        ["copy_1"],
        ["copy_1", "copy_3"],
    ]
    state = network.state_dict()
    for name, tensor in state.items():
        if name.startswith(("stages.", "heads.")):
            assert torch.equal(tensor, begun[name])
    assert not any(group.name == "choices" for group in network.parameter_groups())
    assert network.describe().splitlines()[1:] == [
        "dense_0  A       A       A       tree",
        "dense_1  A       A       A       tree",
        "dense_2  A       B       B       tree",
        "head     A       B       C       -",
    ]
    other = searching("mlp", 3, retrain_from=2, seed=8)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(inputs_of("mlp"))["task_2"], network.eval()(inputs_of("mlp"))["task_2"])
    assert not other.changes_after(2)
    other.load_state_dict(begun)  # open again
    assert not other.is_fixed
    assert all(parameter.requires_grad for parameter in other.parameters())
    reference = searching("mlp", 3, retrain_from=2)
    expected = reference.eval()(inputs_of("mlp"))
    assert torch.equal(other.eval()(inputs_of("mlp"))["task_1"], expected["task_1"])


def test_in_use_only_the_likeliest_tree_runs() -> None:
    network = searching("conv2d", 3).eval()
    prefer(network, TREES[2])
    run: list[str] = []
    for stage in network.stages.values():
        for name, copy in stage.items():
            copy.register_forward_hook(lambda *_, name=name: run.append(name))
    with torch.no_grad():
        network(inputs_of("conv2d"))
    # Tasks 0 and 2 by copies 3, 2, 3, task 1 by 2, 3, 1, where copy 2 of the first stage feeds copy 3.
    assert [sorted(set(path)) for path in TREES[2].paths()] == [[1, 2], [1, 2], [0, 2]]
    assert run == ["copy_2", "copy_3", "copy_2", "copy_3", "copy_1", "copy_3"]


def test_a_choice_turns_away_from_a_copy_that_knows_nothing() -> None:
    rows = planted("mlp", 2)
    torch.manual_seed(1)
    network = build("learning_to_branch", planted_encoder("mlp"), rows.tasks, stages=[3], temperature=1.0)
    assert isinstance(network, BranchSearchNetwork)
    useless = network.stages["dense_2"]["copy_2"]
    for parameter in useless.parameters():
        torch.nn.init.zeros_(parameter).requires_grad_(False)
    optimizer = torch.optim.Adam(
        [{"params": g.parameters, "lr": 0.01 * g.lr_multiplier} for g in network.parameter_groups()]
    )
    for _ in range(150):
        optimizer.zero_grad()
        losses = per_task(network(rows.inputs), rows.labels, rows.tasks)
        torch.stack([loss.mean for loss in losses.values()]).sum().backward()
        optimizer.step()
    assert network.likeliest().reads == [0, 0]
    assert float(network.chances()[0][:, 0].min()) > 0.8


# -- an adversary


def with_adversary() -> tuple[Encoder, tl.TaskSet]:
    person = tl.Multiclass("person", 3, role="adversarial", reversal=Reversal("constant"))
    return tl.encoders.mlp((6,), hidden=[8, 8]), tl.TaskSet(tl.Binary("a"), person, tl.Binary("b"))


def test_an_adversary_stands_where_others_can_forget_it() -> None:
    network = build("learning_to_branch", *with_adversary(), retrain_from=2, candidates=4)
    assert isinstance(network, BranchSearchNetwork)
    with torch.no_grad():
        for task, scores in {"a": [5, 0, 0, 0], "person": [1, 0, 9, 2], "b": [0, 0, 0, 5]}.items():
            network.task_choices[task].logits.copy_(torch.tensor([scores]).float())
    assert network.likeliest().reads == [0, 3, 3]  # not the third copy, which is nobody else's
    network.change(2, never)
    inputs = torch.randn(5, 6)
    shared = names_of(network.shared_parameters(), network)
    assert any("dense_1.copy_4" in name for name in shared)
    slopes = gradients(network.requires_grad_(True), [network(inputs)["person"]])
    without = build(
        "learning_to_branch",
        with_adversary()[0],
        tl.TaskSet(tl.Binary("a"), tl.Multiclass("person", 3, role="auxiliary"), tl.Binary("b")),
        retrain_from=2,
        candidates=4,
    )
    without.load_state_dict(network.state_dict())
    expected = gradients(without.requires_grad_(True), [without(inputs)["person"]])
    for name, slope in slopes.items():
        sign = -1.0 if name.startswith("stages.") else 1.0
        torch.testing.assert_close(slope, sign * expected[name])
    assert any(slope.any() for name, slope in slopes.items() if name.startswith("stages."))


# -- as every network


@pytest.mark.parametrize("settings", [{}, {"stages": [2], "candidates": 3}])
@pytest.mark.parametrize("kind", KINDS)
def test_trains_saves_and_loads(kind: str, settings: dict[str, Any]) -> None:
    for number in (1, 3):
        check_training("learning_to_branch", kind, number, steps=40, **settings)


@pytest.mark.parametrize("settings", [{}, {"stages": [2], "candidates": 2}, {"stages": [1, 2]}])
def test_parameters_belong_to_those_they_serve(settings: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        check_ownership(searching("mlp", number, **settings), inputs_of("mlp"))


@pytest.mark.parametrize("crash", [2, 4])
@pytest.mark.parametrize("weights", ["start", "keep"])
def test_resumes_before_and_after_the_tree_is_fixed(weights: str, crash: int, tmp_path: Path) -> None:
    rows = planted("mlp", 3, num_rows=64), planted("mlp", 3, num_rows=32, seed=1)
    sharing = {"retrain_from": 3, "retrain_weights": weights}

    def trained(folder: Path | None, at: int) -> tuple[BranchSearchNetwork, Any]:
        torch.manual_seed(5)
        network = build("learning_to_branch", planted_encoder("mlp"), rows[0].tasks, head=HEAD, **sharing)
        assert isinstance(network, BranchSearchNetwork)
        optimizer = {"adam": {"lr": 0.02}}
        history = fit(
            network, *rows, folder=folder, seed=3, callbacks=[Crash(at)], epochs=5, batch=16,
            optimizer=optimizer, device="cpu",
        )  # fmt: skip
        return network, history

    whole, history = trained(None, 0)
    assert whole.is_fixed
    assert [note for note in history.notes if note.startswith("before epoch 3: the tree is fixed")]
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, crash)
    again, resumed = trained(tmp_path, 0)
    assert resumed.without_seconds() == history.without_seconds()
    state = again.state_dict()
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in whole.state_dict().items())


def test_a_bundle_holds_the_tree_alone(tmp_path: Path) -> None:
    tasks = tl.TaskSet(tl.Binary("a"), tl.Regression("b"), tl.Binary("c"))
    encoder = {"name": "mlp", "hidden": [6, 5]}
    settings: dict[str, Any] = {
        "input_shape": (4,),
        "encoder": encoder,
        "sharing": {"name": "learning_to_branch", "retrain_from": 2},
        "head": None,
    }
    network = build("learning_to_branch", tl.encoders.mlp((4,), hidden=[6, 5]), tasks, retrain_from=2)
    assert isinstance(network, BranchSearchNetwork)
    prefer(network, Tree([[0, 0, -2]], [0, 1, 1]))
    network.change(2, never)
    loaded = load_bundle(save_bundle(tmp_path / "model", network, **settings)).model
    assert sum(p.numel() for p in loaded.stages.parameters()) == (4 + 1) * 6 + 2 * (6 + 1) * 5
    inputs = torch.randn(7, 4)
    with torch.no_grad():
        expected, found = network.eval()(inputs), loaded(inputs)
    assert all(torch.equal(found[task], output) for task, output in expected.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"candidates": 0},
            r"learning_to_branch\.candidates: a whole number of at least 1 expected, found 0",
        ),
        ({"temperature": 0}, r"learning_to_branch\.temperature: a number above 0 expected, found 0"),
        ({"warmup_epochs": -1}, r"learning_to_branch\.warmup_epochs: a whole number of at least 0"),
        ({"lr_multiplier": 0}, r"learning_to_branch\.lr_multiplier: a number above 0"),
        ({"retrain_from": 0}, r"learning_to_branch\.retrain_from: a whole number of at least 1"),
        (
            {"retrain_from": 1},
            r"learning_to_branch\.retrain_from: an epoch after 1, the first in which a tree",
        ),
        ({"retrain_from": 3, "warmup_epochs": 2}, r"an epoch after 3, .* found 3"),
        ({"retrain_weights": "again"}, r"retrain_weights: start or keep expected, found 'again'"),
        ({"stages": [1, 3]}, r"`dense_1` is missing between `dense_0` and `dense_2`"),
        ({"candidate": 2}, r"learning_to_branch\.candidate is not a setting\. Did you mean `candidates`"),
    ],
)
def test_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build("learning_to_branch", planted_encoder("mlp"), planted_tasks(2), **settings)


def test_a_training_that_ends_before_the_tree_is_refused() -> None:
    network = searching("mlp", 2, retrain_from=5)
    network.check_epochs(5)
    with pytest.raises(ConfigError, match=r"an epoch of the training, which has 4, expected, found 5"):
        network.check_epochs(4)
