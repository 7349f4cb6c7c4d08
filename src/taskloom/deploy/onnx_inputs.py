"""What goes into an exported network: rows as a store holds them, and how the graph prepares them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.data.normalize import Normalizer
from taskloom.deploy.bundle import Bundle
from taskloom.errors import DataError


class Inputs(nn.Module):
    """Inputs that are prepared already: the network sees them as they are.

    Attributes:
        name: Of the input in the file.
        meaning: What a row holds, for people.
        dtype, shape: Of a row.
    """

    name, meaning = "inputs", "prepared as in training"
    dtype = torch.float32

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(int(size) for size in shape)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, *shape] as the network takes them."""
        return rows

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        """Random rows [number, *shape], spread about as those of the training."""
        return torch.from_numpy(draw.normal(size=(number, *self.shape)).astype(np.float32))


class Pixels(Inputs):
    """Images [N, H, W, 3]; standardised as `ImageStandardization.inputs` does it."""

    name, meaning = "images", "RGB, cut and sized as the store's"
    dtype = torch.uint8

    def __init__(self, shape: Sequence[int], fitted: Mapping[str, Any]) -> None:
        super().__init__((*shape[1:], 3))
        mean, deviation = (torch.tensor(fitted[key]).view(1, 3, 1, 1) for key in ("mean", "deviation"))
        self.factor, self.offset = nn.Buffer(1.0 / (255.0 * deviation)), nn.Buffer(-mean / deviation)

    def forward(self, rows: Tensor) -> Tensor:
        return rows.permute(0, 3, 1, 2).float() * self.factor + self.offset

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        return torch.from_numpy(draw.integers(0, 256, (number, *self.shape), dtype=np.uint8))


class TableRows(Inputs):
    """Features [N, F]; filled and standardised as `Standardization.apply` does it, if anything was fitted."""

    name, meaning = "features", "the table's columns, in its own scale"

    def __init__(self, shape: Sequence[int], fitted: Mapping[str, Any] | None) -> None:
        super().__init__(shape)
        fitted = {"center": 0.0, "scale": 1.0, "fill": None} if fitted is None else fitted
        self.center, self.scale = (
            nn.Buffer(torch.tensor(fitted[key]).float()) for key in ("center", "scale")
        )
        fill = fitted["fill"]
        self.fill = None if fill is None else nn.Buffer(torch.tensor(fill).float())

    def forward(self, rows: Tensor) -> Tensor:
        if self.fill is not None:
            rows = torch.where(torch.isnan(rows), self.fill, rows)
        return (rows - self.center) / self.scale

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        rows = super().rows(number, draw) * self.scale + self.center
        if self.fill is not None:
            rows[:, :: 1 + rows.shape[1] // 3] = math.nan
        return rows


class Windows(Inputs):
    """Windows [N, samples, channels]; normalised as `Normalizer.apply_` does it."""

    name, meaning = "windows", "samples by channels, after the signal steps"

    def __init__(self, shape: Sequence[int], normalizer: Normalizer) -> None:
        super().__init__(shape)
        self.mean = nn.Buffer(torch.from_numpy(normalizer.mean).float())
        self.scale = nn.Buffer(torch.from_numpy(normalizer.scale).float())
        self.clip = normalizer.clip

    def forward(self, rows: Tensor) -> Tensor:
        normal = (rows - self.mean) / self.scale
        return normal if self.clip is None else normal.clamp(-self.clip, self.clip)

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        return super().rows(number, draw) * self.scale + self.mean


def inputs_of(bundle: Bundle) -> Inputs:
    """What goes into a bundle's network.

    Raises:
        DataError: A bundle of several data sets, or one that was normalised person by person.
    """
    shape, known = bundle.settings["input_shape"], bundle.preprocessing
    reader, fitted = known.get("reader"), known.get("standardization")
    if reader == "combined":
        raise DataError(
            "this bundle was trained on several data sets, each standardised by itself; choose the one that "
            f"inputs will be like: --prepared-as, one of {', '.join(known['sets'])}."
        )
    if reader == "images" and fitted is not None:
        return Pixels(shape, fitted)
    if reader == "table":
        return TableRows(shape, fitted)
    if known.get("normalizer") is None:
        return Inputs(shape)
    normalizer = Normalizer.from_dict(known["normalizer"])
    if normalizer.persons:
        raise DataError(
            "this bundle was normalised person by person (`normalize: {per: person}`), and nothing is known "
            "of the people in new recordings; train with `per: channel`."
        )
    return Windows(shape, normalizer)
