"""WAV files, read by hand: SciPy and the standard library pass over a file that is cut off, or warn only."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHER_CODES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "ADPCM", 0x55: "MP3"}
_WHAT_TO_DO = "Leave the file out, or get it again."
_SUPPORTED = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


@dataclass(frozen=True)
class WavHeader:
    """What the header of a WAV file says.

    Args:
        path: The file.
        rate_hz: Samples per second.
        num_channels: 1 is mono, 2 is left and right.
        code: 1 is whole numbers, 3 is floating point.
        bits: Bits per sample and channel.
        offset: Position of the first sample in the file, in bytes.
        num_samples: Samples per channel.
    """

    path: Path
    rate_hz: int
    num_channels: int
    code: int
    bits: int
    offset: int
    num_samples: int

    @property
    def channels(self) -> tuple[str, ...]:
        """`audio`; `left` and `right`; `channel_0` and so on for more."""
        named = {1: ("audio",), 2: ("left", "right")}
        return named.get(self.num_channels, tuple(f"channel_{index}" for index in range(self.num_channels)))


def read_wav_header(path: Path) -> WavHeader:
    """Reads the header and compares what it promises with the file's size.

    Raises:
        DataError: An empty file, no WAV, a compressed one, a header that contradicts itself, or a file that
            is cut off.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path.name}: the file is empty, a WAV recording expected. {_WHAT_TO_DO}")
        with path.open("rb") as file:
            start = file.read(12)
            if len(start) < 12 or start[:4] != b"RIFF" or start[8:] != b"WAVE":
                raise DataError(
                    f"{path.name}: not a WAV file; it should begin with RIFF and WAVE. {_WHAT_TO_DO}"
                )
            return _read_chunks(path, file, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_wav(header: WavHeader) -> NDArray[np.float32]:
    """Returns the samples [n, channels]; whole numbers are scaled to -1 up to 1, floats are as they are."""
    kinds = {8: "u1", 16: "<i2", 24: "u1", 32: "<i4"}
    values: NDArray[np.float32]
    kind = kinds[header.bits] if header.code == _PCM else f"<f{header.bits // 8}"
    per_sample = header.num_channels * (3 if header.bits == 24 else 1)
    raw = np.fromfile(header.path, dtype=kind, count=header.num_samples * per_sample, offset=header.offset)
    if header.code == _FLOAT:
        values = raw.astype(np.float32)
    elif header.bits == 8:  # the only width without a sign
        values = (raw.astype(np.float32) - np.float32(128)) / np.float32(128)
    elif header.bits == 24:
        values = _from_24_bits(raw)
    else:
        values = np.divide(raw, np.float32(2 ** (header.bits - 1)), dtype=np.float32)
    return values.reshape(-1, header.num_channels)


def _from_24_bits(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Put into the upper three bytes of 32 bits, the sign is where it belongs.
    wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return np.asarray(np.divide(wide.view("<i4").ravel(), np.float32(2**31), dtype=np.float32))


def _read_chunks(path: Path, file: BinaryIO, size: int) -> WavHeader:
    layout: tuple[int, int, int, int] | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            missing = "data" if layout else "fmt"
            raise _broken(path, f"the WAV file has no `{missing}` part")
        name, length = head[:4], int(struct.unpack("<I", head[4:])[0])
        if name == b"fmt ":
            layout = _layout(path, file.read(length))
            file.seek(length % 2, 1)
        elif name == b"data":
            if layout is None:
                raise _broken(path, "the samples come before the `fmt` part")
            return _with_samples(path, layout, file.tell(), length, size)
        else:  # notes of the program that wrote it
            file.seek(length + length % 2, 1)


def _layout(path: Path, content: bytes) -> tuple[int, int, int, int]:
    """Code, channels, rate and bits."""
    if len(content) < 16:
        raise _broken(path, f"16 bytes or more expected in `fmt`, found {len(content)}")
    code, num_channels, rate_hz, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    if code == _EXTENSIBLE and len(content) >= 26:
        code = int(struct.unpack("<H", content[24:26])[0])
    if (code, bits) not in _SUPPORTED:
        found = _OTHER_CODES.get(code, f"code {code}") if code not in (_PCM, _FLOAT) else f"{bits} bits"
        raise DataError(
            f"{path.name}: WAV with 8, 16, 24 or 32-bit numbers or 32 or 64-bit floats expected, found "
            f"{found}; convert the file."
        )
    for what, found in (("channel", num_channels), ("sample per second", rate_hz)):
        if found < 1:
            raise _broken(path, f"1 {what} or more expected, found {found}")
    if block != num_channels * bits // 8:
        raise _broken(
            path,
            f"{num_channels} channels of {bits} bits at {rate_hz} Hz do not make blocks of {block} bytes",
        )
    return code, num_channels, rate_hz, bits


def _with_samples(
    path: Path, layout: tuple[int, int, int, int], offset: int, length: int, size: int
) -> WavHeader:
    code, num_channels, rate_hz, bits = layout
    block = num_channels * bits // 8
    if length == 0 or length >= 0xFFFFFFF0:
        raise DataError(
            f"{path.name}: the header says {'no samples' if length == 0 else 'no length'}; the recording was "
            f"never closed, or is empty. {_WHAT_TO_DO}"
        )
    if offset + length > size:
        raise DataError(
            f"{path.name}: {length:,} bytes of samples expected from its header, found {size - offset:,}. "
            "The file seems cut off; nothing was written."
        )
    if length % block:
        raise _broken(path, f"{length:,} bytes are no whole number of {block}-byte blocks")
    return WavHeader(path, rate_hz, num_channels, code, bits, offset, length // block)


def _broken(path: Path, what: str) -> DataError:
    return DataError(f"{path.name}: the header is broken; {what}. {_WHAT_TO_DO}")
