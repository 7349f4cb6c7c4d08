"""Trees over copies of stages, and the choices between them (learning to branch, Guo et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

OPEN, GONE = -1, -2
"""In `parents` and `reads`: nothing is chosen yet; the copy that chose is gone."""


class Tree(NamedTuple):
    """Who is fed by whom.

    Args:
        parents: Per stage of the search but the first, and per copy of it, the copy below; `GONE` for copies
            that no task needs.
        reads: Per task its copy of the last stage.
    """

    parents: list[list[int]]
    reads: list[int]

    def paths(self) -> list[list[int]]:
        """Per stage and task the copy that the task runs through."""
        path = [self.reads]
        for parents in reversed(self.parents):
            path.insert(0, [parents[copy] for copy in path[0]])
        return path


class ParentChoice(nn.Module):
    """Chances with which each of C children is fed by each of P parents: softmax of logits, 0 at the start.

    Args:
        num_children: C.
        num_parents: P.

    Attributes:
        logits: [C, P].
    """

    def __init__(self, num_children: int, num_parents: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_children, num_parents))

    def sample(self, temperature: float) -> Tensor:
        """Draws a relaxed choice per child, [C, P], rows summing to 1 (Guo et al. 2020)."""
        exponential = torch.empty(self.logits.shape, device=self.logits.device).exponential_()
        gumbel = -exponential.log()
        return ((self.logits + gumbel.to(self.logits.dtype)) / temperature).softmax(1)


def grouped(names: Sequence[str], path: Sequence[int]) -> str:
    """Who shares a copy with whom: tasks of one copy joined by +."""
    users = {copy: [name for name, its in zip(names, path, strict=True) if its == copy] for copy in path}
    return ", ".join("+".join(group) for group in users.values())


def pruned(tree: Tree) -> Tree:
    """The tree with `GONE` for copies that no task needs."""
    paths = tree.paths()
    parents = [
        [parent if copy in path else GONE for copy, parent in enumerate(row)]
        for row, path in zip(tree.parents, paths[1:], strict=True)
    ]
    return Tree(parents, tree.reads)
