"""What networks are built from where every architecture and every encoder goes into a bundle."""

from __future__ import annotations

from typing import Any

import _architecture_table

SETTINGS: dict[str, dict[str, Any]] = {
    **_architecture_table.SETTINGS,
    "single_task": {},
    "hard_sharing": {"stages": 1, "from": "output"},
    "plan": {"partition": {"1": "together"}, "mixing": {"after": [2]}, "tie": {"l2": {"weight": {"2": 0.1}}}},
    "cross_stitch": {"after": "all", "per": "channel", "start": {"same": 0.9, "other": 0.1}},
    "soft_sharing": {"tie": "trace_norm", "weight": 0.1},
    "proportional_addition": {"start": 0.1},
    "sluice": {"skips": "concatenate"},
    "mmoe": {"experts": 2},
    "ple": {},
    "mtan": {},
    "task_routing": {"sharing": 0.6, "seed": 3},
    "adashare": {},
    "adaptive_branching": {"after_epochs": [1]},
    "multilinear_relationship": {"task_stages": 1},
}
ENCODER_SETTINGS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((5,), {"hidden": [6]}),
    "conv1d": ((32, 3), {}),
    "opportunity_cnn": ((64, 6), {"width": 0.125}),
    "deap_cnn": ((128, 4), {}),
    "vgg5": ((3, 32, 32), {}),
    "lstm": ((16, 3), {"hidden": [6, 5]}),
    "deep_conv_lstm": ((24, 3), {"filters": [4, 4], "hidden": [6, 5]}),
    "resnet18": ((3, 8, 8), {"stem": "small", "width": 0.125}),
    "resnet50": ((3, 8, 8), {"stem": "small", "width": 0.0625, "embedding": 4, "prepare": True, "size": 16}),
    "se_resnet50": ((3, 8, 8), {"stem": "small", "width": 0.0625, "shared_layers": [6, 5]}),
    "vgg16": ((3, 32, 32), {"width": 0.0625}),
    "densenet121": ((3, 32, 32), {"growth": 4, "layers": [1, 1, 1, 1]}),
    "lightcnn9": ((3, 16, 16), {"width": 0.125, "prepare": True, "size": [24, 16]}),
    "lightcnn29": ((3, 16, 16), {"width": 0.125}),
    "sphereface20": ((3, 16, 16), {"width": 0.0625}),
    "inception_resnet_v1": ((3, 75, 75), {"width": 0.0625}),
    "mtfl_cnn": ((3, 40, 40), {"filters": [4, 4, 4, 4], "dense": 6}),
}
