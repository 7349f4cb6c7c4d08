"""A training step of the recurrent encoders beside plain PyTorch: forward, backward, Adam.

- `lstm_vs_plain`: two LSTM layers of 128 units on windows [100, 64, 107], 18 classes, as a one-task network /
  `nn.LSTM(num_layers=2, batch_first=True)` and a linear layer on the last step.
- `deepconvlstm_vs_plain`: DeepConvLSTM on the paper's windows, [100, 24, 113], as a one-task network / four
  (5, 1) convolutions over maps [N, 1, time, channels] with ReLU, a two-layer `nn.LSTM` and a linear layer.
- `..._forward_vs_plain`: the same, forward in evaluation mode alone.

The dropout of DeepConvLSTM is at the same places in both. Both start from the same weights, and their outputs
are compared before anything is timed. They take turns, a few steps each, and who goes first alternates; a
ratio is the median over the rounds. Freed memory stays with the process (`keep_freed_memory`) unless
`--allocator system`. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taskloom import Multiclass, TaskSet, encoders, sharing
from taskloom.sharing import MultiTaskNetwork
from taskloom.training import keep_freed_memory

CLASSES = 18
BATCH = 100
TASKS = TaskSet(Multiclass("gesture", CLASSES))
Step = Callable[[], None]


class PlainLSTM(nn.Module):
    """Two LSTM layers and a linear layer on the last step."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_channels, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.lstm(windows)[0][:, -1])
        return outputs


class PlainDeepConvLSTM(nn.Module):
    """DeepConvLSTM as ports of the paper's code write it."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, 64, (5, 1)) for inputs in (1, 64, 64, 64))
        self.lstm = nn.LSTM(64 * num_channels, 128, num_layers=2, batch_first=True, dropout=0.5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        maps = windows.unsqueeze(1)
        for convolution in self.convolutions:
            maps = F.relu(convolution(maps))
        sequence = maps.permute(0, 2, 1, 3).flatten(2)
        outputs: Tensor = self.head(self.dropout(self.lstm(self.dropout(sequence))[0][:, -1]))
        return outputs


def copy_weights(network: MultiTaskNetwork, plain: nn.Module) -> None:
    """Gives the plain network our weights; both hold convolutions, LSTM layers and the head in this order.

    Our LSTM reads maps channel by channel, the plain one filter by filter.
    """
    with torch.no_grad():
        for mine, (name, theirs) in zip(network.parameters(), plain.named_parameters(), strict=True):
            if isinstance(plain, PlainDeepConvLSTM) and name == "lstm.weight_ih_l0":
                mine = mine.unflatten(1, (-1, 64)).transpose(1, 2).flatten(1)
            theirs.copy_(mine)


def step_of(network: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        outputs = network(inputs)
        F.cross_entropy(outputs["gesture"] if isinstance(outputs, dict) else outputs, labels).backward()
        optimizer.step()

    return step


def forward_of(network: nn.Module, inputs: Tensor) -> Step:
    def forward() -> None:
        with torch.no_grad():
            network(inputs)

    return forward


def seconds(step: Step, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return time.perf_counter() - start


def ratio(ours: Step, plain: Step, rounds: int, repeats: int) -> tuple[float, float]:
    """Median over rounds of our time over theirs, and our median milliseconds; who goes first alternates."""
    seconds(ours, 2), seconds(plain, 2)
    ratios, times = [], []
    for number in range(rounds):
        if number % 2:
            mine, other = seconds(ours, repeats), seconds(plain, repeats)
        else:
            other, mine = seconds(plain, repeats), seconds(ours, repeats)
        ratios.append(mine / other)
        times.append(1000 * mine / repeats)
    return statistics.median(ratios), statistics.median(times)


def compare(
    name: str, shape: tuple[int, int], plain: nn.Module, rounds: int, repeats: int
) -> dict[str, float]:
    """Ratios of one encoder: a training step, and a forward pass in evaluation mode."""
    network = sharing.build("single_task", encoders.build(name, shape), TASKS)
    copy_weights(network, plain)
    inputs, labels = torch.randn(BATCH, *shape), torch.randint(CLASSES, (BATCH,))
    network.eval(), plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(inputs)["gesture"], plain(inputs), rtol=1e-4, atol=1e-5)
    key = name.replace("_", "")
    forward, _ = ratio(forward_of(network, inputs), forward_of(plain, inputs), rounds, repeats)
    network.train(), plain.train()
    step, milliseconds = ratio(
        step_of(network, inputs, labels), step_of(plain, inputs, labels), rounds, repeats
    )
    print(f"{key}: {milliseconds:.1f} ms a step")
    return {f"{key}_vs_plain": step, f"{key}_forward_vs_plain": forward}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21, help="pairs of timings per ratio")
    parser.add_argument("--repeats", type=int, default=4, help="steps per timing")
    parser.add_argument("--allocator", choices=["keep", "system"], default="keep")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    result["allocator"] = "keep" if arguments.allocator == "keep" and keep_freed_memory() else "system"
    for name, shape, plain in (
        ("lstm", (64, 107), PlainLSTM(107)),
        ("deep_conv_lstm", (24, 113), PlainDeepConvLSTM(113)),
    ):
        measured = compare(name, shape, plain, arguments.rounds, arguments.repeats)
        result.update({key: round(value, 4) for key, value in measured.items()})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
