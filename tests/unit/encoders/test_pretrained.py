"""Weights by their public names: full key-and-shape tables, and the outputs of the public network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import taskloom as tl
from _public_networks import (
    Shapes,
    State,
    bottleneck_net,
    bottleneck_shapes,
    densenet,
    densenet_shapes,
    drawn,
    facenet,
    facenet_shapes,
    lightcnn,
    lightcnn_shapes,
    sphereface,
    sphereface_shapes,
    vgg16,
    vgg16_shapes,
)
from taskloom.deploy import load_bundle, save_bundle
from taskloom.encoders import Encoder, build, load_state, read_state_dict, without_weights
from taskloom.encoders.checkpoints import Layout
from taskloom.encoders.layouts import (
    DENSENET,
    INCEPTION_RESNET_V1,
    LIGHTCNN9,
    LIGHTCNN29,
    SPHEREFACE20,
    resnet_layouts,
    vgg16_layouts,
)
from taskloom.errors import ConfigError, DataError

TORCHVISION, (CYDONIA, AUTHORS) = resnet_layouts("torchvision")[0], resnet_layouts("vggface2")
EMBEDDING: Shapes = {"feat_extract.weight": (128, 2048, 1, 1)}
CAFFE, PLAIN = {"style": "vggface2"}, {"style": "torchvision"}

TABLES: list[tuple[str, tuple[int, int, int], dict[str, Any], Layout, Shapes]] = [
    ("resnet50", (3, 224, 224), {}, TORCHVISION, bottleneck_shapes("torchvision", squeeze=False)),
    ("resnet50", (3, 224, 224), CAFFE, CYDONIA, bottleneck_shapes("cydonia", squeeze=False)),
    (
        "resnet50",
        (3, 224, 224),
        {**CAFFE, "embedding": 128},
        AUTHORS,
        bottleneck_shapes("authors", squeeze=False) | EMBEDDING,
    ),
    ("se_resnet50", (3, 224, 224), {}, CYDONIA, bottleneck_shapes("cydonia", squeeze=True)),
    (
        "se_resnet50",
        (3, 224, 224),
        {"embedding": 128},
        AUTHORS,
        bottleneck_shapes("authors", squeeze=True) | EMBEDDING,
    ),
    ("se_resnet50", (3, 224, 224), PLAIN, TORCHVISION, bottleneck_shapes("timm", squeeze=True)),
    ("vgg16", (3, 224, 224), {"dense": True}, vgg16_layouts(False)[0], vgg16_shapes(batch_norm=False)),
    (
        "vgg16",
        (3, 224, 224),
        {"dense": True, "batch_norm": True},
        vgg16_layouts(True)[0],
        vgg16_shapes(batch_norm=True),
    ),
    ("densenet121", (3, 224, 224), {}, DENSENET[0], densenet_shapes()),
    ("lightcnn9", (1, 128, 128), {}, LIGHTCNN9[0], lightcnn_shapes(9)),
    ("lightcnn29", (1, 128, 128), {}, LIGHTCNN29[0], lightcnn_shapes(29)),
    ("sphereface20", (3, 112, 96), {}, SPHEREFACE20[0], sphereface_shapes()),
    ("inception_resnet_v1", (3, 160, 160), {}, INCEPTION_RESNET_V1[0], facenet_shapes()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "settings", "layout", "expected"), TABLES)
def test_names_and_shapes_are_those_of_the_public_network(
    name: str, shape: tuple[int, ...], settings: dict[str, Any], layout: Layout, expected: Shapes
) -> None:
    with torch.device("meta"):
        encoder = build(name, shape, **settings)
    found = {layout.rename(key): tuple(value.shape) for key, value in encoder.state_dict().items()}
    kept = {
        key: shape
        for key, shape in expected.items()
        if key in found or not any(re.fullmatch(pattern, key) for pattern in layout.extra)
    }
    if "feat_extract.weight" in kept:  # a 1 x 1 convolution there, a linear layer here
        assert found["feat_extract.weight"] == kept.pop("feat_extract.weight")[:2]
        found.pop("feat_extract.weight")
    assert found == kept


Case = tuple[str, tuple[int, int, int], dict[str, Any], Shapes, Callable[[State, Tensor], Tensor]]
OUTPUTS: dict[str, Case] = {
    "torchvision resnet50": (
        "resnet50", (3, 64, 72), {"width": 0.25}, bottleneck_shapes("torchvision", squeeze=False, width=16),
        lambda state, images: bottleneck_net(state, images, "torchvision"),
    ),
    "timm seresnet50": (
        "se_resnet50", (3, 64, 72), {"width": 0.25, "style": "torchvision"},
        bottleneck_shapes("timm", squeeze=True, width=16),
        lambda state, images: bottleneck_net(state, images, "timm"),
    ),
    "cydonia999 resnet50, BGR": (
        "resnet50", (3, 65, 72), {"width": 0.25, **CAFFE},
        bottleneck_shapes("cydonia", squeeze=False, width=16),
        lambda state, images: bottleneck_net(state, images.flip(1), "cydonia"),
    ),
    "cydonia999 senet50, BGR": (
        "se_resnet50", (3, 64, 71), {"width": 0.25}, bottleneck_shapes("cydonia", squeeze=True, width=16),
        lambda state, images: bottleneck_net(state, images.flip(1), "cydonia"),
    ),
    "VGGFace2 authors' senet50_128": (
        "se_resnet50", (3, 64, 72), {"width": 0.25, "embedding": 128},
        bottleneck_shapes("authors", squeeze=True, width=16) | {"feat_extract.weight": (128, 512, 1, 1)},
        lambda state, images: bottleneck_net(state, images, "authors")
        @ state["feat_extract.weight"].flatten(1).T,
    ),
    "torchvision vgg16": (
        "vgg16", (3, 224, 192), {"width": 0.125, "dense": True}, vgg16_shapes(batch_norm=False, divisor=8),
        lambda state, images: vgg16(state, images, batch_norm=False),
    ),
    "torchvision vgg16_bn": (
        "vgg16", (3, 64, 64), {"width": 0.125, "dense": True, "batch_norm": True},
        vgg16_shapes(batch_norm=True, divisor=8), lambda state, images: vgg16(state, images, batch_norm=True),
    ),
    "torchvision densenet": (
        "densenet121", (3, 64, 72), {"growth": 8, "layers": (2, 3, 4, 2)}, densenet_shapes((2, 3, 4, 2), 8),
        lambda state, images: densenet(state, images, (2, 3, 4, 2)),
    ),
    "LightCNN-9": (
        "lightcnn9", (1, 128, 128), {}, lightcnn_shapes(9), lambda state, images: lightcnn(state, images, 9)
    ),
    "LightCNN-29": (
        "lightcnn29", (1, 128, 128), {}, lightcnn_shapes(29),
        lambda state, images: lightcnn(state, images, 29),
    ),
    "sphere20a, BGR": (
        "sphereface20", (3, 112, 96), {}, sphereface_shapes(),
        lambda state, images: sphereface(state, images.flip(1)),
    ),
    "facenet": ("inception_resnet_v1", (3, 96, 91), {"width": 0.25}, facenet_shapes(4), facenet),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_are_those_of_the_public_network(case: str, tmp_path: Path) -> None:
    name, shape, settings, shapes, reference = OUTPUTS[case]
    state = drawn({key: shape for key, shape in shapes.items() if not key.startswith("fc2.")})
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    encoder = build(name, shape, **settings, weights=tmp_path / "w.pth", prepare=False).eval()
    assert encoder.loaded is not None
    assert encoder.loaded.complete
    images = torch.randn(2, *shape)
    with torch.no_grad():
        expected, found = reference(state, images), encoder(images)
    assert expected.std().item() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_old_names_of_densenet_are_known() -> None:
    state = drawn(densenet_shapes((1, 1, 1, 1), 4))
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in state.items()}
    assert set(old) != set(state)
    encoders = [build("densenet121", (3, 32, 32), growth=4, layers=(1, 1, 1, 1)).eval() for _ in range(2)]
    for encoder, given in zip(encoders, (state, old), strict=True):
        report = load_state(encoder, given | {"classifier.weight": torch.zeros(10, 8)}, DENSENET)
        assert report.left_out == ("classifier.weight",)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoders[0](images), encoders[1](images))


# -- files


def tiny(**settings: Any) -> Encoder:
    return build("resnet50", (3, 32, 32), width=1 / 16, **settings)


def tiny_state() -> State:
    return drawn(bottleneck_shapes("torchvision", squeeze=False, width=4))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_formats_prefixes_and_nesting(suffix: str, nested: bool, tmp_path: Path) -> None:
    state = tiny_state()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if nested else state, path)
    read = read_state_dict(path)
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(read[name], value)


def test_weights_reach_every_copy_and_a_bundle_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(tiny_state() | {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}, path)
    settings = {"name": "resnet50", "width": 1 / 16, "weights": str(path), "shared_layers": [6]}
    encoder = build("resnet50", (3, 32, 32), **{key: settings[key] for key in settings if key != "name"})
    assert encoder.pretrained == frozenset(range(5))
    assert encoder.stage_names[-1] == "shared_0"
    assert encoder.input_spec is not None
    assert encoder.loaded is not None
    assert encoder.loaded.left_out == ("fc.weight", "fc.bias")
    tasks = tl.TaskSet(tl.Binary("a"), tl.Binary("b"))
    network = tl.sharing.build("cross_stitch", encoder, tasks)
    copies = list(network.stages["layer2"].values())
    for name, value in encoder.stages[2].state_dict().items():
        assert all(torch.equal(copy.state_dict()[name], value) for copy in copies)
    fresh = [copy[1].weight for copy in network.stages["shared_0"].values()]
    assert not torch.equal(fresh[0], fresh[1])
    how = {"input_shape": (3, 32, 32), "encoder": settings, "sharing": {"name": "cross_stitch"}}
    bundle = save_bundle(tmp_path / "faces", network, **how)
    path.unlink()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.eval()(images)
    loaded = load_bundle(bundle)
    with torch.no_grad():
        for task, output in loaded.model(images).items():
            assert torch.equal(output, expected[task])
    with pytest.raises(DataError, match="found no such file"):
        tiny(weights=path)
    with without_weights():
        assert tiny(weights=path).pretrained == frozenset()


def test_a_partial_load_says_exactly_what_was_left_out(tmp_path: Path) -> None:
    state = tiny_state()
    del state["layer3.1.conv2.weight"]
    state["conv1.weight"] = torch.zeros(5, 3, 7, 7)
    state["something.else"] = torch.zeros(2)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(DataError) as refused:
        tiny(weights=path)
    told = str(refused.value)
    for part in (
        str(path),
        "missing: `layer3.1.conv2.weight`",
        "unexpected: `something.else`",
        "conv1.weight (5 x 3 x 7 x 7, expected 4 x 3 x 7 x 7)",
        "`partial: true`",
    ):
        assert part in told
    with pytest.warns(UserWarning, match=r"missing: `layer3\.1\.conv2\.weight`"):
        encoder = tiny(weights=path, partial=True)
    report = encoder.loaded
    assert report is not None
    assert report.missing == ("layer3.1.conv2.weight",)
    assert report.mismatched == (("conv1.weight", (5, 3, 7, 7), (4, 3, 7, 7)),)
    assert report.unexpected == ("something.else",)
    assert torch.equal(encoder.stages[1][0].conv2.weight, state["layer1.0.conv2.weight"])


def test_weights_of_another_network_are_refused_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "sphere.pth"
    torch.save({"conv1_1.weight": torch.zeros(64, 3, 3, 3), "conv1_1.bias": torch.zeros(64)}, path)
    encoder = tiny()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    message = r"another network: it names `conv1_1\.weight`, `conv1_1\.bias`; entries such as conv1\.weight"
    with pytest.raises(DataError, match=message):
        load_state(encoder, read_state_dict(path), resnet_layouts("torchvision"), partial=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("style", "people"), [("torchvision", 8631), ("vggface2", 1000)])
def test_a_twin_with_strides_elsewhere_is_refused(style: str, people: int) -> None:
    state = tiny_state() | {"fc.weight": torch.zeros(people, 128), "fc.bias": torch.zeros(people)}
    other = {"torchvision": "vggface2", "vggface2": "torchvision"}[style]
    with pytest.raises(DataError, match=f"set `style: {other}`"):
        load_state(tiny(style=style), state, resnet_layouts(style))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Harmful(), "holds Python objects other than tensors"),
        ([torch.zeros(2)], "a state dict .* expected, found a list"),
        ({"epoch": 3, "loss": 0.5}, "found a dictionary with `epoch`, `loss`"),
        ({}, "found an empty dictionary"),
    ],
)
def test_pickles_that_are_no_state_dict_are_refused(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(DataError, match=message):
        read_state_dict(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_cut_off_are_refused(suffix: str, tmp_path: Path) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tiny_state(), whole)
    else:
        safetensors.torch.save_file(tiny_state(), whole)
    for content in (whole.read_bytes()[:1000], b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cut off or of another format|other than tensors"):
            read_state_dict(path)


def test_a_picture_is_no_checkpoint_and_a_pickle_of_another_protocol_is_told_without_a_warning(
    tmp_path: Path,
) -> None:
    (tmp_path / "face.pth").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(DataError, match="cannot be read as weights; it is cut off or of another format"):
        read_state_dict(tmp_path / "face.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"x": [1, 2]}, protocol=4))
    with pytest.raises(DataError, match="other than tensors"):  # warnings are errors here
        read_state_dict(tmp_path / "plain.pkl")


def test_sizes_that_the_weights_do_not_fit_are_told_what_to_do() -> None:
    encoder = build("lightcnn9", (1, 64, 64))
    with pytest.raises(
        DataError, match=r"fc1\.filter\.weight \(512 x 8192, expected 512 x 2048\).*image size"
    ):
        load_state(encoder, {k: v for k, v in drawn(lightcnn_shapes(9)).items() if "fc2" not in k}, LIGHTCNN9)


def test_size_without_preparation_is_refused() -> None:
    with pytest.raises(ConfigError, match="changes the size of images only where it prepares them"):
        tiny(size=64)
    with pytest.raises(ConfigError, match="has no public weights whose preparation"):
        build("vgg5", (3, 32, 32), prepare=True)
