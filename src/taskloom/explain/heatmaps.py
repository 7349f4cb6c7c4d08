"""What a network learned to share and how its tasks act on each other, drawn as heatmaps (SVG)."""

from __future__ import annotations

from taskloom.errors import ConfigError
from taskloom.explain.affinity import TaskAffinity
from taskloom.report import plots
from taskloom.report.training_model import Mixing
from taskloom.sharing import MultiTaskNetwork


def mixing_heatmaps(model: MultiTaskNetwork) -> str:
    """Draws the mixing matrices of a network by depth, averaged over channels; a row receives.

    Args:
        model: A network with mixing (cross-stitch, sluice, task routing, ...).

    Returns:
        SVG.

    Raises:
        ConfigError: The network has none.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("gender"), tl.Regression("age"))
        >>> model = tl.sharing.build("cross_stitch", tl.encoders.mlp((4,), hidden=[5]), tasks)
        >>> mixing_heatmaps(model).startswith("<svg")
        True
    """
    matrices = model.mixing_matrices()
    if not matrices:
        raise ConfigError("mixing_heatmaps: a network with mixing matrices expected, found one without.")
    square = {
        stage: matrix.double().reshape(-1, *matrix.shape[-2:]).mean(dim=0).tolist()
        for stage, matrix in matrices.items()
    }
    return plots.mixing_heatmaps(Mixing("", model.tasks.names, square))


def affinity_heatmaps(found: TaskAffinity) -> str:
    """Draws cosines and inter-task affinities side by side; a row receives, a column gives.

    Returns:
        SVG.

    Example:
        >>> half = np.full((2, 2), 0.5)
        >>> affinity_heatmaps(TaskAffinity(("a", "b"), half, half, half, 1)).startswith("<svg")
        True
    """
    matrices = {"gradient cosine": found.cosine.tolist(), "inter-task affinity": found.affinity.tolist()}
    about = "How tasks act on each other: rows receive, columns give"
    return plots.mixing_heatmaps(Mixing("", found.tasks, matrices), "{}", about)
