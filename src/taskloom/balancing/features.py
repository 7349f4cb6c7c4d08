"""The shared feature: where the trunk ends, gradients per task cost the heads only.

MGDA-UB (Sener and Koltun 2018, section 3.3) bounds the norm of the update by the norm of the gradient at the
shared features Z = g(x): the Gramian is that of dL_t / dZ, and one backward pass takes the weighted sum
through the trunk. Every method that needs only the Gramian can be used so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from taskloom.errors import ConfigError

if TYPE_CHECKING:
    from taskloom.sharing.network import Features, MultiTaskNetwork


class SharedFeature:
    """Takes hold of the shared feature during a forward pass and parts the graph there."""

    def __init__(self) -> None:
        self.trunk: Tensor | None = None
        self.leaf: Tensor | None = None
        self.watched = False

    @contextmanager
    def watching(self, model: MultiTaskNetwork) -> Iterator[None]:
        """Context of one forward pass: the heads read a leaf with the feature's values.

        A trunk that is frozen gives a feature without gradient; nothing is parted then.

        Raises:
            ConfigError: The network has no single feature that all tasks read.
        """
        check_has_feature(model)
        # On the instance, for this pass alone: `forward` calls it as it calls the method.
        method = model.from_features

        def from_leaf(features: Features) -> dict[str, Tensor]:
            if not isinstance(features, Tensor):
                raise no_feature()
            self.watched = True
            if not features.requires_grad:
                return method(features)
            self.trunk, self.leaf = features, features.detach().requires_grad_()
            return method(self.leaf)

        self.clear()
        vars(model)["from_features"] = from_leaf
        try:
            yield
        finally:
            del vars(model)["from_features"]

    def clear(self) -> None:
        """Lets go of the feature and its graph."""
        self.trunk = self.leaf = None
        self.watched = False

    def __getstate__(self) -> dict[str, object]:
        return {"trunk": None, "leaf": None, "watched": False}


def check_has_feature(model: MultiTaskNetwork) -> None:
    """Refuses a network of which it is known that no stage is shared by all tasks from the input on.

    Raises:
        ConfigError: Says so.
    """
    plan = getattr(model, "plan", None)
    if not hasattr(model, "from_features") or (plan is not None and plan.num_shared_stages == 0):
        raise no_feature()


def no_feature() -> ConfigError:
    """The error for a network without a shared feature."""
    return ConfigError(
        "balancing at the shared feature: this network has no feature that all tasks read (its first stage "
        "is not shared by all of them); use `at: parameters`, or share the first stages."
    )
