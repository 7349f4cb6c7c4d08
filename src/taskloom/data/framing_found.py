"""How the images of a data set are framed, for the bundle of a network that was trained on them."""

from __future__ import annotations

from typing import Any

from taskloom.data.batch import TaskDataset
from taskloom.data.combined import CombinedDataset
from taskloom.data.face_framing import framing_of
from taskloom.data.image_store import ImageDataset
from taskloom.data.relabelled import original


def framing_found(train: TaskDataset) -> dict[str, Any] | None:
    """How the training images that no detector cut lie around their faces, as plain values.

    Args:
        train: The training part.

    Returns:
        `Framing.to_dict` of it; of several data sets in one `{"sets": {name: ...}}`; None where they are no
        images, were cut around what a detector found, aligned, or are not known to show faces cut alike.
    """
    train = original(train)
    if isinstance(train, CombinedDataset):
        found = {name: framing_found(part) for name, part in train.parts.items()}
        known = {name: framing for name, framing in found.items() if framing is not None}
        return {"sets": known} if known else None
    if not isinstance(train, ImageDataset):
        return None
    crop = train.store.about["crop"]
    if crop.get("detector", "none") != "none" or crop.get("align"):
        return None
    framing = framing_of(train.store.images, train.rows)
    return None if framing is None else framing.to_dict()
