"""What an image encoder does to images before its first layer: size, channel order, scale; memory order."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from taskloom.errors import ConfigError, DataError

Order = Literal["rgb", "bgr", "grey"]

_LUMINANCE = (0.299, 0.587, 0.114)
_SLACK = 1e-3
"""How far resizing and half precision may carry a value out of 0..1."""


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see; images come as RGB, uint8 or 0..1.

    An image x of 0..1 becomes (`scale` * x - `mean`) / `deviation` per channel, in the order of the channels.

    Args:
        size: Height and width in pixels.
        order: "rgb", "bgr", or "grey" (one channel, 0.299 R + 0.587 G + 0.114 B).
        scale: 1 for networks that want 0..1, 255 for those that want 0..255.
        mean: Mean per channel, on that scale.
        deviation: Divisor per channel, on that scale.
        source: Where this is written.

    Raises:
        ConfigError: A size, order or divisor that makes no sense, or not one mean and divisor per channel.

    Example:
        >>> spec = InputSpec((2, 2), "bgr", 255.0, (1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
        >>> white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
        >>> Preparation(spec)(white)[0, :, 0, 0]
        tensor([127.0000, 126.5000, 126.0000])
    """

    size: tuple[int, int]
    order: Order = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    source: str = ""

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ConfigError(f"order must be rgb, bgr or grey; got {self.order!r}.")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size must be height and width in pixels; got {self.size!r}.")
        if not len(self.mean) == len(self.deviation) == self.num_channels or 0 in self.deviation:
            raise ConfigError(
                f"order {self.order} needs {self.num_channels} means and as many divisors other than 0; got "
                f"{self.mean} and {self.deviation}."
            )

    @property
    def num_channels(self) -> int:
        """Channels that the network's first convolution takes."""
        return 1 if self.order == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one prepared image: (channels, height, width)."""
        return (self.num_channels, *self.size)


IMAGENET = InputSpec(
    (224, 224),
    mean=(0.485, 0.456, 0.406),
    deviation=(0.229, 0.224, 0.225),
    source="torchvision's documentation of its pretrained models",
)
VGGFACE2 = InputSpec(
    (224, 224),
    scale=255.0,
    mean=(131.0912, 103.8827, 91.4953),
    source="the authors' read-me: means 91.4953, 103.8827, 131.0912 in the order BGR, no divisor",
)
LIGHT_CNN = InputSpec(
    (128, 128),
    "grey",
    mean=(0.0,),
    deviation=(1.0,),
    source="AlfredXiangWu/LightCNN, extract_features.py: grey images of 0..1",
)
SPHEREFACE = InputSpec(
    (112, 96),
    scale=255.0,
    mean=(127.5, 127.5, 127.5),
    deviation=(128.0, 128.0, 128.0),
    source="clcarwin/sphereface_pytorch, lfw_eval.py: (x - 127.5) / 128; BGR, turned round on loading",
)
FACENET = InputSpec(
    (160, 160),
    scale=255.0,
    mean=(127.5, 127.5, 127.5),
    deviation=(128.0, 128.0, 128.0),
    source="timesler/facenet-pytorch, fixed_image_standardization: (x - 127.5) / 128",
)


class Preparation:
    """Turns RGB images, uint8 or float of 0..1, into what an `InputSpec` says.

    Not a module: it has no parameters and leaves state dicts alone. The first batch of floats is looked at
    once; images that were standardised before, or that run to 255, are refused.

    Args:
        spec: What the network wants.

    Raises:
        DataError: When called: not [N, 3, H, W] (or [N, 1, H, W] for "grey"), or floats outside 0..1.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._checked = False

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, *spec.shape], floating point."""
        spec = self.spec
        colours = images.shape[1] if images.dim() == 4 else 0
        if colours != 3 and not (colours == 1 and spec.order == "grey"):
            raise DataError(
                f"images [N, 3, height, width] in the order RGB expected, found {list(images.shape)}."
            )
        if images.is_floating_point():
            self._check_range(images)
        else:
            images = images.to(torch.get_default_dtype()) / 255.0
        if tuple(images.shape[2:]) != spec.size:
            images = functional.interpolate(images, spec.size, mode="bilinear", antialias=True)
        if spec.order == "bgr":
            images = images.flip(1)
        elif spec.order == "grey" and colours == 3:
            weights = torch.tensor(_LUMINANCE, dtype=images.dtype, device=images.device)
            images = torch.einsum("nchw,c->nhw", images, weights).unsqueeze(1)
        factor, offset = self._factor_and_offset(images)
        return torch.addcmul(offset, images, factor)

    def _factor_and_offset(self, images: Tensor) -> tuple[Tensor, Tensor]:
        key = (images.device, images.dtype)
        if key in self._constants:
            return self._constants[key]
        mean, deviation = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
            for values in (self.spec.mean, self.spec.deviation)
        )
        constants = (self.spec.scale / deviation).to(images), (-mean / deviation).to(images)
        if not _traced(images):  # what a tracer makes is no tensor that another pass could use
            self._constants[key] = constants
        return constants

    def _check_range(self, images: Tensor) -> None:
        # Once: a look at the values makes a GPU wait.
        if self._checked or _traced(images):
            return
        smallest, largest = images.aminmax()
        if smallest < -_SLACK or largest > 1 + _SLACK:
            raise DataError(
                f"the encoder prepares its images itself and expects uint8 or 0..1, found values from "
                f"{smallest.item():.3g} to {largest.item():.3g}: hand over images as they are "
                "(`data.standardize: false`), or set `encoder.prepare: false`."
            )
        self._checked = bool(images.any())  # a trace runs on zeros, which say nothing


def _traced(images: Tensor) -> bool:
    """Whether there are no values to look at: compilers, exporters, meta tensors."""
    return images.is_meta or torch.compiler.is_compiling() or torch._C._is_tracing()


class ImageStage(nn.Sequential):
    """First stage of an image encoder: prepares images where asked, and lays them out channels last.

    Convolutions, pooling and batch norm run faster on a CPU where the channels of a pixel lie side by side
    (measured, forward and backward, one thread: the five-block net at 64 x 64, batch 64, in 0.4 of the time,
    ResNet-18 with the small stem in 0.8); later stages keep the order they are given.

    Args:
        layers: The stage's layers by name.
        preparation: What is done to images first; None takes them as they are.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], preparation: Preparation | None = None) -> None:
        super().__init__(layers)
        self.preparation = preparation

    def forward(self, images: Tensor) -> Tensor:
        if self.preparation is not None:
            images = self.preparation(images)
        images = images.contiguous(memory_format=torch.channels_last)
        for layer in self:
            images = layer(images)
        return images
