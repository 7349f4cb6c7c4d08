"""Random states come back exactly, and training leaves the caller's world as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.deterministic

from taskloom.training import environment, seed_everything
from taskloom.training.checkpoints import load_checkpoint, save_checkpoint
from taskloom.training.reproducibility import random_states, reproducible, set_random_states


def draws() -> list[float]:
    # One normal draw of each leaves the generators with a second one in store.
    return [random.gauss(0, 1), np.random.standard_normal(), torch.randn(1).item(), random.random()]


def test_states_survive_a_checkpoint(tmp_path: Path) -> None:
    seed_everything(5)
    draws()
    save_checkpoint(tmp_path / "x.ckpt", {"random": random_states()})
    expected = [draws() for _ in range(3)]
    set_random_states(load_checkpoint(tmp_path / "x.ckpt")["random"])
    assert [draws() for _ in range(3)] == expected


def test_seed_decides_all_draws() -> None:
    seed_everything(2**33 + 1)
    first = draws()
    seed_everything(2**33 + 1)
    assert draws() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_reproducible_puts_everything_back() -> None:
    state, threads = random_states(), torch.get_num_threads()
    set_random_states(state)
    expected = draws()
    set_random_states(state)

    def fail_inside() -> None:
        with reproducible(threads=threads + 1):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.utils.deterministic.fill_uninitialized_memory
            assert torch.get_num_threads() == threads + 1
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_num_threads() == threads
    assert draws() == expected


def test_environment_is_plain_and_names_versions() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert "not installed" not in found["versions"].values()
