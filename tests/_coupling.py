"""A coupling of the small tasks of `_training`: three classes of mood, and gender as their one attribute."""

from __future__ import annotations

from typing import Any

import numpy as np

from taskloom.coupling import CoAnnotation, Coupling, Matching, Relatedness

TABLE = Relatedness(
    ("0", "1", "2"), ("gender",), np.array([[0.9], [0.2], [0.5]]), "frequencies", source="the test's table"
)
TERMS = ("coupling.matching_to_attributes", "coupling.co_annotation_to_classes")


def coupling(weight: Any = 0.5, **settings: Any) -> Coupling:
    """Matching and co-annotation of one weight; as printed, one attribute would leave the latter flat."""
    given = {
        "matching": Matching(weight, two_sided=True),
        "co_annotation": CoAnnotation(weight, direction="distillation"),
        **settings,
    }
    return Coupling(TABLE, classes="mood", attributes="gender", **given)
