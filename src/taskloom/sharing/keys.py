"""What stage copies, stages and heads are called in a state dict."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def copy_keys(partition: Sequence[Sequence[str]], tasks: Sequence[str]) -> list[str]:
    """What the copies of a stage are called in the state dict, one per group."""
    return module_keys(["shared" if len(group) == len(tasks) > 1 else "+".join(group) for group in partition])


def module_keys(names: Sequence[str]) -> list[str]:
    """Names as a module may have them: no dot or slash, none that a ModuleDict has already, none twice.

    Example:
        >>> module_keys(["age", "v1.0", "keys"])
        ['age', 'v1_0', 'keys_']
    """
    keys: list[str] = []
    for name in names:
        key = name.replace(".", "_").replace("/", "_")
        while hasattr(nn.ModuleDict, key) or key == "training" or key in keys:
            key += "_"
        keys.append(key)
    return keys
