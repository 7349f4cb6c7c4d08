"""Images that are equal in every pixel, and on which sides of a split they stand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskloom.data.row_dataset import fingerprints
from taskloom.data.split_checks import Parts


def equal_images(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the code of every image, [M]: equal images, and no others, have equal codes.

    Args:
        images: [M, ...].

    Example:
        >>> codes = equal_images(np.array([[3, 3], [1, 2], [3, 3]], dtype=np.uint8))
        >>> bool(codes[0] == codes[2] != codes[1])
        True
    """
    codes = np.unique(fingerprints(images), return_inverse=True)[1]
    return codes.astype(np.int64)


def joined_units(units: NDArray[np.int64], equal: NDArray[np.int64]) -> NDArray[np.int64]:
    """Joins units of a split that hold equal images: the connected components of both relations.

    Args:
        units: Unit (row, person) of every row, [N].
        equal: Code of every row's image, [N].

    Returns:
        [N], codes from 0 in the order of their first row.

    Example:
        >>> joined_units(np.array([0, 1, 1, 2, 3]), np.array([5, 5, 6, 6, 7])).tolist()
        [0, 0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = (np.unique(codes, return_inverse=True)[1] for codes in (units, equal))
    num_units = int(first.max(initial=-1)) + 1
    num_nodes = num_units + int(second.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(first)), (first, num_units + second)), shape=(num_nodes, num_nodes))
    _, component = connected_components(edges, directed=False)
    _, where, codes = np.unique(component[first], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(where))[codes].astype(np.int64)


def equal_images_found(equal: NDArray[np.int64], parts: Parts, *, drawn: bool) -> tuple[list[str], list[str]]:
    """What a report should say of equal images: notes, and warnings where a side knows images of another.

    Args:
        equal: Code of every image, [M].
        parts: Positions among the M images.
        drawn: Whether `duplicates: together` could keep them on one side.
    """
    _, counts = np.unique(equal, return_counts=True)
    num_equal = int(counts[counts > 1].sum())
    if not num_equal:
        return [], []
    found = f"{num_equal:,} of {len(equal):,} images have an equal one (in every stored pixel)"
    known = {
        name: np.isin(equal[rows], equal[parts.train]) for name, rows in parts.items() if name != "train"
    }
    if not any(seen.any() for seen in known.values()):
        return [f"{found}; equal images stand on one side of the split."], []
    shares = " and ".join(
        f"{int(seen.sum()):,} of {len(seen):,} {name} images" for name, seen in known.items()
    )
    hint = "; `split: {duplicates: together}` keeps equal ones on one side" if drawn else ""
    warning = f"{shares} equal an image of train in every pixel, so results may be too good{hint}."
    return [f"{found}."], [warning]
