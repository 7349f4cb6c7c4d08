"""Finding the faces of a picture and bringing them to the network as its training saw them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.data.face_crop import CropSettings, Face, choose, cut_detection
from taskloom.data.face_detectors import DETECTORS, LONGEST_SIDE, Detection, Detector, make_detector
from taskloom.data.face_framing import FRAMED_DETECTORS, Framing
from taskloom.data.image_store import ImageStandardization
from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, DataError, did_you_mean
from taskloom.training.devices import choose_device

USUAL_DETECTOR = "haar"
USUAL_MARGIN = 0.1
"""Around a found face, where the training faces came without a detector and their framing is not known."""
VIDEO_EVERY = 5
VIDEO_SIDE = 480


@dataclass(frozen=True)
class PredictSettings:
    """How faces are found and followed.

    Args:
        detector: "haar", "dlib", "yunet:PATH" or "none" (every picture is a face); the bundle's where None,
            and haar where the bundle has none.
        margin: Around the box, as a share of it; the bundle's where None.
        choose: Of several faces "all" or the "largest".
        detect_every: Frames of a video from one detection to the next; 5 where None. Boxes between two
            detections are interpolated.
        detect_side: Longer side, in pixels, of the picture in which faces are looked for; 480 in videos
            and 800 in images, as stores have it, where None.
        half_life: Seconds after which a frame counts half in a face's predictions; 0 smooths nothing.
        batch: Faces that go through the network together.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: A value out of range.
    """

    detector: str | None = None
    margin: float | None = None
    choose: str = "all"
    detect_every: int | None = None
    detect_side: int | None = None
    half_life: float = 0.3
    batch: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.choose not in ("all", "largest"):
            raise ConfigError(f"--choose: all or largest expected, found `{self.choose}`.")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"--device: auto, cpu or cuda expected, found `{self.device}`.")
        for name, value, least in (
            ("detect-every", self.detect_every, 1),
            ("detect-side", self.detect_side, 32),
            ("batch", self.batch, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"--{name}: a whole number of at least {least} expected, found {value}.")
        if not 0 <= self.half_life < float("inf"):
            raise ConfigError(f"--half-life: seconds of at least 0 expected, found {self.half_life}.")


class FaceFinder:
    """Finds faces; used by one thread.

    Args:
        detector: Finds them; None takes every picture as one face.
        side: Longer side of the picture it looks at, at most.
        which: Of several faces "all" or the "largest".
    """

    def __init__(self, detector: Detector | None, side: int = LONGEST_SIDE, which: str = "all") -> None:
        self.detector, self.side, self.which = detector, side, which

    def find(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Finds the faces of a picture [H, W, 3], from left to right, in pixels of that picture."""
        height, width = picture.shape[:2]
        if self.detector is None:
            return [Detection((0.0, 0.0, float(width), float(height)), 1.0)]
        scale = min(1.0, self.side / max(height, width))
        if scale == 1.0:
            return choose(self.detector.detect(picture), self.which)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return choose([_enlarged(face, scale) for face in self.detector.detect(small)], self.which)


class FaceNetwork:
    """The network of a bundle behind the cutting and standardisation that it was trained with.

    Args:
        bundle: An image bundle.
        crop: How faces are cut; see `crop_settings`.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: CUDA was asked for and is not there.
        DataError: Not a bundle of images.
    """

    def __init__(self, bundle: Bundle, crop: CropSettings, device: str = "auto") -> None:
        check_image_bundle(bundle)
        self.crop, self.tasks = crop, bundle.tasks
        self.device = device_of(device)
        self.model = bundle.model.to(self.device).eval()
        fitted = bundle.preprocessing["standardization"]
        self.standardization = ImageStandardization(tuple(fitted["mean"]), tuple(fitted["deviation"]))

    def cut(self, picture: NDArray[np.uint8], found: Detection) -> Face:
        """The face as a store of the training would hold it; see `cut_detection`."""
        return cut_detection(picture, found, self.crop)

    def outputs(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """Outputs of every head, [N, width] on the CPU, of N cut faces [size, size, 3]."""
        with torch.inference_mode():
            inputs = self.standardization.inputs(np.stack(images)).to(self.device)
            return {name: output.float().cpu() for name, output in self.model(inputs).items()}


def device_of(device: str) -> torch.device:
    """The device that auto, cpu or cuda means here.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    try:
        return torch.device(choose_device(device)[0])
    except ConfigError as error:
        raise ConfigError(str(error).replace("training.device", "--device")) from error


def check_image_bundle(bundle: Bundle) -> None:
    """Refuses a bundle whose network sees no images.

    Raises:
        DataError: It was trained on something else, or does not say how images were prepared.
    """
    known = bundle.preprocessing
    reader = known.get("reader")
    if reader != "images" or "standardization" not in known or len(bundle.settings["input_shape"]) != 3:
        what = f"was trained by the reader `{reader}`" if reader else "does not say what it has seen"
        raise DataError(
            f"a bundle of images expected for images and videos, but this one {what}; `predict` takes "
            "images, folders, videos and cameras for bundles of images, and tables (CSV, TSV, Parquet) for "
            "bundles of tables."
        )


def crop_settings(
    preprocessing: Mapping[str, Any], settings: PredictSettings, framing: Mapping[str, Any] | None = None
) -> tuple[CropSettings, list[str]]:
    """How faces are cut: as the bundle says, with what the user says in its place.

    Args:
        preprocessing: Of the bundle.
        settings: The user's.
        framing: How the bundle's training images lie around their faces, if it says so (`about["framing"]`).

    Returns:
        The settings, and notes on what they rest on.

    Raises:
        ConfigError: An unknown detector, a detector that lacks its file, or one without the points that the
            bundle aligns faces by.

    Example:
        >>> crop, notes = crop_settings({"size": 64}, PredictSettings())
        >>> crop.detector, crop.margin, len(notes)
        ('haar', 0.1, 1)
    """
    trained = dict(preprocessing.get("crop") or {"size": preprocessing["size"]})
    before = str(trained.get("detector", "none"))
    name, model = _named_detector(settings.detector, before)
    crop = CropSettings(
        size=int(trained["size"]),
        detector=name,
        detector_model=model,
        choose="all",
        margin=float(trained.get("margin", 0.0)),
        align=bool(trained.get("align", False)),
    )
    notes = []
    if before == "none" and name != "none" and not crop.align:
        crop, note = _as_ready_cut(crop, None if settings.margin is not None else framing)
        notes.append(f"the network was trained on faces that no detector had cut; {note}")
    elif before not in ("none", name):
        notes.append(f"the network was trained on faces that {before} had found, here {name} finds them")
    elif model is not None and trained.get("detector_model") not in (None, _checksum(model)):
        notes.append(f"{model} is not the file of the detector that the network was trained with")
    if settings.margin is not None:
        crop = replace(crop, margin=settings.margin)
    if crop.align and name != "yunet":
        raise ConfigError(
            "--detector: this bundle aligns faces by five points, which only a YuNet finds; give "
            "`--detector yunet:PATH`."
        )
    return crop, notes


def _as_ready_cut(crop: CropSettings, framing: Mapping[str, Any] | None) -> tuple[CropSettings, str]:
    """Cuts what a detector finds like training images that came without one, as far as that is known."""
    here = f"here they are cut around what {crop.detector} finds"
    if framing is None or crop.detector not in FRAMED_DETECTORS:
        hint = "(--margin, --detector none for faces that are cut)"
        return replace(crop, margin=USUAL_MARGIN), f"{here} {hint}"
    known = Framing.from_dict(framing)
    alike = f"as {known.found} of {known.images} of them lie around their faces"
    note = f"{here}, {alike} (--detector none for faces that are cut)"
    return replace(crop, margin=0.0, framing=known), note


def make_finder(crop: CropSettings, settings: PredictSettings, *, moves: bool) -> FaceFinder:
    """The finder that settings ask for; `moves` says whether it is for a video.

    Raises:
        ConfigError: A detector that cannot be built.
    """
    usual = VIDEO_SIDE if moves else LONGEST_SIDE
    detector = None if crop.detector == "none" else make_detector(crop.detector, crop.detector_model)
    return FaceFinder(detector, settings.detect_side or usual, settings.choose)


def _named_detector(given: str | None, trained: str) -> tuple[str, str | None]:
    if given is None:
        given = USUAL_DETECTOR if trained == "none" else trained
    name, _, model = given.partition(":")
    known = ["none", *DETECTORS]
    if name not in known:
        raise ConfigError(
            f"--detector: one of haar, dlib, yunet:PATH and none expected, found `{given}`."
            f"{did_you_mean(name, known)}"
        )
    if name == "yunet" and not model:
        raise ConfigError("--detector: yunet needs its ONNX file: `--detector yunet:PATH`.")
    if name != "yunet" and model:
        raise ConfigError(f"--detector: {name} takes no file, found `{given}`.")
    return name, model or None


def _enlarged(face: Detection, scale: float) -> Detection:
    """A face found in a picture made smaller by `scale`, in pixels of the picture itself."""
    x, y, width, height = (value / scale for value in face.box)
    # Points are centres of pixels, boxes are edges.
    points = None if face.points is None else (face.points + 0.5) / scale - 0.5
    return Detection((x, y, width, height), face.score, points)


def _checksum(path: str) -> str | None:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
