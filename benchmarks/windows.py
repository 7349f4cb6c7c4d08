"""Lazy windows beside windows copied out in RAM: memory and speed, 1,000,000 samples x 107 channels.

What the ratios count:

- `rss_over_store`: memory that one shuffled pass over every window (window 64, stride 2, batch 256,
  labels of two tracks) makes resident, over the size of the store's files. It is the process's peak
  resident set (VmHWM) less what was resident once Python, NumPy, PyTorch and taskloom were imported; the
  mapped pages of the store itself count in full. `rss_total_over_store` is the same without taking the
  imports off.
- `gather_vs_ram`: time to index a shuffled batch of 256 windows copied out in RAM (the fastest of NumPy
  indexing, numpy.take, PyTorch indexing and index_select) over the time of `WindowDataset.__getitems__`
  on the same windows. Both take the list of positions that a sampler gives and return a batch with the
  labels of two tasks. Above 1 the lazy windows are faster.
  `gather_vs_ram_one_thread` is the same with OMP_NUM_THREADS=1, as in a loader process: PyTorch's threads
  wait for each other, so on a busy machine only this one means something.
- `rss_stride1_over_stride64`: added memory, as above, at stride 1 over that at stride 64.
- `epoch_<n>_workers_vs_0`: time of a shuffled pass with 1 or 2 loader processes over the time of a pass that
  reads in the training process; the training step is left out, so that this is what a step would wait for.
- `anonymous_10x_vs_1x`: memory that is not the mapped store (RssAnon at its peak, imports taken off) during
  a shuffled pass over recordings ten times as long, over that for the recordings as they are. Of it, the
  indices of the windows grow with their number; the samples do not come into it.
- `resident_gpu_vs_store` (only where there is a GPU): time of a pass over windows gathered in its memory over
  a pass that reads the store and copies every batch.

Every figure comes from a fresh process; the rounds of the ways alternate, and medians are compared. Run
it with `python benchmarks/windows.py`; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

import taskloom as tl
from taskloom.data.batch import Batch, make_loader
from taskloom.data.recordings import RecordingStore, RecordingWriter
from taskloom.data.resident import ResidentWindows
from taskloom.data.windows import WindowDataset

NUM_RECORDINGS, RECORDING_SAMPLES, NUM_CHANNELS = 10, 100_000, 107
WINDOW_SAMPLES, STRIDE_SAMPLES, BATCH = 64, 2, 256
CLASSES = {0: "NULL", 1: "stand", 2: "walk", 4: "sit", 5: "lie"}
TARGETS = {
    "rss_over_store": ("<=", 1.3),
    "gather_vs_ram": (">=", 0.8),
    "rss_stride1_over_stride64": ("<=", 1.05),
}


def write_store(folder: Path, *, samples: int = RECORDING_SAMPLES) -> None:
    random = np.random.default_rng(0)
    tracks = {"locomotion": CLASSES, "gesture": CLASSES}
    channels = [f"channel{index}" for index in range(NUM_CHANNELS)]
    with RecordingWriter(folder, channels=channels, rate_hz=30.0, tracks=tracks) as writer:
        for index in range(NUM_RECORDINGS):
            values = random.standard_normal((samples, NUM_CHANNELS), dtype=np.float32)
            codes = random.choice(list(CLASSES), size=(samples // 100, 2)).repeat(100, axis=0)
            writer.add(f"R{index}", values, codes, person=index % 4)
        writer.close(sources={}, reader="benchmark", parameters={})


def open_windows(folder: Path, stride_samples: int) -> WindowDataset:
    names = tuple(name for code, name in CLASSES.items() if code)
    tasks = tl.TaskSet(tl.Multiclass("locomotion", names), tl.Multiclass("gesture", names))
    return WindowDataset(
        RecordingStore.open(folder), tasks, window_samples=WINDOW_SAMPLES, stride_samples=stride_samples
    )


def measure_memory(folder: Path, stride_samples: int) -> dict[str, float]:
    """One shuffled pass over every window; bytes resident after the imports and at the peak."""
    imported = psutil.Process().memory_info().rss
    windows = open_windows(folder, stride_samples)
    checksum = 0.0
    for batch in make_loader(windows, BATCH, shuffle=True, seed=0):
        checksum += float(batch.inputs[0, 0, 0])
    return {"imported": imported, "peak": _peak_bytes(), "windows": len(windows), "checksum": checksum}


def _peak_bytes() -> int:
    """Peak resident set of this process image; unlike ru_maxrss it does not inherit the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def measure_gather(folder: Path, num_copied: int, rounds: int) -> dict[str, float]:
    """Median seconds per batch of every way, on the same windows."""
    windows = open_windows(folder, STRIDE_SAMPLES)
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(len(windows))[:num_copied])
    copied = np.empty((num_copied, WINDOW_SAMPLES, NUM_CHANNELS), np.float32)
    for position, start in enumerate(windows.starts[rows]):
        copied[position] = windows.store.samples[start : start + WINDOW_SAMPLES]
    tensor = torch.from_numpy(copied)
    part = windows.subset(rows)
    labels = part.labels
    # Every way takes the list of positions that a sampler gives, and returns a batch with its labels.
    ways: dict[str, Callable[[list[int]], Batch]] = {
        "taskloom": part.__getitems__,
        **{
            f"ram, {name}": partial(_batch_from_ram, read, labels)
            for name, read in {
                "numpy indexing": lambda index: torch.from_numpy(copied[index.numpy()]),
                "numpy.take": lambda index: torch.from_numpy(np.take(copied, index.numpy(), axis=0)),
                "torch indexing": lambda index: tensor[index],
                "torch index_select": lambda index: tensor.index_select(0, index),
            }.items()
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    batches = min(10, num_copied // BATCH)
    for turn in range(rounds + 1):
        order = random.permutation(num_copied).tolist()
        for name, way in ways.items():
            start = time.perf_counter()
            for position in range(batches):
                way(order[position * BATCH : (position + 1) * BATCH])
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / batches)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_epochs(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of a shuffled pass over every window at stride 16, by way of fetching."""
    windows = open_windows(folder, stride_samples=16)
    loaders = {
        f"{workers} workers": make_loader(windows, BATCH, shuffle=True, seed=0, num_workers=workers)
        for workers in (0, 1, 2)
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        loaders["store to GPU"] = make_loader(windows, BATCH, shuffle=True, seed=0, pin_memory=True)
        loaders["resident"] = make_loader(ResidentWindows(windows, device), BATCH, shuffle=True, seed=0)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(rounds + 1):
        for name, loader in loaders.items():
            to_gpu = name in ("store to GPU", "resident")
            start = time.perf_counter()
            for batch in loader:
                if to_gpu:
                    batch.to(device, non_blocking=True)
            if to_gpu:
                torch.cuda.synchronize()
            if turn:  # the first pass starts the loader processes
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_anonymous(folder: Path) -> dict[str, float]:
    """One shuffled pass at stride 2; the largest RssAnon seen, less that of the imports."""
    imported = _anonymous_bytes()
    windows = open_windows(folder, STRIDE_SAMPLES)
    peak = 0
    for number, _ in enumerate(make_loader(windows, BATCH, shuffle=True, seed=0)):
        if number % 50 == 0:
            peak = max(peak, _anonymous_bytes())
    return {"added": peak - imported, "windows": len(windows)}


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon; this benchmark needs Linux 4.5 or newer")


def _batch_from_ram(
    read: Callable[[torch.Tensor], torch.Tensor], labels: tl.Labels, rows: list[int]
) -> Batch:
    index = torch.from_numpy(np.asarray(rows))
    return Batch(read(index), labels[index], index)


def in_fresh_process(*arguments: str, one_thread: bool = False) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if one_thread else None
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    result: dict[str, float] = json.loads(output)
    return result


def versus_ram(gather: dict[str, float]) -> float:
    """Speed of taskloom relative to the fastest other way."""
    return min(seconds for name, seconds in gather.items() if name != "taskloom") / gather["taskloom"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the gather comparison")
    parser.add_argument("--copied", type=int, default=40_000, help="windows copied out in RAM (27 kB each)")
    parser.add_argument(
        "--measure", choices=("memory", "gather", "epochs", "anonymous"), help=argparse.SUPPRESS
    )
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stride", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "memory":
        print(json.dumps(measure_memory(arguments.store, arguments.stride)))
        return
    if arguments.measure == "anonymous":
        print(json.dumps(measure_anonymous(arguments.store)))
        return
    if arguments.measure == "epochs":
        print(json.dumps(measure_epochs(arguments.store, rounds=5)))
        return
    if arguments.measure == "gather":
        print(json.dumps(measure_gather(arguments.store, arguments.copied, arguments.rounds)))
        return

    with tempfile.TemporaryDirectory(prefix="taskloom-windows-") as temporary:
        folder = Path(temporary) / "store"
        write_store(folder)
        store_bytes = RecordingStore.open(folder).num_bytes
        size = f"{NUM_RECORDINGS * RECORDING_SAMPLES:,} samples x {NUM_CHANNELS} channels"
        threads = torch.get_num_threads()
        print(f"store  {size}, {store_bytes / 1e6:.0f} MB; torch {torch.__version__}, {threads} threads")
        memory = {}
        for stride in (1, STRIDE_SAMPLES, 64):
            found = in_fresh_process("--measure", "memory", "--store", str(folder), "--stride", str(stride))
            memory[stride] = found
            imported, peak = found["imported"] / 1e6, found["peak"] / 1e6
            print(
                f"stride {stride:>2}  {found['windows']:>9,.0f} windows, all read shuffled: imports "
                f"{imported:.0f} MB, peak {peak:.0f} MB, added {peak - imported:.0f} MB"
            )
        options = ["--measure", "gather", "--store", str(folder)]
        options += ["--copied", str(arguments.copied), "--rounds", str(arguments.rounds)]
        gather = in_fresh_process(*options)
        gather_one_thread = in_fresh_process(*options, one_thread=True)
        epochs = in_fresh_process("--measure", "epochs", "--store", str(folder))
        longs = {}
        for factor in (1, 10):
            # A tenth of the size above, and that size: ten times as much would not fit on every disk.
            place = Path(temporary) / f"times{factor}"
            write_store(place, samples=RECORDING_SAMPLES // 10 * factor)
            longs[factor] = in_fresh_process("--measure", "anonymous", "--store", str(place))
    for name, seconds in gather.items():
        one_thread = gather_one_thread[name]
        print(
            f"{name:<24} {seconds * 1e3:6.3f} ms per batch of {BATCH}, one thread {one_thread * 1e3:6.3f} ms"
        )
    for name, seconds in epochs.items():
        print(f"{name:<24} {seconds:6.3f} s per pass at stride 16")
    for factor, found in longs.items():
        print(f"recordings x {factor:<2}  {found['added'] / 1e6:.0f} MB besides the mapped store")

    added = {stride: found["peak"] - found["imported"] for stride, found in memory.items()}
    ratios = {
        "rss_over_store": added[STRIDE_SAMPLES] / store_bytes,
        "rss_total_over_store": memory[STRIDE_SAMPLES]["peak"] / store_bytes,
        "gather_vs_ram": min(value for name, value in gather.items() if name != "taskloom")
        / gather["taskloom"],
        "rss_stride1_over_stride64": added[1] / added[64],
        "epoch_1_workers_vs_0": epochs["1 workers"] / epochs["0 workers"],
        "epoch_2_workers_vs_0": epochs["2 workers"] / epochs["0 workers"],
        "anonymous_10x_vs_1x": longs[10]["added"] / longs[1]["added"],
    }
    if "resident" in epochs:
        ratios["resident_gpu_vs_store"] = epochs["resident"] / epochs["store to GPU"]
    for name, (sign, target) in TARGETS.items():
        met = ratios[name] <= target if sign == "<=" else ratios[name] >= target
        print(f"{name:<26} {ratios[name]:.3f}  target {sign} {target}  {'met' if met else 'MISSED'}")
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
