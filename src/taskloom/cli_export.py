"""`taskloom export`: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from taskloom.cli_predict import BundleFolder, PreparedAs
from taskloom.terminal import say


def export(
    bundle: BundleFolder,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="BUNDLE with .onnx, here, by default.")
    ] = None,
    weights: Annotated[
        str,
        typer.Option("--weights", help="float32, or float16: half the size, a little less exact, no faster."),
    ] = "float32",
    data_set: PreparedAs = None,
) -> None:
    """Write a bundle as one ONNX file, with an output per task, and compare it with PyTorch."""
    from taskloom.deploy import export_onnx, load_bundle
    from taskloom.deploy.onnx_export import Weights
    from taskloom.predict.prepared import prepared_as

    place = out or Path(f"{bundle.absolute().stem}.onnx")
    found = export_onnx(prepared_as(load_bundle(bundle), data_set), place, weights=cast(Weights, weights))
    shape = ", ".join(str(size) for size in found.input_shape)
    say(f"{found.path}  {found.num_bytes / 2**20:.1f} MiB")
    say(f"input    {found.input_name} [{shape}] {found.input_type}: {found.input_meaning}")
    for name, meaning in found.outputs.items():
        say(f"output   {name}: {meaning}")
    say(f"checked  {found.rows} random rows in ONNX Runtime: within {found.difference:.1g} of PyTorch")
