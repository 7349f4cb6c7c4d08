"""A bundle leaves out what only training needs; the other predictions are the same to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import _architecture_table
from taskloom import Binary, Multiclass, Regression, TaskSet, evaluate, sharing
from taskloom.deploy import build_network, load_bundle, save_bundle
from taskloom.deploy.dropping import not_for_use
from taskloom.sharing import PlanNetwork
from taskloom.tasks import Reversal

TASKS = TaskSet(
    Regression("age", unit="years", center=40.25, scale=9.5),
    Multiclass("mood", 3, role="auxiliary", weight=0.5),
    Binary("gender"),
)
WITH_ADVERSARY = TaskSet(*TASKS.values(), Multiclass("person", 5, role="adversarial", reversal=Reversal()))
ENCODER = {"name": "mlp", "hidden": [16, 12, 12]}
ROWS: dict[str, dict[str, Any]] = {
    **_architecture_table.SETTINGS,
    "single_task": {},
    "hard_sharing": {"stages": 1},
    "cross_stitch": {"after": [1, 2], "start": {"same": 0.8, "other": 0.2}},
    "proportional_addition": {"start": 0.2, "after": [1]},
    "soft_sharing": {"weight": 0.1},
    "plan": {"partition": ["together", [["age", "mood"], ["gender", "person"]], "alone"]},
    "sluice": {"skips": "concatenate"},
    "mmoe": {"experts": 2, "stages": [1]},
    "ple": {"stages": [1, 2]},
    "mtan": {},
    "task_routing": {"sharing": 0.6},
    "adashare": {},
    "multilinear_relationship": {},
    "adaptive_branching": {"after_epochs": [1]},
}
NO_ADVERSARY = ("single_task",)  # nothing could forget it


def made(name: str, tasks: TaskSet = WITH_ADVERSARY, **more: Any) -> tuple[Any, dict[str, Any]]:
    if name in NO_ADVERSARY:
        tasks = TASKS
    way = {"name": name, **ROWS[name], **more}
    settings = {"input_shape": (6,), "encoder": ENCODER, "sharing": way, "head": {"hidden": [5]}}
    torch.manual_seed(3)
    network = build_network(settings, tasks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network, settings


def outputs(network: Any, inputs: Tensor) -> dict[str, Tensor]:
    network.eval()
    with torch.no_grad():
        found: dict[str, Tensor] = network(inputs)
    return found


def weights_bytes(path: Path) -> int:
    return (path / "weights.safetensors").stat().st_size


def test_every_architecture_is_covered() -> None:
    assert set(ROWS) == set(sharing.ARCHITECTURES)


@pytest.mark.parametrize("name", ROWS)
def test_the_others_predict_the_same_from_a_smaller_bundle(name: str, tmp_path: Path) -> None:
    network, settings = made(name)
    inputs = torch.randn(9, 6)
    expected = outputs(network, inputs)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    whole = save_bundle(tmp_path / "whole", network, **settings, keep_auxiliary=True)
    path = save_bundle(tmp_path / "small", network, **settings)
    # Saving changes nothing.
    assert network.tasks.names[1] == "mood"
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in state.items())
    assert load_bundle(whole).tasks == network.tasks
    bundle = load_bundle(path)
    assert bundle.tasks.names == ("age", "gender")
    assert bundle.model.tasks == bundle.tasks
    found = outputs(bundle.model, inputs)
    assert list(found) == ["age", "gender"]
    for task, output in found.items():
        assert torch.equal(output, expected[task])
    assert weights_bytes(path) < weights_bytes(whole)
    kept = [key for key in bundle.model.state_dict() if "heads." in key]
    assert kept
    assert not any(".mood." in key or ".person." in key for key in kept)
    assert bundle.predict(inputs)["age"].shape == (9,)
    again = load_bundle(path).model
    assert all(torch.equal(outputs(again, inputs)[task], output) for task, output in found.items())


def test_which_copies_of_a_plan_stay() -> None:
    network, _ = made("cross_stitch")
    network.drop_tasks(["mood", "person"])
    # Heard by the others through the units after the first two stages, and by nobody above.
    assert [len(list(copies.children())) for copies in network.stages.values()] == [4, 4, 2]
    assert network.plan.depth("person") == 2
    assert network.mixing_matrices()["dense_0"].shape == (4, 4)
    groups = [parameter for group in network.parameter_groups() for parameter in group.parameters]
    assert len(groups) == len(list(network.parameters()))
    network, _ = made("plan")
    network.drop_tasks(["mood", "person"])
    assert [stage.partition for stage in network.plan.stages] == [
        (("age", "gender"),),
        (("age",), ("gender",)),
        (("age",), ("gender",)),
    ]
    assert network.describe().splitlines()[0].split() == ["stage", "age", "gender", "mixing", "tie"]


def test_own_towers_hold_no_weights_in_other_architectures(tmp_path: Path) -> None:
    network, settings = made("mmoe")
    bundle = load_bundle(save_bundle(tmp_path / "small", network, **settings))
    towers = 2 * (16 * 12 + 12 + 12 * 12 + 12)
    heads = (12 * 5 + 5) * 2 + (5 * 3 + 3) + (5 * 5 + 5)
    before = sum(tensor.numel() for tensor in network.state_dict().values())
    assert before - sum(tensor.numel() for tensor in bundle.model.state_dict().values()) == towers + heads
    assert bundle.model.gate_means().keys() == network.gate_means().keys()  # what it is wrapped around
    assert copy.deepcopy(bundle.model)(torch.randn(2, 6)).keys() == {"age", "gender"}


def test_sharing_from_the_top_on_a_smaller_joined_batch() -> None:
    network, _ = made("hard_sharing", **{"from": "output"})
    inputs = torch.randn(9, 6)
    expected = outputs(network, inputs)
    network.drop_tasks(["mood", "person"])
    for task, output in outputs(network, inputs).items():
        torch.testing.assert_close(output, expected[task])


def test_read_outs_and_deep_supervision(tmp_path: Path) -> None:
    network, settings = made(
        "hard_sharing", stages=3, read_out={"mood": 2, "gender": 1}, deep_supervision={"weight": 0.3}
    )
    inputs = torch.randn(9, 6)
    expected = outputs(network, inputs)
    bundle = load_bundle(save_bundle(tmp_path / "small", network, **settings))
    assert isinstance(bundle.model, PlanNetwork)
    assert not any(key.startswith("deep_heads") for key in bundle.model.state_dict())
    for task, output in outputs(bundle.model, inputs).items():
        assert torch.equal(output, expected[task])
    mains = TaskSet(TASKS["age"], TASKS["gender"])
    network, settings = made("hard_sharing", mains, deep_supervision=0.3)
    bundle = load_bundle(save_bundle(tmp_path / "main", network, **settings))
    assert list(bundle.model.train()(inputs)) == ["age", "gender"]
    assert not any(key.startswith("deep_heads") for key in bundle.model.state_dict())


def test_a_network_of_auxiliary_tasks_alone_stays_whole(tmp_path: Path) -> None:
    tasks = TASKS.subset(["mood"])
    assert not_for_use(tasks) == []
    network, settings = made("single_task")
    network = build_network(settings, tasks)
    assert load_bundle(save_bundle(tmp_path / "x", network, **settings)).tasks == tasks


def test_a_bundle_without_roles_is_written_as_before(tmp_path: Path) -> None:
    network, settings = made("hard_sharing", TaskSet(TASKS["age"], TASKS["gender"]))
    described = json.loads((save_bundle(tmp_path / "x", network, **settings) / "bundle.json").read_text())
    assert described["settings"].keys() == {"input_shape", "encoder", "sharing", "head"}
    assert described["tasks"][0].keys() >= {"kind", "name", "role"}
    assert not described["tasks"][0].keys() & {"weight", "reversal"}


def test_the_smaller_network_can_be_evaluated(tmp_path: Path) -> None:
    from _training import TASKS as TRAINED
    from _training import rows_with_holes

    data = rows_with_holes(30, seed=0)
    tasks = TRAINED.replaced(Multiclass("mood", 3, role="auxiliary"))
    settings = {
        "input_shape": (4,),
        "encoder": {"name": "mlp", "hidden": [6]},
        "sharing": {"name": "mmoe"},
        "head": None,
    }
    network = build_network(settings, tasks)
    small = load_bundle(save_bundle(tmp_path / "x", network, **settings)).model
    found, whole = evaluate(small, data), evaluate(network, data)
    assert found.value("age") == whole.value("age")
    assert list(found.summaries) == ["age", "gender"]


def test_a_network_that_has_parted_goes_on_without_its_auxiliary_task(tmp_path: Path) -> None:
    network, settings = made("adaptive_branching")
    network.take_structure({"groups": torch.tensor([[0, 0, 0, 0], [0, 0, 1, 2], [0, 1, 2, 3]])})
    inputs = torch.randn(9, 6)
    expected = outputs(network, inputs)
    model = load_bundle(save_bundle(tmp_path / "x", network, **settings)).model
    assert model.groups.tolist() == [[0, 0], [0, 1], [0, 1]]
    for task, output in outputs(model, inputs).items():
        assert torch.equal(output, expected[task])
