"""Public image networks written out a second time, as functions of a state dict with the public names.

They share nothing with `taskloom.encoders`: no modules, only `torch.nn.functional` on tensors found by name.
`description` gives names and shapes of the full-size networks, from their published tables.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def conv(
    state: State, name: str, maps: Tensor, stride: int = 1, padding: int | tuple[int, int] = 0
) -> Tensor:
    return functional.conv2d(maps, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)


def norm(state: State, name: str, maps: Tensor, eps: float = 1e-5) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(maps, *parts, training=False, eps=eps)


def bottleneck_net(state: State, images: Tensor, names: str) -> Tensor:
    """ResNet-50 or SE-ResNet-50 by "torchvision", "timm", "cydonia" or "authors" names, up to the mean."""
    first_stride = names in ("cydonia", "authors")
    stem = ("conv1_7x7_s2", "conv1_7x7_s2_bn") if names == "authors" else ("conv1", "bn1")
    maps = torch.relu(norm(state, stem[1], conv(state, stem[0], images, 2, 3)))
    maps = functional.max_pool2d(maps, 3, 2, 0 if first_stride else 1, ceil_mode=first_stride)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            stride = 2 if layer > 1 and block == 0 else 1
            c = block_names(names, layer, block)
            inner = torch.relu(norm(state, c[1], conv(state, c[0], maps, stride if first_stride else 1)))
            inner = torch.relu(norm(state, c[3], conv(state, c[2], inner, 1 if first_stride else stride, 1)))
            inner = norm(state, c[5], conv(state, c[4], inner))
            if f"{c[6]}.weight" in state:
                weights = torch.relu(conv(state, c[6], functional.adaptive_avg_pool2d(inner, 1)))
                inner = inner * torch.sigmoid(conv(state, c[7], weights))
            if f"{c[8]}.weight" in state:
                maps = norm(state, c[9], conv(state, c[8], maps, stride))
            maps = torch.relu(inner + maps)
    return maps.mean((2, 3))


def block_names(names: str, layer: int, block: int) -> list[str]:
    """conv, bn, conv, bn, conv, bn, squeeze, excite, shortcut conv, shortcut bn."""
    if names == "authors":
        prefix = f"conv{layer + 1}_{block + 1}"
        ours = ("1x1_reduce", "3x3", "1x1_increase")
        named = [name for part in ours for name in (part, f"{part}_bn")]
        named += ["1x1_down", "1x1_up", "1x1_proj", "1x1_proj_bn"]
        return [f"{prefix}_{part}" for part in named]
    squeeze = ("conv4", "conv5") if names == "cydonia" else ("se.fc1", "se.fc2")
    parts = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", *squeeze, "downsample.0", "downsample.1"]
    return [f"layer{layer}.{block}.{part}" for part in parts]


def bottleneck_shapes(names: str, *, squeeze: bool, width: int = 64) -> Shapes:
    stem = ("conv1_7x7_s2", "conv1_7x7_s2_bn") if names == "authors" else ("conv1", "bn1")
    shapes: Shapes = {f"{stem[0]}.weight": (width, 3, 7, 7), **norm_shapes(stem[1], width)}
    inputs = width
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        filters = width * 2 ** (layer - 1)
        outputs = 4 * filters
        for block in range(blocks):
            c = block_names(names, layer, block)
            sizes = [(filters, inputs, 1), (filters, filters, 3), (outputs, filters, 1)]
            for index, (out, into, side) in enumerate(sizes):
                shapes[f"{c[2 * index]}.weight"] = (out, into, side, side)
                shapes |= norm_shapes(c[2 * index + 1], out)
            if squeeze:
                shapes |= conv_shapes(c[6], outputs // 16, outputs, 1) | conv_shapes(
                    c[7], outputs, outputs // 16, 1
                )
            if block == 0:
                shapes[f"{c[8]}.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm_shapes(c[9], outputs)
            inputs = outputs
    return shapes


def norm_shapes(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def conv_shapes(name: str, out: int, into: int, side: int) -> Shapes:
    return {f"{name}.weight": (out, into, side, side), f"{name}.bias": (out,)}


def vgg16(state: State, images: Tensor, *, batch_norm: bool) -> Tensor:
    """torchvision's vgg16 up to the first two layers of its classifier."""
    index, maps = 0, images
    for entry in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if entry == "M":
            maps, index = functional.max_pool2d(maps, 2), index + 1
            continue
        maps = conv(state, f"features.{index}", maps, 1, 1)
        if batch_norm:
            maps = norm(state, f"features.{index + 1}", maps)
        maps, index = torch.relu(maps), index + (3 if batch_norm else 2)
    flat = functional.adaptive_avg_pool2d(maps, 7).flatten(1)
    for layer in ("classifier.0", "classifier.3"):
        flat = torch.relu(functional.linear(flat, state[f"{layer}.weight"], state[f"{layer}.bias"]))
    return flat


def vgg16_shapes(*, batch_norm: bool, divisor: int = 1) -> Shapes:
    shapes: Shapes = {}
    index, inputs = 0, 3
    for entry in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if entry == 0:
            index += 1
            continue
        filters = entry // divisor
        shapes |= conv_shapes(f"features.{index}", filters, inputs, 3)
        if batch_norm:
            shapes |= norm_shapes(f"features.{index + 1}", filters)
        index, inputs = index + (3 if batch_norm else 2), filters
    units = 4096 // divisor
    for layer, out, into in ((0, units, 49 * inputs), (3, units, units), (6, 1000, units)):
        shapes |= {f"classifier.{layer}.weight": (out, into), f"classifier.{layer}.bias": (out,)}
    return shapes


def densenet(state: State, images: Tensor, layers: tuple[int, ...]) -> Tensor:
    """torchvision's DenseNet with its new names, up to the mean."""
    maps = torch.relu(norm(state, "features.norm0", conv(state, "features.conv0", images, 2, 3)))
    maps = functional.max_pool2d(maps, 3, 2, 1)
    for block, count in enumerate(layers, start=1):
        for layer in range(1, count + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            inner = conv(state, f"{name}.conv1", torch.relu(norm(state, f"{name}.norm1", maps)))
            inner = conv(state, f"{name}.conv2", torch.relu(norm(state, f"{name}.norm2", inner)), 1, 1)
            maps = torch.cat([maps, inner], 1)
        if block < len(layers):
            name = f"features.transition{block}"
            maps = conv(state, f"{name}.conv", torch.relu(norm(state, f"{name}.norm", maps)))
            maps = functional.avg_pool2d(maps, 2)
    return torch.relu(norm(state, "features.norm5", maps)).mean((2, 3))


def densenet_shapes(layers: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> Shapes:
    channels = 2 * growth
    shapes: Shapes = {"features.conv0.weight": (channels, 3, 7, 7), **norm_shapes("features.norm0", channels)}
    for block, count in enumerate(layers, start=1):
        for layer in range(1, count + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            shapes |= norm_shapes(f"{name}.norm1", channels) | norm_shapes(f"{name}.norm2", 4 * growth)
            shapes[f"{name}.conv1.weight"] = (4 * growth, channels, 1, 1)
            shapes[f"{name}.conv2.weight"] = (growth, 4 * growth, 3, 3)
            channels += growth
        if block < len(layers):
            shapes |= norm_shapes(f"features.transition{block}.norm", channels)
            shapes[f"features.transition{block}.conv.weight"] = (channels // 2, channels, 1, 1)
            channels //= 2
    return shapes | norm_shapes("features.norm5", channels)


def mfm(state: State, name: str, maps: Tensor, padding: int = 0) -> Tensor:
    name = f"{name}.filter"
    if state[f"{name}.weight"].dim() == 2:
        wide = functional.linear(maps, state[f"{name}.weight"], state[f"{name}.bias"])
    else:
        wide = conv(state, name, maps, 1, padding)
    half = wide.shape[1] // 2
    return torch.max(wide[:, :half], wide[:, half:])


def lightcnn(state: State, images: Tensor, layers: int) -> Tensor:
    def pool(maps: Tensor) -> Tensor:
        return functional.max_pool2d(maps, 2, ceil_mode=True)

    def group(name: str, maps: Tensor) -> Tensor:
        return mfm(state, f"{name}.conv", mfm(state, f"{name}.conv_a", maps), 1)

    if layers == 9:
        maps = pool(mfm(state, "features.0", images, 2))
        maps = pool(group("features.4", pool(group("features.2", maps))))
        maps = pool(group("features.7", group("features.6", maps)))
        return mfm(state, "fc1", maps.flatten(1))
    maps = pool(mfm(state, "conv1", images, 2))
    for number in (1, 2, 3, 4):
        for block in range(number):
            name = f"block{number}.{block}"
            maps = maps + mfm(state, f"{name}.conv2", mfm(state, f"{name}.conv1", maps, 1), 1)
        maps = group(f"group{number}", maps)
        maps = maps if number == 3 else pool(maps)
    return mfm(state, "fc", maps.flatten(1))


def lightcnn_shapes(layers: int) -> Shapes:
    def two(name: str, into: int, out: int, side: int) -> Shapes:
        return conv_shapes(f"{name}.filter", 2 * out, into, side)

    sizes = [(48, 96), (96, 192), (192, 128), (128, 128)]
    names = {9: ("features.0", ("features.2", "features.4", "features.6", "features.7"), "fc1")}.get(
        layers, ("conv1", ("group1", "group2", "group3", "group4"), "fc")
    )
    shapes = two(names[0], 1, 48, 5)
    for number, (name, (into, out)) in enumerate(zip(names[1], sizes, strict=True), start=1):
        for block in range(number if layers == 29 else 0):
            shapes |= two(f"block{number}.{block}.conv1", into, into, 3)
            shapes |= two(f"block{number}.{block}.conv2", into, into, 3)
        shapes |= two(f"{name}.conv_a", into, into, 1) | two(f"{name}.conv", into, out, 3)
    shapes |= {f"{names[2]}.filter.weight": (512, 8 * 8 * 128), f"{names[2]}.filter.bias": (512,)}
    return shapes | {"fc2.weight": (79077, 256), "fc2.bias": (79077,)}


def sphereface(state: State, images: Tensor) -> Tensor:
    def layer(name: str, maps: Tensor, stride: int = 1) -> Tensor:
        slopes = state[f"relu{name}.weight"].view(1, -1, 1, 1)
        maps = conv(state, f"conv{name}", maps, stride, 1)
        return torch.where(maps > 0, maps, slopes * maps)

    maps = images
    for stage, units in enumerate((1, 2, 4, 1), start=1):
        maps = layer(f"{stage}_1", maps, 2)
        for unit in range(units):
            maps = maps + layer(f"{stage}_{2 * unit + 3}", layer(f"{stage}_{2 * unit + 2}", maps))
    return functional.linear(maps.flatten(1), state["fc5.weight"], state["fc5.bias"])


def sphereface_shapes() -> Shapes:
    shapes: Shapes = {}
    inputs = 3
    for stage, (filters, convolutions) in enumerate(((64, 3), (128, 5), (256, 9), (512, 3)), start=1):
        for index in range(1, convolutions + 1):
            shapes |= conv_shapes(f"conv{stage}_{index}", filters, inputs, 3)
            shapes[f"relu{stage}_{index}.weight"] = (filters,)
            inputs = filters
    return shapes | {"fc5.weight": (512, 512 * 7 * 6), "fc5.bias": (512,), "fc6.weight": (512, 10574)}


def _chains() -> Iterator[tuple[str, list[tuple[str, int, int, int]]]]:
    """Inception-ResNet-v1's convolutions with batch norm: name, in, out, height and width."""
    yield "", [
        ("conv2d_1a", 3, 32, 33), ("conv2d_2a", 32, 32, 33), ("conv2d_2b", 32, 64, 33),
        ("conv2d_3b", 64, 80, 11), ("conv2d_4a", 80, 192, 33), ("conv2d_4b", 192, 256, 33),
    ]  # fmt: skip
    for index in range(5):
        yield f"repeat_1.{index}", [
            ("branch0", 256, 32, 11), ("branch1.0", 256, 32, 11), ("branch1.1", 32, 32, 33),
            ("branch2.0", 256, 32, 11), ("branch2.1", 32, 32, 33), ("branch2.2", 32, 32, 33),
        ]  # fmt: skip
    yield "mixed_6a", [
        ("branch0", 256, 384, 33), ("branch1.0", 256, 192, 11), ("branch1.1", 192, 192, 33),
        ("branch1.2", 192, 256, 33),
    ]  # fmt: skip
    for index in range(10):
        yield f"repeat_2.{index}", [
            ("branch0", 896, 128, 11), ("branch1.0", 896, 128, 11), ("branch1.1", 128, 128, 17),
            ("branch1.2", 128, 128, 71),
        ]  # fmt: skip
    yield "mixed_7a", [
        ("branch0.0", 896, 256, 11), ("branch0.1", 256, 384, 33), ("branch1.0", 896, 256, 11),
        ("branch1.1", 256, 256, 33), ("branch2.0", 896, 256, 11), ("branch2.1", 256, 256, 33),
        ("branch2.2", 256, 256, 33),
    ]  # fmt: skip
    for name in (*(f"repeat_3.{index}" for index in range(5)), "block8"):
        yield name, [
            ("branch0", 1792, 192, 11), ("branch1.0", 1792, 192, 11), ("branch1.1", 192, 192, 13),
            ("branch1.2", 192, 192, 31),
        ]  # fmt: skip


_JOINED = (("repeat_1", 96, 256), ("repeat_2", 256, 896), ("repeat_3", 384, 1792), ("block8", 384, 1792))
"""Where a 1 x 1 convolution joins branches, channels that come in, channels that go out."""


def facenet_shapes(divisor: int = 1) -> Shapes:
    shapes: Shapes = {}
    for prefix, convolutions in _chains():
        for name, into, out, kernel in convolutions:
            full = f"{prefix}.{name}".strip(".")
            colours = into if into == 3 else into // divisor
            shapes[f"{full}.conv.weight"] = (out // divisor, colours, kernel // 10, kernel % 10)
            shapes |= norm_shapes(f"{full}.bn", out // divisor)
        for start, joined, channels in _JOINED:
            if prefix.startswith(start):
                shapes |= conv_shapes(f"{prefix}.conv2d", channels // divisor, joined // divisor, 1)
    shapes["last_linear.weight"] = (512 // divisor, 1792 // divisor)
    return shapes | norm_shapes("last_bn", 512 // divisor)


def facenet(state: State, images: Tensor) -> Tensor:
    """facenet-pytorch's InceptionResnetV1 up to its last batch norm, without dropout."""

    def unit(name: str, maps: Tensor, stride: int = 1, padded: bool = True) -> Tensor:
        height, width = state[f"{name}.conv.weight"].shape[2:]
        padding = (height // 2, width // 2) if padded else (0, 0)
        return torch.relu(norm(state, f"{name}.bn", conv(state, f"{name}.conv", maps, stride, padding), 1e-3))

    def residual(name: str, maps: Tensor, scale: float) -> Tensor:
        outputs = []
        for index in range(3):
            if f"{name}.branch{index}.conv.weight" in state:
                outputs.append(unit(f"{name}.branch{index}", maps))
            elif f"{name}.branch{index}.0.conv.weight" in state:
                inner, step = maps, 0
                while f"{name}.branch{index}.{step}.conv.weight" in state:
                    inner, step = unit(f"{name}.branch{index}.{step}", inner), step + 1
                outputs.append(inner)
        return maps + scale * conv(state, f"{name}.conv2d", torch.cat(outputs, 1))

    maps = unit("conv2d_1a", images, 2, padded=False)
    maps = unit("conv2d_2b", unit("conv2d_2a", maps, padded=False))
    maps = unit("conv2d_3b", functional.max_pool2d(maps, 3, 2), padded=False)
    maps = unit("conv2d_4b", unit("conv2d_4a", maps, padded=False), 2, padded=False)
    for index in range(5):
        maps = torch.relu(residual(f"repeat_1.{index}", maps, 0.17))
    inner = unit("mixed_6a.branch1.1", unit("mixed_6a.branch1.0", maps))
    inner = unit("mixed_6a.branch1.2", inner, 2, padded=False)
    first = unit("mixed_6a.branch0", maps, 2, padded=False)
    maps = torch.cat([first, inner, functional.max_pool2d(maps, 3, 2)], 1)
    for index in range(10):
        maps = torch.relu(residual(f"repeat_2.{index}", maps, 0.1))
    ends = []
    for branch, steps in ((0, 1), (1, 1), (2, 2)):
        inner = maps
        for step in range(steps):
            inner = unit(f"mixed_7a.branch{branch}.{step}", inner)
        ends.append(unit(f"mixed_7a.branch{branch}.{steps}", inner, 2, padded=False))
    maps = torch.cat([*ends, functional.max_pool2d(maps, 3, 2)], 1)
    for index in range(5):
        maps = torch.relu(residual(f"repeat_3.{index}", maps, 0.2))
    features = residual("block8", maps, 1.0).mean((2, 3))
    return norm(state, "last_bn", functional.linear(features, state["last_linear.weight"]), 1e-3)


def drawn(shapes: Shapes, seed: int = 0) -> State:
    """Weights under which nothing dies or explodes: normal after He, norms near 1, variances above 0."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 1 and name.endswith("weight"):
            state[name] = torch.rand(shape, generator=generator) * 0.5 + 0.25
        else:
            fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return state
