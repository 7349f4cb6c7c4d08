"""A page of activation maps: rows are images, columns are models and tasks side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.explain.activation_maps import activation_maps
from taskloom.report.pages import fill
from taskloom.sharing import MultiTaskNetwork
from taskloom.tasks import Binary, Landmarks, Multiclass, Multilabel, Task

SHOWN_PIXELS = 128
"""Width and height of a picture on the page."""
_STRENGTH = 0.55
"""Share of the colour where a map is largest."""


@dataclass(frozen=True)
class Column:
    """One column: a task of a model.

    Args:
        task: The task.
        model: What the model is called ("alone", "cross-stitch").
        network: The network.
        inputs: What it sees, [N, 3, H, W].
    """

    task: str
    model: str
    network: MultiTaskNetwork
    inputs: Tensor


def has_default_target(task: Task) -> bool:
    """Whether there is a score to explain without being told which label or output."""
    return not isinstance(task, Multilabel | Landmarks) and task.value_shape == ()


def explain_page(
    title: str,
    pictures: Sequence[NDArray[np.uint8]],
    columns: Sequence[Column],
    truths: Sequence[dict[str, str]],
    *,
    stage: int | str | None = None,
) -> str:
    """Draws activation maps over images; the page loads nothing from anywhere.

    Args:
        title: Heading.
        pictures: RGB, [H, W, 3] each.
        columns: What is shown beside each picture; tasks that need a target are left out by the caller.
        truths: Per picture the labels as text, by task; blank where missing.
        stage: See `activation_maps`.

    Returns:
        HTML.

    Raises:
        ConfigError: See `activation_maps`.
    """
    shown = [[_picture(picture) for picture in pictures]]
    heads, captions = [], []
    for column in columns:
        found = activation_maps(column.network, column.inputs, column.task, stage)
        maps = found.resized(pictures[0].shape[:2]).cpu().numpy()
        shown.append([_overlay(picture, map_) for picture, map_ in zip(pictures, maps, strict=True)])
        heads.append((column.task, column.model, found.stage))
        captions.append(_said(column, found.scores, found.targets))
    rows = [
        (
            shown[0][row],
            truths[row],
            [(side[row], caption[row]) for side, caption in zip(shown[1:], captions, strict=True)],
        )
        for row in range(len(pictures))
    ]
    return fill("explain.html.j2", title=title, heads=heads, rows=rows, size=SHOWN_PIXELS)


def _said(column: Column, scores: Tensor, targets: Sequence[str]) -> list[str]:
    task = column.network.tasks[column.task]
    if isinstance(task, Binary | Multiclass):
        return list(targets)
    with torch.inference_mode():
        values = task.decode(column.network(column.inputs)[column.task]).cpu()
    unit = getattr(task, "unit", "")
    return [f"{float(value):.3g} {unit}".strip() for value in values[: len(scores)]]


def _picture(picture: NDArray[np.uint8]) -> str:
    return _encoded(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def _overlay(picture: NDArray[np.uint8], map_: NDArray[np.float32]) -> str:
    """The grey picture under the map's colours: the stronger the map, the less of the picture."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2BGR)
    colours = cv2.applyColorMap((255 * np.clip(map_, 0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = _STRENGTH * np.sqrt(np.clip(map_, 0, 1))[..., None]
    return _encoded(((1 - share) * grey + share * colours).astype(np.uint8))


def _encoded(picture: NDArray[Any]) -> str:
    large = cv2.resize(picture, (SHOWN_PIXELS, SHOWN_PIXELS), interpolation=cv2.INTER_LINEAR)
    _, content = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return base64.b64encode(content.tobytes()).decode()
