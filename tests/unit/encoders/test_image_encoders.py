"""What image encoders have in common: preparation of images, shared layers, memory order, every sharing."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import taskloom as tl
from taskloom.encoders import ENCODERS, Encoder, InputSpec, build, mtfl_cnn, thesis_001
from taskloom.encoders.image_encoder import shared_layer
from taskloom.encoders.preparation import FACENET, IMAGENET, LIGHT_CNN, SPHEREFACE, VGGFACE2, Preparation
from taskloom.errors import ConfigError, DataError, MissingExtraError
from taskloom.sharing import HeadSpec
from taskloom.sharing import build as share

TASKS = tl.TaskSet(tl.Ordinal("age", range=(0, 3)), tl.Binary("gender"))
TINY: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "densenet121": ((3, 32, 32), {"growth": 4, "layers": [1, 1, 1, 1]}),
    "inception_resnet_v1": ((3, 75, 75), {"width": 1 / 16}),
    "lightcnn29": ((3, 16, 16), {"width": 1 / 8}),
    "lightcnn9": ((3, 16, 16), {"width": 1 / 8}),
    "mtfl_cnn": ((3, 40, 40), {"filters": [4, 6, 6, 6], "dense": 8}),
    "resnet18": ((3, 8, 8), {"width": 1 / 16, "stem": "small"}),
    "resnet50": ((3, 8, 8), {"width": 1 / 16, "stem": "small"}),
    "se_resnet50": ((3, 8, 8), {"width": 1 / 16, "stem": "small", "embedding": 6}),
    "sphereface20": ((3, 16, 16), {"width": 1 / 16}),
    "vgg16": ((3, 32, 32), {"width": 1 / 16}),
    "vgg5": ((3, 32, 32), {"filters": [4, 4, 4, 4, 4]}),
}


def test_every_image_encoder_is_in_this_table() -> None:
    takes_images = [name for name in ENCODERS if hasattr(ENCODERS[name], "__signature__")]
    assert takes_images == sorted(TINY)


@pytest.mark.parametrize("sharing", ["hard_sharing", "cross_stitch"])
@pytest.mark.parametrize("name", sorted(TINY))
def test_a_step_of_every_sharing_moves_every_parameter(name: str, sharing: str) -> None:
    torch.manual_seed(0)
    shape, settings = TINY[name]
    encoder = build(name, shape, **settings, shared_layers=[5])
    way: dict[str, Any] = {"stages": 2} if sharing == "hard_sharing" else {"per": "channel"}
    network = share(sharing, encoder, TASKS, **way, head={"hidden": [4], "activation": "leaky_relu"})
    labels = tl.Labels(
        {"age": torch.tensor([0.0, 3.0, 1.0, 2.0]), "gender": torch.tensor([0, 1, 1, 0])},
        {"age": torch.ones(4, dtype=torch.bool), "gender": torch.tensor([True, True, False, True])},
    )
    losses = tl.losses.per_task(network(torch.rand(4, *shape)), labels, TASKS)
    torch.stack([loss.mean for loss in losses.values()]).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        assert parameter.grad.stride() == parameter.stride(), key


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_order_of_the_channels_in_memory_changes_no_value(name: str) -> None:
    torch.manual_seed(0)
    shape, settings = TINY[name]
    encoder = build(name, shape, **settings).double().eval()
    images = torch.rand(3, *shape, dtype=torch.float64)
    plain = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    expected = images
    for index, stage in enumerate(plain.stages):
        layers = list(stage) if index == 0 else [stage]  # past the conversion of the first stage
        for layer in layers:
            expected = layer(expected)
    torch.testing.assert_close(encoder(images), expected)
    first = encoder.stages[0](images)
    if first.dim() == 4 and first.shape[1] > 1 and first.shape[2] > 1:
        assert first.is_contiguous(memory_format=torch.channels_last)


# -- preparation


def pixels(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        (IMAGENET, lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        # The authors' means are in the order blue, green, red.
        (VGGFACE2, lambda x: (x[..., ::-1] - [91.4953, 103.8827, 131.0912])[..., ::-1]),
        (SPHEREFACE, lambda x: (x - 127.5) / 128),
        (FACENET, lambda x: (x - 127.5) / 128),
        (LIGHT_CNN, lambda x: (x @ [0.299, 0.587, 0.114])[..., None] / 255),
    ],
)
def test_preparation_equals_numpy_on_pixels(spec: InputSpec, by_hand: Any) -> None:
    images = pixels(*spec.size)
    found = Preparation(spec)(images)
    expected = by_hand(images.permute(0, 2, 3, 1).numpy().astype(np.float64))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(Preparation(spec)(images / 255.0), found, rtol=1e-4, atol=1e-4)
    assert spec.source


def test_bgr_turns_the_channels_and_sizes_are_met() -> None:
    spec = InputSpec((4, 6), "bgr")
    flat = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 9, 5)
    found = Preparation(spec)(flat)
    assert found.shape == (1, 3, 4, 6)
    torch.testing.assert_close(found[0, :, 2, 3] * 255, torch.tensor([30.0, 20.0, 10.0]))


def test_an_encoder_prepares_what_it_is_given() -> None:
    torch.manual_seed(0)
    plain = build("lightcnn9", (1, 24, 16), width=1 / 8).eval()
    encoder = build("lightcnn9", (3, 50, 40), width=1 / 8, prepare=True, size=[24, 16]).eval()
    assert encoder.input_spec is not None
    assert encoder.input_spec.shape == (1, 24, 16)
    encoder.load_state_dict(plain.state_dict())
    images = pixels(50, 40)
    small = functional.interpolate(images / 255.0, (24, 16), mode="bilinear", antialias=True)
    grey = (small * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(encoder(images), plain(grey), rtol=1e-4, atol=1e-5)
    assert plain.input_spec is None
    copied = encoder.copy_stage(0)
    assert copied(images).shape == (2, 6, 12, 8)


def test_an_exported_encoder_computes_the_same_and_leaves_the_original_usable() -> None:
    torch.manual_seed(0)
    encoder = build("resnet18", (3, 8, 8), width=1 / 16, stem="small", prepare=True, size=16).eval()
    images = torch.rand(2, 3, 8, 8)
    exported = torch.export.export(encoder, (images,)).module()
    expected = encoder(images)
    torch.testing.assert_close(exported(images), expected)
    torch.testing.assert_close(encoder(images.flip(0)), expected.flip(0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(2, 3, 8, 8), "expects uint8 or 0..1, found values from -"),
        (255 * torch.rand(2, 3, 8, 8), r"`data\.standardize: false`"),
        (torch.rand(2, 4, 8, 8), r"images \[N, 3, height, width\] .* found \[2, 4, 8, 8\]"),
        (torch.rand(3, 8, 8), r"found \[3, 8, 8\]"),
    ],
)
def test_images_that_were_standardised_before_are_refused(images: Tensor, message: str) -> None:
    torch.manual_seed(0)
    encoder = build("resnet50", (3, 8, 8), width=1 / 16, stem="small", prepare=True, size=8)
    with pytest.raises(DataError, match=message):
        encoder(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (8, 8), "order": "gbr"}, "order must be rgb, bgr or grey"),
        ({"size": (8, 0)}, "size must be height and width"),
        ({"size": (8, 8), "order": "grey"}, "order grey needs 1 means"),
        ({"size": (8, 8), "deviation": (1.0, 0.0, 1.0)}, "divisors other than 0"),
    ],
)
def test_bad_specs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputSpec(**settings)


# -- the networks of the theses


def test_mtfl_cnn_equals_its_layers_by_hand() -> None:
    torch.manual_seed(0)
    encoder = mtfl_cnn().double()
    sizes = [(16, 3, 5), (48, 16, 3), (64, 48, 3), (64, 64, 2)]
    state = list(encoder.parameters())
    maps = inputs = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    for index, (filters, channels, side) in enumerate(sizes):
        assert state[2 * index].shape == (filters, channels, side, side)
        maps = torch.relu(functional.conv2d(maps, state[2 * index], state[2 * index + 1]))
        maps = functional.max_pool2d(maps, 2) if index < 3 else maps
    expected = torch.relu(functional.linear(maps.flatten(1), state[8], state[9]))
    torch.testing.assert_close(encoder(inputs), expected)
    assert encoder.num_features == 100


def test_heads_of_thesis_001() -> None:
    torch.manual_seed(0)
    layer = shared_layer(6, 4).eval()
    norm = layer[3]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    inputs = torch.randn(5, 2, 3)
    linear = inputs.flatten(1) @ layer[1].weight.T + layer[1].bias
    leaky = torch.where(linear > 0, linear, 0.01 * linear)
    expected = (leaky - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(layer(inputs), expected)
    head = HeadSpec.from_settings(thesis_001.HEAD).build((4,), 2)
    assert [type(module) for module in head] == [nn.Linear, nn.LeakyReLU, nn.Dropout, nn.Linear]
    assert head[0].out_features == 128


def test_dropout_and_leaky_relu_may_change_places() -> None:
    torch.manual_seed(0)
    inputs, mask = torch.randn(1000), 2.0 * (torch.rand(1000) < 0.5)
    assert torch.equal(functional.leaky_relu(inputs * mask), functional.leaky_relu(inputs) * mask)


@pytest.mark.parametrize("backbone", thesis_001.BACKBONES)
def test_backbones_of_thesis_001_give_its_features(backbone: str) -> None:
    sizes = {"LightCNN": 256, "SphereFace": 512, "Inception-ResNet": 512, "ResNet-50": 2048}
    settings = dict(thesis_001.BACKBONES[backbone])
    with torch.device("meta"):
        encoder = build(settings.pop("name"), (3, 112, 96), **settings)
        shared = build(
            thesis_001.BACKBONES[backbone]["name"], (3, 112, 96), **settings, shared_layers=[512, 256]
        )
    assert encoder.num_features == sizes.get(backbone, 128)
    assert shared.stage_names[-2:] == ("shared_0", "shared_1")
    assert shared.stage_shapes[-2:] == ((512,), (256,))


# -- timm, which needs torchvision and cannot be installed here: a small module of its documented interface


class FakeChain(nn.ModuleDict):
    """What timm's `features_only` gives: layers in order, the marked ones' outputs as a list."""

    def __init__(self, colours: int, *, ordered: bool = True) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(colours, 4, 3, 2, 1),
                act1=nn.ReLU(),
                blocks_0=nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()),
                blocks_1=nn.Conv2d(6, 8, 3, 2, 1),
            )
        )
        self.return_layers = {"act1": "0", "blocks_0": "1", "blocks_1": "2"}
        self.ordered = ordered

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for name, layer in self.items():
            images = layer(images) if self.ordered else -layer(images)
            if name in self.return_layers:
                outputs.append(images)
        return outputs


class FakeWhole(nn.Module):
    def __init__(self, colours: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(colours, 5, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images).mean((2, 3))


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    timm = ModuleType("timm")

    def create_model(
        name: str, *, pretrained: bool, in_chans: int, features_only: bool = False, num_classes: int = 1000
    ) -> nn.Module:
        assert not pretrained
        if name == "vit" and features_only:
            raise RuntimeError("features_only not implemented for Vision Transformer models.")
        if name == "vit":
            assert num_classes == 0
            return FakeWhole(in_chans)
        return FakeChain(in_chans, ordered=name == "net")

    cfg = SimpleNamespace(input_size=(3, 16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    timm.create_model = create_model  # type: ignore[attr-defined]
    timm.list_models = lambda: ["net", "tangled", "vit"]  # type: ignore[attr-defined]
    timm.is_model = lambda name: name.partition(".")[0] in ("net", "tangled", "vit")  # type: ignore[attr-defined]
    timm.models = SimpleNamespace(get_pretrained_cfg=lambda name: cfg)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    return timm


@pytest.mark.usefixtures("fake_timm")
def test_a_chain_of_timm_is_cut_at_its_marks_and_loads_timm_names(tmp_path: Any) -> None:
    torch.manual_seed(0)
    whole = FakeChain(3).eval()
    state = {name.replace("blocks_", "blocks."): value for name, value in whole.state_dict().items()}
    torch.save(state | {"classifier.weight": torch.zeros(7, 8)}, tmp_path / "net.pth")
    encoder = build("timm:net", (3, 20, 12), weights=tmp_path / "net.pth").eval()
    assert encoder.stage_names == ("act1", "blocks_0", "blocks_1")
    assert encoder.stage_shapes == ((4, 8, 8), (6, 4, 4), (8,))
    assert encoder.loaded is not None
    assert encoder.loaded.left_out == ("classifier_weight",)
    images = torch.rand(2, 3, 20, 12)
    small = functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    spread = torch.tensor([0.25, 0.5, 1.0]).view(1, 3, 1, 1)
    expected = whole((small - 0.5) / spread)[-1].mean((2, 3))
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fake_timm")
def test_copies_of_timm_stages_have_starts_of_their_own() -> None:
    encoder = build("timm:net", (3, 16, 16))
    weights = [encoder.stages[0].conv1.weight, *(encoder.copy_stage(0).conv1.weight for _ in range(2))]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    network = share("cross_stitch", encoder, TASKS)
    assert network(torch.rand(2, 3, 16, 16))["age"].shape == (2, 3)


@pytest.mark.usefixtures("fake_timm")
def test_other_networks_of_timm_are_one_stage_and_tangled_ones_are_refused() -> None:
    assert build("timm:vit", (3, 16, 16)).stage_shapes == ((5,),)
    assert build("timm:vit", (3, 16, 16)).stage_names == ("backbone",)
    with pytest.raises(ConfigError, match="the layers of timm's tangled are no chain"):
        build("timm:tangled", (3, 16, 16))
    with pytest.raises(ConfigError, match=r"timm has no model `nett`\. Did you mean `net`"):
        build("timm:nett", (3, 16, 16))
    with pytest.raises(ConfigError, match="`depth` is not a setting of encoder timm:net"):
        build("timm:net", (3, 16, 16), depth=3)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taskloom\[backbones\]'"):
        build("timm:resnet50", (3, 32, 32))
    assert "timm:resnet50" in ENCODERS
    assert not [name for name in ENCODERS if name.startswith("timm")]


def test_torchvision_is_never_imported() -> None:
    for name, (shape, settings) in TINY.items():
        assert isinstance(build(name, shape, **settings), Encoder)
    assert "torchvision" not in sys.modules
