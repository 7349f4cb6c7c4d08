"""How spawned processes find each other and part again; imported where training takes several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed
from lightning_fabric.strategies.ddp import DDPStrategy

_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another, at the start and at every exchange; Fabric's default."""


class SpawnedProcesses(DDPStrategy):
    """DDP over spawned processes of one machine that meet by a file.

    Fabric has them meet at a port that was free when it looked, which another program may have taken by the
    time the first process listens; and it leaves the port in the environment, where the next training, or one
    beside it, finds it. A file in a folder of our own is nobody else's.

    Attributes:
        meeting: A file that is not there yet, in a folder that is; set before `Fabric.launch`.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn")
        self.meeting: Path | None = None

    def setup_environment(self) -> None:
        """Joins this process to the others; Fabric then finds them joined."""
        assert self.meeting is not None, "set before launch"
        torch.distributed.init_process_group(
            "nccl" if self.root_device.type == "cuda" else "gloo",
            init_method=self.meeting.as_uri(),
            rank=self.local_rank,
            world_size=self.num_processes,
            timeout=_TIMEOUT,
        )
        super().setup_environment()


def part() -> None:
    """Ends the exchange of a process with the others, once all have come so far.

    A process that ends with the exchange still open is now and then aborted ("terminate called without an
    active exception"): the threads of gloo run on while the interpreter takes their objects away.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def without_a_port() -> Iterator[None]:
    """Leaves the environment's MASTER_PORT, which Fabric sets for the processes it starts, as it was."""
    before = os.environ.get("MASTER_PORT")
    try:
        yield
    finally:
        os.environ.pop("MASTER_PORT", None)
        if before is not None:
            os.environ["MASTER_PORT"] = before
