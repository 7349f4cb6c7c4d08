"""Networks on their way out of the workshop: bundles."""

from taskloom.deploy.bundle import Bundle, build_network, load_bundle, save_bundle

__all__ = ["Bundle", "build_network", "load_bundle", "save_bundle"]
