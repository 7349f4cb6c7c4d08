"""Task routing: one trunk in which every task uses its own fixed, random part of each stage's channels."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.executor import split_rows, stacked
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    after_loading,
    check_count,
    check_number,
    stage_positions,
)
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet


def draw_mask(num_channels: int, sharing: float, seed: int, task: str, stage: str) -> Tensor:
    """Which channels of a stage a task uses: round(sharing * C) of them, at least one, drawn at random.

    Source: Strezoski et al. 2019, section 3; tasks draw independently of each other, as in the authors' code,
    so that two tasks have about sharing^2 * C channels in common. The draw follows from seed, task and stage
    alone: other tasks and their order do not change it.

    Returns:
        [C] bool.

    Example:
        >>> int(draw_mask(10, 0.4, 0, "age", "conv").sum())
        4
    """
    kept = max(1, round(sharing * num_channels))
    names = [zlib.crc32(name.encode()) for name in (task, stage)]
    order = np.random.default_rng([seed, *names]).permutation(num_channels)
    mask = torch.zeros(num_channels, dtype=torch.bool)
    mask[torch.from_numpy(order[:kept])] = True
    return mask


class RoutingNetwork(ModuleNetwork):
    """One trunk for all tasks; after each routed stage a task goes on with its own channels, the others zero.

    Masks are products in the graph: a task's loss gives the filters that it does not use a gradient of zero.
    Tasks whose masks agree up to a stage are one tensor there and run once; where masks have parted, the
    trunk runs on every different tensor.

    State dict: `stages.<stage>.shared`, `masks.mask_<stage>` [T, C], `heads.<task>`. The trunk is shared,
    heads belong to their task.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        routed: Positions of the routed stages.
        sharing: Share of a stage's channels that each task uses.
        seed: Seed of the masks.
        joined: Whether in training tensors that have parted run as one joined batch (True) or one by one.
            Joined, batch norm takes the statistics of all rows, and through them a task's loss reaches
            filters that the task does not use.
        head, copies: See `PlanNetwork`.
    """

    stays = ("masks.",)

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        routed: Sequence[int],
        sharing: float,
        seed: int = 0,
        joined: bool = False,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        self.sharing, self.joined = sharing, joined
        self._num_stages = len(encoder.stages)
        self.add_trunk(encoder, range(self._num_stages))
        self.add_heads(encoder, head)
        self.masks = Masks(
            {
                self._stage_keys[index]: torch.stack(
                    [
                        draw_mask(
                            encoder.stage_shapes[index][0], sharing, seed, task, self.stage_names[index]
                        )
                        for task in tasks
                    ]
                )
                for index in routed
            }
        )
        self._plan_routes()
        after_loading(self, _plan_anew)  # masks of a checkpoint may be those of another seed

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Every task's features before its head.

        Args:
            inputs: [N, *encoder.input_shape].

        Returns:
            {task: [N, ...]}; one and the same tensor for tasks whose masks all agree.
        """
        rows = inputs  # [streams * N, ...], one stream after the other
        count = 1
        for index in range(self._num_stages):
            rows = self.run_streams(index, rows, count, joined=self.joined)
            if index in self._routes:
                sources, tasks, _ = self._routes[index]
                rows, count = self._mask(index, rows, count, sources, tasks), len(sources)
        streams = split_rows(rows, count)
        return self.by_task([streams[stream] for stream in self._streams])

    def task_modules(self, task: str) -> list[nn.Module]:
        return [self.head_of(task)]

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Share of the row's channels that the column uses too, [T, T], by routed stage; fixed."""
        found = {}
        for index in self._routes:
            used = self.masks.of(self._stage_keys[index]).to(torch.get_default_dtype())
            found[self.stage_names[index]] = used @ used.T / used.sum(1, keepdim=True)
        return found

    def describe(self) -> str:
        """A table of stages by tasks, with the number of channels that each task uses."""
        rows = self.trunk_rows(range(self._num_stages))
        for index in self._routes:
            mask = self.masks.of(self._stage_keys[index])
            counts = ", ".join(str(count) for count in sorted(set(mask.sum(1).tolist())))
            rows[index][-1] = f"{counts} of {mask.shape[1]} channels each"
        return self.table(rows)

    def _plan_routes(self) -> None:
        """Per routed stage: for each new stream, the stream it comes from and a task whose mask it takes."""
        self._routes: dict[int, tuple[list[int], list[int], bool]] = {}
        streams = [0] * len(self.tasks)
        for index in range(self._num_stages):
            key = self._stage_keys[index]
            if not self.masks.has(key):
                continue
            masks = [tuple(mask) for mask in self.masks.of(key).tolist()]
            found: dict[tuple[int, tuple[bool, ...]], int] = {}
            sources: list[int] = []
            tasks: list[int] = []
            parted: list[int] = []
            for task, (stream, mask) in enumerate(zip(streams, masks, strict=True)):
                if (stream, mask) not in found:
                    found[stream, mask] = len(sources)
                    sources.append(stream)
                    tasks.append(task)
                parted.append(found[stream, mask])
            streams = parted
            self._routes[index] = (sources, tasks, all(map(all, masks)))
        self._streams = streams

    def _mask(self, index: int, rows: Tensor, count: int, sources: list[int], tasks: list[int]) -> Tensor:
        """Masks [count * N, C, ...] for every new stream: [len(sources) * N, C, ...]."""
        if self._routes[index][2]:  # every channel for everybody: streams stay as they are
            return rows
        if torch.compiler.is_exporting():  # strides of a product of unknown size are not known to be whole
            parts = split_rows(rows, count)
            routed = zip(sources, tasks, strict=True)
            return torch.cat([parts[source] * self._mask_of(index, [task], rows) for source, task in routed])
        streams = stacked(rows, count)
        if 1 < count < len(sources):
            streams = streams[sources]
        masked: Tensor = streams * self._mask_of(index, tasks, rows).unsqueeze(1)
        return masked.flatten(0, 1)

    def _mask_of(self, index: int, tasks: list[int], rows: Tensor) -> Tensor:
        """The masks of tasks as they multiply rows, [len(tasks), C, 1, ...]."""
        mask = self.masks.of(self._stage_keys[index])[tasks].to(rows.dtype)
        return mask.reshape(len(tasks), -1, *(1,) * (rows.dim() - 2))


def _plan_anew(network: nn.Module, _: object) -> None:
    assert isinstance(network, RoutingNetwork)
    network._plan_routes()


class Masks(nn.Module):
    """Fixed masks by stage, as buffers.

    Args:
        masks: [T, C] bool by name.
    """

    def __init__(self, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self._names = {name: f"mask_{name}" for name in masks}
        for name, mask in masks.items():
            self.register_buffer(self._names[name], mask)

    def has(self, name: str) -> bool:
        """Whether there is such a mask."""
        return name in self._names

    def of(self, name: str) -> Tensor:
        """The mask, [T, C] bool."""
        return self.get_buffer(self._names[name])


@register_module("task_routing")
def task_routing(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    sharing: float = 0.5,
    stages: Stages = "all",
    seed: int = 0,
    joined: bool = False,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> RoutingNetwork:
    """Task routing (Strezoski et al. 2019): fixed random channel masks per task and stage in one trunk.

    Args:
        encoder: The backbone. Axis 1 of a stage's output is its channels.
        tasks: The tasks.
        sharing: Share of each stage's channels that a task uses, the paper's sigma, in (0, 1]; 1 is hard
            sharing.
        stages: Which stages are routed: "all", or numbers from 1 and names.
        seed: Seed of the masks, apart from the seed of a run.
        joined: See `RoutingNetwork`.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 4])
        >>> network = task_routing(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")), stages=[1])
        >>> print(network.describe())
        stage    a  b  how
        dense_0  A  A  4 of 8 channels each
        dense_1  A  A  -
        head     A  B  -
    """
    check_number("task_routing.sharing", sharing, most=1.0, above=True)
    if not isinstance(joined, bool):
        raise ConfigError(f"task_routing.joined: true or false expected, found {joined!r}.")
    return RoutingNetwork(
        encoder,
        tasks,
        routed=stage_positions(stages, encoder, "task_routing.stages"),
        sharing=sharing,
        seed=check_count("task_routing.seed", seed, least=0),
        joined=joined,
        head=head,
        copies=copies,
    )
