"""Encoder, training and cells that suit the size of the data: what a verdict of one's own begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WIDE = 256
_MANY_TASKS = 6
MANY_ROWS = 300_000
"""From here on a study takes hours on a CPU."""


@dataclass(frozen=True)
class Network:
    """The `encoder` section, with what depends on it.

    Args:
        encoder: Name and settings.
        stages: How many stages the encoder has.
        depths: After how many stages hard sharing ends, in the cells.
        comment: What else there is.
        tied: The stages that soft sharing ties; () for all.
    """

    encoder: dict[str, Any]
    stages: int
    depths: tuple[int, ...]
    comment: str = ""
    tied: tuple[int, ...] = ()


def for_features(num_rows: int, num_features: int) -> Network:
    """Fully connected layers, wider for more rows.

    Example:
        >>> for_features(120, 4).encoder
        {'name': 'mlp', 'hidden': [64, 64]}
    """
    width = 64 if num_rows < 5_000 else 128 if num_rows < 50_000 else 256
    encoder: dict[str, Any] = {"name": "mlp", "hidden": [width, width]}
    if num_features > _WIDE:
        encoder["dropout"] = 0.25
    # Tying the first layer of many features takes ten times as long as all else together.
    return Network(encoder, 2, (1, 2), tied=(2,) if num_features > _WIDE else ())


def for_images(side: int) -> Network:
    """The small network of thesis 000, which trains on a CPU."""
    better = "resnet18 sees more of large images, and wants a GPU" if side >= 64 else ""
    return Network({"name": "vgg5"}, 5, (2, 4), better)


def for_windows(samples: int) -> Network:
    """Convolutions over time, with pooling that suits the window's length in samples.

    Example:
        >>> for_windows(1000).encoder["pool"], for_windows(10).encoder["pool"]
        (4, 1)
    """
    pool = 4 if samples >= 256 else 2 if samples >= 16 else 1
    return Network({"name": "conv1d", "filters": [16, 32, 32], "pool": pool}, 3, (1, 2, 3))


def training_for(num_rows: int, *, images: bool = False) -> dict[str, Any]:
    """The `training` section: fewer rows go round more often, in smaller batches.

    Args:
        num_rows: Rows, images or windows, of which about three fifths train.
        images: Whether a row is work enough that fewer epochs must do.
    """
    sizes = ((500, 16), (2_000, 32), (20_000, 64), (100_000, 128), (MANY_ROWS, 256))
    batch = next((batch for most, batch in sizes if num_rows < most), 1024)
    epochs = 60 if num_rows < 2_000 else 30 if num_rows < 50_000 else 15 if num_rows < MANY_ROWS else 6
    return {
        "epochs": min(epochs, 20) if images else epochs,
        "batch": batch,
        "optimizer": {"adam": {"lr": 0.001}},
        "stop": {"patience": 10 if epochs == 60 and not images else min(5, epochs // 2)},
    }


def cells_for(network: Network, num_tasks: int) -> list[dict[str, Any]]:
    """A few ways of sharing: hard at several depths, cross-stitch units, soft where tasks are few.

    Example:
        >>> len(cells_for(for_features(100, 4), 2)), len(cells_for(for_features(100, 4), 12))
        (3, 2)
    """
    cells: list[dict[str, Any]] = [
        {"hard_sharing": {"stages": list(network.depths)}},
        {"cross_stitch": {"per": "layer"}},
    ]
    if num_tasks <= _MANY_TASKS:  # every task has a copy of every layer there
        soft: dict[str, Any] = {"tie": "trace_norm", "weight": 0.001}
        cells.append({"soft_sharing": soft | ({"stages": list(network.tied)} if network.tied else {})})
    return cells
