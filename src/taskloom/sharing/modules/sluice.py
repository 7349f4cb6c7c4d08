"""Sluice networks: subspaces mixed across tasks, kept apart by a penalty, and stages mixed into the heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError
from taskloom.sharing.checks import check_copies_alike
from taskloom.sharing.forgetting import mix_before_adversaries
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.mixing import Start
from taskloom.sharing.modules.base import (
    ModuleNetwork,
    check_count,
    check_inputs_stay,
    check_number,
    stage_positions,
)
from taskloom.sharing.modules.positions import to_positions
from taskloom.sharing.modules.registration import register_module
from taskloom.sharing.modules.subspaces import (
    SubspaceMixing,
    channel_weights,
    check_subspaces,
    subspace_overlap,
)
from taskloom.sharing.network import MultiTaskNetwork, ParameterGroup, trainable
from taskloom.sharing.plan import Copies
from taskloom.sharing.settings import Stages
from taskloom.tasks import TaskSet

Skips = Literal["none", "sum", "concatenate"]
SkipStart = Literal["last", "equal"]


class StageWeights(nn.Module):
    """beta of one task: how much each stage's output counts for its head.

    Args:
        num_stages: K, the stages that the head hears.
        start: "last": 1 for the last stage and 0 for the others; "equal": 1 / K each.

    Attributes:
        beta: [K].
    """

    def __init__(self, num_stages: int, start: SkipStart) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(num_stages))
        with torch.no_grad():
            self.beta[-1 if start == "last" else slice(None)] = 1.0 if start == "last" else 1 / num_stages


class SluiceNetwork(ModuleNetwork):
    """Every task has a copy of every stage; subspaces are mixed after stages, stages are mixed into heads.

    After a mixed stage the T G subspaces of the copies' channels are combined by a learned matrix
    (`SubspaceMixing`). Before its head, a task combines the outputs h_k of its stages (after the mixing) by
    learned weights beta: "sum" gives sum over k of beta_k h_k (the paper's), "concatenate" lays the
    beta_k h_k side by side as channels, for stages of different width.

    Stages of different shape are brought together by averaging each one's positions (the axes after the
    channels) down to those of the last stage: to vectors, where the last stage gives vectors. A stage with
    fewer positions than the last one cannot be, nor, with "sum", one of another number of channels.

    `penalty()` keeps the subspaces of a task apart (Ruder et al. 2017, section 2):

        orthogonality * sum over tasks and mixed stages, and over pairs g < h of subspaces, of
        norm_F(W_g W_h^T)^2

    where the rows of W_g are the weights that give the channels of subspace g: those of the last layer of the
    stage that gives all its channels. (The paper writes G_1^T G_2, with channels as columns.)

    State dict: `stages.<stage>.<task>`, `heads.<task>`, `mixing.<stage>.alpha`, `skips.<task>.beta`. A task
    owns its copies, its head and its beta; the mixing matrices are shared.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        subspaces: G.
        mixed: Positions of the stages after which subspaces are mixed.
        start: See `SubspaceMixing`.
        orthogonality: Factor of the penalty; 0 is none.
        skips: "none", "sum" or "concatenate".
        skipped: Positions of the stages that the head hears besides the last one.
        skip_start: See `StageWeights`.
        lr_multiplier: Factor on the learning rate of matrices and betas.
        head, copies: See `PlanNetwork`.

    Raises:
        ConfigError: Channels that G does not divide, stages that cannot be brought together, or a stage that
            works in place on an input that something else reads too.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        *,
        subspaces: int = 2,
        mixed: Sequence[int] = (),
        start: Start = "identity",
        orthogonality: float = 0.0,
        skips: Skips = "sum",
        skipped: Sequence[int] = (),
        skip_start: SkipStart = "last",
        lr_multiplier: float = 1.0,
        head: HeadChoice = None,
        copies: Copies = "fresh",
    ) -> None:
        super().__init__(encoder, tasks, copies)
        total = len(encoder.stages)
        self.subspaces, self.orthogonality = subspaces, orthogonality
        self.join, self.lr_multiplier = skips, lr_multiplier
        self._heard = () if skips == "none" else (*(i for i in skipped if i < total - 1), total - 1)
        self._mixed = tuple(sorted(mixed))
        self._positions = encoder.stage_shapes[-1][1:]
        self._num_channels = [shape[0] for shape in encoder.stage_shapes]
        check_subspaces(encoder, mixed, subspaces)
        check_joined(encoder, self._heard, skips)
        # Copies read one input, and a stage that a head hears is read by the next stage as well.
        check_inputs_stay(
            encoder,
            sorted({*([0] if len(tasks) > 1 else []), *(i + 1 for i in self._heard[:-1])}),
            "other copies and heads read",
        )
        self.add_towers(encoder, range(total))
        for index in mixed:
            check_copies_alike(self.copies_of(index), encoder, index)
        width = sum(self._num_channels[i] for i in self._heard) if skips == "concatenate" else None
        self.add_heads(encoder, head, None if width is None else (width, *self._positions))
        self.mixing = nn.ModuleDict(
            {self._stage_keys[i]: SubspaceMixing(len(tasks), subspaces, start=start) for i in mixed}
        )
        self.skips = nn.ModuleDict(
            {key: StageWeights(len(self._heard), skip_start) for key in self._task_keys.values()}
            if self._heard
            else {}
        )
        # Stages without weights of their own have nothing to keep apart.
        self._apart = [
            i for i in mixed if subspaces > 1 and channel_weights(encoder.stages[i], self._num_channels[i])
        ]

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Every task's features before its head.

        Args:
            inputs: [N, *encoder.input_shape].
        """
        streams: Sequence[Tensor] = [inputs] * len(self.tasks)
        heard: list[Sequence[Tensor]] = []
        for index, key in enumerate(self._stage_keys):
            streams = self.run_each([index], streams)
            if key in self.mixing:
                streams = self._after_mixing(index, streams)
            if index in self._heard:
                heard.append(self._read(index, streams))
        if not heard:
            return self.by_task(streams)
        return self.by_task(
            [
                self._joined(beta, outputs)
                for beta, outputs in zip(self._betas(), zip(*heard, strict=True), strict=True)
            ]
        )

    def _after_mixing(self, index: int, streams: Sequence[Tensor]) -> Sequence[Tensor]:
        """The streams after a unit; in the last one an adversary's row is its own, behind its reversal."""
        last = index == self._mixed[-1]
        own = {self.tasks.index(task): (reversal, False) for task, reversal in self.reversals.items() if last}
        unit = self.mixing[self._stage_keys[index]]
        assert isinstance(unit, SubspaceMixing)
        return mix_before_adversaries(unit, streams, own)

    def _read(self, index: int, streams: Sequence[Tensor]) -> Sequence[Tensor]:
        """A stage as the heads read it: an adversary's through its reversal, up to where that stands."""
        if not self._mixed or index >= self._mixed[-1]:
            return streams
        return [
            self.reversals[task].reverse(stream) if task in self.reversals else stream
            for task, stream in zip(self.tasks, streams, strict=True)
        ]

    def _betas(self) -> list[Tensor]:
        return [weights.beta for weights in self.skips.children() if isinstance(weights, StageWeights)]

    def _joined(self, beta: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """One task's stages, weighted by its beta."""
        weighted = [
            weight * to_positions(output, self._positions)
            for weight, output in zip(beta.unbind(), outputs, strict=True)
        ]
        if self.join == "concatenate":
            return torch.cat(weighted, dim=1)
        total = weighted[0]
        for output in weighted[1:]:
            total = total + output
        return total

    def penalty(self) -> Tensor:
        """Orthogonality of the subspaces, by its factor; see the class."""
        total = super().penalty()
        if self.orthogonality == 0.0:
            return total
        for index in self._apart:
            for copy in self.copies_of(index):
                for weight in channel_weights(copy, self._num_channels[index]):
                    overlap = subspace_overlap(weight, self._num_channels[index], self.subspaces)
                    total = total + self.orthogonality * overlap
        return total

    def task_modules(self, task: str) -> list[nn.Module]:
        """The task's copies in the order of the stages, its head, and its beta."""
        key = self._task_keys[task]
        place = list(self._task_keys).index(self.tasks[task].name)
        copies = [self.copies_of(index)[place] for index in range(len(self._stage_keys))]
        return [*copies, self.heads[key], *([self.skips[key]] if key in self.skips else [])]

    def heard_modules(self, task: str) -> list[nn.Module]:
        place = self.tasks.index(task)
        return [self.copies_of(index)[place] for index in range(max(self._mixed, default=-1) + 1)]

    def put_reversals(self) -> None:
        """Reversals stand in the last mixing, and where an adversary's head reads stages below it.

        Raises:
            ConfigError: Nothing is mixed.
        """
        for task in self.reversals if not self._mixed else ():
            MultiTaskNetwork.entrance(self, task)  # refuses

    def special_groups(self) -> list[ParameterGroup]:
        learned = trainable([self.mixing, self.skips])
        return [ParameterGroup("mixing", learned, self.lr_multiplier, decays=False)]

    def mixing_matrices(self) -> dict[str, Tensor]:
        """Per mixed stage what a task hears of another, [T, T]; see `SubspaceMixing.matrix`."""
        units = dict(zip(self._stage_keys, self.stage_names, strict=True))
        return {
            units[key]: unit.matrix().detach().clone()
            for key, unit in self.mixing.items()
            if isinstance(unit, SubspaceMixing)
        }

    def skip_weights(self) -> Tensor:
        """Every task's beta over the stages that the heads hear, [T, K]; [T, 0] without skips."""
        if not self._heard:
            return torch.zeros(len(self.tasks), 0)
        return torch.stack(self._betas()).detach()

    def describe(self) -> str:
        """A table of stages by tasks; the head's row says how the stages count for each task."""
        rows = self.tower_rows(range(len(self.stage_names)))
        for row, key in zip(rows, self._stage_keys, strict=True):
            if key in self.mixing:
                row[-1] = f"{self.subspaces} subspaces mixed"
        for place, index in enumerate(self._heard):
            betas = ", ".join(f"{beta:.3g}" for beta in self.skip_weights()[:, place].tolist())
            into = f"into the heads by {betas}"
            rows[index][-1] = into if rows[index][-1] == "-" else f"{rows[index][-1]}; {into}"
        return self.table(rows)


def check_joined(encoder: Encoder, heard: Sequence[int], skips: Skips) -> None:
    """Refuses stages that cannot be brought to the last one's shape; see `SluiceNetwork`.

    Raises:
        ConfigError: Names the first such stage.
    """
    names, shapes = encoder.stage_names, encoder.stage_shapes
    for index in heard:
        shape, last = shapes[index], shapes[-1]
        fits = len(shape) >= len(last) and (
            len(last) == 1
            or (len(shape) == len(last) and all(a >= b for a, b in zip(shape[1:], last[1:], strict=True)))
        )
        if not fits:
            raise ConfigError(
                f"sluice.skips: stage `{names[index]}` gives {shape} and the last stage {last}; positions "
                "are averaged down to the last stage's, so at least as many expected; leave the stage out of "
                "`skip_stages`."
            )
        if skips == "sum" and shape[0] != last[0]:
            raise ConfigError(
                f"sluice.skips: a sum needs stages with the same number of channels; stage `{names[index]}` "
                f"has {shape[0]} and the last one {last[0]}; take `skips: concatenate`, or leave the stage "
                "out of `skip_stages`."
            )


@register_module("sluice")
def sluice(
    encoder: Encoder,
    tasks: TaskSet,
    *,
    subspaces: int = 2,
    after: Stages = "all",
    start: Start = "identity",
    orthogonality: float = 0.01,
    skips: Skips = "sum",
    skip_stages: Stages = "all",
    skip_start: SkipStart = "last",
    lr_multiplier: float = 1.0,
    copies: Copies = "fresh",
    head: HeadChoice = None,
) -> SluiceNetwork:
    """Sluice networks (Ruder et al. 2017): which subspaces and which stages are shared is learned.

    With one subspace and no skips it is cross-stitch per layer.

    Args:
        encoder: The backbone.
        tasks: The tasks.
        subspaces: G, into how many parts each stage's channels fall (the paper: 2).
        after: Numbers from 1 or names of the stages after which subspaces are mixed.
        start: How the mixing matrices begin; see `SubspaceMixing`.
        orthogonality: Factor of the penalty that keeps a task's subspaces apart, at least 0.
        skips: How a head hears the stages: "sum" (the paper's), "concatenate", or "none": the last one alone.
        skip_stages: Which stages it hears; the last one always.
        skip_start: How its weights begin: "last" hears the last stage alone, "equal" all alike.
        lr_multiplier: Factor on the learning rate of mixing matrices and stage weights.
        copies, head: See `PlanNetwork`.

    Raises:
        ConfigError: A setting out of range, subspaces that do not divide a stage's channels, stages that
            cannot be brought together, or a penalty on a stage named in `after` that has no weights.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[8, 8])
        >>> network = sluice(encoder, tl.TaskSet(tl.Binary("a"), tl.Binary("b")))
        >>> network.mixing["dense_0"].alpha.shape
        torch.Size([4, 4])
        >>> print(network.describe())
        stage    a  b  how
        dense_0  A  B  2 subspaces mixed; into the heads by 0, 0
        dense_1  A  B  2 subspaces mixed; into the heads by 1, 1
        head     A  B  -
    """
    check_count("sluice.subspaces", subspaces)
    check_number("sluice.orthogonality", orthogonality)
    check_number("sluice.lr_multiplier", lr_multiplier, above=True)
    for setting, value, known in (("skips", skips, Skips), ("skip_start", skip_start, SkipStart)):
        if value not in get_args(known):
            raise ConfigError(f"sluice.{setting}: {', '.join(get_args(known))} expected, found {value!r}.")
    mixed = stage_positions(after, encoder, "sluice.after")
    if after != "all" and orthogonality > 0 and subspaces > 1:
        for index in mixed:
            if not channel_weights(encoder.stages[index], encoder.stage_shapes[index][0]):
                raise ConfigError(
                    f"sluice.orthogonality: stage `{encoder.stage_names[index]}` has no layer that gives its "
                    "channels, so nothing to keep apart; set orthogonality to 0, or leave the stage out of "
                    "`after`."
                )
    return SluiceNetwork(
        encoder,
        tasks,
        subspaces=subspaces,
        mixed=mixed,
        start=start,
        orthogonality=orthogonality,
        skips=skips,
        skipped=stage_positions(skip_stages, encoder, "sluice.skip_stages"),
        skip_start=skip_start,
        lr_multiplier=lr_multiplier,
        head=head,
        copies=copies,
    )
