"""The Gramian of a multilayer perceptron's gradients without the gradients.

Of a linear layer with inputs x [B, n] and, for task t, the loss's gradient g_t [B, m] at its outputs, the
gradient at weights and bias is g_t' (x, 1), and the inner product of two of them is the sum of all entries of

    g_t * ((x x' + 1) g_s).

x x' is the same for all tasks. So T tasks cost a pass of g_t from layer to layer and products as wide as the
batch, in place of T products as wide as the layer. Nor does the update need gradients per task: with the
method's weights it is that of one backward pass from the weighted sum of the g_t at the end of the trunk.
(Inner products of gradients of single examples are taken so for differential privacy: Li et al. 2022, "Large
language models can be strong differentially private learners", section 4.)

What a trunk is made of is read from autograd's graph of the step: a chain of linear layers and of functions
that work number by number. Of every other trunk the gradients themselves are taken (`row_balancer`), and of
one in which somebody may have put hooks on tensors (`SharedFeature.plain`), of which the graph says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from taskloom.balancing.solvers import Array

_BY_NUMBER = frozenset(
    f"{name}Backward0" for name in ("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Tanh", "Sigmoid", "Mul")
)
"""Autograd's names of what works number by number; dropout in training is a product."""


@dataclass(frozen=True)
class Link:
    """A node of the graph: a linear layer, or where `inputs` is None a function number by number.

    Args:
        node: The node.
        inputs: What the layer was given, [B, n]; empty where its weights are not trained.
        transposed: Its weights, [n, m]; None where nothing before it is trained.
        weighted: Whether its weights are trained.
        biased: Whether it has a bias that is trained.
    """

    node: Any
    inputs: Tensor | None = None
    transposed: Tensor | None = None
    weighted: bool = False
    biased: bool = False


def chain_of(outputs: Tensor, parameters: Sequence[Tensor]) -> list[Link] | None:
    """What `outputs` [B, F] were computed by, the last layer first; None where it is no such chain.

    Args:
        outputs: The end of the trunk.
        parameters: What is trained of it: the chain must hold each of them once, and no others.

    Example:
        >>> layers = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU())
        >>> [link.node.name() for link in chain_of(layers(torch.ones(2, 5)), list(layers.parameters()))]
        ['ReluBackward0', 'AddmmBackward0']
        >>> chain_of(layers(torch.ones(2, 5)).softmax(1), list(layers.parameters())) is None
        True
    """
    chain: list[Link] = []
    found: list[int] = []
    if outputs.ndim != 2 or outputs.dtype not in (torch.float32, torch.float64) or _is_hooked(outputs):
        return None
    if any(_is_hooked(parameter) for parameter in parameters):
        return None
    node: Any = outputs.grad_fn
    while node is not None:
        name, before = node.name(), [function for function, _ in node.next_functions]
        if name in _BY_NUMBER and before[0] is not None and not any(before[1:]):
            if _shape(before[0]) != _shape(node):  # a product that repeats its factor is not number by number
                return None
            chain.append(Link(node))
            node = before[0]
            continue
        if name == "AddmmBackward0" and node._saved_alpha == node._saved_beta == 1:
            bias, node_before, weight = before
            inputs = node._saved_mat1
        elif name == "MmBackward0":
            bias, (node_before, weight) = None, before
            inputs = node._saved_self
        else:
            return None
        if weight is not None:
            weight = weight.next_functions[0][0] if weight.name() == "TBackward0" else weight.name()
        leaves = [getattr(function, "variable", None) for function in (weight, bias) if function is not None]
        found += [id(leaf) for leaf in leaves]
        transposed = None if node_before is None else node._saved_mat2
        empty = outputs.new_empty(len(outputs), 0)
        chain.append(
            Link(node, empty if weight is None else inputs, transposed, weight is not None, bias is not None)
        )
        node = node_before
    known = {id(parameter) for parameter in parameters}
    return chain if known and len(found) == len(known) and set(found) == known else None


def _shape(node: Any) -> tuple[int, ...]:
    """The shape of what the node gave in the forward pass."""
    return tuple(node._input_metadata[0].shape)


def _is_hooked(tensor: Tensor) -> bool:
    """Whether someone changes or looks at the tensor's gradient on its way."""
    return bool(tensor._backward_hooks) or bool(getattr(tensor, "_post_accumulate_grad_hooks", None))


@torch.no_grad()
def gramian_of(chain: Sequence[Link], gradients: Tensor) -> Array:
    """Inner products [T, T] of the gradients of T losses in the chain's parameters.

    Args:
        chain: From `chain_of`.
        gradients: The losses' gradients at its outputs, [T, B, F].

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> outputs = layer(torch.tensor([[3.0, 4.0]]))  # the gradient of the output is (3, 4, 1)
        >>> gramian_of(chain_of(outputs, list(layer.parameters())), torch.tensor([[[1.0]], [[-2.0]]]))
        array([[ 26., -52.],
               [-52., 104.]])
    """
    total = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for link in chain:
        if link.inputs is None:
            gradients = _before(link.node, gradients)
            continue
        total += _of_layer(link, gradients)
        if link.transposed is not None:
            gradients = gradients @ link.transposed.t()
    products: Array = total.cpu().numpy()
    return products


def _before(node: Any, gradients: Tensor) -> Tensor:
    """The gradients [T, B, F] before a function number by number."""
    if node.name() == "GeluBackward0":  # oneDNN's takes no broadcast
        return torch.stack([node(gradient) for gradient in gradients])
    found = node(gradients)
    gradient: Tensor = found[0] if isinstance(found, tuple) else found
    return gradient


def _of_layer(link: Link, gradients: Tensor) -> Tensor:
    """The inner products [T, T] of the gradients at one layer's weights and bias."""
    inputs = link.inputs
    assert inputs is not None
    tasks, rows, width = gradients.shape
    if not link.weighted:
        sums = gradients.sum(1)
        return sums @ sums.t()
    size = inputs.shape[1]
    by_rows = rows * (rows * (size + tasks * width) + tasks * tasks * width)
    by_weights = tasks * size * width * (rows + tasks)
    if by_weights < by_rows:
        if link.biased:
            inputs = functional.pad(inputs, (0, 1), value=1.0)
        of_layer = (gradients.transpose(1, 2) @ inputs).view(tasks, -1)
        return of_layer @ of_layer.t()
    kernel = inputs @ inputs.t()
    if link.biased:
        kernel += 1
    flat = gradients.reshape(tasks, -1)
    return flat @ (kernel @ gradients).view(tasks, -1).t()
