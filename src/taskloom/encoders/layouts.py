"""How public implementations name the weights of our image encoders; see `taskloom.encoders.checkpoints`.

Read off the implementations themselves (names, order of layers), 2026:

===================  ===============================================================================
encoder              names
===================  ===============================================================================
resnet18, resnet50   torchvision (timm's are the same)
resnet50 (vggface2)  the authors' PyTorch files (conv2_1_1x1_reduce), cydonia999/VGGFace2-pytorch
se_resnet50          the same two; timm's seresnet50
vgg16, densenet121   torchvision, with the old spelling of DenseNet (norm.1 for norm1)
lightcnn9, 29        AlfredXiangWu/LightCNN
sphereface20         clcarwin/sphereface_pytorch
inception_resnet_v1  timesler/facenet-pytorch
===================  ===============================================================================
"""

from __future__ import annotations

import re

from taskloom.encoders.checkpoints import Layout
from taskloom.errors import ConfigError

_CLASSIFIER = (r"fc\.(weight|bias)",)
_VGGFACE2_PEOPLE, _IMAGENET_CLASSES = 8631, 1000


def resnet_layouts(style: str) -> tuple[Layout, ...]:
    """Layouts of `resnet18`, `resnet50` and `se_resnet50` in a style ("torchvision" or "vggface2")."""
    if style == "torchvision":
        message = (
            "the classifier has the 8,631 people of VGGFace2, whose networks have their strides and pooling "
            "elsewhere; set `style: vggface2`."
        )
        return (
            Layout(
                "torchvision and timm",
                torchvision_resnet_name,
                extra=_CLASSIFIER,
                refused={_VGGFACE2_PEOPLE: message},
            ),
        )
    message = (
        "the classifier has the 1,000 classes of ImageNet, whose networks have their strides and pooling "
        "elsewhere; set `style: torchvision`."
    )
    return (
        Layout(
            "cydonia999/VGGFace2-pytorch",
            _cydonia_name,
            extra=_CLASSIFIER,
            bgr=True,
            refused={_IMAGENET_CLASSES: message},
        ),
        Layout(
            "the VGGFace2 authors",
            _vggface2_name,
            extra=(r"classifier\.(weight|bias)", r"feat_extract\.weight"),
        ),
    )


def torchvision_resnet_name(name: str) -> str:
    """`stages.0.conv1.weight` is `conv1.weight`, `stages.2.0.bn1.bias` is `layer2.0.bn1.bias`.

    Raises:
        ConfigError: The name is not one of a ResNet's state dict.

    Example:
        >>> torchvision_resnet_name("stages.5.feat_extract.weight")
        'feat_extract.weight'
    """
    match = re.fullmatch(r"stages\.([0-5])\.(.+)", name)
    if match is None:
        raise ConfigError(
            f"`{name}` is not a name of resnet18's state dict, as `stages.1.0.conv1.weight` is."
        )
    stage, inner = match.groups()
    return inner if stage in "05" else f"layer{stage}.{inner}"


def _cydonia_name(name: str) -> str:
    return torchvision_resnet_name(name).replace(".se.fc1.", ".conv4.").replace(".se.fc2.", ".conv5.")


_VGGFACE2_PARTS = {
    "conv1": "1x1_reduce",
    "bn1": "1x1_reduce_bn",
    "conv2": "3x3",
    "bn2": "3x3_bn",
    "conv3": "1x1_increase",
    "bn3": "1x1_increase_bn",
    "se.fc1": "1x1_down",
    "se.fc2": "1x1_up",
    "downsample.0": "1x1_proj",
    "downsample.1": "1x1_proj_bn",
}


def _vggface2_name(name: str) -> str:
    theirs = torchvision_resnet_name(name)
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)\.(\w+)", theirs)
    if match is None:
        return theirs.replace("conv1.", "conv1_7x7_s2.").replace("bn1.", "conv1_7x7_s2_bn.")
    layer, block, part, entry = match.groups()
    return f"conv{int(layer) + 1}_{int(block) + 1}_{_VGGFACE2_PARTS[part]}.{entry}"


_VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)


def vgg16_layouts(batch_norm: bool) -> tuple[Layout, ...]:
    """Layouts of `vgg16`: torchvision's numbers count every layer, so batch norm moves them."""
    numbers: dict[str, int] = {}
    position = 0
    for stage, convolutions in enumerate(_VGG16_CONVOLUTIONS):
        for index in range(convolutions):
            numbers[f"stages.{stage}.conv{index}"] = position
            if batch_norm:
                numbers[f"stages.{stage}.norm{index}"] = position + 1
            position += 3 if batch_norm else 2
        position += 1

    def rename(name: str) -> str:
        module, _, entry = name.rpartition(".")
        if module in numbers:
            return f"features.{numbers[module]}.{entry}"
        return f"classifier.{'0' if module.endswith('fc6') else '3'}.{entry}"

    return (Layout("torchvision", rename, extra=(r"classifier\.\d\.(weight|bias)",)),)


def _densenet_name(name: str) -> str:
    stage, inner = re.sub(r"^stages\.", "", name).split(".", 1)
    if stage == "0" or inner.startswith("norm5"):
        return f"features.{inner}"
    if inner.startswith("transition"):
        return f"features.transition{stage}.{inner.removeprefix('transition.')}"
    return f"features.denseblock{stage}.{inner}"


def _densenet_clean(name: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


DENSENET = (
    Layout("torchvision", _densenet_name, clean=_densenet_clean, extra=(r"classifier\.(weight|bias)",)),
)

_LIGHTCNN9 = {
    "0.conv1": "features.0",
    "1.group1": "features.2",
    "2.group2": "features.4",
    "3.group3": "features.6",
    "3.group4": "features.7",
    "4.fc": "fc1",
}


def _lightcnn9_name(name: str) -> str:
    stage, module, rest = re.sub(r"^stages\.", "", name).split(".", 2)
    return f"{_LIGHTCNN9[f'{stage}.{module}']}.{rest}"


def _without_stage(name: str) -> str:
    """`stages.2.conv.weight` is `conv.weight`: our layers have the names of the public network."""
    return re.sub(r"^stages\.\d+\.", "", name)


def _sphereface_name(name: str) -> str:
    return re.sub(r"^stages\.\d+\.(unit\.)?", "", name)


LIGHTCNN9 = (Layout("AlfredXiangWu/LightCNN", _lightcnn9_name, extra=(r"fc2\.(weight|bias)",)),)
LIGHTCNN29 = (Layout("AlfredXiangWu/LightCNN", _without_stage, extra=(r"fc2\.(weight|bias)",)),)
SPHEREFACE20 = (Layout("clcarwin/sphereface_pytorch", _sphereface_name, extra=(r"fc6\.weight",), bgr=True),)
INCEPTION_RESNET_V1 = (Layout("timesler/facenet-pytorch", _without_stage, extra=(r"logits\.(weight|bias)",)),)
