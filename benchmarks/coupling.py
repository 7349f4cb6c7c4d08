"""A training step with both coupling losses beside the same step without: 200 classes x 312 attributes, batch
150.

- `step_with_vs_without`: seconds of a step (forward through a trunk of ResNet-18's size, both tasks' losses,
  distribution matching, soft co-annotation, backward, Adam) over those of the same step without the two
  coupling losses. Rounds alternate, each way first in turn; the fastest step of each way counts, as others
  use the machine.
- `terms_vs_step`: seconds of the two losses alone, forward and backward down to the logits, over those of a
  plain step. It is the same cost measured apart, without the noise of two long steps.

The paper's images have 280 x 280 pixels. Smaller ones make the trunk cheaper and the ratio worse; 64 x 64
(the default) is what a CPU does in reasonable time. Run it with `python benchmarks/coupling.py`, on a GPU
with `--device cuda --pixels 280`; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import taskloom as tl
from taskloom.coupling import Coupling, Relatedness

NUM_CLASSES, NUM_ATTRIBUTES, BATCH = 200, 312, 150
TARGET = 1.03


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(self.body(inputs) + self.shortcut(inputs))


class Network(nn.Module):
    """ResNet-18's trunk (11.2 million parameters) with a head per task."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        ]
        channels_in = 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [Block(channels_in, channels, stride), Block(channels, channels, 1)]
            channels_in = channels
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.species, self.attributes = nn.Linear(512, NUM_CLASSES), nn.Linear(512, NUM_ATTRIBUTES)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.trunk(inputs)
        return {"species": self.species(features), "attributes": self.attributes(features)}


def make_batch(pixels: int, device: str) -> tuple[tl.TaskSet, Coupling, Tensor, tl.Labels]:
    generator = torch.Generator().manual_seed(0)
    tasks = tl.TaskSet(tl.Multiclass("species", NUM_CLASSES), tl.Multilabel("attributes", NUM_ATTRIBUTES))
    frequencies = torch.rand(NUM_CLASSES, NUM_ATTRIBUTES, generator=generator).square()
    names = [tuple(str(index) for index in range(number)) for number in (NUM_CLASSES, NUM_ATTRIBUTES)]
    table = Relatedness(*names, frequencies.numpy(), "frequencies", source="benchmark")
    codes = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    active = torch.rand(BATCH, NUM_ATTRIBUTES, generator=generator) < frequencies[codes]
    labelled = torch.arange(BATCH) % 2 == 0  # half the rows have the class, the others the attributes
    labels = tl.Labels(
        {"species": codes, "attributes": active.long()},
        {"species": labelled, "attributes": (~labelled)[:, None].expand(-1, NUM_ATTRIBUTES).clone()},
    )
    inputs = torch.randn(BATCH, 3, pixels, pixels, generator=generator)
    coupling = Coupling(table, classes="species", attributes="attributes")
    return tasks, coupling, inputs.to(device), labels.to(device)


def seconds(function: Callable[[], None], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(pixels: int, rounds: int, device: str) -> dict[str, float]:
    """Fastest seconds of a plain step, a step with coupling, and the coupling losses alone."""
    torch.manual_seed(0)
    tasks, coupling, inputs, labels = make_batch(pixels, device)
    network = Network().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step(coupled: bool) -> None:
        predictions = network(inputs)
        losses = tl.losses.per_task(predictions, labels, tasks)
        if coupled:
            losses |= coupling.terms(predictions, labels, tasks)
        optimizer.zero_grad()
        torch.stack([loss.mean for loss in losses.values()]).sum().backward()
        optimizer.step()

    logits = {name: output.detach().requires_grad_() for name, output in network(inputs).items()}

    def terms_alone() -> None:
        terms = coupling.terms(logits, labels, tasks)
        torch.stack([term.mean for term in terms.values()]).sum().backward()

    taken: dict[str, list[float]] = {"plain": [], "coupled": [], "terms": []}
    for turn in range(rounds + 1):
        order = (False, True) if turn % 2 else (True, False)
        found = {
            ("coupled" if coupled else "plain"): seconds(lambda c=coupled: step(c), device)
            for coupled in order
        }
        found["terms"] = min(seconds(terms_alone, device) for _ in range(5))
        if turn:  # the first round warms up
            for name, value in found.items():
                taken[name].append(value)
    return {name: min(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="steps of each kind")
    parser.add_argument("--pixels", type=int, default=64, help="width and height of the images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    where = (
        torch.cuda.get_device_name() if arguments.device != "cpu" else f"{torch.get_num_threads()} threads"
    )
    print(
        f"{NUM_CLASSES} classes x {NUM_ATTRIBUTES} attributes, batch {BATCH} of {arguments.pixels} pixels; "
        f"torch {torch.__version__}, {where}"
    )
    found = measure(arguments.pixels, arguments.rounds, arguments.device)
    for name, value in found.items():
        print(f"{name:<8} {value * 1e3:9.2f} ms")
    ratio = found["coupled"] / found["plain"]
    print(f"step_with_vs_without {ratio:.4f}  target <= {TARGET}  {'met' if ratio <= TARGET else 'MISSED'}")
    print(
        json.dumps(
            {
                "step_with_vs_without": round(ratio, 4),
                "terms_vs_step": round(found["terms"] / found["plain"], 4),
            }
        )
    )


if __name__ == "__main__":
    main()
