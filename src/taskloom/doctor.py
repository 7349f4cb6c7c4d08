"""What this machine offers: versions, devices, extras, recipes, stores; what to type for what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from taskloom.recipes import recipes_folder
from taskloom.wording import counted

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("fastapi", "uvicorn", "python_multipart"),
    "backbones": ("timm",),
    "balancing": ("quadprog", "qpsolvers", "cvxpy", "clarabel"),
}
"""Modules that each extra of the package brings."""


def examine(stores: Path) -> list[tuple[str, str]]:
    """Returns what was found, as lines of a name and a sentence.

    Args:
        stores: Folder of prepared data stores.
    """
    return [*_basics(), *_devices(), *_extras(), _recipes(), *_stores(stores)]


def _basics() -> list[tuple[str, str]]:
    from taskloom.version import __version__

    return [
        ("taskloom", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("torch", _version("torch")),
    ]


def _devices() -> list[tuple[str, str]]:
    import torch

    from taskloom.study.pool import available_cores

    lines = [
        ("cores", f"{available_cores()} to use, {counted(torch.get_num_threads(), 'thread')} per process")
    ]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        lines.append(("device", f"cuda: {', '.join(names)}"))
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        lines.append(("device", f"cpu (no CUDA device found; this torch is {built})"))
    return lines


def _extras() -> list[tuple[str, str]]:
    lines = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            lines.append((f"[{extra}]", f"missing; pip install 'taskloom[{extra}]'"))
        else:
            lines.append((f"[{extra}]", ", ".join(f"{module} {_version(module)}" for module in modules)))
    return lines


def _recipes() -> tuple[str, str]:
    folder = recipes_folder()
    if folder is None:
        return "recipes", "not installed"
    return "recipes", f"{counted(len(list(folder.glob('*.yaml'))), 'study file')} in {folder}"


def _stores(folder: Path) -> list[tuple[str, str]]:
    stores = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not stores:
        return [("stores", f"none in {folder}")]
    return [("store", f"{path} ({_size(path)})") for path in stores]


def _size(folder: Path) -> str:
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{num_bytes / 2**20:,.1f} MiB"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
