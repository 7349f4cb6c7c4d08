"""What another task reads, hears or is pulled towards forgets an adversarial task; its own learns it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.sharing import MultiTaskNetwork, build
from taskloom.sharing.mixing import MixingUnit
from taskloom.sharing.modules.sluice import SluiceNetwork
from taskloom.tasks import Reversal

FACTOR = 0.7
MIXED = {"start": {"same": 0.6, "other": 0.4}}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("hard_sharing", {"stages": 2}),
    ("hard_sharing", {"stages": 1, "from": "output"}),  # own copies below what is shared
    ("plan", {"partition": [[["mood", "person"], ["face"]], "alone", "together"], "joined": True}),
    (
        "plan",
        {"partition": ["alone", "together", "alone"], "mixing": {"after": [1], **MIXED}, "joined": True},
    ),
    (  # a partition in another order than the tasks, which is that of a unit's rows
        "plan",
        {"partition": [[["person"], ["mood"], ["face"]], *["alone"] * 2], "mixing": {"after": [1], **MIXED}},
    ),
    ("cross_stitch", MIXED),
    ("cross_stitch", {**MIXED, "per": "channel"}),
    ("cross_stitch", {**MIXED, "after": [1]}),
    ("cross_stitch", {**MIXED, "after": [1, 3], "read_out": {"person": 2}}),
    ("cross_stitch", {**MIXED, "after": [1, 3], "read_out": {"mood": 1}}),
    ("cross_stitch", {**MIXED, "after": [1], "tie": {"l2": {"stages": [3]}}}),
    ("cross_stitch", {**MIXED, "after": [1, 2], "tie": {"l2": {"stages": [2]}}}),
    ("cross_stitch", {**MIXED, "after": [1, 2], "deep_supervision": 0.5}),
    ("cross_stitch", {**MIXED, "after": [1], "tie": {"l2": {"stages": [3]}}, "deep_supervision": 0.5}),
    ("soft_sharing", {"stages": [1, 3], "tie": "l2"}),
    ("proportional_addition", {"start": 0.3}),
    ("mmoe", {"experts": 3, "stages": [1, 2]}),
    ("dselect_k", {"stages": [1, 2], "entropy": 0.0}),
    ("dselect_k", {"gate_input": "static", "entropy": 0.0}),
    ("learning_to_branch", {}),
    ("learning_to_branch", {"stages": [1, 2], "candidates": 2}),
    ("ple", {"stages": "all"}),  # gates of the last two levels are a task's own
    ("ple", {"stages": [1, 2], "levels": 1}),
    ("ple", {"stages": "all", "task_experts": 0, "shared_experts": 2}),  # all gates are
    ("mtan", {"stages": [1, 2]}),  # masks below a stage that all share
    ("mtan", {}),
    ("task_routing", {"sharing": 0.6}),
    ("adashare", {"sharing": 0.0, "sparsity": 0.0}),
    ("sluice", MIXED),
    ("sluice", {**MIXED, "skips": "concatenate", "skip_start": "equal", "orthogonality": 0.0}),
    ("sluice", {**MIXED, "after": [1], "skip_start": "equal"}),
    ("sluice", {**MIXED, "after": [1, 2], "skip_stages": [2], "skip_start": "equal"}),
    ("sluice", {**MIXED, "after": [2], "skips": "none"}),
    ("sluice", {**MIXED, "subspaces": 1, "after": [1, 3], "skip_stages": [1], "skip_start": "equal"}),
]


def network_of(name: str, settings: dict[str, Any], role: str, others: str = "mood face") -> MultiTaskNetwork:
    torch.manual_seed(4)
    reversal = Reversal("constant", FACTOR) if role == "adversarial" else None
    person = tl.Multiclass("person", 3, role=role, reversal=reversal)
    first, *rest = (tl.Multiclass(other, 3) for other in others.split())
    encoder = tl.encoders.mlp((6,), hidden=[8, 8, 8])
    return build(name, encoder, tl.TaskSet(first, person, *rest), **settings, head={"hidden": [5]})


def slopes(network: MultiTaskNetwork, total: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    total.backward()
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()
    }


def totals(network: MultiTaskNetwork) -> tuple[Tensor, Tensor]:
    """Of what is the adversary's, and of all else: the others' outputs and what ties pull."""
    torch.manual_seed(5)  # AdaShare draws
    outputs = network(torch.linspace(-1, 1, 42).reshape(7, 6))
    squares = {str(key): (output - 1).square().sum() for key, output in outputs.items()}
    mine = torch.stack([square for key, square in squares.items() if key.startswith("person")]).sum()
    rest = torch.stack([square for key, square in squares.items() if not key.startswith("person")]).sum()
    return mine, rest + network.penalty()


@pytest.mark.parametrize("others", ["mood face", "mood"])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_what_others_depend_on_is_reversed_and_all_else_is_not(
    name: str, settings: dict[str, Any], others: str
) -> None:
    """Reversed where a loss of somebody else, or a tie, has a slope; of mixing matrices number by number."""
    if "face" in str(settings) and others == "mood":
        pytest.skip("its partition names a third task")
    plain, adversarial = (network_of(name, settings, role, others) for role in ("auxiliary", "adversarial"))
    if name == "sluice":  # apart by a penalty on each copy alone: that is nobody else's
        for network in (plain, adversarial):
            network.orthogonality = 0.0  # type: ignore[assignment]
    of_others = slopes(plain, totals(plain)[1])
    expected, found = slopes(plain, totals(plain)[0]), slopes(adversarial, totals(adversarial)[0])
    turned = kept = 0
    for key, slope in expected.items():
        shared = of_others[key] != 0
        if not key.startswith("mixing."):  # a copy is pulled as a whole, though ties leave biases alone
            copy_of = key.rpartition(".")[0]
            pulled = any(of_others[other].any() for other in of_others if other.startswith(copy_of))
            shared = torch.full_like(slope, pulled, dtype=torch.bool)
        wanted = torch.where(shared, -FACTOR * slope, slope)
        torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-5)
        turned += int((shared & (slope != 0)).sum())
        kept += int((~shared & (slope != 0)).sum())
    assert turned
    assert kept
    for key, slope in of_others.items():
        torch.testing.assert_close(slopes(adversarial, totals(adversarial)[1])[key], slope)


@pytest.mark.parametrize("name", ["cross_stitch", "sluice"])
def test_with_a_reversal_of_0_the_row_learns_and_the_copies_do_not(name: str) -> None:
    plain, network = (network_of(name, MIXED, role) for role in ("auxiliary", "adversarial"))
    network.reversals["person"].factor = 0.0
    for each in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        expected, found = slopes(plain, totals(plain)[0]), slopes(each, totals(each)[0])
        torch.testing.assert_close(found["mixing.dense_2.alpha"], expected["mixing.dense_2.alpha"])
        assert found["mixing.dense_2.alpha"].any()
        assert not any(slope.any() for key, slope in found.items() if key.startswith("stages."))


def test_what_stands_below_a_shared_stage_rests_while_the_reversal_is_0() -> None:
    network = network_of("hard_sharing", {"stages": 1, "from": "output"}, "adversarial")
    network.reversals["person"].factor = 0.0
    found = slopes(network, totals(network)[0])
    assert not any(slope.any() for key, slope in found.items() if key.startswith("stages."))
    assert found["heads.person.0.weight"].any()


def test_predictions_are_the_same_with_and_without_a_reversal() -> None:
    for name, settings in CASES:
        plain, adversarial = (network_of(name, settings, role) for role in ("auxiliary", "adversarial"))
        for mode in (True, False):
            outputs = []
            for each in (plain, adversarial):
                torch.manual_seed(5)
                outputs.append(each.train(mode)(torch.ones(3, 6)))
            assert all(torch.equal(outputs[0][task], outputs[1][task]) for task in outputs[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hard_sharing", {"stages": 1, "from": "output"}),
        ("cross_stitch", {**MIXED, "after": [1]}),
        ("cross_stitch", {**MIXED, "after": [1], "tie": {"l2": {"stages": [3]}}}),
        ("soft_sharing", {"stages": [1]}),
    ],
)
def test_stages_behind_a_reversal_may_work_in_place(name: str, settings: dict[str, Any]) -> None:
    found = []
    for in_place in (True, False):
        torch.manual_seed(3)
        stages = [
            nn.Sequential(nn.ReLU(inplace=in_place), nn.Linear(8, 8)) if index else nn.Linear(6, 8)
            for index in range(3)
        ]
        person = tl.Multiclass("person", 3, role="adversarial", reversal=Reversal("constant", FACTOR))
        tasks = tl.TaskSet(tl.Multiclass("mood", 3), person)
        network = build(name, tl.encoders.from_modules(stages, (6,)), tasks, **settings)
        found.append(slopes(network, totals(network)[0]))
    for key, slope in found[0].items():
        torch.testing.assert_close(slope, found[1][key])


class Average(MixingUnit):
    """Everybody gets the mean, times one number that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def matrix(self) -> Tensor:
        return self.scale.expand(3, 3) / 3

    def forward(self, copies: Any) -> tuple[Tensor, ...]:
        return (self.scale * torch.stack(list(copies)).mean(dim=0),) * 3


def test_a_unit_that_does_not_say_whose_its_rows_are_is_shared() -> None:
    plain, adversarial = (network_of("cross_stitch", {}, role) for role in ("auxiliary", "adversarial"))
    for network in (plain, adversarial):
        for key in network.mixing:  # type: ignore[union-attr]
            network.mixing[key] = Average()  # type: ignore[index,operator]
    for reversal in adversarial.reversals.values():
        reversal.leave(adversarial)
    adversarial.put_reversals()
    expected, found = slopes(plain, totals(plain)[0]), slopes(adversarial, totals(adversarial)[0])
    torch.testing.assert_close(found["mixing.dense_2.scale"], -FACTOR * expected["mixing.dense_2.scale"])
    torch.testing.assert_close(found["heads.person.0.weight"], expected["heads.person.0.weight"])


def test_policies_that_a_penalty_draws_after_an_adversarys_make_it_forget() -> None:
    """AdaShare: where the penalty compares policies, the adversary's is not its own alone."""
    networks = [
        network_of("adashare", {"sharing": 0.1, "sparsity": 0.0}, role)
        for role in ("auxiliary", "adversarial")
    ]
    for network in networks:
        with torch.no_grad():  # equal policies do not pull at each other yet
            for place, policy in enumerate(p for n, p in network.named_parameters() if n.startswith("pol")):
                policy += 0.3 * (place != 1)
    of_others = slopes(networks[0], totals(networks[0])[1])
    expected, found = (slopes(network, totals(network)[0]) for network in networks)
    drawn = [key for key in expected if key.startswith("pol") and expected[key].any()]
    assert drawn
    for key in drawn:
        assert of_others[key].any()
        torch.testing.assert_close(found[key], -FACTOR * expected[key], rtol=1e-4, atol=1e-6)


def test_mixed_stages_may_be_named_in_any_order() -> None:
    found = []
    for mixed in [(0, 2), (2, 0)]:
        torch.manual_seed(4)
        person = tl.Multiclass("person", 3, role="adversarial", reversal=Reversal("constant", FACTOR))
        tasks = tl.TaskSet(tl.Multiclass("mood", 3), person)
        encoder = tl.encoders.mlp((6,), hidden=[8, 8, 8])
        network = SluiceNetwork(encoder, tasks, mixed=mixed, skips="none", start=MIXED["start"])
        found.append(slopes(network, totals(network)[0]))
    for key, slope in found[0].items():
        assert torch.equal(found[1][key], slope), key


@pytest.mark.parametrize(
    ("name", "settings"),
    [("hard_sharing", {"stages": 1, "from": "output"}), ("soft_sharing", {"stages": [1, 3], "tie": "l2"})],
)
def test_a_reversal_that_leaves_turns_nothing_any_more(name: str, settings: dict[str, Any]) -> None:
    plain, adversarial = (network_of(name, settings, role) for role in ("auxiliary", "adversarial"))
    for reversal in adversarial.reversals.values():
        reversal.leave(adversarial)
    expected, found = slopes(plain, totals(plain)[0]), slopes(adversarial, totals(adversarial)[0])
    for key, slope in expected.items():
        torch.testing.assert_close(found[key], slope)
