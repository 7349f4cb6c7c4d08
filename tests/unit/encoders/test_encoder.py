"""The encoder: its trace leaves no mark, its stages are copied afresh, and bad stages are named."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taskloom.encoders import ENCODERS, Encoder, build, from_modules
from taskloom.errors import ConfigError

INPUTS = {
    "conv1d": (64, 5),
    "deap_cnn": (128, 4),
    "deep_conv_lstm": (24, 2),
    "densenet121": (3, 32, 32),
    "inception_resnet_v1": (3, 75, 75),
    "lightcnn29": (3, 16, 16),
    "lightcnn9": (3, 16, 16),
    "lstm": (6, 3),
    "mlp": (9,),
    "mtfl_cnn": (3, 32, 32),
    "opportunity_cnn": (64, 4),
    "resnet18": (3, 32, 32),
    "resnet50": (3, 32, 32),
    "se_resnet50": (3, 8, 8),
    "sphereface20": (3, 16, 16),
    "vgg16": (3, 32, 32),
    "vgg5": (3, 32, 48),
}
SMALL: dict[str, dict[str, Any]] = {
    "deap_cnn": {"width": 0.1},
    "densenet121": {"growth": 4, "layers": [2, 1, 1, 1]},
    "inception_resnet_v1": {"width": 1 / 16},
    "lightcnn29": {"width": 1 / 8},
    "lightcnn9": {"width": 1 / 8},
    "opportunity_cnn": {"width": 0.02},
    "resnet18": {"width": 1 / 4},
    "resnet50": {"width": 1 / 16, "embedding": 8},
    "se_resnet50": {"width": 1 / 4, "stem": "small"},
    "sphereface20": {"width": 1 / 16},
    "vgg16": {"width": 1 / 16, "batch_norm": True, "dense": True},
}


def small(name: str) -> Encoder:
    return build(name, INPUTS[name], **SMALL.get(name, {}))


class Noisy(nn.Module):
    """Draws random numbers and counts its calls even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs + torch.rand_like(inputs)


def test_registry_is_what_is_tested_here() -> None:
    assert list(ENCODERS) == sorted(INPUTS)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_stage_shapes_are_what_the_stages_give(name: str) -> None:
    encoder = small(name)
    value = torch.randn(3, *INPUTS[name])
    expected = value
    for stage, shape in zip(encoder.stages, encoder.stage_shapes, strict=True):
        expected = stage(expected)
        assert expected.shape == (3, *shape)
    assert encoder.num_features == expected[0].numel()
    encoder.eval()
    expected = value
    for stage in encoder.stages:
        expected = stage(expected)
    assert torch.equal(encoder(value), expected)


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    encoder = small(name)
    (encoder(torch.randn(8, *INPUTS[name])) ** 2).sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
        # What DDP asks for, or it warns and copies.
        assert parameter.grad.stride() == parameter.stride(), parameter_name


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_same_seed_same_encoder_and_fresh_copies_differ(name: str) -> None:
    torch.manual_seed(0)
    first = small(name)
    torch.manual_seed(0)
    second = small(name)
    of_second = second.state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(value, of_second[key])
    for index, stage in enumerate(first.stages):
        before = copy.deepcopy(stage.state_dict())
        fresh, same = first.copy_stage(index), first.copy_stage(index, fresh=False)
        after, of_fresh, of_same = stage.state_dict(), fresh.state_dict(), same.state_dict()
        for key, value in before.items():
            assert torch.equal(value, after[key])
            assert torch.equal(value, of_same[key])
            assert value.shape == of_fresh[key].shape
            if value.dim() > 1:
                assert not torch.equal(value, of_fresh[key])
        assert not {id(p) for p in stage.parameters()} & {id(p) for p in same.parameters()}


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_fresh_copies_start_from_the_same_distribution(name: str) -> None:
    torch.manual_seed(0)
    encoder = small(name)
    for index, stage in enumerate(encoder.stages):
        original, fresh = dict(stage.named_parameters()), dict(encoder.copy_stage(index).named_parameters())
        for key, value in original.items():
            if value.numel() > 200:
                assert fresh[key].std().item() == pytest.approx(value.std().item(), rel=0.25)
            if value.abs().max() == 0 or value.std() == 0:
                assert torch.equal(value, fresh[key])


def test_trace_leaves_no_mark() -> None:
    noisy, norm, dropout = Noisy(), nn.BatchNorm1d(4), nn.Dropout(0.5)
    norm.eval()  # a frozen batch norm stays frozen, the rest stays in training mode
    state = copy.deepcopy(norm.state_dict())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    encoder = Encoder([noisy, nn.Sequential(norm, dropout)], input_shape=(4,))
    assert torch.equal(torch.get_rng_state(), before)
    assert noisy.calls.item() == 0
    assert (encoder.training, noisy.training, norm.training, dropout.training) == (True, True, False, True)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_failing_trace_leaves_modes_alone() -> None:
    norm = nn.BatchNorm1d(4)
    with pytest.raises(ConfigError):
        Encoder([norm, nn.Linear(3, 2)], input_shape=(4,))
    assert norm.training


def test_a_failing_stage_is_named_with_its_input_and_the_reason() -> None:
    stages = [nn.Linear(5, 6), nn.Linear(7, 2)]
    with pytest.raises(
        ConfigError, match=r"Stage `b` fails on an input of shape \(6,\) per row: mat1 and mat2"
    ):
        Encoder(stages, input_shape=(5,), names=["a", "b"])


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


class Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean()


def test_bad_encoders_are_told_in_one_sentence() -> None:
    linear = nn.Linear(3, 3)
    cases = [
        ({"stages": [], "input_shape": (3,)}, r"at least one stage"),
        ({"stages": [linear], "input_shape": ()}, r"input_shape must be whole numbers above 0"),
        ({"stages": [linear], "input_shape": (3, 0)}, r"input_shape .* got \(3, 0\)"),
        ({"stages": [linear], "input_shape": (3,), "names": ["a", "b"]}, r"2 names for 1 stages"),
        ({"stages": [linear], "input_shape": (3,), "names": ["a.b"]}, r"`a\.b` cannot be a stage's name"),
        ({"stages": [linear, nn.ReLU()], "input_shape": (3,), "names": ["a"] * 2}, r"Two stages are named"),
        ({"stages": [linear, linear], "input_shape": (3,)}, r"`stage_0` and `stage_1` have one parameter"),
        ({"stages": [nn.LazyLinear(3)], "input_shape": (3,)}, r"`stage_0` has a lazy parameter \(`weight`\)"),
        ({"stages": [Pair()], "input_shape": (3,)}, r"`stage_0` must give one tensor; it gave a tuple"),
        ({"stages": [Mean()], "input_shape": (3,)}, r"as its first axis; two rows of shape \(3,\) gave \(\)"),
        ({"stages": [nn.Flatten(0)], "input_shape": (3,)}, r"gave \(6,\)"),
        ({"stages": [linear], "input_shape": (3,), "rebuild": []}, r"rebuild has 0 factories for 1 stages"),
    ]  # fmt: skip
    for settings, message in cases:
        with pytest.raises(ConfigError, match=message):
            Encoder(**settings)  # type: ignore[arg-type]


def test_copy_through_a_factory_per_stage_builds_that_stage_only() -> None:
    built = []

    def factory(number: int) -> nn.Module:
        built.append(number)
        return nn.Linear(3, 3)

    stages = [nn.Linear(3, 3), nn.Linear(3, 3)]
    encoder = Encoder(stages, input_shape=(3,), rebuild=[lambda: factory(0), lambda: factory(1)])
    encoder.copy_stage(1)
    assert built == [1]


def test_copy_through_one_factory_for_all_stages_takes_the_right_one() -> None:
    def rebuild() -> list[nn.Module]:
        return [nn.Linear(4, 3), nn.Linear(3, 2)]

    encoder = Encoder(rebuild(), input_shape=(4,), rebuild=rebuild).double()
    encoder.stages[1].bias.requires_grad_(False)
    encoder.eval()
    replica = encoder.copy_stage(1)
    assert isinstance(replica, nn.Linear)
    assert (replica.in_features, replica.out_features) == (3, 2)
    assert replica.weight.dtype == torch.float64
    assert (replica.weight.requires_grad, replica.bias.requires_grad, replica.training) == (
        True,
        False,
        False,
    )
    assert not torch.equal(replica.weight, encoder.stages[1].weight)


def test_a_factory_that_builds_something_else_is_refused() -> None:
    encoder = Encoder([nn.Linear(3, 3)], input_shape=(3,), rebuild=[lambda: nn.Linear(3, 4)])
    with pytest.raises(ConfigError, match=r"parameter `weight` \(\(4, 3\)\) is not in the original"):
        encoder.copy_stage(0)


class Scale(nn.Module):
    """Has a parameter and no reset_parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


def test_copy_without_factories_resets_what_can_be_reset() -> None:
    torch.manual_seed(0)
    encoder = from_modules([nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Scale())], (3,))
    encoder.train()
    encoder(torch.randn(10, 3))
    original, fresh = encoder.stages[0], encoder.copy_stage(0)
    assert not torch.equal(original[0].weight, fresh[0].weight)
    assert original[1].running_mean.abs().sum() > 0
    assert torch.equal(fresh[1].running_mean, torch.zeros(3))
    assert torch.equal(fresh[2].factor, torch.full((3,), 2.0))


def test_from_modules_takes_names_of_a_sequential_and_computes_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(first=nn.Linear(4, 6), relu=nn.ReLU(), second=nn.Linear(6, 2)))
    encoder = from_modules(network, (4,))
    assert encoder.stage_names == ("first", "relu", "second")
    inputs = torch.randn(5, 4)
    assert torch.equal(encoder(inputs), network(inputs))
    assert from_modules(list(network), (4,)).stage_names == ("stage_0", "stage_1", "stage_2")
    assert from_modules(network, (4,), names=["a", "b", "c"]).stage_names == ("a", "b", "c")
    with pytest.raises(ConfigError, match=r"got a Linear: put it into a list"):
        from_modules(nn.Linear(4, 2), (4,))  # type: ignore[arg-type]


def test_state_travels_between_encoders() -> None:
    torch.manual_seed(0)
    first, second = small("opportunity_cnn").eval(), small("opportunity_cnn").eval()
    second.load_state_dict(first.state_dict())
    inputs = torch.randn(2, 64, 4)
    assert torch.equal(first(inputs), second(inputs))


def test_unknown_names_and_settings_suggest_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"`opportunity_cn` is not a known encoder. Did you mean `opportunity_"
    ):
        build("opportunity_cn", (64, 107))
    with pytest.raises(
        ConfigError, match=r"`hiden` is not a setting of encoder mlp. Did you mean `hidden`\?"
    ):
        build("mlp", (4,), hiden=[3])


@pytest.mark.parametrize(
    ("stages", "shape", "words"),
    [
        ([nn.Linear(4, 3), "x"], (4,), "stage 1 is a str"),
        ([nn.Linear(4, 3)], 4, r"input_shape: the shape of one row expected, such as \(20,\), found 4"),
    ],
)
def test_what_is_no_module_and_no_shape_is_refused_in_words(stages: Any, shape: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_modules(stages, shape)
