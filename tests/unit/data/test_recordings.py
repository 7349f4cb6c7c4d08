"""The recording store: whole or absent, refuses what does not fit, reads back what was written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _recording_stores import GAIT, write_store
from taskloom.data import store_files
from taskloom.data.recordings import Recording, RecordingStore, RecordingWriter
from taskloom.errors import DataError


def _writer(folder: Path, **settings: Any) -> RecordingWriter:
    return RecordingWriter(
        folder, **{"channels": ["a", "b"], "rate_hz": 10.0, "tracks": {"gait": GAIT}, **settings}
    )


def _close(writer: RecordingWriter) -> None:
    writer.close(sources={}, reader="test", parameters={})


CODES = np.array([[0], [1], [2]])


def _add_zeros(writer: RecordingWriter) -> None:
    writer.add("A", np.zeros((3, 2)), CODES)


def _write(folder: Path, add: Callable[[RecordingWriter], Any]) -> None:
    with _writer(folder) as writer:
        add(writer)
        _close(writer)


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    first, second = np.arange(6.0).reshape(3, 2), -np.arange(4).reshape(2, 2)
    with _writer(tmp_path / "store") as writer:
        writer.add("A", first, CODES, labels={"age": np.int64(7), "kind": None}, person=3, gaps=[(1, 2)])
        writer.add("B", second, CODES[:2], session="s", trial=1, labels={"scores": (1.5, 2.5)})
        writer.close(sources={"a.dat": "ff"}, reader="mine", parameters={"clip": 10})
    store = RecordingStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.samples, np.concatenate([first, second]))
    np.testing.assert_array_equal(store.tracks[:, 0], [0, 1, 2, 0, 1])
    assert store.recordings == (
        Recording("A", 0, 3, person="3", labels={"age": 7, "kind": None}, gaps=((1, 2),)),
        Recording("B", 3, 2, session="s", trial="1", labels={"scores": [1.5, 2.5]}),
    )
    assert (store.channels, store.rate_hz, store.track_tables) == (("a", "b"), 10.0, {"gait": GAIT})
    assert (store.sources, store.reader, store.parameters) == ({"a.dat": "ff"}, "mine", {"clip": 10})
    assert store.label_names == ("age", "kind", "scores")
    assert store.class_names("gait", with_null=False) == ("stand", "walk", "lie")
    assert store.channel_indices(["b", "a"]) == [1, 0]
    store.verify()
    with pytest.raises(ValueError, match="read-only"):
        store.samples[0, 0] = 1.0


def test_files_are_plain_npy_and_the_checksum_is_that_of_the_description(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [40, 7])
    np.testing.assert_array_equal(np.load(tmp_path / "store" / "samples.npy"), store.samples)
    np.testing.assert_array_equal(np.load(tmp_path / "store" / "tracks.npy"), store.tracks)
    content = (tmp_path / "store" / "store.json").read_bytes()
    assert store.checksum == hashlib.sha256(content).hexdigest()
    assert json.loads(content)["samples_sha256"] == hashlib.sha256(store.samples.tobytes()).hexdigest()
    assert store.num_bytes == sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert write_store(tmp_path / "again", [40, 7]).checksum == store.checksum
    assert write_store(tmp_path / "other", [40, 7], seed=1).checksum != store.checksum


def test_long_recordings_are_written_in_chunks(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(100_001, 1)).astype(np.float32)
    with _writer(tmp_path / "store", channels=["a"], tracks={}) as writer:
        writer.add("A", samples)
        _close(writer)
    store = RecordingStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.samples, samples)
    assert store.tracks.shape == (100_001, 0)


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    def peak(num_samples: int) -> int:
        # Broadcast: the source itself takes no memory.
        samples = np.broadcast_to(np.zeros(8), (num_samples, 8))
        with _writer(tmp_path / f"store{num_samples}", channels=list("abcdefgh"), tracks={}) as writer:
            tracemalloc.start()
            writer.add("A", samples)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            _close(writer)
        return most

    assert peak(800_000) < 1.1 * peak(80_000)


def test_pickles_by_path(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [50_000])
    content = pickle.dumps(store)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).samples, store.samples)


@pytest.mark.parametrize(
    ("gaps", "segments"),
    [
        ([], [(0, 10)]),
        ([(3, 5)], [(0, 3), (5, 10)]),
        ([(4, 4)], [(0, 4), (4, 10)]),
        ([(0, 2), (9, 10)], [(2, 9)]),
        ([(6, 8), (1, 3), (2, 4)], [(0, 1), (4, 6), (8, 10)]),
        ([(1, 9), (2, 3)], [(0, 1), (9, 10)]),
        ([(0, 10)], []),
    ],
)
def test_segments_are_what_lies_between_gaps(gaps: Any, segments: Any) -> None:
    assert Recording("A", 100, 10, gaps=tuple(sorted(gaps))).segments == segments


# -- bad input: one sentence, nothing left behind


@pytest.mark.parametrize(
    ("add", "sentence"),
    [
        (
            lambda w: w.add("A", [[0, 1], [np.nan, 0], [np.inf, 0]], CODES),
            "A: channel `a` is nan at sample 1",
        ),
        (lambda w: w.add("A", [[0, 1e39], [0, 0], [0, 0]], CODES), "channel `b` is inf at sample 0"),
        (lambda w: w.add("A", [[0, np.nan]] * 3, CODES), "channel `b` is nan in every sample"),
        (lambda w: w.add("A", np.zeros((3, 4)), CODES), r"\[n, 2\] expected .* found \[3, 4\]"),
        (lambda w: w.add("A", np.zeros((0, 2)), CODES[:0]), "at least one sample"),
        (lambda w: w.add("A", np.full((3, 2), "x"), CODES), "numbers expected as samples"),
        (lambda w: w.add("A", np.zeros((3, 2))), "label codes for tracks gait expected, found none"),
        (lambda w: w.add("A", np.zeros((3, 2)), CODES[:2]), r"\[3, 1\] expected .* found \[2, 1\]"),
        (lambda w: w.add("A", np.zeros((3, 2)), CODES * 0.5), "whole numbers expected"),
        (
            lambda w: w.add("A", np.zeros((3, 2)), [[0], [3], [9]]),
            "A: track `gait` has code 3 at sample 1.*0, 1, 2, 5",
        ),
        (lambda w: w.add("A", np.zeros((3, 2)), CODES, gaps=[(2, 4)]), r"gap within its 3 samples.*\[2, 4\)"),
        (lambda w: w.add("A", np.zeros((3, 2)), CODES, labels={"age": float("nan")}), "`age` is nan"),
        (lambda w: w.add("A", np.zeros((3, 2)), CODES, labels={"age": {}}), "`age` is a dict"),
        (
            lambda w: [w.add("A", np.zeros((3, 2)), CODES), w.add("A", np.zeros((3, 2)), CODES)],
            "recording A: the store has a recording of this name",
        ),
        (lambda w: None, "at least one recording"),
    ],
)
def test_refuses_what_does_not_fit_and_leaves_nothing(
    tmp_path: Path, add: Callable[[RecordingWriter], Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        _write(tmp_path / "store", add)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"channels": []}, "at least one channel"),
        ({"channels": ["a", "a"]}, "channel `a` stands twice"),
        ({"rate_hz": 0.0}, "rate_hz above 0 expected, found 0.0"),
        ({"rate_hz": float("nan")}, "rate_hz above 0"),
        ({"tracks": {"gait": {}}}, "track `gait` has no classes"),
    ],
)
def test_refuses_a_bad_description(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        _writer(tmp_path / "store", **settings)
    assert list(tmp_path.iterdir()) == []


def test_any_error_in_the_block_removes_everything(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _write(tmp_path / "store", lambda writer: [_add_zeros(writer), 1 // 0])
    with pytest.raises(ValueError, match="without close"), _writer(tmp_path / "store") as writer:
        writer.add("A", np.zeros((3, 2)), CODES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["add", "close"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_files.GrowingArray, "append" if moment == "add" else "finish", full)
    with pytest.raises(DataError, match=r"store: the disk is full"):
        _write(tmp_path / "store", _add_zeros)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        _writer(tmp_path / "file" / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_replaces_an_older_store_and_nothing_else(tmp_path: Path) -> None:
    old = write_store(tmp_path / "store", [30])
    new = write_store(tmp_path / "store", [20], seed=5)
    assert len(old.samples) == 30  # an open map stays valid
    assert len(new.samples) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "store" / "thesis.docx").write_text("years of work")
    with pytest.raises(DataError, match="found other files"):
        write_store(tmp_path / "store", [10])
    assert len(RecordingStore.open(tmp_path / "store").samples) == 20


def test_an_older_store_survives_a_failed_new_one(tmp_path: Path) -> None:
    old = write_store(tmp_path / "store", [30])
    with pytest.raises(DataError, match="nan"), _writer(tmp_path / "store") as writer:
        writer.add("A", np.full((3, 2), np.nan), CODES)
    assert RecordingStore.open(tmp_path / "store").checksum == old.checksum


def test_an_older_store_survives_a_failed_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_store(tmp_path / "store", [30])
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if source.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(DataError, match="Input/output error"):
        write_store(tmp_path / "store", [20], seed=5)
    assert RecordingStore.open(tmp_path / "store").checksum == old.checksum
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, numpy as np\n"
        "from taskloom.data.recordings import RecordingWriter\n"
        f"writer = RecordingWriter({str(tmp_path / 'store')!r}, channels=['a'], rate_hz=1.0)\n"
        "writer.add('A', np.zeros((100, 1)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    assert (left / "samples.npy").exists()
    write_store(tmp_path / "store", [30])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with _writer(tmp_path / "store") as slow:
        _add_zeros(slow)
        write_store(tmp_path / "store", [30], seed=5)
        _close(slow)
    assert np.array_equal(RecordingStore.open(tmp_path / "store").samples, np.zeros((3, 2)))


def test_writers_of_one_place_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: write_store(tmp_path / f"warm{seed}", [30], seed=seed), range(4)))
        checksums = [RecordingStore.open(tmp_path / f"warm{seed}").checksum for seed in range(4)]
        list(pool.map(lambda turn: _write_only(tmp_path / "store", turn % 4), range(24)))
    assert RecordingStore.open(tmp_path / "store").checksum in checksums
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "warm0", "warm1", "warm2", "warm3"]


def _write_only(folder: Path, seed: int) -> None:
    with contextlib.suppress(DataError):  # opening may meet the moment between two renames
        write_store(folder, [30], seed=seed)


# -- opening


def test_a_store_replaced_while_it_is_opened_is_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description is of the old store, the arrays already of the new one."""
    write_store(tmp_path / "store", [30], seed=0)
    write_store(tmp_path / "new", [30], seed=1)
    read = json.loads

    def replaced(content: bytes) -> object:
        monkeypatch.undo()
        os.replace(tmp_path / "store", tmp_path / "old")
        os.replace(tmp_path / "new", tmp_path / "store")
        return read(content)

    monkeypatch.setattr(json, "loads", replaced)
    with pytest.raises(DataError, match="was replaced while it was being opened"):
        RecordingStore.open(tmp_path / "store")


def test_opening_refuses_what_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        RecordingStore.open(tmp_path / "missing")
    with pytest.raises(DataError, match=r"without store\.json"):
        RecordingStore.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        RecordingStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "faces"}')
    with pytest.raises(DataError, match="expected, found 'faces'"):
        RecordingStore.open(tmp_path)


def test_opening_refuses_another_version(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [30])
    path = tmp_path / "store" / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(DataError, match="format version 1 expected, found 99"):
        RecordingStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["samples.npy", "tracks.npy"])
def test_opening_refuses_truncated_or_foreign_arrays(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "store", [30])
    path = tmp_path / "store" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{name}: .* bytes expected, found .* cut off"):
        RecordingStore.open(tmp_path / "store")
    np.save(path, np.zeros((30, 9)))
    with pytest.raises(DataError, match=r"expected from store\.json, found float64"):
        RecordingStore.open(tmp_path / "store")
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not an array of a store"):
        RecordingStore.open(tmp_path / "store")
    path.unlink()
    with pytest.raises(DataError, match="missing from the store"):
        RecordingStore.open(tmp_path / "store")


def test_verify_finds_a_changed_number(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [30])
    content = bytearray((tmp_path / "store" / "samples.npy").read_bytes())
    content[-2] ^= 1
    (tmp_path / "store" / "samples.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"samples\.npy: its content is not what was written"):
        store.verify()


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [30])
    with pytest.raises(DataError, match="Did you mean `gait`"):
        store.track_index("gate")
    with pytest.raises(DataError, match="`z` is not a channel"):
        store.channel_indices(["c0", "z"])


def test_refused_input_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    def add_twice(writer: RecordingWriter) -> None:
        _add_zeros(writer)
        _add_zeros(writer)

    with pytest.raises(DataError, match="recording A: the store has a recording of this name already"):
        _write(tmp_path / "runs" / "stores" / "store", add_twice)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="recording A"):
        _write(tmp_path / "runs" / "stores" / "store", add_twice)
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
