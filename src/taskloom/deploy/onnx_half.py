"""An ONNX file of half the size: weights lie in it as float16, and the graph computes in float32."""

from __future__ import annotations

import numpy as np

_LEAST_VALUES = 256
"""Smaller tensors (biases, means, scales) stay as they are: they take no room, and a scale may be large."""


def halved(content: bytes) -> bytes:
    """The graph with every large float32 weight as float16 and a cast behind it.

    Runtimes fold the casts when they load a file, so that it takes the time and memory of the other. A weight
    beyond 65,504 becomes infinite, which the comparison with PyTorch finds.

    Args:
        content: A graph in float32.
    """
    import onnx

    model = onnx.load_from_string(content)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST_VALUES:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    computing = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *computing])  # in the order in which they run
    smaller: bytes = model.SerializeToString()
    return smaller
