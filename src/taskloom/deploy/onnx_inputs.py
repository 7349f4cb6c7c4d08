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
        normalization: How rows are normalised, for programs: `where` ("in the graph": give them as they are;
            "before": they come normalised; "nowhere"), and what else a caller must know.
        dtype, shape: Of a row.
    """

    name, meaning = "inputs", "prepared as in training"
    dtype = torch.float32

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(int(size) for size in shape)
        self.normalization: dict[str, Any] = {"where": "before", "per": None}

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, *shape] as the network takes them."""
        return rows

    def unusable(self, rows: Tensor) -> Tensor | None:  # noqa: ARG002  # a network of one's own may take any
        """Which rows have a value that training refuses, [N]; None where there can be none.

        What runtimes make of it differs: ONNX Runtime's pooling and recurrent layers lose a NaN, and predict
        with confidence.
        """
        return None

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
        self.normalization = {"where": "in the graph", "per": "channel"}
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
        where = "nowhere" if fitted is None else "in the graph"
        self.normalization = {"where": where, "per": None if fitted is None else "column"}
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

    def unusable(self, rows: Tensor) -> Tensor | None:
        return _any(~torch.isfinite(rows) if self.fill is None else torch.isinf(rows))

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        rows = super().rows(number, draw) * self.scale + self.center
        if self.fill is not None:
            rows[:, :: 1 + rows.shape[1] // 3] = math.nan
        return rows


class Windows(Inputs):
    """Windows [N, samples, channels]; normalised as `Normalizer.apply_` does it, if anything was fitted."""

    name, meaning = "windows", "samples by channels, after the signal steps"

    def __init__(self, shape: Sequence[int], normalizer: Normalizer | None) -> None:
        super().__init__(shape)
        num_channels = self.shape[-1]
        fitted = normalizer or Normalizer(np.zeros(num_channels), np.ones(num_channels))
        self.normalization = {
            "where": "nowhere" if normalizer is None else "in the graph",
            "per": None if normalizer is None else "channel",
        }
        self.mean = nn.Buffer(torch.from_numpy(fitted.mean).float())
        self.scale = nn.Buffer(torch.from_numpy(fitted.scale).float())
        self.clip = fitted.clip

    def forward(self, rows: Tensor) -> Tensor:
        normal = (rows - self.mean) / self.scale
        return normal if self.clip is None else normal.clamp(-self.clip, self.clip)

    def unusable(self, rows: Tensor) -> Tensor | None:
        return _any(~torch.isfinite(rows))

    def rows(self, number: int, draw: np.random.Generator) -> Tensor:
        return super().rows(number, draw) * self.scale + self.mean


class PersonWindows(Inputs):
    """Windows [N, samples, channels] that were normalised person by person, which the graph cannot do: it
    sees no more of a person than the windows of one batch. It limits them, where training did."""

    name = "windows"
    meaning = (
        "samples by channels, after the signal steps, less the person's mean and divided by the person's "
        "standard deviation of each channel"
    )

    def __init__(self, shape: Sequence[int], normalizer: Normalizer) -> None:
        super().__init__(shape)
        self.clip = normalizer.clip
        self.normalization = {
            "where": "before",
            "per": "person",
            "subtract": "mean of the person's samples, per channel",
            "divide": "population standard deviation of the person's samples, per channel; 1 where it is 0",
            "samples": "all that the person's windows cover, over all recordings, each once",
            "limit": None if self.clip is None else {"deviations": self.clip, "where": "in the graph"},
            "people_of_training": list(normalizer.persons),
        }

    def forward(self, rows: Tensor) -> Tensor:
        return rows if self.clip is None else rows.clamp(-self.clip, self.clip)

    def unusable(self, rows: Tensor) -> Tensor | None:
        return _any(~torch.isfinite(rows))


def _any(found: Tensor) -> Tensor:
    """Whether anything is true in a row, [N, ...] -> [N]."""
    return found.flatten(1).any(dim=1)


def inputs_of(bundle: Bundle) -> Inputs:
    """What goes into a bundle's network.

    Raises:
        DataError: A bundle of several data sets.
    """
    shape, known = bundle.settings["input_shape"], bundle.preprocessing
    reader, standardization = known.get("reader"), known.get("standardization")
    if reader == "combined":
        raise DataError(
            "this bundle was trained on several data sets, each standardised by itself; choose the one that "
            f"inputs will be like: --prepared-as, one of {', '.join(known['sets'])}."
        )
    if reader == "images" and standardization is not None:
        return Pixels(shape, standardization)
    if reader == "table":
        return TableRows(shape, standardization)
    if "normalizer" not in known:
        return Inputs(shape)
    fitted = None if known["normalizer"] is None else Normalizer.from_dict(known["normalizer"])
    if fitted is not None and fitted.persons:
        return PersonWindows(shape, fitted)
    return Windows(shape, fitted)
