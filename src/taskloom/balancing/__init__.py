"""Many losses to one update: a balancer turns the losses per task into gradients of the parameters.

| module | what is in it |
|---|---|
| `base` | `Balancer`, the registry `BALANCERS`, `build(name, settings)` |
| `checks` | what a balancer refuses: settings, losses |
| `weights` | `WeightedSum`, mean, random, and the base of all weights on losses |
| `learned` | a number per task learned with the network: thesis 001, uncertainty, IMTL-L |
| `epochs` | weights per epoch: DWA, dynamic task prioritisation |
| `entering` | weights per epoch with which tasks enter one after the other: self-paced, curriculum |
| `famo`, `adaptive` | weights per step: FAMO, GradNorm, TorchJD's scalarisations (STCH, ...) |
| `numbers` | a few numbers per step: Python's own or arrays on a CPU, tensors on a GPU |
| `methods` | gradient aggregation by name: UPGrad, MGDA, PCGrad, CAGrad, Nash-MTL, ... |
| `aggregation` | `GradientAggregation`, the balancer all of these run in |
| `row_balancer` | gradients per task collected for it, and put where they belong |
| `gradients`, `features` | gradients per task, on the parameters or at the shared feature |
| `read_outs` | linear heads as one layer, gradients at the feature from those at its outputs |
| `chains` | inner products of gradients over a trunk of linear layers, without the gradients |
| `method` | what a method is: weights from the Gramian, or an aggregation of the matrix |
| `weightings`, `solvers` | the methods without a network: weights from the Gramian |
| `impartial` | IMTL: scales learned for the losses, equal projections for the gradients |
| `tracking` | methods that keep moving averages of the gradients: MoCo, DB-MTL |
| `torchjd_methods` | TorchJD's own methods and solvers inside ours |
| `in_parts` | a batch in parts, where weights do not follow its losses |
| `silence` | tasks that are set to say nothing to what is shared |
| `conflicts` | cosines and conflicts between tasks, for the report |
"""

from taskloom.balancing import adaptive, epochs, famo, impartial, methods, tracking
from taskloom.balancing.aggregation import GradientAggregation
from taskloom.balancing.base import BALANCERS, Balancer, Processes, build
from taskloom.balancing.learned import LearnedWeights
from taskloom.balancing.method import MatrixMethod, Weighting
from taskloom.balancing.numbers import Weighed
from taskloom.balancing.weightings import Formula
from taskloom.balancing.weights import LossWeighting, WeightedSum

__all__ = [
    "BALANCERS",
    "Balancer",
    "Formula",
    "GradientAggregation",
    "LearnedWeights",
    "LossWeighting",
    "MatrixMethod",
    "Processes",
    "Weighed",
    "WeightedSum",
    "Weighting",
    "adaptive",
    "build",
    "epochs",
    "famo",
    "impartial",
    "methods",
    "tracking",
]
