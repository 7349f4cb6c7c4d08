"""Small stores that several tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from taskloom.data.recordings import RecordingStore, RecordingWriter

GAIT = {0: "NULL", 1: "stand", 2: "walk", 5: "lie"}


def write_store(
    folder: Path,
    lengths: list[int],
    *,
    channels: int = 3,
    seed: int = 0,
    per_recording: list[dict[str, Any]] | None = None,
) -> RecordingStore:
    """Random samples and random `gait` codes in blocks of three; `per_recording` are arguments of `add`."""
    random = np.random.default_rng(seed)
    names = [f"c{index}" for index in range(channels)]
    with RecordingWriter(folder, channels=names, rate_hz=30.0, tracks={"gait": GAIT}) as writer:
        for index, length in enumerate(lengths):
            samples = random.normal(size=(length, channels))
            codes = random.choice(list(GAIT), size=length // 3 + 1).repeat(3)[:length, None]
            extra = per_recording[index] if per_recording else {}
            writer.add(extra.pop("name", f"R{index}"), samples, extra.pop("tracks", codes), **extra)
        writer.close(sources={"raw.dat": "0" * 64}, reader="test", parameters={"seed": seed})
    return RecordingStore.open(folder)
