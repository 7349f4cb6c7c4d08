"""Warm start: predictions of the sources where nothing is mixed, parts by name, what has no counterpart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing import MultiTaskNetwork, PlanNetwork, build
from taskloom.sharing.warm_start import start_from

TASKS = tl.TaskSet(tl.Binary("a"), tl.Regression("b"), tl.Multiclass("c", 3))
NAMES = TASKS.names


def encoder() -> Encoder:
    stages = [
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()),
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
        nn.ReLU(),
    ]
    return tl.encoders.from_modules(stages, (4,), names=["first", "second", "plain"])


def network_of(name: str, tasks: tl.TaskSet = TASKS, **settings: object) -> MultiTaskNetwork:
    return build(name, encoder(), tasks, **settings)


def alone() -> list[MultiTaskNetwork]:
    """A network per task, with batch-norm statistics of its own."""
    networks = []
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        networks.append(network_of("single_task", TASKS.subset([name])).train())
        networks[-1](torch.randn(50, 4) + seed)
    return networks


def outputs(network: MultiTaskNetwork) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return network.eval()(torch.randn(8, 4))


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_cross_stitch_at_the_identity_starts_as_the_single_task_networks(per: str) -> None:
    sources = alone()
    network = network_of("cross_stitch", per=per, tie="exponential_affine")
    transfer = start_from(network, sources)
    predictions = outputs(network)
    for source, task in zip(sources, NAMES, strict=True):
        assert torch.equal(predictions[task], outputs(source)[task])
    assert set(transfer.copied) == {
        *(f"stages.{stage}.{task}" for stage in ("first", "second") for task in NAMES),
        *(f"heads.{task}" for task in NAMES),
    }
    assert set(transfer.fresh) == {
        *(f"mixing.{stage}" for stage in ("first", "second", "plain")),
        *(f"ties.{stage}" for stage in ("first", "second")),
    }


def test_sources_and_network_do_not_share_memory() -> None:
    sources = alone()
    before = [{name: value.clone() for name, value in source.state_dict().items()} for source in sources]
    network = network_of("single_task")
    start_from(network, sources)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    for source, kept in zip(sources, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in source.state_dict().items())


def test_units_and_ties_go_on_where_they_were_and_new_ones_start_afresh() -> None:
    tie = {"exponential_affine": {"stages": [1]}}
    source = network_of("cross_stitch", units=1, tie=tie)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    network = network_of("cross_stitch", units=2, tie="exponential_affine")
    transfer = start_from(network, [source])
    assert transfer.fresh == ("mixing.second", "ties.second")
    state, given = network.state_dict(), source.state_dict()
    assert all(torch.equal(state[name], value) for name, value in given.items())
    assert torch.equal(state["mixing.second.alpha"], torch.eye(3))


def test_shared_copies_have_no_counterpart_among_single_tasks_and_keep_their_start() -> None:
    network = network_of("hard_sharing", stages=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    transfer = start_from(network, alone())
    assert transfer.fresh == ("stages.first.shared",)
    after = network.state_dict()
    for name in after:
        assert torch.equal(after[name], before[name]) == name.startswith("stages.first."), name


def test_tasks_that_part_start_from_the_copy_that_they_shared() -> None:
    source = network_of("plan", partition={"first": "together", "second": [["a", "b"], ["c"]]})
    network = network_of("plan", partition={"first": [["a", "b"], ["c"]]})
    assert isinstance(network, PlanNetwork)
    assert start_from(network, [source]).fresh == ()
    predictions = outputs(source)
    for task, output in outputs(network).items():
        assert torch.equal(output, predictions[task])


def test_what_joins_has_no_counterpart() -> None:
    source = network_of("plan", partition={"first": [["a", "b"], ["c"]]})
    network = network_of("plan", partition={"first": "together"})
    assert start_from(network, [source]).fresh == ("stages.first.shared",)


def test_a_head_of_another_shape_starts_afresh() -> None:
    network = network_of("single_task", head={"hidden": [7]})
    assert start_from(network, alone()).fresh == tuple(f"heads.{task}" for task in NAMES)


def test_heads_at_lower_stages_start_from_those_after_the_same_stage() -> None:
    depth = {"stages": 2, "read_out": {"a": "first"}, "deep_supervision": 0.1}
    source, network = network_of("hard_sharing", **depth), network_of("hard_sharing", **depth)
    assert start_from(network, [source]).fresh == ()
    assert torch.equal(outputs(network)["a"], outputs(source)["a"])
    assert "heads.a" in start_from(network, [network_of("hard_sharing", stages=2)]).fresh


def test_networks_that_are_no_plan_take_entries_by_name_and_shape() -> None:
    source, network = network_of("mmoe", experts=3), network_of("mmoe", experts=3)
    assert start_from(network, [source]).fresh == ()
    predictions = outputs(source)
    assert all(torch.equal(output, predictions[task]) for task, output in outputs(network).items())


@pytest.mark.parametrize("name", ["hard_sharing", "mmoe"])
def test_a_start_that_changes_nothing_of_the_stages_is_refused(name: str) -> None:
    settings = {"stages": 3} if name == "hard_sharing" else {"experts": 2}
    with pytest.raises(ConfigError, match="no stage of this network has a counterpart"):
        start_from(network_of(name, **settings), alone())
