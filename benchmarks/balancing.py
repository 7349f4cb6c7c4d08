"""A training step with each balancer beside the step of a plain sum of losses: same network, rows, optimiser.

What the ratios count, keys `<method>_<trunk>_T<n>`:

- a step is forward, losses, backward, Adam (fused), as `fit` does it, without loader and validation;
- `resnet` is a ResNet-18 (11.2 million parameters, images [16, 3, 64, 64]) and `mlp` 784 inputs and layers of
  512 and 256 on batches of 128 (559,000 parameters with ten heads of ten classes): the two networks on which
  LibMTL and TorchJD were measured when the targets were set; `mlp_tox21` the trunk of `recipes/tox21.yaml`
  (1,024 inputs, layers of 256 and 128, dropout 0.25, batches of 128); `mlp_tiny` two layers of 64 on rows
  [64, 32], whose plain step takes about half a millisecond: its ratios are those of calls, not of arithmetic;
- T binary tasks (`mlp`: of ten classes) with linear heads, 20 % of the labels missing;
- methods ending in `_features` and `mgda_ub` take their Gramian at the shared feature;
- `<method>_..._vs_torchjd`: our step over TorchJD's default step of the same method, in the same rounds;
- `torchjd_<method>_...` is the same step with TorchJD's `mtl_backward` and `jac_to_grad` in their defaults
  (all rows in one vectorised backward pass); `torchjd_..._one_by_one` with `parallel_chunk_size=1`. Where
  quadprog is missing, TorchJD's UPGrad is given our projector;
- `memory_copies_<method>_T<n>`: most memory that the backward passes took beyond the forward pass, in copies
  of the shared gradient (one matrix of 16.8 million numbers, a batch of 4 rows).

Freed memory stays with the process (as in `taskloom study`, see training/allocator.py) unless
`--allocator system`; memory is measured in processes of their own, with the system's.
All methods of one problem take turns in every round, in an order drawn anew; with the MLPs an untimed step
goes before every timed one, because in a training run a step finds its own network in the caches, not
another's. A ratio is the median over rounds of method / plain. `--clock process` counts processor time, for
machines with other work on them (with `--threads 1`).
A method that fails is named and left out; what was measured stands in the file of `--json` after every
problem, and is printed even where the run is interrupted. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchjd.aggregation
from torch import Tensor, nn
from torchjd.autojac import jac_to_grad, mtl_backward

from taskloom import Binary, Labels, Multiclass, TaskSet, encoders, sharing
from taskloom.balancing import Balancer, build
from taskloom.balancing.torchjd_methods import OwnProjector
from taskloom.errors import TaskloomError
from taskloom.losses import per_task
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import keep_freed_memory

Step = Callable[[], None]

LOSS_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in ("learned_weights", "uncertainty", "dwa", "famo", "stch", "gradnorm")
}
EXACT_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {})
    for name in ("upgrad", "mgda", "pcgrad", "cagrad", "nash_mtl", "aligned_mtl", "config", "graddrop")
}
FEATURE_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mgda_ub": ("mgda_ub", {}),
    "upgrad_features": ("upgrad", {"at": "features"}),
    "pcgrad_features": ("pcgrad", {"at": "features"}),
}
TRUNKS = ("mlp", "mlp_tox21", "mlp_tiny", "resnet")
QUICK = ("learned_weights", "uncertainty", "dwa", "famo", "upgrad", "pcgrad", "mgda_ub")


class Block(nn.Module):
    """The basic block of ResNet-18 (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_second = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if before != width:
            convolution = nn.Conv2d(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.relu(self.norm(self.first(inputs)))
        return F.relu(self.norm_second(self.second(outputs)) + self.shortcut(inputs))


def resnet() -> encoders.Encoder:
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    stages: list[nn.Module] = [stem]
    before = 64
    for number, width in enumerate((64, 128, 256, 512)):
        stages.append(nn.Sequential(Block(before, width, 1 + (number > 0)), Block(width, width, 1)))
        before = width
    stages.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return encoders.from_modules(stages, (3, 64, 64))


class Problem:
    """A trunk that T tasks share, and one batch with holes."""

    def __init__(self, trunk: str, num_tasks: int, device: str) -> None:
        draw = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        if trunk == "resnet":
            self.encoder, rows, shape = resnet(), 16, (3, 64, 64)
        elif trunk == "mlp_tox21":
            self.encoder = encoders.mlp((1024,), hidden=[256, 128], dropout=0.25)
            rows, shape = 128, (1024,)
        elif trunk == "mlp":
            self.encoder, rows, shape = encoders.mlp((784,), hidden=[512, 256]), 128, (784,)
        else:
            self.encoder, rows, shape = encoders.mlp((32,), hidden=[64, 64]), 64, (32,)
        classes = 10 if trunk == "mlp" else 2
        self.tasks = TaskSet(
            *(
                Binary(f"task_{number}") if classes == 2 else Multiclass(f"task_{number}", classes)
                for number in range(num_tasks)
            )
        )
        self.inputs = torch.randn(rows, *shape, generator=draw).to(device)
        self.labels = Labels(
            {name: torch.randint(classes, (rows,), generator=draw) for name in self.tasks},
            {name: torch.rand(rows, generator=draw) > 0.2 for name in self.tasks},
        ).to(device)
        self.device = device

    def network(self) -> MultiTaskNetwork:
        stages = len(self.encoder.stages)
        return sharing.build("hard_sharing", self.encoder, self.tasks, stages=stages).to(self.device)

    def step(self, balancer: Balancer) -> Step:
        model = self.network()
        balancer.start(model)
        # As `fit` groups them: what a balancer learns goes with the others of its rate and decay.
        parameters = [*model.parameters(), *balancer.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

        def run() -> None:
            optimizer.zero_grad()
            with balancer.watching(model):
                predictions = model(self.inputs)
            balancer.backward(per_task(predictions, self.labels, self.tasks), model)
            optimizer.step()

        return run

    def torchjd_step(self, aggregator: Any, chunk: int | None) -> Step:
        model = self.network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        shared = list(model.shared_parameters())
        own = [list(model.task_parameters(task)) for task in self.tasks]

        def run() -> None:
            optimizer.zero_grad()
            features = model.features(self.inputs)
            losses = per_task(model.from_features(features), self.labels, self.tasks)
            means = [loss.mean for loss in losses.values()]
            mtl_backward(
                means,
                features=features,
                tasks_params=own,
                shared_params=shared,
                parallel_chunk_size=chunk,
                retain_graph=True,  # the losses share a node behind the features
            )
            jac_to_grad(shared, aggregator)
            optimizer.step()

        return run


def aggregators(names: Mapping[str, Any]) -> dict[str, Any]:
    """TorchJD's own, as their users call them, where they need no package that is missing."""
    made: dict[str, Callable[[], Any]] = {
        "upgrad": torchjd.aggregation.UPGrad,
        "pcgrad": torchjd.aggregation.PCGrad,
        "mgda": torchjd.aggregation.MGDA,
        "aligned_mtl": torchjd.aggregation.AlignedMTL,
    }
    found = {}
    for name, make in made.items():
        if name in names:
            try:
                found[name] = make()
            except ImportError:
                found[name] = torchjd.aggregation.UPGrad(projector=OwnProjector())
    return found


def measure(
    steps: Mapping[str, Step], rounds: int, *, warm: bool, clock: Callable[[], float], title: str
) -> tuple[dict[str, float], bool]:
    """Median over the rounds of every step's time over the plain step's in the same round, and whether
    somebody interrupted the rounds.

    Args:
        steps: The steps by name, "plain" among them.
        rounds: How often each is timed.
        warm: Whether an untimed step of the same network goes before every timed one.
        clock: What the time is read from, in seconds.
        title: What the progress calls the problem.
    """
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else _nothing
    living = {name: step for name, step in steps.items() if _runs(name, step)}
    times: dict[str, list[float]] = {name: [] for name in living}
    order = list(living)
    draw = random.Random(0)
    begin, interrupted = time.perf_counter(), False
    try:
        for number in range(1, rounds + 1):
            draw.shuffle(order)
            for name in order:
                if warm:
                    living[name]()
                synchronize()
                start = clock()
                living[name]()
                synchronize()
                times[name].append(clock() - start)
            if not warm or number % 20 == 0:
                seconds = time.perf_counter() - begin
                print(f"  {title}: round {number} of {rounds}, {seconds:.0f} s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        done = min(len(found) for found in times.values())
        if not done:
            raise
        print(f"  {title}: interrupted; the medians are those of {done} rounds", flush=True)
        times, interrupted = {name: found[:done] for name, found in times.items()}, True
    plain = times.pop("plain")
    print(f"{title}, plain: {1000 * statistics.median(plain):.2f} ms", flush=True)
    ratios = {
        name: statistics.median(a / b for a, b in zip(found, plain, strict=True))
        for name, found in times.items()
    }
    return ratios, interrupted


def _runs(name: str, step: Step) -> bool:
    """Whether the first step ends; the others of the problem are measured either way."""
    try:
        step()
    except (RuntimeError, MemoryError, TaskloomError) as error:
        print(f"  {name} failed and is left out: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def _nothing() -> None:
    pass


def memory_copies(name: str, settings: Mapping[str, Any], num_tasks: int) -> float:
    """Peak of resident memory from the end of the forward pass on, in copies of the shared gradient."""
    tasks = TaskSet(*(Binary(f"task_{number}") for number in range(num_tasks)))
    encoder = encoders.mlp((4096,), hidden=[4096])
    model = sharing.build("hard_sharing", encoder, tasks, stages=1)
    labels = Labels(
        {task: torch.ones(4, dtype=torch.long) for task in tasks},
        {task: torch.ones(4).bool() for task in tasks},
    )
    Problem("mlp", num_tasks, "cpu").step(build(name, settings))()  # what is loaded once, at the first step
    balancer = build(name, settings)
    balancer.start(model)
    with balancer.watching(model):
        losses = per_task(model(torch.randn(4, 4096)), labels, tasks)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    balancer.backward(losses, model)
    size = sum(p.numel() * p.element_size() for p in model.shared_parameters())
    return (_resident("VmHWM") - before) / size


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few methods and rounds")
    parser.add_argument("--trunks", nargs="+", default=TRUNKS, choices=TRUNKS)
    parser.add_argument("--methods", nargs="+", help="only these methods (and TorchJD's of the same name)")
    parser.add_argument("--tasks", nargs="+", type=int, default=[3, 10])
    parser.add_argument("--rounds", type=int, help="rounds of the small network; a sixth for the large one")
    parser.add_argument("--clock", choices=["wall", "process"], default="wall")
    parser.add_argument("--json", type=Path, help="file that holds the ratios after every problem")
    parser.add_argument("--no-memory", action="store_true", help="without the measurements of memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocator", choices=["keep", "system"], default="keep")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        name, num_tasks = arguments.memory_of
        print(memory_copies(name, {}, int(num_tasks)))
        return
    if arguments.allocator == "keep":
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = arguments.rounds or (30 if arguments.quick else 60)
    methods = {**LOSS_METHODS, **EXACT_METHODS, **FEATURE_METHODS}
    if arguments.quick:
        methods = {name: methods[name] for name in QUICK}
    if arguments.methods:
        methods = {name: methods.get(name, (name, {})) for name in arguments.methods}
    clock = time.process_time if arguments.clock == "process" else time.perf_counter
    ratios: dict[str, float] = {}
    for trunk in arguments.trunks:
        for num_tasks in arguments.tasks:
            problem = Problem(trunk, num_tasks, device)
            steps = {"plain": problem.step(build("weighted_sum"))}
            steps |= {name: problem.step(build(*given)) for name, given in methods.items()}
            for name, aggregator in aggregators(methods).items():
                steps[f"torchjd_{name}"] = problem.torchjd_step(aggregator, None)
                steps[f"torchjd_{name}_one_by_one"] = problem.torchjd_step(aggregator, 1)
            small = trunk != "resnet"
            found, interrupted = measure(
                steps,
                rounds if small else max(3, rounds // 6),
                warm=small,
                clock=clock,
                title=f"{trunk} T={num_tasks}",
            )
            for name, ratio in found.items():
                key = f"{name}_{trunk}_T{num_tasks}"
                if name.endswith("_one_by_one"):
                    key = f"{name.removesuffix('_one_by_one')}_{trunk}_T{num_tasks}_one_by_one"
                ratios[key] = ratio
                print(f"  {key:48} {ratio:6.3f}", flush=True)
            for name in aggregators(methods):
                key = f"{name}_{trunk}_T{num_tasks}"
                if key in ratios and f"torchjd_{key}" in ratios:
                    ratios[f"{key}_vs_torchjd"] = ratios[key] / ratios[f"torchjd_{key}"]
                    print(f"  {key + '_vs_torchjd':48} {ratios[key + '_vs_torchjd']:6.3f}", flush=True)
            if arguments.json:
                arguments.json.write_text(as_json(ratios) + "\n")
            del steps
            gc.collect()
            if interrupted:
                print(as_json(ratios))
                return
    if not arguments.no_memory and device == "cpu" and Path("/proc/self/clear_refs").exists():
        for num_tasks in arguments.tasks:
            for name in ("pcgrad", "graddrop", "mgda_ub"):
                key = f"memory_copies_{name}_T{num_tasks}"
                command = [sys.executable, __file__, "--memory-of", name, str(num_tasks)]
                ratios[key] = float(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout
                )
                print(f"  {key:48} {ratios[key]:6.3f}", flush=True)
    print(as_json(ratios))


def as_json(ratios: Mapping[str, float]) -> str:
    """The ratios as one line of JSON."""
    return json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()})


if __name__ == "__main__":
    main()
