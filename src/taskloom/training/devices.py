"""Which device trains, in how many processes, and how much memory that took."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from taskloom.errors import ConfigError
from taskloom.training.config import TrainingConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "16-mixed",
}


def choose_device(device: str) -> tuple[Literal["cpu", "cuda"], str | None]:
    """Turns "auto", "cpu" or "cuda" into what there is.

    Returns:
        The accelerator, and for "auto" a note on what was found, in words.

    Raises:
        ConfigError: CUDA was asked for and is not there.

    Example:
        >>> choose_device("cpu")
        ('cpu', None)
    """
    found = torch.cuda.is_available()
    if device == "auto":
        if found:
            return "cuda", f"device auto: cuda, {torch.cuda.get_device_name(0)} was found"
        return "cpu", "device auto: cpu, PyTorch finds no CUDA device"
    if device == "cuda" and not found:
        raise ConfigError(
            f"training.device: cuda was asked for, but PyTorch {torch.__version__} finds no CUDA device; "
            "use cpu or auto."
        )
    return ("cuda", None) if device == "cuda" else ("cpu", None)


def make_fabric(config: TrainingConfig) -> tuple[Fabric, list[str]]:
    """Builds the Fabric that `config` asks for.

    Returns:
        The Fabric, not yet launched, and notes on what "auto" became.

    Raises:
        ConfigError: A device, a number of devices or a precision that is not there.
    """
    # Importing Fabric takes seconds, and most commands do not train.
    from lightning_fabric import Fabric

    from taskloom.training.spawning import SpawnedProcesses

    accelerator, note = choose_device(config.device)
    if accelerator == "cpu" and config.precision == "16-mixed":
        raise ConfigError(
            "training.precision: 16-mixed needs a GPU and the device is cpu; use bf16-mixed or 32 instead."
        )
    if accelerator == "cuda" and config.devices > torch.cuda.device_count():
        raise ConfigError(
            f"training.devices: {config.devices} were asked for, "
            f"{torch.cuda.device_count()} CUDA device(s) found."
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        precision=_PRECISIONS[config.precision],
        # Spawned processes share nothing with this one: forking after autograd or CUDA has run is not safe.
        strategy=SpawnedProcesses() if config.devices > 1 else "auto",
    )
    return fabric, [note] if note else []


class PeakMemory:
    """Most memory in use since it was made; see `History.peak_memory_of` for what counts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.of = "cuda"
        else:
            self.of = "process" if _reset_high_water_mark() else "process lifetime"

    def bytes(self) -> int:
        """The peak so far, in bytes."""
        if self.of == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.of == "process":
            return _high_water_mark()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_high_water_mark() -> bool:
    """Sets the kernel's resident-memory peak of this process to its present size; Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_mark() > 0
    except OSError:
        return False


def _high_water_mark() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
