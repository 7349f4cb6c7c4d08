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
from taskloom.sharing.changing import Change, Look, SelfChanging
from taskloom.sharing.depth import DeepSupervision, ReadOut, with_read_outs
from taskloom.sharing.heads import HeadSpec
from taskloom.sharing.mixing import CrossStitch
from taskloom.sharing.modules import (
    adaptive_branching,
    adashare,
    dselect_k,
    learning_to_branch,
    mmoe,
    mtan,
    multilinear_relationship,
    ple,
    sluice,
    task_routing,
)
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.network import MultiTaskNetwork, ParameterGroup, PlanNetwork
from taskloom.sharing.plan import CrossStitchSpec, MixingSpec, Plan, StagePlan, TieSpec
from taskloom.sharing.proportional import ProportionalAddition, proportional_addition
from taskloom.sharing.reversal import GradientReversal, reverse_gradient

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Change",
    "CrossStitch",
    "CrossStitchSpec",
    "DeepSupervision",
    "GradientReversal",
    "HeadSpec",
    "Look",
    "MixingSpec",
    "MultiTaskNetwork",
    "ParameterGroup",
    "Plan",
    "PlanArchitecture",
    "PlanNetwork",
    "ProportionalAddition",
    "ReadOut",
    "SelfChanging",
    "StagePlan",
    "TieSpec",
    "adaptive_branching",
    "adashare",
    "build",
    "by_plan",
    "cross_stitch",
    "dselect_k",
    "hard_sharing",
    "learning_to_branch",
    "mmoe",
    "mtan",
    "multilinear_relationship",
    "ple",
    "proportional_addition",
    "register",
    "register_module",
    "reverse_gradient",
    "single_task",
    "sluice",
    "soft_sharing",
    "task_routing",
    "with_read_outs",
]
