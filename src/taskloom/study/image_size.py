"""The size of images, where a study file says it of the encoder: `encoder: {name: vgg5, size: 64}`.

An encoder changes the size of images only where it prepares them for public weights. Elsewhere the size that
it is to see is that to which the source brings the images, once: the same number, said of the data.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from taskloom.data.face_source import FaceSource
from taskloom.data.sources import find_source
from taskloom.encoders import ENCODERS
from taskloom.errors import ConfigError

_PREPARING = ("size", "prepare", "weights")
"""Settings that tell an image encoder from others, which may have a `size` of their own."""


def with_image_size(
    data: Mapping[str, Any], encoder: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns both sections, with an encoder's `size` among the data's where the encoder prepares nothing.

    Args:
        data: The `data` section, with its reader.
        encoder: The `encoder` section: name and settings.

    Raises:
        ConfigError: `data.size` says something else.

    Example:
        >>> with_image_size({"reader": "images"}, {"name": "vgg5", "size": 64})
        ({'reader': 'images', 'size': 64}, {'name': 'vgg5'})
    """
    settings = {"prepare": None, "weights": None, "size": None, **encoder}
    size, prepares = settings["size"], settings["prepare"] or settings["weights"] is not None
    is_side = isinstance(size, int) and not isinstance(size, bool)
    if not is_side or prepares or not _cuts_images(data) or not _is_of_images(str(encoder["name"])):
        return dict(data), dict(encoder)
    if data.get("size", size) != size:
        raise ConfigError(
            f"encoder.size: {encoder['name']} takes images as they are stored, and data.size: {data['size']} "
            f"stores them at another size than {size}; remove one of the two."
        )
    return {**data, "size": size}, {key: value for key, value in encoder.items() if key != "size"}


def _cuts_images(data: Mapping[str, Any]) -> bool:
    return isinstance(find_source(str(data["reader"])), FaceSource)


def _is_of_images(name: str) -> bool:
    parameters = inspect.signature(ENCODERS[name]).parameters
    return all(setting in parameters for setting in _PREPARING)
