"""The blocks that residual networks are made of, and the mean over the map that they end with."""

from __future__ import annotations

from torch import Tensor, nn

from taskloom.encoders.image_encoder import convolution

_SQUEEZE = 16
"""How many times fewer channels squeeze and excitation has in between."""


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)): He et al. 2016, figure 2 and equation 1.

    The shortcut is x itself, or a 1 x 1 convolution of the same stride with batch norm where the block
    changes the map's size or the number of filters (their option B).

    Args:
        num_inputs: Channels in.
        num_filters: Filters of both convolutions.
        stride: Stride of the first.
    """

    def __init__(self, num_inputs: int, num_filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(num_inputs, num_filters, 3, stride)
        self.bn1 = nn.BatchNorm2d(num_filters)
        self.conv2 = convolution(num_filters, num_filters, 3, 1)
        self.bn2 = nn.BatchNorm2d(num_filters)
        # In place is safe: both work on what a batch norm or a sum has just made, which nobody else reads.
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or num_inputs != num_filters:
            self.downsample = nn.Sequential(
                convolution(num_inputs, num_filters, 1, stride), nn.BatchNorm2d(num_filters)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, num_inputs, H, W] to [N, num_filters, H / stride, W / stride], rounded up."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        outputs = self.relu(self.bn1(self.conv1(maps)))
        outputs = self.bn2(self.conv2(outputs))
        rectified: Tensor = self.relu(outputs + shortcut)
        return rectified


class SqueezeExcitation(nn.Module):
    """Weights channels by what is in them: x sigmoid(fc2(relu(fc1(mean of x)))), Hu et al. 2018, eq. 2-4.

    Args:
        num_channels: Channels.
        num_squeezed: Channels in between.
    """

    def __init__(self, num_channels: int, num_squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(num_channels, num_squeezed, 1)
        self.fc2 = nn.Conv2d(num_squeezed, num_channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape."""
        squeezed = self.fc1(maps.mean((2, 3), keepdim=True)).relu_()
        factors: Tensor = self.fc2(squeezed).sigmoid_()
        return maps * factors


class Bottleneck(nn.Module):
    """relu(se(bn(conv(relu(bn(conv(relu(bn(conv(x)))))))) + shortcut(x)): He et al. 2016, figure 5, right.

    Args:
        num_inputs: Channels in.
        num_filters: Filters of the first two convolutions; the last has `num_outputs`.
        num_outputs: Channels out.
        stride: Of the block.
        stride_first: Whether the first convolution has the stride (Caffe's networks) and not the second.
        squeeze: Whether channels are weighted by squeeze and excitation.
    """

    def __init__(
        self,
        num_inputs: int,
        num_filters: int,
        num_outputs: int,
        stride: int,
        *,
        stride_first: bool,
        squeeze: bool,
    ) -> None:
        super().__init__()
        strides = (stride, 1) if stride_first else (1, stride)
        self.conv1 = convolution(num_inputs, num_filters, 1, strides[0])
        self.bn1 = nn.BatchNorm2d(num_filters)
        self.conv2 = convolution(num_filters, num_filters, 3, strides[1])
        self.bn2 = nn.BatchNorm2d(num_filters)
        self.conv3 = convolution(num_filters, num_outputs, 1)
        self.bn3 = nn.BatchNorm2d(num_outputs)
        self.relu = nn.ReLU(inplace=True)  # as in BasicBlock
        self.se = SqueezeExcitation(num_outputs, max(1, num_outputs // _SQUEEZE)) if squeeze else None
        self.downsample: nn.Sequential | None = None
        if stride != 1 or num_inputs != num_outputs:
            self.downsample = nn.Sequential(
                convolution(num_inputs, num_outputs, 1, stride), nn.BatchNorm2d(num_outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, num_inputs, H, W] to [N, num_outputs, H / stride, W / stride], rounded up."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        outputs = self.relu(self.bn1(self.conv1(maps)))
        outputs = self.relu(self.bn2(self.conv2(outputs)))
        outputs = self.bn3(self.conv3(outputs))
        if self.se is not None:
            outputs = self.se(outputs)
        rectified: Tensor = self.relu(outputs + shortcut)
        return rectified


class MapAverage(nn.Module):
    """[N, C, H, W] to the mean over the map, [N, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))
