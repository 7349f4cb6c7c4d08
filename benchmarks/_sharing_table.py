"""Every architecture beside single-task training: rows `<architecture>_<encoder>_T<n>` of `sharing.py`."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from taskloom import Multiclass, TaskSet, encoders, sharing
from taskloom.encoders import Encoder
from taskloom.encoders.thesis_002 import TABLES
from taskloom.encoders.vgg5 import HEAD_HIDDEN
from taskloom.errors import ConfigError
from taskloom.sharing import HeadSpec, MultiTaskNetwork, mixing_kernel
from taskloom.sharing.modules.experts import ExpertNetwork
from taskloom.sharing.modules.gates import ExpertGate, Gate
from taskloom.sharing.ties import products

Step = Callable[[], None]
Clock = Callable[[], float]

SETTINGS: dict[str, dict[str, Any]] = {
    "single_task": {},
    "hard_sharing": {"stages": "all"},  # replaced by the encoder's number of stages
    "cross_stitch": {},
    "soft_sharing": {"weight": 0.001},
    "proportional_addition": {},
    "plan": {"partition": {"1": "together"}, "mixing": {"after": [2]}},
    "adaptive_branching": {"after_epochs": [1]},
    "sluice": {"skips": "none"},
    "mmoe": {},
    "dselect_k": {},
    "ple": {},
    "mtan": {},
    "task_routing": {},
    "adashare": {},
    "learning_to_branch": {},
    "multilinear_relationship": {},
}
"""Every registered architecture with the settings that it is measured with; `check_rows` holds it so."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft_sharing_laf": ("soft_sharing", {"tie_settings": {"unfolding": "laf"}}),
    "soft_sharing_every8": ("soft_sharing", {"every": 8}),
}
"""Further rows: an architecture with other settings. `every` is measured over a cycle of so many steps."""

COLUMNS = ("single_task", "cross_stitch", "soft_sharing", "proportional_addition", "sluice")
"""One column per task: the work is that of T networks, and so the unit is T single-task steps."""

_WARM_UP, _WARM_SECONDS = 3, 30.0
OF_T_STEPS = ("cross_stitch", "soft_sharing")
OF_FLOPS = {"hard_sharing": 1.10, "mmoe": 1.15, "ple": 1.15, "mtan": 1.15}
ENCODERS = ("opportunity", "deap", "vgg5", "resnet18", "resnet18_quarter", "resnet18_224px")
RESNETS: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "resnet18": ((3, 64, 64), 64, {}),
    "resnet18_quarter": ((3, 32, 32), 64, {"stem": "small", "width": 0.25}),
    "resnet18_224px": ((3, 224, 224), 32, {}),
}
"""Inputs, batch and settings of the residual networks."""


@dataclass(frozen=True)
class Row:
    """What one architecture took.

    Args:
        key: `<architecture>_<encoder>_T<n>`.
        steps: Its step over T single-task steps (over one, where the trunk is shared).
        of_flops: Its step over as many single-task steps as its floating-point work makes.
        target: The limit, and of which of the two; None where the project has none.
    """

    key: str
    steps: float
    of_flops: float
    target: tuple[str, float] | None

    def line(self) -> str:
        """One line of the table."""
        said = "no target"
        if self.target is not None:
            what, limit = self.target
            value = self.of_flops if what == "flops" else self.steps
            said = f"{value:.3f} of its {'work' if what == 'flops' else 'T steps'}, target {limit:.2f}: "
            said += "met" if value <= limit else "MISSED"
        return f"  {self.key:40s} {self.steps:6.3f}  by work {self.of_flops:6.3f}  {said}"


class Problem:
    """A network with inputs and labels for T tasks.

    Args:
        name: One of `ENCODERS`: networks C.7 and C.8 of thesis 002; that of thesis 000 (`vgg5`); ResNet-18 as
            it was published (64 to 512 filters, ImageNet's stem) on images of 64 x 64, the size in
            `recipes/utkface.yaml`, and of 224 x 224; or one with a quarter of the filters and the small stem
            on images of 32 x 32.
        num_tasks: T.
        quick: A quarter of the batch.
    """

    def __init__(self, name: str, num_tasks: int, *, quick: bool) -> None:
        draw = torch.Generator().manual_seed(0)
        shape: tuple[int, ...]
        classes: tuple[int, ...]
        if name in RESNETS:
            shape, batch, settings = RESNETS[name]
            self.encoder: Encoder = encoders.build("resnet18", shape, **settings)
            self.head, classes = HeadSpec(()), (10,)
        elif name == "vgg5":
            shape, batch, self.head, classes = (3, 112, 112), 32, HeadSpec(HEAD_HIDDEN), (2,)
            self.encoder = encoders.build("vgg5", shape)
        else:
            network = TABLES["C.7" if name == "opportunity" else "C.8"]
            shape, batch = ((64, 107), 100) if name == "opportunity" else ((128, 40), 32)
            self.encoder = encoders.build(network.encoder, shape, **network.settings)
            self.head, classes = HeadSpec(network.head_hidden), tuple(network.classes)
        batch = batch // 4 if quick else batch
        widths = itertools.islice(itertools.cycle(classes), num_tasks)
        self.tasks = TaskSet(*(Multiclass(f"task_{i}", width) for i, width in enumerate(widths)))
        self.inputs = torch.randn(batch, *shape, generator=draw)
        self.labels = {
            name: torch.randint(task.width, (batch,), generator=draw) for name, task in self.tasks.items()
        }

    def column(self, name: str) -> nn.Sequential:
        """One task's network in plain PyTorch."""
        stages = [self.encoder.copy_stage(index) for index in range(len(self.encoder.stages))]
        head = self.head.build(self.encoder.stage_shapes[-1], self.tasks[name].width)
        return nn.Sequential(*stages, head)

    def network(self, architecture: str, **settings: Any) -> MultiTaskNetwork:
        """The architecture or variant with the settings of the tables, or others."""
        architecture, changed = VARIANTS.get(architecture, (architecture, {}))
        settings = {**changed, **settings}
        if architecture == "hard_sharing":
            settings = {"stages": len(self.encoder.stages), **settings}
        else:
            settings = {**SETTINGS[architecture], **settings}
        return sharing.build(architecture, self.encoder, self.tasks, head=self.head, **settings)


class DoubleLoop(nn.Module):
    """Cross-stitch as others write it: for every task, a sum over tasks, each a product with one element."""

    def __init__(self, columns: Mapping[str, nn.Sequential]) -> None:
        super().__init__()
        self.columns = nn.ModuleDict(columns)
        stages = len(next(iter(columns.values()))) - 1
        self.alphas = nn.ParameterList(torch.eye(len(columns)) for _ in range(stages))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        streams = [inputs] * len(self.columns)
        for stage, alpha in enumerate(self.alphas):
            outputs = [column[stage](x) for column, x in zip(self.columns.values(), streams, strict=True)]
            streams = []
            for i in range(len(outputs)):
                mixed = alpha[i, 0] * outputs[0]
                for j in range(1, len(outputs)):
                    mixed = mixed + alpha[i, j] * outputs[j]
                streams.append(mixed)
        return {name: column[-1](x) for (name, column), x in zip(self.columns.items(), streams, strict=True)}


def single_steps(problem: Problem) -> Step:
    """T networks, each with its own forward, backward and update."""
    columns = {name: problem.column(name) for name in problem.tasks}
    optimizers = {name: torch.optim.Adam(column.parameters()) for name, column in columns.items()}

    def step() -> None:
        for name, column in columns.items():
            optimizers[name].zero_grad()
            F.cross_entropy(column(problem.inputs), problem.labels[name]).backward()
            optimizers[name].step()

    return step


def joint_step(
    problem: Problem,
    network: nn.Module,
    penalty: Callable[[], Tensor] | None = None,
    number: int | None = None,
) -> Step:
    """One network for all tasks: one forward, one backward, one update.

    Args:
        problem: What it was built on.
        network: The network.
        penalty: Of the ties; the network's own where None.
        number: Of the step, for ties that rest in between; None: they do not.
    """
    optimizer = torch.optim.Adam(network.parameters())
    if penalty is None and isinstance(network, MultiTaskNetwork):
        penalty = network.penalty

    def step() -> None:
        if isinstance(network, MultiTaskNetwork):
            network.set_step(number)
        optimizer.zero_grad()
        predictions = network(problem.inputs)
        loss = torch.stack([F.cross_entropy(predictions[n], problem.labels[n]) for n in problem.tasks]).sum()
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        optimizer.step()

    return step


def check_rows() -> None:
    """Refuses a table that is not the registry.

    Raises:
        SystemExit: Names the architectures without a row, and the rows without an architecture.
    """
    missing, unknown = (
        sorted({*sharing.ARCHITECTURES} - {*SETTINGS}),
        sorted({*SETTINGS} - {*sharing.ARCHITECTURES}),
    )
    if missing:
        raise SystemExit(
            f"benchmarks/_sharing_table.py: no row for {', '.join(missing)}, which "
            "sharing.ARCHITECTURES holds; add the settings to measure with to SETTINGS."
        )
    if unknown:
        raise SystemExit(
            f"benchmarks/_sharing_table.py: {', '.join(unknown)} in SETTINGS, which "
            "sharing.ARCHITECTURES does not hold; take it out."
        )


def _product_flops(rows: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape) * rows[-1]


NOT_COUNTED = {torch.ops.mkldnn._linear_pointwise: _product_flops}
"""What `sharing/onednn.py` multiplies with: PyTorch counts it as nothing."""


def flops_of(step: Step, network: nn.Module | None = None, problem: Problem | None = None) -> int:
    """Floating-point operations that one step demands, forward and backward.

    Args:
        step: What is run once: its matrix products and convolutions are counted by PyTorch.
        network: Whose weighted sums of copies and experts are added by their definition (`sums_of`): how they
            run is nobody's business, and PyTorch would count them in some forms and not in others.
        problem: What it was built on.
    """
    written, large = mixing_kernel._MOST_SCALARS, products._LARGE
    mixing_kernel._MOST_SCALARS = sys.maxsize  # as scaled additions, which PyTorch does not count
    products._LARGE = sys.maxsize  # as matrix products, which it does
    try:
        with FlopCounterMode(display=False, custom_mapping=NOT_COUNTED) as counter:
            step()
    finally:
        mixing_kernel._MOST_SCALARS, products._LARGE = written, large
    found = int(counter.get_total_flops())
    if network is not None and problem is not None:
        found += len(problem.inputs) * sums_of(network, problem.encoder)
    return found


def sums_of(network: nn.Module, encoder: Encoder) -> int:
    """Operations of mixing units and of gated experts per row, forward and backward.

    A unit over T copies has T^2 terms per value of a copy (over G subspaces T^2 G), a gate one per expert
    that it weighs. A term is a product and a sum, and as much again for each of its two gradients. The
    gradient that a gate gives its inputs, where stages stand before it, is made of such terms too.
    """
    below = 0
    sizes = dict(zip(encoder.stage_names, map(math.prod, encoder.stage_shapes), strict=True))
    if isinstance(network, ExpertNetwork):
        levels = list(zip(network.levels, network.gates, strict=True))
        below = sum(
            gate.linear.weight.numel()
            for level, gates in levels
            for gate in gates.modules()
            if isinstance(gate, Gate) and level.start > 0
        )
        weighed = {
            encoder.stage_names[level[-1]]: sum(
                len(m.mean) for m in gates.modules() if isinstance(m, ExpertGate)
            )
            for level, gates in levels
        }
    elif isinstance(network, MultiTaskNetwork):
        parts = getattr(network, "subspaces", 1)
        weighed = {name: parts * len(matrix) ** 2 for name, matrix in _by_layer(network).items()}
    else:  # the double loop
        weighed = dict.fromkeys(encoder.stage_names, len(getattr(network, "columns", ())) ** 2)
    return 2 * below + 6 * sum(sizes[name] * terms for name, terms in weighed.items())


def _by_layer(network: MultiTaskNetwork) -> dict[str, Tensor]:
    """Mixing matrices [T, T]; of one per channel the first."""
    return {name: m if m.dim() == 2 else m[0] for name, m in network.mixing_matrices().items()}


def seconds(step: Step, clock: Clock) -> float:
    start = clock()
    step()
    return clock() - start


def median_ratio(
    step: Step | Sequence[tuple[Step, int]], baseline: Step, rounds: int, clock: Clock = time.perf_counter
) -> float:
    """Time of the step over the baseline's, median over rounds; all take turns.

    Rounds that warm up come first: three, or as many as begin within half a minute. In the first ones an
    allocator that keeps freed memory still finds new pages, which a training run does once.

    Args:
        step: What is measured; or the steps of a cycle, each with how often it comes, whose mean counts.
        baseline: What it is measured by.
        rounds: Rounds that count.
        clock: Wall or processor time.
    """
    cycle = [(step, 1)] if callable(step) else step

    def one_round() -> float:
        theirs = seconds(baseline, clock)
        ours = sum(seconds(one, clock) * times for one, times in cycle) / sum(times for _, times in cycle)
        return ours / theirs

    begin = time.perf_counter()
    for _ in range(_WARM_UP):
        one_round()
        if time.perf_counter() - begin > _WARM_SECONDS:
            break
    return statistics.median(one_round() for _ in range(rounds))


def measure(
    architectures: Sequence[str], names: Sequence[str], numbers: Sequence[int], *, quick: bool, clock: Clock
) -> dict[str, float | None]:
    """Prints one line per row; what an architecture cannot be built on is said and is None.

    Args:
        architectures: Names of the registry or of `VARIANTS`, or `double_loop`.
        names: Names of `ENCODERS`.
        numbers: Numbers of tasks.
        quick: A quarter of the batch, three rounds.
        clock: Wall or processor time.

    Returns:
        `<architecture>_<encoder>_T<n>` and, with `_of_flops`, the ratio by work.
    """
    found: dict[str, float | None] = {}
    for name, num_tasks in itertools.product(names, numbers):
        problem = Problem(name, num_tasks, quick=quick)
        baseline = single_steps(problem)
        work = flops_of(baseline)
        rounds = 3 if quick else {2: 11, 3: 9}.get(num_tasks, 5)
        for architecture in architectures:
            key, base = f"{architecture}_{name}_T{num_tasks}", VARIANTS.get(architecture, (architecture,))[0]
            try:
                network = (
                    DoubleLoop({task: problem.column(task) for task in problem.tasks})
                    if architecture == "double_loop"
                    else problem.network(architecture)
                )
            except ConfigError as error:
                print(f"  {key:40s} not built: {error}", flush=True)
                found[key] = None
                continue
            step = cycle_of(problem, network, architecture)
            share = sum(flops_of(one, network, problem) * times for one, times in step) / work
            share /= sum(times for _, times in step)
            ratio = median_ratio(step, baseline, rounds, clock)
            columns = base in (*COLUMNS, "double_loop")
            row = Row(
                key,
                ratio if columns else ratio * num_tasks,
                ratio / share,
                _target(base, num_tasks),
            )
            print(row.line(), flush=True)
            found |= {key: round(row.steps, 3), f"{key}_of_flops": round(row.of_flops, 3)}
            del network, step
            gc.collect()
    return found


def cycle_of(problem: Problem, network: nn.Module, architecture: str) -> list[tuple[Step, int]]:
    """The steps of an architecture, each with how often it comes; where ties rest, two kinds."""
    every = VARIANTS.get(architecture, (architecture, {}))[1].get("every", 1)
    if every == 1:
        return [(joint_step(problem, network), 1)]
    with_tie, without = (joint_step(problem, network, number=number) for number in (0, 1))
    return [(with_tie, 1), (without, every - 1)]


def _target(architecture: str, num_tasks: int) -> tuple[str, float] | None:
    if architecture in OF_T_STEPS:
        return "steps", 1.20 if num_tasks >= 8 else 1.10
    return ("flops", OF_FLOPS[architecture]) if architecture in OF_FLOPS else None
