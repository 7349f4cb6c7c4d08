"""What is shared: the plan (partition, mixing, tie per stage), its network, and plans by name."""

from taskloom.sharing.architectures import (
    ARCHITECTURES,
    Architecture,
    PlanArchitecture,
    build,
    cross_stitch,
    hard_sharing,
    register,
    single_task,
    soft_sharing,
)
from taskloom.sharing.by_plan import by_plan
from taskloom.sharing.heads import HeadSpec
from taskloom.sharing.mixing import CrossStitch
from taskloom.sharing.modules import (
    adashare,
    mmoe,
    mtan,
    multilinear_relationship,
    ple,
    task_routing,
)
from taskloom.sharing.network import MultiTaskNetwork, ParameterGroup, PlanNetwork
from taskloom.sharing.plan import CrossStitchSpec, Plan, StagePlan, TieSpec

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CrossStitch",
    "CrossStitchSpec",
    "HeadSpec",
    "MultiTaskNetwork",
    "ParameterGroup",
    "Plan",
    "PlanArchitecture",
    "PlanNetwork",
    "StagePlan",
    "TieSpec",
    "adashare",
    "build",
    "by_plan",
    "cross_stitch",
    "hard_sharing",
    "mmoe",
    "mtan",
    "multilinear_relationship",
    "ple",
    "register",
    "single_task",
    "soft_sharing",
    "task_routing",
]
