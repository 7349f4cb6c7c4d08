"""`torch.compile` with its default backend: networks of the plan predict and learn as they do without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import taskloom as tl
from taskloom import sharing

COMPILER = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


@pytest.fixture(scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder for what is compiled, so that headers are compiled once and nothing stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        yield
        torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler on a CPU; none was found")
@pytest.mark.parametrize(
    ("name", "settings"),
    [("hard_sharing", {"stages": 1}), ("cross_stitch", {"start": {"same": 0.9, "other": 0.1}})],
)
def test_a_compiled_network_predicts_and_learns_the_same(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    tasks = tl.TaskSet(tl.Regression("a"), tl.Multiclass("b", 3))
    network = sharing.build(name, tl.encoders.mlp((5,), hidden=[6]), tasks, **settings)
    inputs = torch.randn(8, 5)
    parameters = list(network.parameters())

    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True)
    found = compiled(inputs)
    expected = network(inputs)
    torch.testing.assert_close(found, expected)

    def gradients(predictions: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        loss = torch.stack([output.square().sum() for output in predictions.values()]).sum()
        return torch.autograd.grad(loss, parameters)

    torch.testing.assert_close(gradients(found), gradients(expected))
