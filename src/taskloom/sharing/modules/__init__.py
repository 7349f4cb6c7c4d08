"""Networks that are no filling of the plan: experts, attention, routing, learned skipping, relation priors.

They have the methods of `MultiTaskNetwork` and stand in `ARCHITECTURES` under their names, so that nothing
downstream can tell them from plan networks.
"""

from taskloom.sharing.modules.adashare import adashare
from taskloom.sharing.modules.base import ModuleNetwork
from taskloom.sharing.modules.branch_search import BranchSearchNetwork
from taskloom.sharing.modules.branching import BranchingNetwork, adaptive_branching
from taskloom.sharing.modules.experts import ExpertNetwork, mmoe, ple
from taskloom.sharing.modules.gates import Gate
from taskloom.sharing.modules.learning_to_branch import learning_to_branch
from taskloom.sharing.modules.mtan import Attention, AttentionNetwork, mtan
from taskloom.sharing.modules.multilinear import RelationNetwork, multilinear_relationship
from taskloom.sharing.modules.registration import ModuleArchitecture, register_module
from taskloom.sharing.modules.retraining import RetrainedNetwork
from taskloom.sharing.modules.routing import RoutingNetwork, task_routing
from taskloom.sharing.modules.selecting import SelectionNetwork, dselect_k
from taskloom.sharing.modules.selection_gates import SelectionGate
from taskloom.sharing.modules.skipping import Policy, SkippingNetwork
from taskloom.sharing.modules.sluice import SluiceNetwork, StageWeights, sluice
from taskloom.sharing.modules.subspaces import SubspaceMixing
from taskloom.sharing.modules.tensor_normal import TensorNormal

__all__ = [
    "Attention",
    "AttentionNetwork",
    "BranchSearchNetwork",
    "BranchingNetwork",
    "ExpertNetwork",
    "Gate",
    "ModuleArchitecture",
    "ModuleNetwork",
    "Policy",
    "RelationNetwork",
    "RetrainedNetwork",
    "RoutingNetwork",
    "SelectionGate",
    "SelectionNetwork",
    "SkippingNetwork",
    "SluiceNetwork",
    "StageWeights",
    "SubspaceMixing",
    "TensorNormal",
    "adaptive_branching",
    "adashare",
    "dselect_k",
    "learning_to_branch",
    "mmoe",
    "mtan",
    "multilinear_relationship",
    "ple",
    "register_module",
    "sluice",
    "task_routing",
]
