"""Many losses to one update: a balancer turns the losses per task into gradients of the parameters.

| module | what is in it |
|---|---|
| `base` | `Balancer`, the registry `BALANCERS`, `build(name, settings)` |
| `weights` | `WeightedSum`, learned and random weights: one sum, one backward pass |
"""

from taskloom.balancing.base import BALANCERS, Balancer, Processes, build
from taskloom.balancing.weights import LossWeighting, WeightedSum

__all__ = ["BALANCERS", "Balancer", "LossWeighting", "Processes", "WeightedSum", "build"]
