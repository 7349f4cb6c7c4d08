"""Checkpoints are whole or absent, hold no code, and belong to one set of settings."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from taskloom.errors import ConfigError, DataError, TrainingError
from taskloom.training.checkpoints import check_same_settings, load_checkpoint, save_checkpoint


def test_round_trip(tmp_path: Path) -> None:
    state = {"model": {"w": torch.randn(3, 2)}, "plain": [1, 2.5, None, "x", (1, 2)], "nested": {"a": {}}}
    save_checkpoint(tmp_path / "new" / "last.ckpt", state)
    loaded = load_checkpoint(tmp_path / "new" / "last.ckpt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["plain"] == state["plain"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TrainingError, match=r"last\.ckpt: the checkpoint cannot be written \(No space left"):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert load_checkpoint(path)["epoch"] == 1


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrainingError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "last.ckpt", {})


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_truncated_file(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"last\.ckpt: a checkpoint of taskloom expected, .* resume=False"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": 1, "evil": Evil()}, tmp_path / "last.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Evil()))
    for name in ("last.ckpt", "plain.ckpt"):
        with pytest.raises(DataError, match="cannot be read"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_another_version(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="format 1 expected, found 99"):
        load_checkpoint(tmp_path / "last.ckpt")
    torch.save([1], tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="format 1 expected, found list"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_settings_that_differ_are_named() -> None:
    saved = {"seed": 0, "training": {"batch": 32, "optimizer": {"adam": {"lr": 1e-3}}}}
    check_same_settings(
        "x", saved, {"seed": 0, "training": {"batch": 32, "optimizer": {"adam": {"lr": 1e-3}}}}
    )
    with pytest.raises(ConfigError, match=r"training\.optimizer\.adam\.lr was 0\.001 and is now 0\.01"):
        check_same_settings(
            "x", saved, {"seed": 0, "training": {"batch": 32, "optimizer": {"adam": {"lr": 1e-2}}}}
        )
    with pytest.raises(ConfigError, match=r"training\.clip was None and is now 1"):
        check_same_settings("x", saved, {"seed": 0, "training": {**saved["training"], "clip": 1}})
