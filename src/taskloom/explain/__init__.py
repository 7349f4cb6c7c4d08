"""What trained networks look at and how their tasks act on each other."""

from taskloom.explain.activation_maps import ActivationMaps, activation_maps, stages_with_maps
from taskloom.explain.affinity import TaskAffinity, task_affinity
from taskloom.explain.heatmaps import affinity_heatmaps, mixing_heatmaps
from taskloom.explain.targets import Target, target_score

__all__ = [
    "ActivationMaps",
    "Target",
    "TaskAffinity",
    "activation_maps",
    "affinity_heatmaps",
    "mixing_heatmaps",
    "stages_with_maps",
    "target_score",
    "task_affinity",
]
