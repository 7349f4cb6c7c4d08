"""A training step of shared networks beside T single-task steps in plain PyTorch: forward, backward, Adam.

What the ratios count, on the networks of thesis 002 (C.7 and C.5: OPPORTUNITY, windows [100, 64, 107], heads
of 1000 and 500; C.8 and C.6: DEAP, windows [32, 128, 40], heads of 56), classification, T tasks:

- `cross_stitch_T<n>`: cross-stitch after the three convolutional stages, per layer, on OPPORTUNITY / T
  separate networks of the same stages, trained one after the other; `cross_stitch_deap_T<n>` on DEAP;
  `cross_stitch_channel_T<n>` with one matrix per channel on OPPORTUNITY.
- `naive_cross_stitch_T<n>`: the same network with the units as others write them: a double loop over tasks.
- `trace_norm_opportunity`, `trace_norm_deap`: T = 2, Tucker trace norm over the copies of each convolution.
- `gram_vs_svd`: that norm through Gram matrices / through the SVD of each unfolding, two of 512x256x3x3.

All networks of one comparison take turns in every round; a ratio is the median over the rounds. Two threads.
Freed memory stays with the process (as in `taskloom study`, see training/allocator.py) unless
`--allocator system`.
Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from _gram_vs_svd import gram_vs_svd
from torch import Tensor, nn

from taskloom import Multiclass, TaskSet, encoders, sharing
from taskloom.encoders import Encoder
from taskloom.encoders.thesis_002 import TABLES
from taskloom.sharing import HeadSpec, MultiTaskNetwork
from taskloom.training import keep_freed_memory

Step = Callable[[], None]
CONVOLUTIONS = ("conv_0", "conv_1", "conv_2")


class Problem:
    """One thesis network with inputs and labels for T tasks.

    Args:
        table: The thesis' table.
        input_shape: Shape of one window.
        batch_size: Windows per step.
        num_tasks: T.
    """

    def __init__(self, table: str, input_shape: tuple[int, int], batch_size: int, num_tasks: int) -> None:
        network = TABLES[table]
        draw = torch.Generator().manual_seed(0)
        self.encoder: Encoder = encoders.build(network.encoder, input_shape, **network.settings)
        self.head = HeadSpec(network.head_hidden)
        classes = itertools.islice(itertools.cycle(network.classes), num_tasks)
        self.tasks = TaskSet(*(Multiclass(f"task_{i}", width) for i, width in enumerate(classes)))
        self.inputs = torch.randn(batch_size, *input_shape, generator=draw)
        self.labels = {
            name: torch.randint(task.width, (batch_size,), generator=draw)
            for name, task in self.tasks.items()
        }

    def column(self, name: str) -> nn.Sequential:
        """One task's network in plain PyTorch."""
        stages = [self.encoder.copy_stage(index) for index in range(len(self.encoder.stages))]
        head = self.head.build(self.encoder.stage_shapes[-1], self.tasks[name].width)
        return nn.Sequential(*stages, head)


class DoubleLoop(nn.Module):
    """Cross-stitch as others write it: for every task, a sum over tasks, each a product with one element."""

    def __init__(self, columns: Mapping[str, nn.Sequential]) -> None:
        super().__init__()
        self.columns = nn.ModuleDict(columns)
        self.alphas = nn.ParameterList(torch.eye(len(columns)) for _ in CONVOLUTIONS)

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


def joint_step(problem: Problem, network: nn.Module) -> Step:
    """One network for all tasks: one forward, one backward, one update."""
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        predictions = network(problem.inputs)
        loss = torch.stack([F.cross_entropy(predictions[n], problem.labels[n]) for n in problem.tasks]).sum()
        if isinstance(network, MultiTaskNetwork):
            loss = loss + network.penalty()
        loss.backward()
        optimizer.step()

    return step


def stitched(problem: Problem, per: str) -> Step:
    network = sharing.cross_stitch(
        problem.encoder, problem.tasks, after=CONVOLUTIONS, per=per, head=problem.head
    )
    return joint_step(problem, network)


def looped(problem: Problem) -> Step:
    return joint_step(problem, DoubleLoop({name: problem.column(name) for name in problem.tasks}))


def tied(problem: Problem) -> Step:
    network = sharing.soft_sharing(
        problem.encoder, problem.tasks, weight=0.001, stages=CONVOLUTIONS, head=problem.head
    )
    return joint_step(problem, network)


def ratios(steps: Mapping[str, Step], baseline: Step, rounds: int) -> dict[str, float]:
    """Time of each step over the baseline's, median over rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    reference: list[float] = []
    for number in range(rounds + 1):  # the first round warms up
        measured = {name: seconds(step) for name, step in (("", baseline), *steps.items())}
        if number > 0:
            reference.append(measured.pop(""))
            for name, value in measured.items():
                times[name].append(value)
    print(f"  T single-task steps: {1000 * statistics.median(reference):.0f} ms", flush=True)
    return {name: median_ratio(values, reference) for name, values in times.items()}


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    return round(statistics.median(v / r for v, r in zip(values, reference, strict=True)), 3)


def compare(
    problem: Problem, candidates: Mapping[str, Callable[[Problem], Step]], rounds: int
) -> dict[str, float]:
    print(f"{', '.join(candidates)}", flush=True)
    measured = ratios(
        {name: make(problem) for name, make in candidates.items()}, single_steps(problem), rounds
    )
    print("  " + "  ".join(f"{name} {ratio:.3f}" for name, ratio in measured.items()), flush=True)
    gc.collect()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the batch and few rounds")
    parser.add_argument("--allocator", choices=("keep", "system"), default="keep", help="what free() does")
    arguments = parser.parse_args()
    if arguments.allocator == "keep" and not keep_freed_memory():
        print("no glibc here: freed memory goes back to the system")
    quick = arguments.quick
    torch.set_num_threads(2)
    torch.manual_seed(0)
    opportunity, deap = ((64, 107), 25 if quick else 100), ((128, 40), 8 if quick else 32)
    result: dict[str, float] = {}
    for num_tasks, rounds in ((2, 11), (3, 9), (8, 5)):
        rounds = 3 if quick else rounds
        on_opportunity: dict[str, Callable[[Problem], Step]] = {
            f"cross_stitch_T{num_tasks}": lambda problem: stitched(problem, "layer"),
            f"naive_cross_stitch_T{num_tasks}": looped,
            f"cross_stitch_channel_T{num_tasks}": lambda problem: stitched(problem, "channel"),
        }
        result |= compare(Problem("C.7", *opportunity, num_tasks), on_opportunity, rounds)
        on_deap: dict[str, Callable[[Problem], Step]] = {
            f"cross_stitch_deap_T{num_tasks}": lambda problem: stitched(problem, "layer"),
            f"naive_cross_stitch_deap_T{num_tasks}": looped,
        }
        result |= compare(Problem("C.8", *deap, num_tasks), on_deap, 2 * rounds + 1)
    result |= compare(Problem("C.5", *opportunity, 2), {"trace_norm_opportunity": tied}, 3 if quick else 11)
    result |= compare(Problem("C.6", *deap, 2), {"trace_norm_deap": tied}, 7 if quick else 31)
    result["gram_vs_svd"] = round(gram_vs_svd(), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
