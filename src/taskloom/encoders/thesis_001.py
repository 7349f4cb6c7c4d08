"""The networks of thesis 001: a pretrained face backbone, shared layers, and a head per task (section 3.2).

The figure that gives the layers' sizes is not in the text; the text gives the last layer of a two-class task
as 128 x 2, so heads have a hidden layer of 128. `SHARED_LAYERS` are ours. Dropout and leaky ReLU come after
the head's hidden layer in either order: dropout multiplies by a number of at least 0, through which leaky
ReLU may be pulled.

    encoder: {name: se_resnet50, embedding: 128, weights: senet50_128.pth, shared_layers: [512, 256]}
    head:    {hidden: [128], activation: leaky_relu, dropout: 0.5}
    cells:   [{hard_sharing: {stages: 8}}]          # five of the backbone, its embedding, two shared layers
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SHARED_LAYERS = (512, 256)
"""Widths of the fully connected layers that all tasks share, each with leaky ReLU and then batch norm."""

HEAD: Mapping[str, Any] = MappingProxyType({"hidden": (128,), "activation": "leaky_relu", "dropout": 0.5})
"""Settings of every task's head: linear, leaky ReLU and dropout, linear. The rate is ours too."""

BACKBONES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "LightCNN": MappingProxyType({"name": "lightcnn29"}),
        "SphereFace": MappingProxyType({"name": "sphereface20"}),
        "Inception-ResNet": MappingProxyType({"name": "inception_resnet_v1"}),
        "ResNet-50": MappingProxyType({"name": "resnet50", "style": "vggface2"}),
        "SE-ResNet-50-128D": MappingProxyType({"name": "se_resnet50", "embedding": 128}),
    }
)
"""The five backbones of table 4.5 as encoders; each wants `weights`."""
