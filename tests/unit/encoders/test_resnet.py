"""resnet18 against the network written out by torchvision's names, its known counts, and every sharing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import Encoder, build, resnet18
from taskloom.encoders.resnet import load_torchvision, torchvision_name
from taskloom.errors import ConfigError, DataError
from taskloom.sharing import build as share

TASKS = tl.TaskSet(tl.Binary("a"), tl.Multiclass("b", 3))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(stem: str = "small", size: int = 8, width: float = 1 / 16) -> Encoder:
    return resnet18((3, size, size), stem=stem, width=width)


def named(encoder: Encoder) -> dict[str, Tensor]:
    """Parameters and buffers by torchvision's names."""
    entries = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    return {torchvision_name(name): value for name, value in entries.items()}


def written_out(state: dict[str, Tensor], images: Tensor, *, small: bool, training: bool) -> Tensor:
    """ResNet-18 up to its classifier, from a state dict with torchvision's names."""

    def norm(maps: Tensor, name: str) -> Tensor:
        if training:
            mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        scaled = (maps - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return scaled * weight[:, None, None] + bias[:, None, None]

    def convolve(maps: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        return functional.conv2d(maps, state[f"{name}.weight"], stride=stride, padding=padding)

    if small:
        maps = torch.relu(norm(convolve(images, "conv1"), "bn1"))
    else:
        maps = torch.relu(norm(convolve(images, "conv1", 2, 3), "bn1"))
        maps = functional.max_pool2d(maps, 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            changes = layer > 1 and block == 0
            stride = 2 if changes else 1
            inner = torch.relu(norm(convolve(maps, f"{prefix}.conv1", stride), f"{prefix}.bn1"))
            inner = norm(convolve(inner, f"{prefix}.conv2"), f"{prefix}.bn2")
            if changes:
                maps = norm(convolve(maps, f"{prefix}.downsample.0", 2, 0), f"{prefix}.downsample.1")
            maps = torch.relu(inner + maps)
    return maps.flatten(2).mean(2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_values_and_gradients_equal_the_network_written_out(stem: str, training: bool) -> None:
    torch.manual_seed(0)
    encoder = tiny(stem, 37).double().train(training)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    images = torch.randn(4, 3, 37, 37, dtype=torch.float64, requires_grad=True)
    expected = written_out(named(encoder), images, small=stem == "small", training=training)
    outputs = encoder(images)
    torch.testing.assert_close(outputs, expected)
    upstream = torch.randn_like(outputs)
    of_ours = torch.autograd.grad(outputs, [images, *encoder.parameters()], upstream)
    of_theirs = torch.autograd.grad(expected, [images, *encoder.parameters()], upstream)
    for gradient, wanted in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_parameters_are_those_of_resnet18() -> None:
    encoder = resnet18((3, 64, 64))
    blocks = []
    for index, filters in enumerate((64, 128, 256, 512)):
        inputs = 64 if index == 0 else filters // 2
        shortcut = 0 if index == 0 else inputs * filters + 2 * filters
        blocks.append(9 * filters * (inputs + 3 * filters) + 8 * filters + shortcut)
    counts = [num_parameters(stage) for stage in encoder.stages]
    assert counts == [49 * 3 * 64 + 2 * 64, *blocks]
    assert sum(counts) == 11_176_512 == 11_689_512 - 513_000
    assert f"{sum(counts):,}" in (resnet18.__doc__ or "")
    assert encoder.stage_names == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert encoder.stage_shapes == ((64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512,))
    names = {torchvision_name(name): tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert names["conv1.weight"] == (64, 3, 7, 7)
    assert names["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert names["layer4.1.bn2.running_var"] == (512,)


def test_small_stem() -> None:
    encoder = resnet18((3, 32, 32), stem="small")
    assert num_parameters(encoder) == 11_176_512 - 3 * 64 * (49 - 9) == 11_168_832
    assert encoder.stage_shapes == ((64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512,))


def test_names_are_those_of_torchvision_in_its_order() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            for number in (1, 2):
                expected.append(f"{prefix}.conv{number}.weight")
                expected += [f"{prefix}.bn{number}.{part}" for part in norm]
            if layer > 1 and block == 0:
                expected.append(f"{prefix}.downsample.0.weight")
                expected += [f"{prefix}.downsample.1.{part}" for part in norm]
    assert [torchvision_name(name) for name in tiny().state_dict()] == expected
    assert len(expected) == 122 - 2  # torchvision's, without fc.weight and fc.bias


def test_names_that_are_not_ours_are_refused() -> None:
    for name in ("conv1.weight", "stages.5.0.conv1.weight", "stages.1.", "layer1.0.conv1.weight"):
        with pytest.raises(ConfigError, match="is not a name of resnet18's state dict"):
            torchvision_name(name)


def test_loaded_weights_reach_the_copies_of_a_network() -> None:
    torch.manual_seed(0)
    trained = tiny()
    trained(torch.randn(4, 3, 8, 8))  # moves the running statistics
    state = {torchvision_name(name): value.clone() for name, value in trained.state_dict().items()}
    state |= {"fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}
    encoder = tiny()
    load_torchvision(encoder, state)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(encoder.eval()(images), trained.eval()(images))
    network = share("cross_stitch", encoder, TASKS, copies="same").eval()
    features = network.features(images)
    assert isinstance(features, dict)
    torch.testing.assert_close(features["b"], trained(images))


def test_old_files_without_batch_counters_load() -> None:
    trained, encoder = tiny(), tiny()
    entries = trained.state_dict().items()
    state = {torchvision_name(name): value for name, value in entries if value.dim() > 0}
    load_torchvision(encoder, state)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer3.1.bn2.bias"), r"missing: `layer3\.1\.bn2\.bias`"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(4, 3, 7, 7)}),
            r"another shape: conv1\.weight \(4 x 3 x 7 x 7, expected 4 x 3 x 3 x 3\)",
        ),
        (
            lambda state: state.update({"layer1.2.conv1.weight": torch.zeros(1)}),
            r"unexpected: `layer1\.2\.conv1\.weight`",
        ),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_loaded(change: Any, message: str) -> None:
    encoder = tiny()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = {torchvision_name(name): value + 1 for name, value in tiny().state_dict().items()}
    change(state)
    with pytest.raises(DataError, match=message):
        load_torchvision(encoder, state)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_start_is_normal_after_he_over_the_outputs() -> None:
    torch.manual_seed(0)
    encoder = resnet18((3, 32, 32), stem="small", width=0.5)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_out = module.out_channels * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert module.bias.count_nonzero() == 0


def test_copies_of_a_stage() -> None:
    encoder = tiny()
    for index, stage in enumerate(encoder.stages):
        fresh, same = encoder.copy_stage(index), encoder.copy_stage(index, fresh=False)
        for (name, value), copied in zip(stage.named_parameters(), fresh.parameters(), strict=True):
            assert torch.equal(dict(same.named_parameters())[name], value)
            assert torch.equal(copied, value) == (value.dim() == 1), name  # batch norms start alike


def every_sharing() -> list[tuple[str, dict[str, Any]]]:
    ends = ("input", "output")
    return [
        *[("hard_sharing", {"stages": stages, "from": end}) for stages in range(6) for end in ends],
        ("single_task", {}),
        ("cross_stitch", {"per": "layer", "start": {"same": 0.9, "other": 0.1}}),
        ("cross_stitch", {"per": "channel", "start": {"same": 0.9, "other": 0.1}}),
        ("soft_sharing", {"weight": 0.01}),
        ("soft_sharing", {"tie": "l2", "weight": 0.01, "stages": ["stem", "layer4"]}),
    ]


def test_every_sharing_learns_and_reaches_every_parameter() -> None:
    encoder = tiny()
    targets = torch.arange(6)
    for sharing, settings in every_sharing():
        torch.manual_seed(1)
        network = share(sharing, encoder, TASKS, **settings)
        images = torch.randn(6, 3, 8, 8)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        losses = []
        for step in range(5):
            optimizer.zero_grad()
            outputs = network(images)
            loss = functional.binary_cross_entropy_with_logits(outputs["a"][:, 0], targets % 2.0)
            loss = loss + functional.cross_entropy(outputs["b"], targets % 3) + network.penalty()
            loss.backward()
            if step == 0:
                silent = [key for key, p in network.named_parameters() if p.grad is None]
                assert silent == [], (sharing, settings)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], (sharing, settings)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_cross_stitch_at_identity_is_single_task(per: str) -> None:
    encoder = tiny().double()
    networks = []
    for sharing, settings in (("cross_stitch", {"per": per}), ("single_task", {})):
        torch.manual_seed(1)
        networks.append(share(sharing, encoder, TASKS, **settings).double().train())
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    mixed, single = (network(images) for network in networks)
    for task in TASKS:
        torch.testing.assert_close(mixed[task], single[task], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((64, 64), {}, r"resnet18 takes images .* got an input of shape \(64, 64\)"),
        ((3, 31, 64), {}, "at least 32 x 32 pixels; the images have 31 x 64: .* `stem: small`"),
        ((3, 64, 7), {"stem": "small"}, "at least 8 x 8 pixels; the images have 64 x 7: take larger images"),
        ((3, 64, 64), {"stem": "smal"}, "stem must be imagenet or small; got 'smal'. Did you mean `small`"),
        ((3, 64, 64), {"width": 0}, "width must be a number above 0; got 0"),
        ((3, 64, 64), {"width": "half"}, "width must be a number above 0; got 'half'"),
        ((3, 64, 64), {"pretrained": True}, "`pretrained` is not a setting of encoder resnet18"),
    ],
)
def test_bad_input(shape: tuple[int, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("resnet18", shape, **settings)
