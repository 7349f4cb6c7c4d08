"""A training step of every architecture beside single-task steps in plain PyTorch: forward, backward, Adam.

Networks: C.7 of thesis 002 (OPPORTUNITY, windows [100, 64, 107], heads of 1000 and 500), C.8 (DEAP, windows
[32, 128, 40], heads of 56), that of thesis 000 (`vgg5`, images [32, 3, 112, 112], heads of 256, 128 and 64),
`resnet18` (64 to 512 filters, ImageNet's stem, images [64, 3, 64, 64]), `resnet18_quarter` (a quarter of the
filters, small stem, images [64, 3, 32, 32]) and, where named, `resnet18_224px` (images [32, 3, 224, 224]).

- `<architecture>_<encoder>_T<n>`: step / T separate networks of the same stages, trained one after the other;
  where tasks share a trunk (all but cross-stitch, ties, proportional addition, sluice) / one such network.
- `<...>_of_flops`: step / as many single-task steps as the network's floating-point work makes, forward and
  backward: what the architecture's definition demands, however it runs. Matrix products and convolutions
  (stages, experts, towers, heads, gates, the layers of attention) are counted by PyTorch in one step; the
  weighted sums of mixing units and of gated experts are added by their definition, two operations per term
  and four for its gradients. Nothing is counted that only moves or maps single values: pooling, activations,
  masks times features, batch norm, and the optimiser, which is in the times of both. Where heads and Adam
  weigh much in the time and little in this count (`--quick`: a quarter of the batch, the same weights), the
  ratio of a network with T heads over one trunk is above that of its stages: hard sharing shows by how much.
- `soft_sharing_laf`, `soft_sharing_every8`: the trace norm along the tasks alone; Tucker's in one step of
  eight (`every: 8`), the mean over the eight. `soft_sharing` is Tucker's in every step.
- `double_loop_<encoder>_T<n>`: cross-stitch with the units as others write them, a double loop over tasks;
  `cross_stitch_channel_opportunity_T<n>`: with one matrix per channel.
- `gram_vs_svd`: the trace norm through Gram matrices / through the SVD, two weights of 512 x 256 x 3 x 3.
- `grouped_vs_one_by_one_T8`: T small columns as grouped kernels / one after the other, on a GPU.
- `compiled_<architecture>_<encoder>_T<n>`: step of the network in torch.compile / as it is, a quarter of the
  batch (needs a C++ compiler; compiling takes minutes).

Both networks of a comparison take turns in every round; a ratio is the median over the rounds. Two threads
(`--threads`). Freed memory stays with the process (as in `taskloom study`, see training/allocator.py) unless
`--allocator system`. Parts: `--architectures cross_stitch,ple --encoders deap --tasks 2,3`.
Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence

import torch
from _gram_vs_svd import gram_vs_svd
from _sharing_table import (
    ENCODERS,
    SETTINGS,
    VARIANTS,
    Clock,
    Problem,
    Step,
    check_rows,
    joint_step,
    measure,
    median_ratio,
    single_steps,
)

from taskloom import Multiclass, TaskSet, encoders, sharing
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import keep_freed_memory

EVERYTHING = (*SETTINGS, *VARIANTS, "double_loop")
OTHERS = ("cross_stitch_channel", "gram_vs_svd", "grouped", "compiled")
OWN_KERNELS = (("cross_stitch", "vgg5"), ("mtan", "vgg5"), ("ple", "opportunity"))
"""What is also compared with what the compiler makes of the plain operations."""


def channel_units(numbers: Sequence[int], *, quick: bool, clock: Clock) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for number in numbers:
        problem = Problem("opportunity", number, quick=quick)
        step = joint_step(problem, problem.network("cross_stitch", per="channel"))
        ratio = median_ratio(step, single_steps(problem), 3 if quick else 5, clock)
        found[f"cross_stitch_channel_opportunity_T{number}"] = round(ratio, 3)
        print(f"  cross_stitch_channel_opportunity_T{number} {ratio:.3f}", flush=True)
    return found


def compiled(clock: Clock) -> dict[str, float | None]:
    """torch.compile with its default backend, on an MLP of three tasks and on networks with own kernels."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        print("  compiled: no C++ compiler here")
        return {}
    tasks = TaskSet(*(Multiclass(f"task_{i}", 3) for i in range(3)))
    encoder = encoders.build("mlp", (64,), hidden=[256, 256, 128])
    dense = Problem("deap", 3, quick=True)
    dense.tasks, dense.inputs = tasks, torch.randn(128, 64)
    dense.labels = {name: torch.randint(3, (128,)) for name in tasks}
    found: dict[str, float | None] = {}

    def compare(name: str, problem: Problem, network: MultiTaskNetwork, rounds: int) -> None:
        eager = joint_step(problem, network)
        torch.compiler.reset()
        fast = joint_step(problem, torch.compile(network), penalty=network.penalty)  # type: ignore[arg-type]
        found[name] = round(median_ratio(fast, eager, rounds, clock), 3)
        print(f"  {name} {found[name]}", flush=True)

    for name, settings in (("hard_sharing", {"stages": 3}), ("cross_stitch", {})):
        compare(f"compiled_{name}_mlp_T3", dense, sharing.build(name, encoder, tasks, **settings), 20)
    for name, backbone in OWN_KERNELS:
        problem = Problem(backbone, 2, quick=True)
        compare(f"compiled_{name}_{backbone}_T2", problem, problem.network(name), 10)
    return found


def grouped(clock: Clock) -> dict[str, float | None]:
    """Eight columns of a small convolutional network, in single and in mixed precision; target 0.6."""
    found: dict[str, float | None] = {}
    for name, mixed in (("grouped_vs_one_by_one_T8", False), ("grouped_vs_one_by_one_T8_bf16", True)):
        found[name] = None
        if not torch.cuda.is_available():
            print(f"  {name}: needs CUDA, none here")
            continue
        steps = [grouped_step(execution, mixed=mixed) for execution in ("grouped", "one_by_one")]
        found[name] = round(median_ratio(*steps, 30, clock), 3)
        print(f"  {name} {found[name]:.3f}, target 0.60: {'met' if found[name] <= 0.6 else 'MISSED'}")  # type: ignore[operator]
    return found


def grouped_step(execution: str, *, mixed: bool) -> Step:
    tasks = TaskSet(*(Multiclass(f"task_{i}", 5) for i in range(8)))
    encoder = encoders.build("conv1d", (64, 21), filters=[32, 48, 64], kernel=7)
    network = sharing.build("cross_stitch", encoder, tasks, execution=execution).cuda()
    inputs, labels = torch.randn(64, 64, 21, device="cuda"), torch.randint(5, (64,), device="cuda")
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=mixed):
            losses = [torch.nn.functional.cross_entropy(out, labels) for out in network(inputs).values()]
        torch.stack(losses).sum().backward()
        optimizer.step()
        torch.cuda.synchronize()

    return step


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=listed, help=f"of {', '.join((*EVERYTHING, *OTHERS))}")
    parser.add_argument(
        "--encoders", type=listed, default=list(ENCODERS[:-1]), help=f"of {', '.join(ENCODERS)}"
    )
    parser.add_argument("--tasks", type=listed, default=["2", "3", "8"], help="numbers of tasks")
    parser.add_argument("--quick", action="store_true", help="a quarter of the batch and few rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="processor: for a busy machine, one thread",
    )
    parser.add_argument("--allocator", choices=("keep", "system"), default="keep", help="what free() does")
    arguments = parser.parse_args()
    wanted = arguments.architectures or [*EVERYTHING, *OTHERS]
    if unknown := {*wanted} - {*EVERYTHING, *OTHERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if unknown := {*arguments.encoders} - {*ENCODERS}:
        parser.error(f"unknown encoder: {', '.join(sorted(unknown))}")
    if arguments.allocator == "keep" and not keep_freed_memory():
        print("no glibc here: freed memory goes back to the system")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock: Clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    numbers = [int(number) for number in arguments.tasks]
    in_table = [name for name in wanted if name in EVERYTHING]
    check_rows()
    result = measure(in_table, arguments.encoders, numbers, quick=arguments.quick, clock=clock)
    if "cross_stitch_channel" in wanted and "opportunity" in arguments.encoders:
        result |= channel_units(numbers, quick=arguments.quick, clock=clock)
    if "gram_vs_svd" in wanted:
        result["gram_vs_svd"] = round(gram_vs_svd(), 4)
    if "grouped" in wanted:
        result |= grouped(clock)
    if "compiled" in wanted:
        result |= compiled(clock)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
