"""Weights from a local file into an encoder: read safely, recognised by their names, loaded with a report."""

from __future__ import annotations

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from taskloom.encoders.encoder import Encoder
from taskloom.errors import DataError

_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Under what a training script keeps the state dict beside its epoch and optimiser."""
_MOST_NAMED = 3


def _same(name: str) -> str:
    return name


_skipped: ContextVar[bool] = ContextVar("weights_skipped", default=False)


@dataclass(frozen=True)
class Layout:
    """How a public implementation names the weights of an encoder of ours.

    Args:
        name: Whose names they are, for messages.
        rename: Their name of an entry of our state dict.
        clean: Their name as `rename` gives it, of an entry of a file (older spellings).
        extra: Regular expressions of their entries that have no counterpart here: classifiers.
        bgr: Whether the network took blue, green, red; the first convolution is turned round, so that ours
            takes RGB and computes the same.
        refused: `{rows: message}`: a classifier (`fc.weight`) with so many rows tells a network that has the
            same names and shapes and yet computes something else.
    """

    name: str
    rename: Callable[[str], str]
    clean: Callable[[str], str] = _same
    extra: tuple[str, ...] = ()
    bgr: bool = False
    refused: Mapping[int, str] | None = None


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to an encoder.

    Args:
        layout: Whose names the file uses.
        loaded: Our names that got their weights.
        left_out: Entries of the file without a counterpart by design: classifiers.
        missing: Our entries, by the file's naming, that the file lacks.
        unexpected: Entries of the file that the encoder does not have.
        mismatched: Entries of another shape: name, shape in the file, expected shape.
    """

    layout: str
    loaded: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything fitted; classifiers that were left out do not count."""
        return not (self.missing or self.unexpected or self.mismatched)

    def describe(self) -> str:
        """One line: what was loaded and what was left out.

        Example:
            >>> LoadReport("torchvision", ("a", "b"), left_out=("fc.weight",), missing=("c",)).describe()
            '2 entries by the names of torchvision; left out: `fc.weight`; missing: `c`'
        """
        parts = [f"{len(self.loaded)} entries by the names of {self.layout}"]
        wrong = [
            f"{name} ({_shape(found)}, expected {_shape(ours)})" for name, found, ours in self.mismatched
        ]
        for what, names in (
            ("left out", self.left_out),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", wrong),
        ):
            if names:
                parts.append(f"{what}: {_some(names)}")
        return "; ".join(parts)


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Encoders built inside ignore their `weights`: a bundle has its own, and the file may be elsewhere.

    Example:
        >>> with without_weights():
        ...     encoder = tl.encoders.resnet18((3, 32, 32), width=0.125, weights="not/here.pth")
    """
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


_UNREADABLE = "cannot be read as weights; it is cut off or of another format."


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do, of today (an archive) or of old, or as a pickle."""
    with path.open("rb") as file:
        return file.read(1) in (b"P", b"\x80")


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Reads a state dict: safetensors, or PyTorch's own format with tensors and plain values only.

    A state dict inside a training checkpoint (`state_dict`, `model`, ...) is found; the prefix `module.` of
    DataParallel is taken off. Nothing in the file is run (`torch.load(weights_only=True)`).

    Args:
        path: A `.safetensors` file, or one that `torch.save` wrote.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        DataError: No such file, one that is cut off, one that holds code or anything but a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: a file with weights expected, found no such file.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():  # one sentence says what is wrong with a foreign pickle
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise DataError(f"{path} {_UNREADABLE}") from error
        raise DataError(
            f"{path} holds Python objects other than tensors, which could run code when loaded; save the "
            "state dict alone: torch.save(model.state_dict(), path)."
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} {_UNREADABLE}") from error
    state = _find_state_dict(content)
    if state is None:
        raise DataError(
            f"{path}: a state dict (tensors by name) expected, found {_describe(content)}; save it with "
            "torch.save(model.state_dict(), path)."
        )
    prefix = "module."
    if all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def load_weights(
    encoder: Encoder, weights: Path | str | Mapping[str, Tensor], layouts: Sequence[Layout], *, partial: bool
) -> LoadReport | None:
    """Loads weights into an encoder in place; see `load_state`.

    Args:
        encoder: The encoder.
        weights: A file (see `read_state_dict`), or a state dict.
        layouts: Whose names are known.
        partial: Whether what does not fit is left out.

    Returns:
        The report, which also stands in `encoder.loaded`; None inside `without_weights`.

    Raises:
        DataError: The file cannot be read, or its weights are not those of this network.
    """
    if _skipped.get():
        return None
    if isinstance(weights, Mapping):
        return load_state(encoder, weights, layouts, partial=partial)
    return load_state(encoder, read_state_dict(weights), layouts, partial=partial, where=str(weights))


def load_state(
    encoder: Encoder,
    state: Mapping[str, Tensor],
    layouts: Sequence[Layout],
    *,
    partial: bool = False,
    where: str = "the state dict",
) -> LoadReport:
    """Loads a state dict into an encoder in place, by whichever naming fits most of its entries.

    The encoder's own naming is always known. Axes of length 1 at the end do not count in shapes. Stages with
    loaded weights are marked in `encoder.pretrained`, so that their copies start from them.

    Args:
        encoder: The encoder.
        state: Tensors by name.
        layouts: Whose names are known, besides ours.
        partial: Whether entries that are missing, unexpected or of another shape are left out (and told in
            the report) instead of refused.
        where: What the state dict came from, for messages.

    Returns:
        The report, which also stands in `encoder.loaded`.

    Raises:
        DataError: The weights are of another network, or incomplete without `partial`; the encoder is then as
            it was.

    Example:
        >>> encoder = tl.encoders.mlp((5,), hidden=[4])
        >>> load_state(encoder, encoder.state_dict(), []).describe()
        '2 entries by the names of taskloom'
    """
    own = encoder.state_dict()
    layout, renamed = _closest([Layout("taskloom", _same), *layouts], own, state)
    _refuse_twin(layout, state, where)
    theirs = {layout.clean(name): tensor for name, tensor in state.items()}
    report, chosen = _compare(layout, own, renamed, theirs)
    weights = [name for name in report.loaded if not name.endswith("num_batches_tracked")]
    if not weights or not (report.complete or partial):
        raise DataError(_refusal(report, layouts, own, where, bool(weights)))
    if layout.bgr:
        _turn_first_convolution(chosen)
    encoder.load_state_dict(own | chosen)
    encoder.mark_loaded(report, {int(name.split(".")[1]) for name in weights})
    return report


def _compare(
    layout: Layout, own: Mapping[str, Tensor], renamed: Mapping[str, str], theirs: Mapping[str, Tensor]
) -> tuple[LoadReport, dict[str, Tensor]]:
    """The report, and what is to be loaded by our names."""
    chosen: dict[str, Tensor] = {}
    missing, mismatched = [], []
    for name, their_name in renamed.items():
        if their_name not in theirs:
            if name.endswith("num_batches_tracked"):  # files from before PyTorch 0.4.1 have none
                chosen[name] = torch.zeros_like(own[name])
            else:
                missing.append(their_name)
            continue
        found, expected = tuple(theirs[their_name].shape), tuple(own[name].shape)
        if _without_ones(found) == _without_ones(expected):
            chosen[name] = theirs[their_name].reshape(expected)
        else:
            mismatched.append((their_name, found, expected))
    others = [name for name in theirs if name not in set(renamed.values())]
    left_out = [name for name in others if any(re.fullmatch(pattern, name) for pattern in layout.extra)]
    report = LoadReport(
        layout.name,
        tuple(chosen),
        tuple(left_out),
        tuple(missing),
        tuple(name for name in others if name not in left_out),
        tuple(mismatched),
    )
    return report, chosen


def _closest(
    layouts: Sequence[Layout], own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Layout, dict[str, str]]:
    """The layout that names most entries as the state dict does, and its names of ours."""
    best, names, hits = layouts[0], {name: name for name in own}, -1
    for layout in layouts:
        renamed = {name: layout.rename(name) for name in own}
        found = len({layout.clean(name) for name in state} & set(renamed.values()))
        if found > hits:
            best, names, hits = layout, renamed, found
    return best, names


def _refuse_twin(layout: Layout, state: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in state.items():
        if layout.refused and name == "fc.weight" and len(tensor) in layout.refused:
            raise DataError(f"{where}: {layout.refused[len(tensor)]}")


def _refusal(
    report: LoadReport, layouts: Sequence[Layout], own: Mapping[str, Tensor], where: str, any_loaded: bool
) -> str:
    if not any_loaded:
        expected = [f"{layout.rename(next(iter(own)))} ({layout.name})" for layout in layouts]
        return (
            f"{where} holds the weights of another network: it names {_some(report.unexpected)}; entries "
            f"such as {_some(expected or list(own))} expected."
        )
    told = report.describe().split("; ", 1)[1]
    hint = "check the encoder's settings and image size, or set `partial: true` to load what fits"
    return f"{where} does not fit the encoder ({told}); {hint}."


def _turn_first_convolution(chosen: dict[str, Tensor]) -> None:
    for name, tensor in chosen.items():
        if tensor.dim() == 4 and tensor.shape[1] == 3:
            chosen[name] = tensor.flip(1)
            return


def _find_state_dict(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _find_state_dict(content[key])
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return dict(content)
    return None


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        if not content:
            return "an empty dictionary"
        return f"a dictionary with {_some([str(key) for key in content])}"
    return f"a {type(content).__name__}"


def _some(names: Sequence[str]) -> str:
    shown = [f"`{name}`" if " " not in name else name for name in names[:_MOST_NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
