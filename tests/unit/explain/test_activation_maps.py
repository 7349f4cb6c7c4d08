"""Activation maps: class activation maps in closed form, finite differences elsewhere, no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.errors import ConfigError
from taskloom.explain import activation_maps, stages_with_maps
from taskloom.sharing import MultiTaskNetwork

TASKS = tl.TaskSet(tl.Binary("gender", ("male", "female")), tl.Multiclass("race", 3), tl.Regression("age"))


class Pool(nn.Module):
    """Global average pooling: [N, C, ...] to [N, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(dim=2)


def pooled(dimensions: int) -> tl.encoders.Encoder:
    """Two convolutional stages and global average pooling as the third."""
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv1d
    stages = [
        nn.Sequential(convolution(3, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(convolution(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
        Pool(),
    ]
    return tl.encoders.from_modules(stages, (3, *(8,) * dimensions), names=["low", "high", "pool"])


def network(way: str, dimensions: int = 2, **settings: object) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return tl.sharing.build(way, pooled(dimensions), TASKS, **settings).double()


def inputs(dimensions: int = 2, rows: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(rows, 3, *(8,) * dimensions, generator=draw, dtype=torch.float64)


def head_weight(model: MultiTaskNetwork, task: str) -> Tensor:
    """Weights of a linear head, [width, channels]."""
    (weight,) = (
        value
        for name, value in model.named_parameters()
        if name.startswith(f"heads.{task}") and name.endswith("weight")
    )
    return weight


def by_finite_differences(
    model: MultiTaskNetwork, given: Tensor, task: str, stage: int, output: int
) -> Tensor:
    """sum_k a_k A_k, each a_k from adding a little to channel k of one copy at every place."""
    model.eval()
    copies = list(list(model.stages.values())[stage].children())  # type: ignore[union-attr, operator]
    total = torch.zeros(())
    for copy in copies:
        kept: list[Tensor] = []
        with torch.no_grad():
            handle = copy.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out.clone()))
            model(given)
            handle.remove()
            if not kept:
                continue
            (maps,) = kept
            streams = maps.reshape(-1, len(given), *maps.shape[1:])
            for stream, channel in ((s, c) for s in range(len(streams)) for c in range(maps.shape[1])):
                slope = 0.0
                for sign in (1.0, -1.0):
                    change = torch.zeros_like(streams)
                    change[stream, :, channel] = sign * 1e-6
                    handle = copy.register_forward_hook(
                        lambda _m, _i, out, change=change: out + change.reshape(out.shape)
                    )
                    slope = slope + sign * model(given)[task][:, output] / 2e-6
                    handle.remove()
                places = streams[stream, 0, channel].numel()
                weights = (slope / places).reshape(-1, *(1,) * (maps.ndim - 2))
                total = total + weights * streams[stream][:, channel]
    return total


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("way", ["single_task", "hard_sharing"])
def test_equals_class_activation_maps_before_pooling_and_a_linear_head(way: str, dimensions: int) -> None:
    tasks = TASKS.subset(["race"]) if way == "single_task" else TASKS
    torch.manual_seed(0)
    settings = {} if way == "single_task" else {"stages": 3}
    model = tl.sharing.build(way, pooled(dimensions), tasks, **settings).double().eval()
    given = inputs(dimensions)

    found = activation_maps(model, given, "race", stage="high", target=1)

    weights = head_weight(model, "race")
    maps = given
    for stages in list(model.stages.values())[:2]:  # type: ignore[union-attr, operator]
        (copy,) = stages.children()
        maps = copy(maps)
    places = maps[0, 0].numel()
    expected = torch.einsum("k,nk...->n...", weights[1], maps).clamp(min=0) / places
    torch.testing.assert_close(found.maps, expected)
    assert found.targets == ("1",) * 3
    torch.testing.assert_close(found.scores, model(given)["race"][:, 1])


def test_a_cross_stitch_column_is_weighted_by_what_the_task_hears_of_it() -> None:
    model = network("cross_stitch", after=["high"]).eval()
    given = inputs()
    found = activation_maps(model, given, "age", stage="high", signed=True)
    alone = activation_maps(model, given, "age", stage="high", signed=True, copies="own")

    mixing = model.mixing_matrices()["high"]
    low, high = (list(stage.children()) for stage in list(model.stages.values())[:2])  # type: ignore[union-attr, operator]
    columns = [second(first(given)) for first, second in zip(low, high, strict=True)]
    weights = head_weight(model, "age")[0]
    mixing = mixing if mixing.ndim == 3 else mixing.expand(6, 3, 3)
    heard = [torch.einsum("k,k,nkhw->nhw", weights, mixing[:, 2, d], columns[d]) / 16 for d in range(3)]
    torch.testing.assert_close(found.maps, sum(heard))  # type: ignore[arg-type]
    torch.testing.assert_close(alone.maps, heard[2])


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("hard_sharing", {"stages": 2, "start": "output"}),
        ("cross_stitch", {}),
        ("soft_sharing", {"tie": "l2", "weight": 0.1}),
        ("mmoe", {}),
        ("dselect_k", {"experts": 3}),
        ("dselect_k", {"gate_input": "static"}),
        ("learning_to_branch", {}),
        ("mtan", {}),
        ("sluice", {"skips": "concatenate", "skip_stages": ["high", "pool"]}),
        ("task_routing", {}),
    ],
)
def test_weights_of_channels_are_slopes_in_every_architecture(way: str, settings: dict[str, object]) -> None:
    model = network(way, **settings)
    given = inputs(rows=2)
    found = activation_maps(model, given, "age", stage=0, signed=True)
    expected = by_finite_differences(model, given, "age", 0, 0)
    assert found.maps.any()
    torch.testing.assert_close(found.maps, expected, rtol=1e-5, atol=1e-9)


def test_leaves_no_trace() -> None:
    model = network("cross_stitch").train()
    model.stages["low"].eval()  # type: ignore[index, union-attr, operator]
    given = inputs()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        activation_maps(model, given, "race", stage="low")
        with pytest.raises(ConfigError):
            activation_maps(model, given, "race", stage="pool")
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not given.requires_grad


def test_frozen_weights_and_the_predicted_class() -> None:
    model = network("hard_sharing", stages=3).requires_grad_(False)
    given = inputs(rows=4)
    found = activation_maps(model, given, "gender", stage="high")
    logits = model(given)["gender"][:, 0]
    assert found.targets == tuple("female" if logit > 0 else "male" for logit in logits.tolist())
    torch.testing.assert_close(found.scores, logits.abs())
    against = activation_maps(model, given, "gender", stage="high", target="male", signed=True)
    in_favour = activation_maps(model, given, "gender", stage="high", target=1, signed=True)
    torch.testing.assert_close(against.maps, -in_favour.maps)


def test_the_last_stage_with_maps_is_found() -> None:
    model = network("hard_sharing", stages=3)
    assert stages_with_maps(model, inputs()) == ["low", "high"]
    assert activation_maps(model, inputs(), "age", stage=None).stage == "high"


def test_resized_maps_are_within_one_and_keep_their_peak() -> None:
    found = activation_maps(network("hard_sharing", stages=3), inputs(), "race", stage="low", target=0)
    same = found.resized((8, 8))
    peaks = found.maps.flatten(1).amax(dim=1)
    torch.testing.assert_close(same * peaks[:, None, None], found.maps)
    assert found.resized((32, 32)).amax() <= 1


@pytest.mark.parametrize(
    ("task", "stage", "target", "message"),
    [
        ("ages", -1, None, "`ages` is not a task. Did you mean `age`?"),
        ("age", -1, None, "stage `pool` gives .6. per row, which has no places"),
        ("age", 7, None, "stage 7: the network has 3 stages, 0 to 2"),
        ("age", "hihg", None, "`hihg` is not a stage. Did you mean `high`?"),
        ("race", 0, "4", "a target among 0, 1, 2"),
        ("age", 0, 1, "one number per row needs no target"),
    ],
)
def test_mistakes_are_named(task: str, stage: int | str, target: int | str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        activation_maps(network("hard_sharing", stages=3), inputs(), task, stage=stage, target=target)


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("hard_sharing", {"stages": 3}),
        ("hard_sharing", {"stages": 1, "from": "output"}),
        ("cross_stitch", {"start": {"same": 0.6, "other": 0.4}}),
        ("mtan", {"stages": [1, 2]}),
        ("ple", {"stages": [1, 2]}),
        ("sluice", {"start": {"same": 0.6, "other": 0.4}, "skips": "none"}),
    ],
)
def test_an_adversarial_task_looks_where_it_would_without_its_reversal(
    way: str, settings: dict[str, object]
) -> None:
    found = []
    for role in ("auxiliary", "adversarial"):
        torch.manual_seed(0)
        tasks = tl.TaskSet(TASKS["gender"], tl.Multiclass("race", 3, role=role))
        model = tl.sharing.build(way, pooled(2), tasks, **settings).double()
        model.set_progress(0.0)
        before = [reversal.factor for reversal in model.reversals.values()]
        found.append([activation_maps(model, inputs(), "race", stage, signed=True).maps for stage in (0, 1)])
        assert [reversal.factor for reversal in model.reversals.values()] == before
    for expected, maps in zip(*found, strict=True):
        assert expected.any()
        torch.testing.assert_close(maps, expected)
