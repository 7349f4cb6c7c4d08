"""Multilinear relationship networks leave an adversarial task out of the prior over the others' towers."""

from __future__ import annotations

import pytest
import torch

import taskloom as tl
from _module_networks import load_where_named_alike
from taskloom.errors import ConfigError
from taskloom.sharing import build
from taskloom.sharing.modules import RelationNetwork, TensorNormal

OTHERS = (tl.Binary("mood"), tl.Binary("face"))
PERSON = tl.Multiclass("person", 5, role="adversarial")


def relations(*tasks: tl.tasks.Task, **settings: object) -> RelationNetwork:
    torch.manual_seed(4)
    encoder = tl.encoders.mlp((6,), hidden=[8, 7, 5])
    network = build("multilinear_relationship", encoder, tl.TaskSet(*tasks), weight=0.5, **settings)
    assert isinstance(network, RelationNetwork)
    return network


def test_the_prior_is_that_of_a_network_without_the_adversary() -> None:
    network = relations(OTHERS[0], PERSON, OTHERS[1])
    alone = relations(*OTHERS)
    load_where_named_alike(alone, network)
    assert network.related_layers == alone.related_layers  # five classes take no layer out of it
    for updates in range(3):
        for one in (network, alone):
            one.update_covariances()
        assert torch.equal(network.penalty(), alone.penalty())
        with torch.no_grad():  # however the adversary's layers move
            for parameter in network.task_parameters("person"):
                parameter.add_(updates + torch.randn_like(parameter))
    for layer, matrix in alone.mixing_matrices().items():
        found = network.mixing_matrices()[layer]
        assert torch.equal(found[::2, ::2], matrix)
        assert not found[1].any()
        assert not found[:, 1].any()


def test_nothing_pulls_at_the_adversary() -> None:
    network = relations(OTHERS[0], PERSON, OTHERS[1])
    network.update_covariances()
    pulled = torch.autograd.grad(network.penalty(), network.task_parameters("person"), allow_unused=True)
    assert all(gradient is None for gradient in pulled)


def test_one_other_task_has_no_prior() -> None:
    network = relations(OTHERS[0], PERSON)
    assert network.related_layers == ()
    assert network.penalty().item() == 0.0
    assert "prior" not in network.describe()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_without_a_trunk_it_is_refused(weight: float) -> None:
    said = r"tasks\.person\.role: adversarial: with task_stages 3 .* lower multilinear_relationship\.task_st"
    with pytest.raises(ConfigError, match=said):
        build(
            "multilinear_relationship",
            tl.encoders.mlp((6,), hidden=[8, 7, 5]),
            tl.TaskSet(*OTHERS, PERSON),
            weight=weight,
            task_stages=3,
        )


@pytest.mark.parametrize("others", [OTHERS, OTHERS[:1]])
def test_networks_saved_with_the_adversary_in_the_prior_are_loaded(others: tuple[tl.tasks.Task, ...]) -> None:
    """As priors were saved at first: over all tasks, and none over heads of different widths."""
    network, again = (relations(others[0], PERSON, *others[1:]) for _ in range(2))
    state = network.state_dict()
    shape = (len(others) + 1, 5, 7)
    prior = TensorNormal(shape)
    prior.update(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
    state = {name: tensor for name, tensor in state.items() if not name.startswith("priors.")}
    state |= {f"priors.dense_2.{name}": prior.get_buffer(name) for name in prior.NAMES}
    again.load_state_dict(state)
    if len(others) == 1:
        assert again.penalty().item() == 0.0
        return
    found, head = again.prior_of("dense_2"), again.prior_of("head")
    assert torch.equal(found.tasks, prior.tasks[::2, ::2])
    assert torch.equal(found.inputs, prior.inputs)
    weights = again.weights_of("dense_2")
    whole = torch.kron(torch.kron(found.tasks, found.outputs), found.inputs).double()
    flat = weights.flatten().double()
    expected = flat @ torch.linalg.solve(whole, flat)
    assert found.quadratic(weights).item() == pytest.approx(expected.item(), rel=1e-3)
    assert torch.equal(head.tasks, torch.eye(2))
    third = relations(others[0], PERSON, *others[1:])
    third.load_state_dict(again.state_dict())  # as it is saved now
    assert torch.equal(third.penalty(), again.penalty())
