"""Networks on their way out of the workshop: bundles, ONNX, and a web page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskloom.deploy.bundle import Bundle, build_network, load_bundle, save_bundle
from taskloom.deploy.onnx_export import OnnxExport, export_onnx

if TYPE_CHECKING:
    from taskloom.serve import web_app

__all__ = ["Bundle", "OnnxExport", "build_network", "export_onnx", "load_bundle", "save_bundle", "web_app"]


def __getattr__(name: str) -> Any:
    if name == "web_app":  # it stands on predictions, which stand on this room
        from taskloom.serve import web_app

        return web_app
    raise AttributeError(f"module 'taskloom.deploy' has no attribute {name!r}")
