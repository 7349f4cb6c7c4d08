"""Seeds, random states, deterministic algorithms, and a record of the environment a run took place in."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic

from taskloom.version import __version__

_PACKAGES = ("torch", "lightning-fabric", "numpy", "pandas", "scikit-learn", "scipy")


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch (CPU and every GPU).

    Example:
        >>> seed_everything(1); first = torch.rand(1)
        >>> seed_everything(1); bool(first == torch.rand(1))
        True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """State of every global random generator, as plain values and tensors; see `set_random_states`."""
    algorithm, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": list(_plain(random.getstate())),
        "numpy": [algorithm, torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Puts back what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    algorithm, keys, *position = states["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *position))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextlib.contextmanager
def reproducible(threads: int | None = None) -> Iterator[None]:
    """Deterministic algorithms (and `threads` CPU threads) inside; everything as it was afterwards.

    The global random generators, too, are put back: training does not disturb the caller's randomness.
    """
    # cuBLAS reads it when it starts; without it PyTorch refuses deterministic matrix products on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    states = random_states()
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmarked = torch.backends.cudnn.benchmark
    num_threads = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        # Filling fresh memory only finds programs that read it unwritten, and costs a pass over every output.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmarked
        torch.set_num_threads(num_threads)
        set_random_states(states)


def environment() -> dict[str, Any]:
    """What a run record says about where it ran: versions, machine, devices, threads. JSON-serialisable.

    Example:
        >>> sorted(environment())
        ['cpu_count', 'cuda', 'gpus', 'machine', 'platform', 'threads', 'versions']
    """
    versions = {"taskloom": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    found = torch.cuda.is_available()
    return {
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if found else [],
    }


def _plain(state: Any) -> Any:
    """Tuples as lists, all the way down: what a checkpoint may hold."""
    return [_plain(part) for part in state] if isinstance(state, tuple) else state
