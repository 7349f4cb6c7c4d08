"""The settings of augmentation: `training.augment` of a study file."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Amount = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FlipConfig(_Settings):
    """Mirrors images left and right.

    Args:
        probability: Of each image.
        swap: Per task, what changes places in the mirror: pairs of points of a landmarks task (where it is
            not given, points whose names differ by left and right), or pairs of classes (left and right
            profile).
    """

    probability: Amount = 0.5
    swap: dict[str, list[tuple[str, str]]] = Field(default_factory=dict)


class AffineConfig(_Settings):
    """Turns, scales and shifts images, and landmarks with them.

    Args:
        rotation: Largest angle to either side, in degrees.
        scale: Smallest and largest factor.
        translation: Largest shift each way, as a share of the image's side.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.9, 1.1)
    translation: Amount = 0.05

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError("the smaller factor of scale comes first")
        return self


class ColourConfig(_Settings):
    """Factors from 1 - amount to 1 + amount on brightness, contrast and saturation, each image its own."""

    brightness: Amount = 0.2
    contrast: Amount = 0.2
    saturation: Amount = 0.2


class MixConfig(_Settings):
    """Blends pairs of rows: a share of one and the rest of the other, the share from Beta(alpha, alpha)."""

    alpha: Annotated[float, Field(gt=0)] = 0.2


class AugmentConfig(_Settings):
    """What is done to training batches; evaluation sees the data as they are.

    Args:
        flip, affine, colour: For images; see their classes.
        mixup: Rows are blended and the losses of both labels weighted alike (Zhang et al. 2018).
        mixaugment: As mixup, with the rows as they are trained on beside the blended ones (Psaroudakis and
            Kollias 2022), at twice the work.
        label_smoothing: Share of a class label that is spread evenly over all classes (Szegedy et al. 2016).
    """

    flip: FlipConfig | None = None
    affine: AffineConfig | None = None
    colour: ColourConfig | None = None
    mixup: MixConfig | None = None
    mixaugment: MixConfig | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def changes_inputs(self) -> bool:
        """Whether a row's inputs differ from epoch to epoch; smoothing changes the losses alone."""
        return any((self.flip, self.affine, self.colour, self.mixup, self.mixaugment))

    @model_validator(mode="after")
    def _one_mixture(self) -> Self:
        if self.mixup is not None and self.mixaugment is not None:
            raise ValueError("mixup and mixaugment exclude each other; mixaugment contains mixup")
        return self
