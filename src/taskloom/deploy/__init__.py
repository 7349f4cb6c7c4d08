"""Networks on their way out of the workshop: bundles, and ONNX."""

from taskloom.deploy.bundle import Bundle, build_network, load_bundle, save_bundle
from taskloom.deploy.onnx_export import OnnxExport, export_onnx

__all__ = ["Bundle", "OnnxExport", "build_network", "export_onnx", "load_bundle", "save_bundle"]
