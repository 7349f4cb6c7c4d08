"""The 312 attributes of CUB-200-2011: 28 groups, each with its values."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "blue": (200, 90, 30),
    "brown": (30, 65, 110),
    "iridescent": (170, 160, 60),
    "purple": (150, 40, 120),
    "rufous": (30, 70, 170),
    "grey": (130, 130, 130),
    "yellow": (40, 220, 240),
    "olive": (40, 120, 120),
    "green": (50, 150, 40),
    "pink": (180, 150, 250),
    "orange": (20, 130, 250),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "red": (30, 30, 220),
    "buff": (130, 190, 235),
}
"""Colours of plumage, BGR."""

_COLOURS = tuple(COLOURS)
_PATTERNS = ("solid", "spotted", "striped", "multi-colored")

GROUPS: dict[str, tuple[str, ...]] = {
    "has_bill_shape": (
        "curved_(up_or_down)",
        "dagger",
        "hooked",
        "needle",
        "hooked_seabird",
        "spatulate",
        "all-purpose",
        "cone",
        "specialized",
    ),
    "has_wing_color": _COLOURS,
    "has_upperparts_color": _COLOURS,
    "has_underparts_color": _COLOURS,
    "has_breast_pattern": _PATTERNS,
    "has_back_color": _COLOURS,
    "has_tail_shape": (
        "forked_tail",
        "rounded_tail",
        "notched_tail",
        "fan-shaped_tail",
        "pointed_tail",
        "squared_tail",
    ),
    "has_upper_tail_color": _COLOURS,
    "has_head_pattern": (
        "spotted",
        "malar",
        "crested",
        "masked",
        "unique_pattern",
        "eyebrow",
        "eyering",
        "plain",
        "eyeline",
        "striped",
        "capped",
    ),
    "has_breast_color": _COLOURS,
    "has_throat_color": _COLOURS,
    "has_eye_color": tuple(colour for colour in _COLOURS if colour != "iridescent"),
    "has_bill_length": ("about_the_same_as_head", "longer_than_head", "shorter_than_head"),
    "has_forehead_color": _COLOURS,
    "has_under_tail_color": _COLOURS,
    "has_nape_color": _COLOURS,
    "has_belly_color": _COLOURS,
    "has_wing_shape": ("rounded-wings", "pointed-wings", "broad-wings", "tapered-wings", "long-wings"),
    "has_size": (
        "large_(16_-_32_in)",
        "small_(5_-_9_in)",
        "very_large_(32_-_72_in)",
        "medium_(9_-_16_in)",
        "very_small_(3_-_5_in)",
    ),
    "has_shape": (
        "upright-perching_water-like",
        "chicken-like-marsh",
        "long-legged-like",
        "duck-like",
        "owl-like",
        "gull-like",
        "hummingbird-like",
        "pigeon-like",
        "tree-clinging-like",
        "hawk-like",
        "sandpiper-like",
        "upland-ground-like",
        "swallow-like",
        "perching-like",
    ),
    "has_back_pattern": _PATTERNS,
    "has_tail_pattern": _PATTERNS,
    "has_belly_pattern": _PATTERNS,
    "has_primary_color": _COLOURS,
    "has_leg_color": _COLOURS,
    "has_bill_color": _COLOURS,
    "has_crown_color": _COLOURS,
    "has_wing_pattern": _PATTERNS,
}
"""Values by group, in the order of the set's codes."""

NAMES: tuple[str, ...] = tuple(f"{group}::{value}" for group, values in GROUPS.items() for value in values)
"""The attributes 1 to 312, as attributes.txt has them."""

SAME_AS = {
    "has_upperparts_color": "has_wing_color",
    "has_back_color": "has_wing_color",
    "has_primary_color": "has_wing_color",
    "has_underparts_color": "has_breast_color",
    "has_belly_color": "has_breast_color",
    "has_belly_pattern": "has_breast_pattern",
    "has_forehead_color": "has_crown_color",
    "has_nape_color": "has_crown_color",
    "has_under_tail_color": "has_upper_tail_color",
    "has_tail_pattern": "has_wing_pattern",
    "has_back_pattern": "has_wing_pattern",
}
"""Groups that drawn birds have the values of another group for."""
